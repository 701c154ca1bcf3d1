"""Early stopping: when it ends a training, and that a restart does not change it."""

import io
import logging
import math

import pytest
import torch

from config import parts, schema
from model.schedule import make_schedule
from training.early_stopping import EarlyStopping, make_early_stopping
from utils import UserError


def _stopping(**settings):
    return EarlyStopping(
        **{"monitor": "loss", "direction": "min", "patience": 2, "min_delta": 0.0, "num_epochs": 20} | settings
    )


def _run(stopping, values):
    """The epoch in which it was decided to stop, or None."""
    decided = [epoch for epoch, value in enumerate(values, 1) if stopping.update(epoch, value)]
    assert len(decided) <= 1
    return decided[0] if decided else None


@pytest.mark.parametrize(
    ("settings", "values", "expected"),
    [
        ({}, [3, 2, 1, 1.5, 1.4], 5),
        ({}, [3, 2, 1, 1.5, 0.9, 1, 1], 7),  # an improvement starts the count anew
        ({}, [1, 1, 1], 3),  # equal is no improvement
        ({"patience": 1}, [1, 2], 2),
        ({"direction": "max"}, [0.5, 0.6, 0.6, 0.5], 4),
        ({"direction": "max"}, [0.1, 0.2, 0.3, 0.4, 0.5], None),
        ({"min_delta": 0.1}, [1, 0.95, 0.9], 3),  # exactly min_delta is not more than it, nor are two half ones
        ({"min_delta": 0.1}, [1, 0.95, 0.85, 0.85, 0.8], 5),
        ({"direction": "max", "min_delta": 0.5}, [1, 1.4, 1.6, 2, 2], 5),
        ({}, [1, math.nan, math.nan], 3),
        ({}, [math.nan, math.nan], 2),
        ({}, [math.nan, 1, math.nan, 0.9, 0.8], None),
        ({"direction": "max"}, [-math.inf, 0.1, 0.2], None),
        ({"earliest_epoch": 4}, [0, 1, 2, 3, 4], None),  # the best before does not count either
        ({"earliest_epoch": 4}, [0, 1, 2, 3, 4, 5], 6),
        ({"tail_epochs": 2}, [1] * 18, 3),
        ({"num_epochs": 5, "tail_epochs": 2}, [3, 2, 2, 2, 2], None),  # two epochs later it ends anyway: no tail
        ({"num_epochs": 6, "tail_epochs": 2}, [2, 2, 2], 3),
        ({"num_epochs": 3}, [1, 1, 1], None),
    ],
)
def test_when_it_stops(settings, values, expected):
    stopping = _stopping(**settings)
    assert _run(stopping, values) == expected
    assert (stopping.stop is None) is (expected is None)
    if expected is not None:
        assert stopping.last_epoch == expected + settings.get("tail_epochs", 0)
    else:
        assert stopping.last_epoch == settings.get("num_epochs", 20)


def test_what_history_tells(caplog):
    stopping = _stopping(min_delta=0.001, tail_epochs=3)
    with caplog.at_level(logging.INFO, "dossier"):
        _run(stopping, [3, 2, 1, 1, 1, 1, 1, 1, 1])
    assert stopping.stop == {
        "reason": "loss has not improved by more than 0.001 for 2 epochs",
        "epoch": 5,
        "best_epoch": 3,
        "best": 1.0,
        "tail_epochs": 3,
    }
    assert [record.message for record in caplog.records] == [
        "epoch 5: loss has not improved by more than 0.001 for 2 epochs; training ends after epoch 8"
    ]


def test_warn_says_so_once(caplog):
    stopping = _stopping(action="warn")
    with caplog.at_level(logging.WARNING, "dossier"):
        assert _run(stopping, [1, 1, 1, 1, 0.5, 1, 1, 1]) is None
    assert [record.message for record in caplog.records] == [
        "epoch 3: loss has not improved for 2 epochs; training goes on, as early_stopping.action says"
    ]
    assert stopping.last_epoch == 20


