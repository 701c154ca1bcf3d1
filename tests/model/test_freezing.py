"""Freezing that holds: weights and running statistics bit-equal over real training steps, outputs that do not move."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from model.freezing import apply_freezing, trainable_groups
from model.groups import layer_groups
from utils import UserError

IMAGES = (8, 3, 8, 8)


class Net(nn.Sequential):
    head_prefix = "head"


def small_net(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> Net:
    """Two blocks of convolution and normalisation as the body, a head with BatchNorm of its own."""
    torch.manual_seed(0)
    top = (nn.Conv2d(4, 6, 3, padding=1), norm(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = Net()
    net.add_module("stem", nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), norm(4), nn.ReLU()))
    net.add_module("top", nn.Sequential(*top))
    net.add_module("head", nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.1), nn.Linear(6, 3)))
    return net


def flat_net() -> Net:
    """The same over features instead of images: BatchNorm1d in the body."""
    torch.manual_seed(0)
    net = Net()
    net.add_module("stem", nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4)))
    net.add_module("top", nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)))
    net.add_module("head", nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.1), nn.Linear(6, 3)))
    return net


NETS: dict[str, Callable[[], Net]] = {
    "BatchNorm2d": small_net,
    "BatchNorm2d, cumulative average": lambda: small_net(lambda width: nn.BatchNorm2d(width, momentum=None)),
    "BatchNorm2d without parameters": lambda: small_net(lambda width: nn.BatchNorm2d(width, affine=False)),
    "SyncBatchNorm": lambda: small_net(nn.SyncBatchNorm),
    "InstanceNorm2d with statistics": lambda: small_net(
        lambda width: nn.InstanceNorm2d(width, track_running_stats=True)
    ),
    "BatchNorm1d": flat_net,
}


def train(net: nn.Module, groups: list[list[str]], freeze: str, batch_norm: str, **more: Any) -> None:
    """Three steps of AdamW with weight decay on all parameters; gradients are set to zero, not to None."""
    settings: dict[str, Any] = {"epoch": 0, "unfreeze_epochs": 1, "rates": None} | more
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    for step in range(3):
        net.train()
        apply_freezing(net, groups, freeze=freeze, batch_norm=batch_norm, **settings)
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(*IMAGES, generator=generator) * 3 + 5  # far from the statistics that the net has
        torch.autograd.backward(nn.functional.cross_entropy(net(images), torch.arange(8) % 3))
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


def state(net: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items() if name.startswith(prefix)}


def moved(net: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    after = net.state_dict()
    return {name for name, value in before.items() if not torch.equal(after[name], value)}


def statistics(net: nn.Module) -> set[str]:
    return {name for name, _ in net.named_buffers()}


# --- which groups train -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freeze", "unfreeze_epochs", "expected"),
    [
        ("none", 1, [[True] * 4] * 5),
        ("body", 1, [[False, False, False, True]] * 5),
        ("gradual", 1, [[index >= 3 - epoch for index in range(4)] for epoch in range(5)]),
        ("gradual", 2, [[index >= 3 - epoch // 2 for index in range(4)] for epoch in range(5)]),
    ],
)
def test_trainable_groups(freeze: str, unfreeze_epochs: int, expected: list[list[bool]]) -> None:
    assert [trainable_groups(4, epoch, freeze, unfreeze_epochs) for epoch in range(5)] == expected


def test_a_learning_rate_of_zero_freezes_its_group() -> None:
    assert trainable_groups(3, 0, "none", 1, [0, 1e-3, 1e-2]) == [False, True, True]
    assert trainable_groups(3, 1, "gradual", 1, [0, 1e-3, 0]) == [False, True, False]


def test_settings_that_train_nothing_are_refused() -> None:
    with pytest.raises(UserError, match='freeze: "body" needs a body and a head; set layer_groups to 2 or more'):
        trainable_groups(1, 0, "body")
    with pytest.raises(UserError, match='"gradual" leaves nothing to train in epoch 1: learning_rate is 0 there'):
        trainable_groups(2, 0, "gradual", 1, [1e-3, 0])


# --- what is frozen does not move -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", ["frozen_eval", "all_eval"])
@pytest.mark.parametrize("build", NETS.values(), ids=NETS)
def test_a_frozen_body_does_not_move(build: Callable[[], Net], batch_norm: str) -> None:
    net = build()
    groups = layer_groups(net, 3, IMAGES, 3)
    train(net, groups, "none", "train")  # statistics of its own, and optimizer's gradients left at zero
    body, probe = net[:-1], torch.randn(*IMAGES)
    before, outputs = state(net), body.eval()(probe)
    train(net, groups, "body", batch_norm)
    assert {name for name in moved(net, before) if not name.startswith("head.")} == set()
    assert {"head.0.weight", "head.0.running_mean", "head.0.running_var"} <= moved(net, before)
    assert torch.equal(body(probe), outputs), "in training mode, as the last epoch left it"
    assert torch.equal(body.eval()(probe), outputs)


@pytest.mark.parametrize("build", NETS.values(), ids=NETS)
def test_train_lets_the_statistics_of_a_frozen_body_learn(build: Callable[[], Net]) -> None:
    net = build()
    before = state(net)
    train(net, layer_groups(net, 3, IMAGES, 3), "body", "train")
    names = {name for name in moved(net, before) if not name.startswith("head.")}
    assert {name for name in statistics(net) if "running" in name and not name.startswith("head.")} <= names
    assert names <= statistics(net)


@pytest.mark.parametrize("build", NETS.values(), ids=NETS)
def test_all_eval_trains_the_parameters_but_not_the_statistics_of_the_body(build: Callable[[], Net]) -> None:
    net = build()
    before = state(net)
    train(net, layer_groups(net, 3, IMAGES, 3), "none", "all_eval")
    assert before.keys() - moved(net, before) == {name for name in statistics(net) if not name.startswith("head.")}


def test_all_eval_knows_the_head_of_a_single_group_by_its_name() -> None:
    net = small_net()
    before = state(net)
    train(net, layer_groups(net, 1, IMAGES, 3), "none", "all_eval")
    assert {name for name in statistics(net) if name in moved(net, before)} == {
        "head.0.running_mean",
        "head.0.running_var",
        "head.0.num_batches_tracked",
    }


@pytest.mark.parametrize("batch_norm", ["frozen_eval", "all_eval"])
def test_a_head_with_a_learning_rate_of_zero_is_frozen_with_its_statistics(batch_norm: str) -> None:
    net = small_net()
    before = state(net)
    train(net, layer_groups(net, 3, IMAGES, 3), "none", batch_norm, rates=[1e-3, 1e-3, 0])
    assert not {name for name in moved(net, before) if name.startswith("head.")}
    assert "stem.0.weight" in moved(net, before)


def test_a_body_group_with_a_learning_rate_of_zero_is_frozen_with_its_statistics() -> None:
    net = small_net()
    before = state(net)
    train(net, layer_groups(net, 3, IMAGES, 3), "none", "frozen_eval", rates=[0, 1e-3, 1e-3])
    assert {name.partition(".")[0] for name in before.keys() - moved(net, before)} == {"stem"}
    assert not {name for name in moved(net, before) if name.startswith("stem.")}


def test_gradual_thaws_one_group_after_the_other_with_its_statistics() -> None:
    net = small_net()
    groups = layer_groups(net, 3, IMAGES, 3)
    for epoch, thawed in enumerate([{"head"}, {"head"}, {"top", "head"}, {"top", "head"}, {"stem", "top", "head"}]):
        before = state(net)
        train(net, groups, "gradual", "frozen_eval", epoch=epoch, unfreeze_epochs=2)
        names = moved(net, before)
        assert {name.partition(".")[0] for name in names} == thawed
        assert {f"{name}.1.running_mean" for name in thawed - {"head"}} <= names


def test_layers_without_parameters_go_with_their_own_family() -> None:
    """The head's BatchNorm without parameters comes first in it: not the body's, though the body is as near."""
    of_body, of_head = nn.BatchNorm2d(4, affine=False), nn.BatchNorm1d(256, affine=False)
    body = nn.Sequential(nn.Conv2d(3, 4, 1), of_body, nn.Flatten())
    net = nn.Sequential(body, nn.Sequential(of_head, nn.Linear(256, 3)))
    apply_freezing(net, layer_groups(net, 2, IMAGES, 3), 0, "body", 1, "frozen_eval")
    assert not of_body.training
    assert of_head.training


def test_what_the_maker_of_the_net_fixed_stays_fixed() -> None:
    net = small_net()
    net.get_submodule("stem").requires_grad_(False)
    groups = layer_groups(net, 3, IMAGES, 3)
    for freeze, epoch in [("none", 0), ("gradual", 0), ("gradual", 9)]:
        before = state(net)
        train(net, groups, freeze, "frozen_eval", epoch=epoch)
        assert not {name for name in moved(net, before) if name.startswith("stem.")}
        assert net.get_parameter("top.0.weight").requires_grad == (freeze == "none" or epoch == 9)


def test_a_frozen_parameter_has_no_gradient_left() -> None:
    net = small_net()
    net(torch.randn(*IMAGES)).sum().backward()
    apply_freezing(net, layer_groups(net, 3, IMAGES, 3), 0, "body", 1, "frozen_eval")
    assert [name for name, value in net.named_parameters() if value.grad is not None] == [
        name for name, value in net.named_parameters() if name.startswith("head.")
    ]


# --- real nets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_a_net_with_a_frozen_body_computes_in_training_what_it_computes_in_evaluation(source: str) -> None:
    torch.manual_seed(0)
    if source == "torchvision":
        net = models.resnet18(num_classes=3)
    else:  # its normalisation layers contain the activation
        net = pytest.importorskip("timm").create_model("efficientnet_lite0", num_classes=3)
    net(torch.randn(2, 3, 64, 64))  # statistics that are not 0 and 1
    groups = layer_groups(net, 3, (1, 3, 64, 64), 3)
    layers = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(layers) >= 20
    probe = torch.randn(2, 3, 64, 64) * 2 + 1
    outputs = net.eval()(probe)
    for _ in range(2):
        net.train()
        apply_freezing(net, groups, 0, "body", 1, "frozen_eval")
        assert {module for module in net.modules() if not module.training} == set(layers)
        assert torch.equal(net(probe), outputs)
    net.train()
    apply_freezing(net, groups, 0, "body", 1, "train")
    assert all(layer.training for layer in layers)
    assert not torch.allclose(net(probe), outputs, atol=0.1)
