"""Parameter groups, and every optimizer of torch over one tiny net."""

import copy
import io
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional

from config.parts import RateRange
from model import optim
from utils import UserError


class Tokens(nn.Module):
    """A layer of each kind that weight decay treats in its own way."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.class_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.pos_embedding = nn.Parameter(torch.zeros(1, 5, 4))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.layer_scale = nn.Parameter(torch.ones(4, 1, 1))
        self.attention_biases = nn.Parameter(torch.zeros(3, 4))
        self.queries = nn.Parameter(torch.zeros(3, 4))
        self.bias = nn.Parameter(torch.zeros(2, 2))
        self.head = nn.Linear(4, 1)

    def no_weight_decay(self):
        return {"attention_biases"}


DECAYING = {"conv.weight", "queries", "head.weight"}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 2))


GROUPS = [["0.weight", "0.bias"], ["1.weight", "1.bias"], ["4.weight", "4.bias"]]
RATES = [1e-3, 2e-3, 4e-3]


def _make(net, name="AdamW", wd=0.1, **arguments):
    return optim.make_optimizer(name, arguments, net, GROUPS, RATES, wd)


def _step(net, optimizer):
    optimizer.zero_grad()
    images = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    loss = functional.cross_entropy(net(images), torch.arange(6) % 2)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


# --- groups ----------------------------------------------------------------------------------------------------------


def test_what_decays():
    net = Tokens()
    listed = optim.listed_without_decay(net)
    assert {n for n, p in net.named_parameters() if n not in listed and optim.decays(n, p)} == DECAYING


def test_a_net_inside_a_net_lists_too():
    net = nn.ModuleDict({"backbone": Tokens()})
    assert optim.listed_without_decay(net) == {"backbone.attention_biases"}
    names = [name for name, _ in net.named_parameters()]
    optimizer = optim.make_optimizer("SGD", {}, net, [names], [0.1], 0.5)
    decay = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decay == {"group 0": 0.5, "group 0 no decay": 0}
    parameters = dict(net.named_parameters())
    expected = [id(parameters[name]) for name in names if name.removeprefix("backbone.") in DECAYING]
    assert list(map(id, optimizer.param_groups[0]["params"])) == expected


def test_groups_carry_name_rate_and_number(net):
    described = [(g["name"], g["group"], g["lr"], g["max_lr"], g["weight_decay"]) for g in _make(net).param_groups]
    assert described == [
        ("group 0", 0, 1e-3, 1e-3, 0.1),
        ("group 0 no decay", 0, 1e-3, 1e-3, 0.0),
        ("group 1 no decay", 1, 2e-3, 2e-3, 0.0),  # a group of norms only has no other half
        ("group 2", 2, 4e-3, 4e-3, 0.1),
        ("group 2 no decay", 2, 4e-3, 4e-3, 0.0),
    ]


def test_every_parameter_once_frozen_or_not(net):
    net[0].requires_grad_(False)
    held = [id(p) for group in _make(net).param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, net.parameters()))


def test_frozen_parameters_stay_and_thaw(net):
    net[0].requires_grad_(False)
    optimizer = _make(net)
    before = copy.deepcopy(net[0].state_dict())
    _step(net, optimizer)
    assert all(torch.equal(before[key], value) for key, value in net[0].state_dict().items())  # no weight decay either
    net[0].requires_grad_(True)
    _step(net, optimizer)
    assert not torch.equal(before["weight"], net[0].weight)


def test_group_rates():
    assert optim.group_rates(0.1, 3) == [0.1, 0.1, 0.1]
    assert optim.group_rates([0.1, 0.0, 0.3], 3) == [0.1, 0.0, 0.3]
    spread = RateRange(low=1e-5, high=1e-3)
    assert optim.group_rates(spread, 3) == [1e-5, pytest.approx(1e-4), 1e-3]
    assert optim.group_rates(spread, 1) == [1e-3]
    with pytest.raises(UserError, match="learning_rate lists 2 rates for 3 layer groups"):
        optim.group_rates([0.1, 0.2], 3)


# --- every optimizer -------------------------------------------------------------------------------------------------


def test_the_table_is_all_of_torch():
    expected = {name for name in torch.optim.__all__ if isinstance(getattr(torch.optim, name), type)} - {"Optimizer"}
    assert optim.OPTIMIZERS.keys() == expected
    assert optim.catalogue().keys() == expected
    assert len(expected) >= 14


@pytest.mark.parametrize("name", [name for name in optim.OPTIMIZERS if name not in {*optim.REFUSED, "Muon"}])
def test_contract(net, name):
    """Learns; takes each group's rate; its state survives a file; no weight decay where there is none."""
    optimizer = _make(net, name, wd=0.0 if name == "Rprop" else 1e-4)
    losses = [_step(net, optimizer) for _ in range(15)]
    assert losses[-1] < losses[0]
    buffer = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    other = copy.deepcopy(net)
    other.load_state_dict(saved["net"])
    restored = _make(other, name, wd=0.0)
    restored.load_state_dict(saved["optimizer"])
    assert [g["name"] for g in restored.param_groups] == [g["name"] for g in optimizer.param_groups]
    for _ in range(3):
        assert _step(net, optimizer) == _step(other, restored)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    if name not in ("ASGD", "Rprop"):  # Rprop's rate is only where its own steps start
        before = [p.clone() for p in net.parameters()]
        _step(net, optimizer)
        assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("name", optim.REFUSED)
