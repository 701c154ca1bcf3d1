"""Layer groups: valid for every net of torchvision and two of each family of timm, and in the order of execution."""

import copy
import functools
import itertools
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.regnet import BlockParams

from model import groups as groups_module
from model.groups import declared_head, layer_groups, owner
from utils import UserError

# Nets that get no layer groups, each with the measured reason. The tests fail when one of them does get groups.
TORCHVISION_EXCEPTIONS: dict[str, str] = {}
TIMM_EXCEPTIONS = {"deepseek_vit_412m_enc": "no layer with 7 outputs"}  # an encoder: it returns projected tokens

# Words in timm's names that mark the small nets of a family.
SMALL = {"atto", "femto", "pico", "zepto", "nano", "micro", "mini", "tiny", "small", "xs", "xxs", "xsmall", "xxsmall",
         "s", "t", "n", "b0", "m0", "s0", "t0", "l1", "10", "11", "18"}  # fmt: skip

IMAGES = (1, 3, 224, 224)


def on_meta(build: Callable[..., nn.Module], *arguments: Any, **named: Any) -> nn.Module:
    with torch.device("meta"):
        return build(*arguments, **named)


def together(groups: list[list[str]]) -> list[str]:
    return list(itertools.chain.from_iterable(groups))


def owners(groups: list[list[str]]) -> list[list[str]]:
    return [list(dict.fromkeys(owner(name) for name in group)) for group in groups]


def check(groups: list[list[str]], net: nn.Module, count: int) -> None:
    assert len(groups) == count
    assert all(groups), "an empty group"
    assert sorted(together(groups)) == sorted(name for name, _ in net.named_parameters()), "not each parameter once"


# --- every net --------------------------------------------------------------------------------------------------------


def failure(build: Callable[[], nn.Module], counts: tuple[int, ...], size: int, num_classes: int) -> str:
    """What goes wrong with a net built on the meta device; empty when nothing does."""
    try:
        net = on_meta(build)
        for count in counts:
            check(layer_groups(net, count, (1, 3, size, size), num_classes), net, count)
    except Exception as error:
        return repr(error)
    return ""


def check_failures(outcomes: dict[str, str], exceptions: dict[str, str], fewest: int) -> None:
    failures = {name: outcome for name, outcome in outcomes.items() if outcome}
    assert failures.keys() == exceptions.keys(), failures
    assert all(reason in failures[name] for name, reason in exceptions.items()), failures
    assert len(outcomes) - len(failures) >= fewest


def regnet_widths(*arguments: Any, original: Any = BlockParams.from_init_params, **named: Any) -> Any:
    """RegNet computes its widths with tensors while it is built; those need values, so not on the meta device."""
    with torch.device("cpu"):
        return original(*arguments, **named)


@pytest.mark.slow
def test_every_classifier_of_torchvision() -> None:
    options = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}  # else a FutureWarning
    outcomes = {}
    once = mock.patch.object(groups_module, "_calls", functools.cache(groups_module._calls))  # not for each count
    with once, mock.patch.object(BlockParams, "from_init_params", regnet_widths):
        for name in models.list_models(module=models):
            build = functools.partial(models.get_model, name, **options.get(name, {}))
            outcomes[name] = failure(build, (2, 3, 5), 224, 1000)
    assert len(TORCHVISION_EXCEPTIONS) <= 3
    check_failures(outcomes, TORCHVISION_EXCEPTIONS, fewest=80 - len(TORCHVISION_EXCEPTIONS))


@pytest.mark.slow
def test_two_nets_of_each_family_of_timm() -> None:
    timm = pytest.importorskip("timm")
    names: list[str] = []
    for family in timm.list_modules():
        members = [name for name in timm.list_models(module=family) if not name.startswith("test_")]
        names += sorted(members, key=lambda name: (SMALL.isdisjoint(name.split("_")[1:]), len(name), name))[:2]
    outcomes = {}
    for index, name in enumerate(names):
        build = functools.partial(timm.create_model, name, num_classes=7)
        outcomes[name] = failure(build, ((2, 3, 5)[index % 3],), timm.get_pretrained_cfg(name).input_size[-1], 7)
    check_failures(outcomes, TIMM_EXCEPTIONS, fewest=180)


