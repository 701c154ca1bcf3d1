"""The nets of torchvision and timm: every name builds, has the asked head and dropout, and takes published weights."""

import functools
import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.regnet import BlockParams

from config.schema import Params
from model import backbones, heads
from model.net import build_net
from utils import UserError

# The smallest of each family of torchvision.
FAMILIES = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_32",
)  # fmt: skip
# Those that run in a moment on one core; the others are slow.
LIGHT = ("mnasnet0_5", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "googlenet")
EVERY_FAMILY = [pytest.param(name, marks=() if name in LIGHT else pytest.mark.slow) for name in FAMILIES]
SIDE = {"inception_v3": 96, "maxvit_t": 224}
OTHERS = sorted(set(backbones.torchvision_names()) - set(FAMILIES))
EVERY_NAME = [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]


def params(arch: str, **values: Any) -> Params:
    return Params(arch=arch, **{"pretrain": False, "im_sz": SIDE.get(arch, 64), "ps": 0.3, **values})


@pytest.fixture
def meta() -> Any:
    """Nets without numbers. Torchvision computes the widths of a RegNet with tensors that must have values."""
    plan = BlockParams.from_init_params.__func__

    @functools.wraps(plan)
    def on_cpu(*arguments: Any, **named: Any) -> BlockParams:
        with torch.device("cpu"):
            return plan(*arguments, **named)

    with mock.patch.object(BlockParams, "from_init_params", classmethod(on_cpu)), torch.device("meta"):
        yield


def dropouts(net: nn.Module) -> list[float]:
    """Every dropout probability in a net that is not zero."""
    layers = [module.p for module in net.modules() if isinstance(module, nn.Dropout) and module.p]
    return layers + [module.ps for module in net.modules() if isinstance(module, heads.DropoutLinear)]


def test_all_of_torchvision_are_tested() -> None:
    assert set(FAMILIES) | set(OTHERS) == set(backbones.torchvision_names())
    assert len(backbones.torchvision_names()) >= 80


@pytest.mark.parametrize("arch", EVERY_NAME)
def test_every_torchvision_net_builds(arch: str, meta: None) -> None:
    built = backbones.torchvision_net(params(arch, im_sz=224), 7)
    (head,) = built.head
    classifier = built.net.get_submodule(head)
    assert heads.classifier(built.net, 7) == head
    assert isinstance(classifier, nn.Linear | nn.Conv2d)
    assert built.net(torch.zeros(2, 3, 224, 224)).shape == (2, 7)
    assert set(dropouts(built.net)) == {0.3}
    assert len(dropouts(built.net)) == (2 if arch.startswith(("alexnet", "vgg")) else 1)


@pytest.mark.parametrize("arch", [arch for arch in FAMILIES if arch != "vit_b_32"])
def test_every_family_with_feature_maps_takes_concat_pool(arch: str, meta: None) -> None:
    concat = backbones.torchvision_net(params(arch, im_sz=224, head="concat_pool"), 7)
    assert concat.net(torch.zeros(2, 3, 224, 224)).shape == (2, 7)
    assert dropouts(concat.net) == [0.15, 0.3]


def test_concat_pool_without_feature_maps_is_refused(meta: None) -> None:
    with pytest.raises(UserError, match=r"vit_b_32 ends in no feature maps.*use \"head\": \"backbone\""):
        backbones.torchvision_net(params("vit_b_32", im_sz=224, head="concat_pool"), 7)


@pytest.mark.parametrize("arch", EVERY_FAMILY)
def test_every_parameter_learns_and_the_state_comes_back(arch: str) -> None:
    first, second = (build_net(params(arch), 5).net for _ in range(2))
    images = torch.randn(2, 3, SIDE.get(arch, 64), SIDE.get(arch, 64))
    first(images).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None for parameter in first.parameters())
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.eval()(images), second.eval()(images))


@pytest.mark.parametrize("arch", [arch for arch in EVERY_FAMILY if arch.values != ("vgg11",)])
def test_published_weights_give_the_published_logits(arch: str, tmp_path: Path) -> None:
    original = published(arch, classes=5)
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    images = torch.randn(2, 3, SIDE.get(arch, 64), SIDE.get(arch, 64))
    built = build_net(params(arch, pretrain=str(tmp_path / "weights.pth")), 5)
    assert built.weights is not None
    assert built.weights["head"] == "loaded"
    with torch.no_grad():
        assert torch.equal(built.net.eval()(images), original(images))

    other = build_net(params(arch, pretrain=str(tmp_path / "weights.pth")), 4)
    assert other.weights is not None
    assert other.weights["head"] == "new"
    head = heads.classifier(other.net, 4)
    mine, theirs = other.net.state_dict(), original.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine if not name.startswith(f"{head}."))
    assert mine[f"{head}.weight"].shape[0] == 4


