"""Schedules against torch's own, their shape, and exact continuation for every one that can be named."""

import io
import itertools
import math

import pytest
import torch
from torch.optim import lr_scheduler

from config.parts import EarlyStopping
from config.schema import Params
from model import schedule
from model.torch_schedule import PER_STEP, TORCH_SCHEDULERS
from utils import UserError

EPOCHS, PER_EPOCH = 10, 7
STEPS = EPOCHS * PER_EPOCH
RATES = [1e-3, 1e-3, 5e-3]  # of three parameter groups in two layer groups

# What each needs to be named, as it would stand in params.json.
ARGUMENTS = {
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "ExponentialLR": {"gamma": 0.8},
    "MultiStepLR": {"milestones": [3, 7]},
    "StepLR": {"step_size": 4},
    "CyclicLR": {"step_size_up": 9, "mode": "exp_range", "gamma": 0.99},
    "ReduceLROnPlateau": {"patience": 1},
    "SequentialLR": {
        "schedulers": [{"name": "LinearLR", "total_iters": 3}, {"name": "CosineAnnealingLR"}],
        "milestones": [3],
    },
    "ChainedScheduler": {"schedulers": [{"name": "ConstantLR"}, {"name": "ExponentialLR", "gamma": 0.9}]},
}
EVERY = [*schedule.SCHEDULES, *TORCH_SCHEDULERS]


def _params(name, epochs=EPOCHS, **more):
    values = {"scheduler": name, "scheduler_arguments": ARGUMENTS.get(name, {})} | more
    return Params(arch="shallow", num_epochs=epochs, **values)


def _optimizer(kind=torch.optim.AdamW, rates=RATES):
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(2))], "lr": rate, "max_lr": rate, "group": max(0, number - 1)}
        for number, rate in enumerate(rates)
    ]
    return kind(groups, lr=1.0)


def _make(name, optimizer=None, epochs=EPOCHS, per_epoch=PER_EPOCH, **more):
    return schedule.make_schedule(_params(name, epochs, **more), optimizer or _optimizer(), per_epoch)


def _monitored(epoch):
    return [3.0, 2.0, 2.5, math.nan, 2.2, 1.0, 1.1, 1.2, 1.3, 1.4][epoch % 10]


def _state(optimizer):
    return [(group["lr"], group.get("betas"), group.get("momentum")) for group in optimizer.param_groups]