# --- order ------------------------------------------------------------------------------------------------------------


def test_resnet18_is_stem_to_layer2_then_layer3_to_layer4_then_head() -> None:
    groups = layer_groups(on_meta(models.resnet18), 3, IMAGES, 1000)
    assert [sorted({name.split(".")[0] for name in group}) for group in groups] == [
        ["bn1", "conv1", "layer1", "layer2"],
        ["layer3", "layer4"],
        ["fc"],
    ]
    assert groups[0][0] == "conv1.weight"


def test_tokens_and_positions_of_a_vit_go_with_its_stem_and_functional_attention_with_its_block() -> None:
    net = on_meta(models.vit_b_16)
    groups = layer_groups(net, 5, IMAGES, 1000)
    check(groups, net, 5)
    assert {"class_token", "encoder.pos_embedding", "conv_proj.weight"} <= set(groups[0])
    assert groups[-1] == ["heads.head.weight", "heads.head.bias"]
    for group in groups:  # torch's attention calls neither of its two projections
        for name in group:
            if "in_proj_weight" in name:
                assert name.replace("in_proj_weight", "out_proj.weight") in group


def test_a_cut_takes_the_whole_start_of_its_block() -> None:
    blocks = [nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(2)]
    net = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(48, 7))
    assert owners(layer_groups(net, 3, (1, 3, 4, 4), 7)) == [
        ["0.0", "0.1", "0.2"],
        ["1.0", "1.1", "1.2"],
        ["3"],
    ]


def test_groups_hold_nearly_equal_numbers_of_weight_layers() -> None:
    net = on_meta(models.resnet50)
    for count in range(2, 12):
        groups = layer_groups(net, count, IMAGES, 1000)
        check(groups, net, count)
        sizes = [sum(net.get_parameter(name).ndim > 1 for name in group) for group in groups[:-1]]
        assert max(sizes) - min(sizes) <= 1


def test_order_is_that_of_execution_not_of_definition() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.second, self.first = nn.Linear(4, 7), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> Any:
            return self.head(self.second(self.first(x.mean(1))).mean(1))

    assert owners(layer_groups(Backwards(), 3, (1, 3, 4, 4), 7)) == [["first"], ["second"], ["head"]]


def test_a_weight_whose_module_is_partly_used_before_it_is_called_gets_a_group() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 4))
            self.norm = nn.LayerNorm(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 4), Scaled(), nn.Linear(48, 7)

        def forward(self, x: torch.Tensor) -> Any:
            return self.head(self.second(self.first(self.second.norm(x))).flatten(1))

    groups = owners(layer_groups(Early(), 3, (1, 3, 4, 4), 7))
    assert groups == [["second.norm", "first"], ["second"], ["head"]]


