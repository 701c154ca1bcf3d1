"""Where nets look: equal to a reference, true on planted evidence, for every kind of net, and without a trace."""

import warnings
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from config.schema import Params
from model.net import ARCHS, build_net
from reports.attribution import METHODS, NEEDS_NO_MAP, attribute
from reports.faithfulness import faithfulness
from reports.feature_maps import find
from tests.model.test_backbones import EVERY_FAMILY, LIGHT, SIDE
from tests.reports.test_feature_maps import assert_same, busy_net, images, net_of, state_of
from utils import UserError

SMALLEST_OF_TIMM = ("test_byobnet", "test_coatnet", "test_convnext", "test_convnext2", "test_efficientnet",
                    "test_efficientnet_gn", "test_efficientnet_ln", "test_mambaout", "test_maxvit", "test_nfnet",
                    "test_resnet", "test_vit")  # fmt: skip
OCCLUDED = ("shallow", "deep")  # nets without a feature map
BOTH = torch.tensor([1, 3])


# --- every kind of net ------------------------------------------------------------------------------------------------


def check(arch: str, side: int, channels: Literal[1, 3]) -> None:
    torch.manual_seed(0)
    net = build_net(Params(arch=arch, pretrain=False, im_sz=side, channels=channels), 5).net
    found = attribute(net, images(side, channels), BOTH)
    assert found.method == ("occlusion" if arch in OCCLUDED else "grad_cam")
    assert bool(found.layer) == (found.method == "grad_cam")
    assert found.maps.shape == (2, side, side)
    assert found.maps.dtype == np.float32
    assert np.isfinite(found.maps).all()
    assert found.maps.min() >= 0
    assert found.maps.max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("arch", ARCHS)
def test_small_nets(arch: str, channels: Literal[1, 3]) -> None:
    check(arch, 28, channels)


@pytest.mark.parametrize("arch", EVERY_FAMILY)
def test_the_smallest_of_each_family_of_torchvision(arch: str) -> None:
    check(arch, SIDE.get(arch, 64), 3)