def test_what_cannot_train_a_classifier_is_refused(net, name):
    with pytest.raises(
        UserError, match=f'optimizer "{name}" (evaluates the loss several times|takes sparse gradients)'
    ):
        _make(net, name)


def test_muon_takes_matrices_only(net):
    with pytest.raises(UserError, match=r'optimizer "Muon" takes matrices only, and 0\.weight is none: choose AdamW'):
        _make(net, "Muon")
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    optimizer = optim.make_optimizer("Muon", {}, net, [["1.weight"], ["3.weight"]], [0.01, 0.01], 0.0)
    losses = [_step(net, optimizer) for _ in range(10)]
    assert losses[-1] < losses[0]


def test_an_optimizer_without_weight_decay_says_so(net, caplog):
    with caplog.at_level(logging.WARNING, "dossier"):
        _make(net, "Rprop")
        assert "optimizer Rprop has no weight decay: wd is not used" in caplog.text
        caplog.clear()
        _make(net, "Rprop", wd=0.0)
        _make(net, "SGD")
        assert not caplog.text


def test_arguments_reach_the_optimizer(net):
    optimizer = _make(net, "AdamW", betas=[0.8, 0.9], foreach=False)
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert optimizer.defaults["foreach"] is False


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_a_fused_step_is_taken_where_there_is_one(net, name):
    other = copy.deepcopy(net)
    fused, plain = _make(net, name), _make(other, name, fused=False)
    assert fused.defaults["fused"] is True
    assert plain.defaults["fused"] is False
    for step in range(3):
        for parameter, same in zip(net.parameters(), other.parameters(), strict=True):
            parameter.grad = torch.full_like(parameter, step - 0.7)
            same.grad = parameter.grad.clone()
        fused.step()
        plain.step()
    for ours, reference in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments"), [("RMSprop", {}), ("AdamW", {"foreach": True}), ("Adagrad", {"foreach": False})]
)
def test_no_fused_step_where_there_is_none_or_another_form_is_asked_for(net, name, arguments):
    assert not _make(net, name, **arguments).defaults.get("fused")


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("Adamw", {}, '"Adamw" is not a known optimizer; did you mean "AdamW"'),
        ("SGD", {"momentm": 0.9}, 'optimizer "SGD" has no argument "momentm"; did you mean "momentum"'),
        ("SGD", {"lr": 0.9}, 'optimizer "SGD" has no argument "lr"'),
        ("SGD", {"weight_decay": 0.9}, 'optimizer "SGD" has no argument "weight_decay"'),
        ("SGD", {"momentum": -1}, 'optimizer "SGD": Invalid momentum value: -1'),
        ("AdamW", {"betas": [0.9]}, 'optimizer "AdamW": '),
        ("AdamW", {"capturable": True}, 'optimizer "AdamW": .*capturable'),
        ("AdamW", {"betas": "high"}, 'optimizer "AdamW": '),
        ("AdamW", {"foreach": True, "fused": True}, 'optimizer "AdamW": '),
        ("SGD", {"nesterov": True}, "Nesterov momentum requires a momentum"),
    ],
)
def test_errors(net, name, arguments, match):
    with pytest.raises(UserError, match=match):
        _make(net, name, **arguments)