def _run(made, optimizer, steps=range(STEPS), tail_at=None):
    """The groups' state in each of the steps."""
    seen = []
    for step in steps:
        if step == tail_at:
            made.start_tail(step, 2 * PER_EPOCH)
        made.set_rates(step)
        seen.append(_state(optimizer))
        if (step + 1) % PER_EPOCH == 0:
            made.end_epoch(_monitored(step // PER_EPOCH))
    return seen


def _rates(name, **more):
    optimizer = _optimizer()
    return [[rate for rate, *_ in row] for row in _run(_make(name, optimizer, **more), optimizer)]


# --- our own ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [(10, 7), (3, 5), (1, 5), (2, 50)])
@pytest.mark.parametrize(("pct_start", "div_factor", "final"), [(0.3, 25.0, 1e4), (0.25, 10.0, 1e2), (0.6, 2.0, 1.0)])
def test_one_cycle_equals_torch(steps, pct_start, div_factor, final):
    epochs, per_epoch = steps
    optimizer, theirs = _optimizer(), _optimizer()
    arguments = {"final_div_factor": final}
    made = _make(
        "one_cycle", optimizer, *steps, pct_start=pct_start, div_factor=div_factor, scheduler_arguments=arguments
    )
    reference = lr_scheduler.OneCycleLR(
        theirs, RATES, epochs * per_epoch, pct_start=pct_start, div_factor=div_factor, final_div_factor=final
    )
    theirs.step()
    for step in range(epochs * per_epoch):
        made.set_rates(step)
        ours = [group["lr"] for group in optimizer.param_groups]
        assert ours == pytest.approx([group["lr"] for group in theirs.param_groups], rel=1e-9)
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
        if step + 1 < epochs * per_epoch:
            reference.step()


def test_cosine():
    rates = [row[2] / 5e-3 for row in _rates("cosine", scheduler_arguments={"warm_up": 0.2, "final_factor": 0.1})]
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates[-1] == pytest.approx(0.1)
    middle = 0.1 + 0.9 / 2 * (1 + math.cos(math.pi * (40 / 69 - 0.2) / 0.8))
    assert rates[40] == pytest.approx(middle)


def test_flat_cosine_and_step_and_constant():
    flat = [row[0] / 1e-3 for row in _rates("flat_cosine")]
    assert flat[: int(0.75 * 69) + 1] == [1] * 52
    assert flat[-1] == pytest.approx(1e-5)
    assert all(a > b for a, b in itertools.pairwise(flat[51:]))
    steps = [row[0] / 1e-3 for row in _rates("step")]
    assert steps[:35] == [1] * 35
    assert steps[35:52] == pytest.approx([0.1] * 17)
    assert steps[52:] == pytest.approx([0.01] * 18)
    assert _rates("constant") == [RATES] * STEPS


@pytest.mark.parametrize("name", schedule.SCHEDULES)
def test_own_schedules_are_functions_of_progress(name):
    """Four times as many steps give the same curve, and no factor is above 1."""
    function = schedule.SCHEDULES[name]
    factors = [function(i / 500) for i in range(501)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert max(factors) == pytest.approx(1)
    coarse, fine = _optimizer(), _optimizer()
    one, other = _make(name, coarse, 10, 100), _make(name, fine, 10, 400)
    for step in range(0, 1000, 20):
        one.set_rates(step)
        other.set_rates(round(step * 3999 / 999))
        assert coarse.param_groups[0]["lr"] == pytest.approx(fine.param_groups[0]["lr"], abs=2e-5)


@pytest.mark.parametrize("name", EVERY)
def test_groups_keep_their_proportion(name):
    for low, same, high in _rates(name):
        assert low == same
        assert high == pytest.approx(5 * low)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("epochs", "per_epoch"), [(1, 1), (1, 2), (2, 1), (3, 2)])
def test_shortest_trainings(name, epochs, per_epoch):
    arguments = {"schedulers": [{"name": "LinearLR"}, {"name": "LinearLR"}], "milestones": [1]}
    more = {"scheduler_arguments": arguments} if name == "SequentialLR" else {}
    if name == "OneCycleLR":
        more["pct_start"] = 0.41  # torch's own divides by zero where pct_start * steps is 1
    optimizer = _optimizer()
    made = _make(name, optimizer, epochs, per_epoch, **more)
    for step in range(epochs * per_epoch):
        made.set_rates(step)
        assert all(0 <= group["lr"] <= group["max_lr"] for group in optimizer.param_groups)


# --- torch's ---------------------------------------------------------------------------------------------------------


def _theirs(name, optimizer):
    """The scheduler as one would write it by hand, and after how many steps it goes."""
    if name == "OneCycleLR":
        return lr_scheduler.OneCycleLR(optimizer, RATES, epochs=EPOCHS, steps_per_epoch=PER_EPOCH), 1
    if name == "CyclicLR":
        return lr_scheduler.CyclicLR(optimizer, [rate / 25 for rate in RATES], RATES, **ARGUMENTS[name]), 1
    if name == "SequentialLR":
        parts = [lr_scheduler.LinearLR(optimizer, total_iters=3), lr_scheduler.CosineAnnealingLR(optimizer, 7)]
        return lr_scheduler.SequentialLR(optimizer, parts, [3]), PER_EPOCH
    if name == "ChainedScheduler":
        parts = [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)]
        return lr_scheduler.ChainedScheduler(parts), PER_EPOCH
    filled = {"CosineAnnealingLR": {"T_max": EPOCHS}, "PolynomialLR": {"total_iters": EPOCHS}}
    arguments = filled.get(name, ARGUMENTS.get(name, {}))
    return TORCH_SCHEDULERS[name](optimizer, **arguments), PER_EPOCH


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("name", TORCH_SCHEDULERS)
def test_equals_torch_by_hand(name, kind):
    """The same rates and momenta as with torch's own, step for step; and nothing left in the optimizer."""
    ours, theirs = _optimizer(kind), _optimizer(kind)
    reference, every = _theirs(name, theirs)
    theirs.step()
    expected = []
    for step in range(STEPS):
        expected.append(_state(theirs))
        if (step + 1) % every == 0 and step + 1 < STEPS:
            reference.step(*([_monitored(step // PER_EPOCH)] if name == "ReduceLROnPlateau" else []))
    assert _run(_make(name, ours), ours) == expected
    assert ours.param_groups[0].keys() == _optimizer(kind).param_groups[0].keys()


def test_the_table_is_all_of_torch_that_needs_no_function():
    kinds = {name for name in lr_scheduler.__all__ if name != "LRScheduler"}
    assert kinds - TORCH_SCHEDULERS.keys() == {"LambdaLR", "MultiplicativeLR"}
    assert schedule.catalogue().keys() == set(EVERY)
    assert schedule.catalogue()["StepLR"] == {"step_size", "gamma", "interval"}
    assert schedule.catalogue()["one_cycle"] == {"pct_start", "div_factor", "final_div_factor"}


def test_interval():
    arguments = {"gamma": 0.9, "interval": "step"}
    rates = [row[0] for row in _rates("ExponentialLR", scheduler_arguments=arguments)]
    assert rates == pytest.approx([1e-3 * 0.9**step for step in range(STEPS)])
    rates = [row[0] for row in _rates("CosineAnnealingLR", scheduler_arguments={"interval": "step"})]
    assert rates[-1] < 1e-6
    rates = [row[0] for row in _rates("OneCycleLR", scheduler_arguments={"interval": "epoch"})]
    assert len(set(rates)) == EPOCHS
    assert rates[2 * PER_EPOCH] == pytest.approx(1e-3)


def test_epochs_or_steps_can_be_given():
    for arguments in ({"total_steps": 100}, {"epochs": 20}, {"steps_per_epoch": 8, "epochs": 10}):
        optimizer, theirs = _optimizer(), _optimizer()
        expected = lr_scheduler.OneCycleLR(theirs, RATES, **({"steps_per_epoch": PER_EPOCH} | arguments))
        made = _make("OneCycleLR", optimizer, scheduler_arguments=arguments)
        theirs.step()
        for _ in range(30):
            expected.step()
        made.set_rates(30)
        assert optimizer.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]


def test_rates_per_layer_group():
    optimizer = _optimizer()
    arguments = {"patience": 0, "factor": 0.01, "min_lr": [2e-4, 4e-3]}
    made = _make("ReduceLROnPlateau", optimizer, scheduler_arguments=arguments)
    for _ in range(4):
        made.end_epoch(1.0)
    made.set_rates(4 * PER_EPOCH)
    assert [group["lr"] for group in optimizer.param_groups] == [2e-4, 2e-4, 4e-3]


@pytest.mark.parametrize(("monitor", "better"), [("loss", 0.5), ("accuracy", 1.5)])
def test_plateau_knows_the_direction(monitor, better):
    optimizer = _optimizer()
    watched = EarlyStopping(monitor_metric=monitor)
    made = _make("ReduceLROnPlateau", optimizer, early_stopping=watched, scheduler_arguments={"patience": 0})
    assert made.monitor == monitor
    made.end_epoch(1.0)
    made.end_epoch(better)
    made.set_rates(20)
    assert optimizer.param_groups[0]["lr"] == 1e-3
    made.end_epoch(1.0)
    made.set_rates(21)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_an_optimizer_without_momentum():
    optimizer = _optimizer(torch.optim.Adagrad)
    _make("CyclicLR", optimizer).set_rates(0)
    assert "momentum" not in optimizer.param_groups[0]


# --- shape -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "peak", "anneals"),
    [
        ("one_cycle", {}, 0.3, True),
        ("cosine", {"warm_up": 0.1}, 0.1, True),
        ("cosine", {"warm_up": 0}, 0, True),
        ("flat_cosine", {}, 0.75, True),
        ("step", {}, 0.5, True),
        ("constant", {}, 0, False),
        ("OneCycleLR", {}, 0.3, True),
        ("CosineAnnealingLR", {}, 0, True),
        ("PolynomialLR", {}, 0, True),
        ("ExponentialLR", {"gamma": 0.8}, 0, True),
        ("ExponentialLR", {"gamma": 0.99}, 0, False),
        ("StepLR", {"step_size": 4}, 1 / 3, True),
        ("LinearLR", {}, 0, False),
        ("ConstantLR", {}, 0, False),
        ("CyclicLR", {}, 0, False),
        ("ReduceLROnPlateau", {}, 0, False),
        ("SequentialLR", ARGUMENTS["SequentialLR"], 1 / 3, True),
    ],
)
def test_peak_and_annealing(name, arguments, peak, anneals):
    made = _make(name, scheduler_arguments=arguments)
    assert made.anneals is anneals
    assert made.peak == pytest.approx(peak, abs=0.02)


# --- the tail --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_tail_goes_linearly_to_zero(name):
    optimizer, plain = _optimizer(), _optimizer()
    at = 4 * PER_EPOCH
    tail = _run(_make(name, optimizer), optimizer, tail_at=at)
    without = _run(_make(name, plain), plain)
    assert tail[:at] == without[:at]
    for i in range(2 * PER_EPOCH):
        expected = [rate * (1 - i / (2 * PER_EPOCH)) for rate, *_ in without[at]]
        assert [rate for rate, *_ in tail[at + i]] == pytest.approx(expected)
    assert all(rate == 0 for row in tail[at + 2 * PER_EPOCH :] for rate, *_ in row)


# --- continuation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail_at", [None, 5 * PER_EPOCH])
@pytest.mark.parametrize(
    ("name", "kind"), [*itertools.product(EVERY, [torch.optim.AdamW]), *itertools.product(PER_STEP, [torch.optim.SGD])]
)
def test_swapping_it_at_every_step_changes_nothing(name, kind, tail_at):
    """A fresh optimizer and a fresh schedule, both loaded from a file, at every step and at every end of an epoch."""
    optimizer = _optimizer(kind)
    expected = _run(_make(name, optimizer), optimizer, tail_at=tail_at)
    optimizer = _optimizer(kind)
    made = _make(name, optimizer)
    seen = []
    for step in range(STEPS):
        buffer = io.BytesIO()
        torch.save([optimizer.state_dict(), made.state_dict()], buffer)
        buffer.seek(0)
        saved = torch.load(buffer, weights_only=True)
        optimizer = _optimizer(kind)
        made = _make(name, optimizer)
        if step % 2:  # before or after: torch's own would overwrite the rates
            made.load_state_dict(saved[1])
            optimizer.load_state_dict(saved[0])
        else:
            optimizer.load_state_dict(saved[0])
            made.load_state_dict(saved[1])
        seen += _run(made, optimizer, [step], tail_at)
    assert seen == expected
    assert name == "constant" or len({row[0] for row in seen}) > 1


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("onecycle", {}, 'not a known scheduler; did you mean "one_cycle"'),
        ("LambdaLR", {}, '"LambdaLR" is not a known scheduler'),
        ("StepLR", {}, 'scheduler "StepLR" needs "step_size" in its scheduler_arguments'),
        ("SequentialLR", {"schedulers": [{"name": "StepLR"}], "milestones": []}, '"StepLR" needs "step_size"'),
        ("SequentialLR", {"schedulers": [{"name": "LinearLR"}], "milestones": [1]}, "one more than the number of mile"),
        ("SequentialLR", {"schedulers": [{}], "milestones": []}, "name"),
        ("SequentialLR", {"schedulers": "LinearLR", "milestones": []}, '"SequentialLR" does not take'),
        ("ChainedScheduler", {"schedulers": []}, "expects at least one scheduler"),
        ("ChainedScheduler", {"schedulers": [{"name": "ReduceLROnPlateau"}]}, "does not support `ReduceLROnPlateau`"),
        ("CosineAnnealingLR", {"tmax": 3}, 'has no argument "tmax"; did you mean "T_max"'),
        ("OneCycleLR", {"max_lr": 3}, 'has no argument "max_lr"'),
        ("OneCycleLR", {"total_steps": 60}, "Tried to step 61 times"),
        ("OneCycleLR", {"pct_start": 2.0}, "Expected float between 0 and 1"),
        ("ExponentialLR", {"gamma": "fast"}, 'scheduler "ExponentialLR" does not take its scheduler_arguments'),
        ("ExponentialLR", {"gamma": -1}, "would be negative"),
        ("StepLR", {"step_size": 0}, 'scheduler "StepLR" does not take'),
        ("StepLR", {"step_size": 2, "interval": "batch"}, 'interval must be "step" or "epoch", not batch'),
        ("ReduceLROnPlateau", {"interval": "step"}, 'its interval must be "epoch"'),
        ("ReduceLROnPlateau", {"min_lr": [1, 2, 3]}, "min_lr must list 2 rates, one per layer group, not 3"),
        ("one_cycle", {"pct_start": 1}, "pct_start must be at least 0 and below 1, not 1"),
        ("one_cycle", {"div_factor": 0}, 'scheduler "one_cycle" does not take'),
        ("one_cycle", {"momentum": 0}, 'has no argument "momentum"'),
        ("cosine", {"warm_up": "long"}, 'scheduler "cosine" does not take'),
        ("cosine", {"final_factor": -1}, "final_factor must be at least 0"),
        ("step", {"milestones": 0.5}, 'scheduler "step" does not take'),
        ("step", {"milestones": [0.5, 7]}, r"milestones must be at least 0 and below 1, not \[0.5, 7\]"),
    ],
)
def test_errors(name, arguments, match):
    with pytest.raises(UserError, match=match):
        _make(name, scheduler_arguments=arguments)