@pytest.mark.parametrize("action", ["stop", "warn"])
@pytest.mark.parametrize("direction", ["min", "max"])
def test_swapping_it_after_every_epoch_changes_nothing(action, direction, caplog):
    settings = {"action": action, "direction": direction, "min_delta": 0.05, "earliest_epoch": 2, "tail_epochs": 1}
    values = [1, 2, 1.9, math.nan, 1.88, 1.7, 1.71, 1.72, 2.5, 2.4, 2.3, 2.2]
    whole = _stopping(**settings)
    with caplog.at_level(logging.INFO, "dossier"):
        expected = [(whole.update(epoch, value), whole.last_epoch) for epoch, value in enumerate(values, 1)]
        messages = [record.message for record in caplog.records]
        caplog.clear()
        stopping, seen = _stopping(**settings), []
        for epoch, value in enumerate(values, 1):
            buffer = io.BytesIO()
            torch.save(stopping.state_dict(), buffer)
            buffer.seek(0)
            stopping = _stopping(**settings)
            stopping.load_state_dict(torch.load(buffer, weights_only=True))
            seen.append((stopping.update(epoch, value), stopping.last_epoch))
    assert seen == expected
    assert messages == [record.message for record in caplog.records]
    assert len(messages) == 1
    assert stopping.state_dict() == whole.state_dict()


@pytest.mark.parametrize("omitted", ["best", "waited", "stop", "warned"])
def test_every_part_of_the_state_matters(omitted, caplog):
    """Leaving one out of a restart gives another decision or another log."""

    def run(restart):
        stopping = _stopping(patience=3, action="warn" if omitted == "warned" else "stop")
        decisions = []
        for epoch, value in enumerate([1, 2, 2, 2, 2, 2, 1.5, 1.5, 1.5, 1.5], 1):
            decisions.append(stopping.update(epoch, value))
            if epoch == (3 if omitted in ("best", "waited") else 4) and restart:
                state = stopping.state_dict()
                del state[omitted]
                stopping = _stopping(patience=3, action=stopping.action)
                stopping.load_state_dict(state)
        return decisions, stopping.stop, len(caplog.records)

    with caplog.at_level(logging.WARNING, "dossier"):
        whole = run(False)
        caplog.clear()
        assert run(True) != whole


# --- with the schedule -----------------------------------------------------------------------------------------------


def _made(scheduler, num_epochs=20, arguments=None, metrics=(), **settings):
    early_stopping = parts.EarlyStopping(**settings)
    params = schema.Params(
        arch="shallow",
        scheduler=scheduler,
        scheduler_arguments=arguments or {},
        num_epochs=num_epochs,
        metrics=["accuracy", *metrics],
        early_stopping=early_stopping,
    )
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [weight], "lr": 0.1, "max_lr": 0.1, "group": 0}])
    return make_early_stopping(early_stopping, make_schedule(params, optimizer, 50), num_epochs)


@pytest.mark.parametrize(
    ("scheduler", "arguments", "earliest", "tail"),
    [
        ("one_cycle", {}, 7, 2),  # the peak is after epoch 6 of 20
        ("one_cycle", {"pct_start": 0.1}, 6, 2),  # but not in the first quarter
        ("one_cycle", {"pct_start": 0.51}, 12, 2),
        ("cosine", {}, 6, 2),
        ("flat_cosine", {}, 16, 2),
        ("step", {}, 11, 2),
        ("OneCycleLR", {}, 7, 2),
        ("CosineAnnealingLR", {}, 6, 2),
        ("constant", {}, 1, 0),
        ("ReduceLROnPlateau", {}, 1, 0),
        ("CyclicLR", {}, 1, 0),
    ],
)
def test_it_knows_the_schedule(scheduler, arguments, earliest, tail):
    made = _made(scheduler, arguments=arguments)
    assert (made.earliest_epoch, made.tail_epochs) == (earliest, tail)


def test_no_tail_when_none_is_wanted():
    assert _made("one_cycle", tail_epochs=0).tail_epochs == 0


def test_one_cycle_is_not_stopped_at_its_peak():
    """The validation losses measured under one-cycle: no better near the peak, much better at the end."""
    values = [1.92, 1.83, 1.88, 1.81, 1.84, 1.85, 1.72, 1.66, 1.6, 1.55, 1.5, 1.43, 1.36, 1.31, 1.29]
    assert _run(_made("one_cycle", num_epochs=15, patience=2), values) is None
    assert _run(_made("constant", num_epochs=15, patience=2), values) == 6


def test_settings_reach_it():
    made = _made("constant", patience=7, min_delta=0.25, action="warn", monitor_metric="accuracy")
    assert (made.patience, made.min_delta, made.action, made.monitor, made.direction, made.num_epochs) == (
        7,
        0.25,
        "warn",
        "accuracy",
        "max",
        20,
    )


def test_directions():
    assert _made("constant", monitor_metric="loss", minimize=True).direction == "min"
    assert _made("constant", monitor_metric="accuracy", minimize=False).direction == "max"
    match = "early_stopping.minimize must be 0 or left out: a greater value of f1 is better"
    with pytest.raises(UserError, match=match):
        _made("constant", metrics=["f1"], monitor_metric="f1", minimize=True)