def published(arch: str, classes: int) -> nn.Module:
    """The library's own net in evaluation, with auxiliary heads, as its published weights are for."""
    arguments: dict[str, Any] = {"num_classes": classes}
    if arch in ("googlenet", "inception_v3"):
        arguments |= {"init_weights": False}
    if arch.startswith("vit_"):
        arguments |= {"image_size": 64}
    return models.get_model(arch, weights=None, **arguments).eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "arch",
    [
        *("mobilenet_v2", "resnet18", "shufflenet_v2_x0_5"),
        *(pytest.param(a, marks=pytest.mark.slow) for a in ("densenet121", "googlenet", "inception_v3", "mnasnet0_5",
          "efficientnet_b0", "regnet_y_400mf", "swin_t", "swin_v2_t")),
    ],
)  # fmt: skip
def test_concat_pool_pools_the_backbones_own_features(arch: str, tmp_path: Path) -> None:
    original = published(arch, classes=5)
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    images = torch.randn(2, 3, SIDE.get(arch, 64), SIDE.get(arch, 64))
    seen: list[torch.Tensor] = []
    original.get_submodule(heads.classifier(original, 5)).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    built = build_net(params(arch, pretrain=str(tmp_path / "weights.pth"), head="concat_pool"), 5)
    built.net.get_submodule("head.0").register_forward_hook(lambda _m, _i, pooled: seen.append(pooled))
    with torch.no_grad():
        original(images)
        built.net.eval()(images)
    average, pooled = seen
    torch.testing.assert_close(pooled[:, : average.shape[1]], average)
    assert bool((pooled[:, average.shape[1] :] >= average - 1e-5).all())


def test_a_grey_net_sees_grey_as_the_colour_net_does(tmp_path: Path) -> None:
    original = published("resnet18", classes=5)
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    built = build_net(params("resnet18", pretrain=str(tmp_path / "weights.pth"), channels=1), 5)
    grey = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(built.net.eval()(grey), original(grey.expand(2, 3, 64, 64)))
    assert built.statistics is not None
    assert [len(values) for values in built.statistics] == [1, 1]