@pytest.mark.parametrize("arch", LIGHT)
def test_families_of_torchvision_in_grey(arch: str) -> None:
    check(arch, SIDE.get(arch, 64), 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("arch", SMALLEST_OF_TIMM)
def test_a_dozen_of_timm(arch: str, channels: Literal[1, 3]) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    check(arch, 160, channels)


# --- references -------------------------------------------------------------------------------------------------------


def package() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")


@pytest.mark.parametrize(
    ("arch", "layer"),
    [
        ("resnet18", "layer4"),
        ("mobilenet_v2", "features"),
        ("efficientnet_b0", "features"),
        pytest.param("convnext_tiny", "features", marks=pytest.mark.slow),
    ],
)
def test_grad_cam_is_that_of_the_package(arch: str, layer: str) -> None:
    reference = package()
    net = net_of(arch, 128).eval()
    with torch.no_grad():  # the package adds 1e-7 to what it divides by; the maps of random weights may be as small
        list(net.parameters())[-2].mul_(1e7)
    batch = images(128)
    found = attribute(net, batch, BOTH, "grad_cam")
    assert found.layer == layer
    targets = [reference.utils.model_targets.ClassifierOutputTarget(int(target)) for target in BOTH]
    with reference.GradCAM(model=net, target_layers=[net.get_submodule(layer)]) as cam:
        expected = cam(input_tensor=batch, targets=targets)
    assert expected.max() > 0.9
    np.testing.assert_allclose(found.maps, expected, atol=1e-5)


def test_grad_cam_of_tokens_by_hand() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    net: Any = net_of("timm:test_vit", 160).eval()
    tokens: list[Tensor] = []
    net.blocks[-1].norm1.register_forward_hook(lambda _m, _i, output: tokens.append(output))
    logits = net(images(160))
    (slope,) = torch.autograd.grad(logits[0, 1] + logits[1, 3], tokens[0])
    patches, slopes = tokens[0][:, 1:], slope[:, 1:]  # without the class token
    heat = (patches * slopes.mean(1, keepdim=True)).sum(2).relu().reshape(2, 10, 10).detach()
    heat = heat - heat.amin((1, 2), keepdim=True)
    expected = nn.functional.interpolate(heat[:, None], (160, 160), mode="bilinear")[:, 0]
    expected = expected - expected.amin((1, 2), keepdim=True)
    expected = expected / expected.amax((1, 2), keepdim=True)
    np.testing.assert_allclose(attribute(net, images(160), BOTH).maps, expected.numpy(), atol=1e-5)


def test_eigen_cam_by_hand() -> None:
    net = net_of("conv", 28).eval()
    where = find(net, images(28))
    assert where is not None
    features: list[Tensor] = []
    handle = net.get_submodule(where.module).register_forward_hook(lambda _m, _i, output: features.append(output))
    with torch.no_grad():
        net(images(28))
    handle.remove()
    found = METHODS["eigen_cam"](net, images(28), BOTH, where).numpy()
    for cells, heat in zip(features[0].double().numpy(), found, strict=True):
        matrix = cells.reshape(len(cells), -1).T
        values, vectors = np.linalg.eigh(np.cov(matrix.T))
        component = (matrix - matrix.mean(0)) @ vectors[:, values.argmax()]
        component *= np.sign(component[np.abs(component).argmax()])
        np.testing.assert_allclose(heat.ravel(), np.maximum(component, 0), atol=1e-4)


# --- planted evidence -------------------------------------------------------------------------------------------------


class Spot(nn.Module):
    """Class 0 is how much red there is, class 1 how much green, seen through a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 3, 4, 4, bias=False)
        nn.init.zeros_(self.features.weight)
        with torch.no_grad():
            for channel in range(3):
                self.features.weight[channel, channel] = 1 / 16
        self.classifier = nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.tensor([[40.0, 0, 0], [0, 40.0, 0]]))

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return answer


def spots() -> Tensor:
    batch = torch.zeros(2, 3, 64, 64)
    batch[:, 0, 8:20, 40:56] = 1  # red, top right
    batch[:, 1, 44:56, 8:20] = 0.8  # green, bottom left
    return batch


@pytest.mark.parametrize("method", METHODS)
def test_the_map_is_brightest_where_the_evidence_is(method: str) -> None:
    red, green = attribute(Spot(), spots(), torch.tensor([0, 1]), method).maps
    for heat, inside in ((red, np.s_[8:20, 40:56]), (green, np.s_[44:56, 8:20])):
        if method == "eigen_cam":  # does not know of classes
            inside = np.s_[8:20, 40:56]
        assert heat.max() == 1
        assert heat[inside].mean() > 0.65
        assert heat[inside].sum() > (0.35 if method == "occlusion" else 0.6) * heat.sum()


def test_occlusion_by_hand() -> None:
    net, batch = Spot(), spots()
    heat = METHODS["occlusion"](net, batch[:1], torch.tensor([0]), None)[0].numpy()
    starts = range(0, 57, 4)
    falls, cover = np.zeros((2, 64, 64))
    for top in starts:
        for left in starts:
            covered = batch[:1].clone()
            covered[:, :, top : top + 8, left : left + 8] = 0
            fall = float((net(batch[:1]) - net(covered)).detach()[0, 0])
            falls[top : top + 8, left : left + 8] += fall
            cover[top : top + 8, left : left + 8] += 1
    np.testing.assert_allclose(heat, falls / cover, atol=1e-5)


# --- without a trace, anywhere ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_the_net_stays_as_it_was(method: str) -> None:
    net = busy_net()
    before = state_of(net)
    attribute(net, images(28), BOTH, method)
    assert_same(before, state_of(net))
    with torch.inference_mode():
        inside = attribute(net, torch.randn(2, 3, 28, 28).clone(), BOTH, method)
    assert inside.maps.shape == (2, 28, 28)
    assert_same(before, state_of(net))


def test_low_precision_and_channels_last() -> None:
    net = net_of("conv", 28)
    plain = attribute(net, images(28), BOTH).maps
    low = attribute(
        net.to(memory_format=torch.channels_last),
        images(28),
        BOTH,
        autocast=lambda: torch.autocast("cpu", torch.bfloat16),
    ).maps
    assert low.dtype == np.float32
    assert np.corrcoef(plain.ravel(), low.ravel())[0, 1] > 0.99


def test_many_images_are_the_same_as_few() -> None:
    net, batch = net_of("conv", 28), torch.randn(35, 3, 28, 28)
    classes = torch.arange(35) % 5
    whole = attribute(net, batch, classes).maps
    np.testing.assert_allclose(whole[33:], attribute(net, batch[33:], classes[33:]).maps, atol=1e-5)


def test_an_answer_that_depends_on_nothing_has_an_empty_map() -> None:
    net = net_of("conv", 28)
    with torch.no_grad():
        net.get_parameter("classifier.weight").zero_()
    assert not attribute(net, images(28), BOTH).maps.any()


def test_methods_that_a_net_cannot_have() -> None:
    net = net_of("shallow", 28)
    with pytest.raises(UserError, match=r"^grad_cam: this net has no feature map; use one of auto, occlusion"):
        attribute(net, images(28), BOTH, "grad_cam")
    with pytest.raises(UserError, match='"gradcam" is not a known method of attribution; did you mean "grad_cam"'):
        attribute(net, images(28), BOTH, "gradcam")
    assert set(NEEDS_NO_MAP) < set(METHODS)
    assert attribute(net, images(28), BOTH, "occlusion").layer == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_sees_the_same(method: str) -> None:
    net = net_of("conv", 28)
    here = attribute(net, images(28), BOTH, method)
    there = attribute(net.cuda().to(memory_format=torch.channels_last), images(28).cuda(), BOTH.cuda(), method)
    assert there.layer == here.layer
    assert np.corrcoef(here.maps.ravel(), there.maps.ravel())[0, 1] > 0.99
    checked = faithfulness(net, images(28).cuda(), BOTH.cuda(), there.maps, there.cells, seed=0)
    assert np.isfinite(checked.deletion).all()