class Body(nn.Module):
    """A body of which others call a method, not the module, with a parameter of its own and a list of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 4))
        self.stem, self.middle = nn.Linear(4, 4), nn.Linear(4, 4)
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(4))])

    def features(self, x: torch.Tensor) -> Any:
        return (self.middle(self.stem(x + self.token)) * self.scales[0]).flatten(1)


class Whole(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.body = Body()
        self.head = nn.Sequential(
            nn.BatchNorm1d(48), nn.Dropout(), nn.Linear(48, 7), nn.BatchNorm1d(7), nn.Linear(7, 7)
        )
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.body.features(x))


def test_parameters_of_modules_that_are_never_called_go_with_their_nearest() -> None:
    groups = owners(layer_groups(Whole(head_prefix="head"), 3, (1, 3, 4, 4), 7))
    assert groups == [["body", "body.stem"], ["body.middle", "body.scales"], ["head.0", "head.2", "head.3", "head.4"]]


# --- the head ---------------------------------------------------------------------------------------------------------


def test_head_is_what_the_net_says_then_what_timm_says_then_the_last_layer_with_an_output_per_class() -> None:
    assert owners(layer_groups(Whole(), 2, (1, 3, 4, 4), 7))[-1] == ["head.4"]
    cfg = {"classifier": ("head.2", "head.4", "gone")}
    timms = Whole(default_cfg=cfg)
    assert owners(layer_groups(timms, 2, (1, 3, 4, 4), 7))[-1] == ["head.2", "head.4"]
    ours = Whole(default_cfg=cfg, head_prefix="head")
    assert declared_head(ours) == ("head",)
    assert owners(layer_groups(ours, 2, (1, 3, 4, 4), 7))[-1] == ["head.0", "head.2", "head.3", "head.4"]


@pytest.mark.parametrize(("name", "auxiliary"), [("googlenet", {"aux1", "aux2"}), ("inception_v3", {"AuxLogits"})])
def test_auxiliary_heads_belong_to_the_head(name: str, auxiliary: set[str]) -> None:
    net = on_meta(models.get_model, name, init_weights=False)
    *body, head = layer_groups(net, 3, IMAGES, 1000)
    assert {name.split(".")[0] for name in head} == {"fc", *auxiliary}
    assert not any(name.split(".")[0] in auxiliary for name in together(body))


def test_attention_as_wide_as_the_classes_is_no_auxiliary_head() -> None:
    vit = on_meta(models.VisionTransformer, 224, 16, 2, 2, hidden_dim=8, mlp_dim=16, num_classes=8)
    assert layer_groups(vit, 2, IMAGES, 8)[-1] == ["heads.head.weight", "heads.head.bias"]


def test_shared_parameters_are_named_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Flatten(), nn.Linear(48, 7))
    net[1].weight = net[0].weight
    groups = layer_groups(net, 2, (1, 3, 4, 4), 7)
    check(groups, net, 2)
    assert together(groups).count("0.weight") == 1


# --- what cannot be done ----------------------------------------------------------------------------------------------


def test_too_many_groups_says_how_many_are_possible() -> None:
    line = nn.Sequential(nn.Flatten(), nn.Linear(48, 7))
    with pytest.raises(UserError, match="at most 1 group, got 2"):
        layer_groups(line, 2, (1, 3, 4, 4), 7)
    check(layer_groups(line, 1, (1, 3, 4, 4), 7), line, 1)
    resnet = on_meta(models.resnet18)
    with pytest.raises(UserError, match="at most 21 groups, got 22"):
        layer_groups(resnet, 22, IMAGES, 1000)
    check(layer_groups(resnet, 21, IMAGES, 1000), resnet, 21)


def test_a_body_without_weight_layers_is_one_group() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 7))
    assert owners(layer_groups(net, 2, (1, 3, 4, 4), 7)) == [["0"], ["2"]]


def test_a_net_without_a_head_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Linear(8, 8))
    with pytest.raises(UserError, match='no layer with 7 outputs was found; give the net an attribute head_prefix = "'):
        layer_groups(net, 2, (1, 3, 4, 4), 7)
    with pytest.raises(UserError, match='head_prefix: "top" is not a module of the net'):
        layer_groups(Whole(head_prefix="top"), 2, (1, 3, 4, 4), 7)


def test_a_net_that_cannot_take_such_images_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot be run on images of shape \(1, 3, 16, 16\) \(see im_sz\): .*size"):
        layer_groups(models.alexnet(), 2, (1, 3, 16, 16), 1000)


# --- the net stays as it is -------------------------------------------------------------------------------------------


class Peculiar(Whole):
    """Draws random numbers, counts its calls, and looks at values, which the meta device does not have."""

    calls = 0

    def forward(self, x: torch.Tensor) -> Any:
        self.calls += 1
        x = x + torch.rand(())
        return super().forward(x if x.sum().item() >= 0 else -x)


@pytest.mark.parametrize("build", [Whole, Peculiar])
def test_net_and_random_numbers_stay_as_they_are_and_the_answer_is_always_the_same(build: type[Whole]) -> None:
    net = build(head_prefix="head")
    net.head[0].eval()
    net.body.stem.weight.requires_grad_(False)
    before = copy.deepcopy(net)
    random = torch.get_rng_state()
    groups = layer_groups(net, 3, (2, 3, 4, 4), 7)
    assert layer_groups(net, 3, (2, 3, 4, 4), 7) == groups
    check(groups, net, 3)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in net.modules()] == [module.training for module in before.modules()]
    assert [value.requires_grad for value in net.parameters()] == [value.requires_grad for value in before.parameters()]
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in net.state_dict().items())
    assert all(value.device.type == "cpu" for value in net.state_dict().values())
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert "calls" not in vars(net)
