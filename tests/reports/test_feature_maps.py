"""The feature map that is read: the last one the answer depends on, wherever an architecture keeps it."""

import contextlib
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from config.schema import Params
from model.net import ARCHS, build_net
from reports.feature_maps import FeatureMap, find, undisturbed


def net_of(arch: str, im_sz: int = 64, channels: Literal[1, 3] = 3) -> nn.Module:
    torch.manual_seed(0)
    return build_net(Params(arch=arch, pretrain=False, im_sz=im_sz, channels=channels), 5).net


def images(side: int = 64, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("arch", "im_sz", "expected"),
    [
        ("shallow", 28, None),
        ("deep", 28, None),
        ("conv", 28, FeatureMap("residual_2", 0, "NCHW", 7)),
        ("resnet18", 224, FeatureMap("layer4", 0, "NCHW", 7)),
        ("resnet18", 64, FeatureMap("layer3", 0, "NCHW", 4)),  # layer4 has 2 x 2 cells
        ("mobilenet_v3_small", 64, FeatureMap("features.8", 0, "NCHW", 4)),  # and not the first half of the next block
        ("shufflenet_v2_x0_5", 64, FeatureMap("stage3", 0, "NCHW", 4)),  # and not one of two branches
        ("alexnet", 64, FeatureMap("features.4", 0, "NCHW", 7)),  # and not the pooling that makes 6 x 6 of 1 x 1
        ("timm:test_vit", 160, FeatureMap("blocks.5.norm1", 0, "tokens", 10, prefix=1)),
    ],
)
def test_the_map_of_known_nets(arch: str, im_sz: int, expected: FeatureMap | None) -> None:
    if arch.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is not installed")
    assert find(net_of(arch, im_sz), images(im_sz)) == expected


def test_the_small_nets_are_all_known() -> None:
    assert set(ARCHS) >= {"shallow", "deep", "conv"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ("swin_t", FeatureMap("permute", 0, "NCHW", 7)),
        ("convnext_tiny", FeatureMap("features", 0, "NCHW", 7)),
        ("timm:swin_tiny_patch4_window7_224", FeatureMap("norm", 0, "NHWC", 7)),
        ("timm:deit_tiny_distilled_patch16_224", FeatureMap("blocks.11.norm1", 0, "tokens", 14, prefix=2)),
        ("timm:mixer_s32_224", FeatureMap("norm", 0, "tokens", 7)),
        ("timm:cait_xxs24_224", FeatureMap("blocks", 0, "tokens", 14)),
    ],
)
def test_the_map_of_large_nets(arch: str, expected: FeatureMap) -> None:
    if arch.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is not installed")
    assert find(net_of(arch, 224), images(224)) == expected


class LastAxis(nn.Module):
    """Keeps channels last, as some transformers do, and uses one layer twice."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 12, 8, 8)
        self.twice = nn.Linear(12, 12)
        self.classifier = nn.Linear(12, 5)
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        x = self.cut(x).permute(0, 2, 3, 1)
        x = self.twice(torch.relu(self.twice(x)))
        answer: Tensor = self.classifier(x.mean((1, 2)))
        return answer


def test_channels_last_and_a_layer_that_is_used_twice() -> None:
    where = find(LastAxis(8), images())
    assert where == FeatureMap("twice", 1, "NHWC", 8)
    output = torch.randn(2, 8, 8, 12)
    assert torch.equal(where.grid(output)[1, :, 3, 4], output[1, 3, 4])


def test_tokens_become_the_grid_they_were_cut_from() -> None:
    where = FeatureMap("x", 0, "tokens", 3, prefix=2)
    output = torch.arange(2 * 11 * 4.0).reshape(2, 11, 4)
    grid = where.grid(output)
    assert grid.shape == (2, 4, 3, 3)
    assert torch.equal(grid[1, :, 2, 1], output[1, 2 + 3 * 2 + 1])


class Unlearned(nn.Module):
    """Its only map of cells is the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.linear = nn.AvgPool2d(8), nn.Linear(3 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.linear(self.pool(x).flatten(1))
        return answer


class Cut(nn.Module):
    """No gradient comes through it."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            answer: Tensor = self.linear(self.features(x).mean((2, 3)))
        return answer


@pytest.mark.parametrize("net", [Unlearned(), Cut()], ids=["unlearned", "cut"])
def test_nets_without_a_map(net: nn.Module) -> None:
    assert find(net, images()) is None


def test_a_net_that_answers_always_the_same_has_its_last_map() -> None:
    net = net_of("conv")
    with torch.no_grad():
        net.get_parameter("classifier.weight").zero_()
    assert find(net, images()) == FeatureMap("residual_2", 0, "NCHW", 16)


def state_of(net: nn.Module) -> dict[str, Any]:
    """All that must not change."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "values": {name: value.clone() for name, value in net.state_dict().items()},
        "modes": [module.training for module in net.modules()],
        "hooks": [[dict(getattr(module, name)) for name in hooks] for module in net.modules()],
        "gradients": [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in net.parameters()],
        "learns": [p.requires_grad for p in net.parameters()],
        "places": [id(p) for p in net.parameters()],
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert all(torch.equal(before["values"][name], value) for name, value in after["values"].items())
    for one, other in zip(before["gradients"], after["gradients"], strict=True):
        assert (one is None) == (other is None)
        assert one is None or (one[0] == other[0] and torch.equal(one[1], other[1]))
    assert all(before[name] == after[name] for name in ("modes", "hooks", "learns", "places"))


def busy_net() -> nn.Module:
    """A net in the midst of training: some layers frozen, some in evaluation mode, with gradients and a hook."""
    net = net_of("conv", 28)
    net(images(28)).sum().backward()
    net.train()
    net.get_submodule("stem").eval()
    for parameter in net.get_submodule("stem").parameters():
        parameter.requires_grad_(False)
    next(iter(net.get_submodule("down_1").parameters())).grad = None
    net.get_submodule("pool").register_forward_hook(lambda *_: None)
    return net


def test_finding_leaves_the_net_as_it_was() -> None:
    net = busy_net()
    before = state_of(net)
    assert find(net, images(28)) is not None
    assert_same(before, state_of(net))


def test_the_net_is_as_it_was_after_a_fault_too() -> None:
    net = busy_net()
    before = state_of(net)
    with pytest.raises(RuntimeError):
        find(net, images(28, channels=1))
    with contextlib.suppress(ValueError), undisturbed(net):
        assert not any(module.training for module in net.modules())
        raise ValueError
    assert_same(before, state_of(net))