@pytest.mark.parametrize(
    "arch", ["efficientnet_b0", "efficientnet_v2_s", "mnasnet0_5", "test_efficientnet", "resnet18"]
)
def test_the_head_of_few_classes_starts_near_chance(arch: str) -> None:
    if arch.startswith("test_"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    build = backbones.timm_net if arch.startswith("test_") else backbones.torchvision_net
    backbone = build(Params(arch=arch, pretrain=False, im_sz=64), 5)
    head = backbone.net.get_submodule(backbone.head[0])
    assert isinstance(head, nn.Linear)
    features = torch.randn(1000, head.in_features)
    loss = torch.nn.functional.cross_entropy(head.eval()(features), torch.arange(1000) % 5)
    assert loss.item() < 1.25 * math.log(5)


def test_dropout_linear_drops_its_inputs() -> None:
    linear = nn.Linear(1000, 1000)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    dropping = heads.DropoutLinear(linear, ps=0.3)
    ones = torch.ones(20, 1000)
    assert torch.equal(dropping.eval()(ones), ones)
    torch.manual_seed(0)
    values = dropping.train()(ones).detach()
    assert sorted(values.unique().tolist()) == pytest.approx([0, 1 / 0.7])
    assert (values == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert dropping.state_dict().keys() == linear.state_dict().keys()
    assert "ps=0.3" in repr(dropping)


# --- image sizes ------------------------------------------------------------------------------------------------------


def test_a_transformer_is_built_for_the_image_size_and_takes_weights_of_another(tmp_path: Path) -> None:
    original = models.vision_transformer.VisionTransformer(64, 16, 1, 2, 32, 64, num_classes=5)
    state = {name.replace("mlp.0.", "mlp.linear_1."): value for name, value in original.state_dict().items()}
    state = {name.replace("mlp.3.", "mlp.linear_2."): value for name, value in state.items()}
    torch.save(state, tmp_path / "old_names.pth")
    small = functools.partial(models.vision_transformer.VisionTransformer, patch_size=16, num_layers=1, num_heads=2,
                              hidden_dim=32, mlp_dim=64)  # fmt: skip
    with mock.patch.object(models, "get_model", lambda _name, weights, **arguments: small(**arguments)):
        built = build_net(params("vit_b_16", im_sz=96, pretrain=str(tmp_path / "old_names.pth")), 5)
    assert built.net.state_dict()["encoder.pos_embedding"].shape == (1, 37, 32)
    own = built.net.state_dict()["encoder.layers.encoder_layer_0.mlp.3.weight"]
    assert torch.equal(own, original.state_dict()["encoder.layers.encoder_layer_0.mlp.3.weight"])


@pytest.mark.slow
def test_old_densenet_names(tmp_path: Path) -> None:
    original = published("densenet121", classes=5)
    state = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in name else name: value
        for name, value in original.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "old_names.pth")
    built = build_net(params("densenet121", pretrain=str(tmp_path / "old_names.pth")), 5)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(built.net.eval()(images), original(images))


@pytest.mark.parametrize(
    ("arch", "im_sz", "reason"),
    [
        ("maxvit_t", 100, "not divisible by partition size"),
        ("squeezenet1_1", 8, "Output size is too small"),
        pytest.param("vit_b_32", 100, "indivisible by patch size", marks=pytest.mark.slow),
        pytest.param("inception_v3", 32, "greater than actual input size", marks=pytest.mark.slow),
    ],
)
def test_an_impossible_image_size_is_one_line(arch: str, im_sz: int, reason: str) -> None:
    with pytest.raises(UserError, match=rf'{arch} cannot be built with "im_sz": {im_sz}, .*{reason}') as caught:
        build_net(params(arch, im_sz=im_sz), 5)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_net_of_one_image_size_cannot_be_trained_on_smaller_ones() -> None:
    small = {"im_sz": 64, "progressive_resizing": {"im_sz": 32, "epochs": 1}}
    assert build_net(params("resnet18", **small), 5).weights is None
    with pytest.raises(UserError, match=r"^progressive_resizing: vit_b_32 takes no images of 32 pixels .* for 64 \("):
        build_net(params("vit_b_32", **small), 5)


# --- timm -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_byobnet"])
@pytest.mark.parametrize("channels", [1, 3])
def test_timm_nets_take_published_weights(arch: str, channels: int, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    original = timm.create_model(arch, num_classes=11).eval()
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    values = {"im_sz": 160, "channels": channels, "pretrain": str(tmp_path / "weights.pth")}
    images = torch.randn(2, channels, 160, 160)
    same = build_net(params(f"timm:{arch}", **values), 11)
    assert same.weights is not None
    assert same.weights["head"] == "loaded"
    with torch.no_grad():
        torch.testing.assert_close(same.net.eval()(images), original(images.expand(2, 3, 160, 160)))
    assert set(dropouts(same.net)) == {0.3} or same.net.drop_rate == 0.3

    other = build_net(params(arch, **values), 4)
    assert other.net.train()(images).shape == (2, 4)
    assert other.weights is not None
    assert other.weights["head"] == "new"
    assert other.statistics is not None

    if arch == "test_vit":
        with pytest.raises(UserError, match="no feature maps"):
            build_net(params(arch, head="concat_pool", **values), 4)
        return
    concat = build_net(params(arch, head="concat_pool", **values), 4)
    assert concat.net.eval()(images).shape == (2, 4)
    with torch.no_grad():
        features: Any = concat.net.get_submodule("backbone")
        expected = original.forward_features(images.expand(2, 3, 160, 160))
        torch.testing.assert_close(features.forward_features(images), expected)


def test_a_timm_net_continues_from_one_of_our_own(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    first = build_net(params("timm:test_resnet", head="concat_pool"), 5).net
    torch.save(first.state_dict(), tmp_path / "own.pt")
    second = build_net(params("timm:test_resnet", head="concat_pool", pretrain=str(tmp_path / "own.pt")), 5)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(first.eval()(images), second.net.eval()(images))


def test_a_timm_transformer_takes_weights_of_another_image_size(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "weights.pth")
    built = build_net(params("test_vit", im_sz=96, pretrain=str(tmp_path / "weights.pth")), 5)
    assert built.net.eval()(torch.zeros(1, 3, 96, 96)).shape == (1, 5)
    with pytest.raises(UserError, match=r"^[^\n]*weights.pth: these weights do not fit test_resnet: [^\n]+$"):
        build_net(params("test_resnet", pretrain=str(tmp_path / "weights.pth")), 5)


def test_timm_missing_is_one_line() -> None:
    with mock.patch("importlib.util.find_spec", return_value=None):
        backbones.timm_names.cache_clear()
        assert backbones.timm_names() == ()
    backbones.timm_names.cache_clear()
    with mock.patch.dict("sys.modules", {"timm": None}), pytest.raises(UserError, match="pip install 'timm'"):
        backbones.library("timm:resnet18")
