"""Continued without one field of the checkpoint: the result is another one, or it is refused."""

import functools
import shutil
import signal
from itertools import chain
from typing import Any, NamedTuple

import pytest

from config.run_folder import RunFolder
from tests.faults.server import Plant
from tests.faults.trials import fresh
from tests.training.runs import outcome
from training import checkpoint

QUICK: Plant = ("quick", {})
WAITS = {"monitor_metric": "accuracy", "min_delta": 1}  # for an improvement that never comes


class Run(NamedTuple):
    """A training that is killed where some fields matter that do not in the others.

    Attributes:
        changes: to the params of a small one.
        pause: number of the pause point at which it is killed; an epoch of 8 images a batch has five.
        missed: fields that it must miss.
    """

    changes: dict[str, Any]
    pause: int
    missed: tuple[str, ...]


RUNS = {
    "best": Run(  # in the last epoch, the best one is behind it
        {"num_epochs": 5, "ema_decay": 0.9, "average_epochs": 4, "best_metric": "loss", "seed": 2},
        22,
        ("learning/net", "learning/ema/steps", "learning/last_epochs/total", "progress/best", "progress/seen"),
    ),
    "waiting": Run(  # in epoch 3
        {"num_epochs": 8, "scheduler": "constant", "average_epochs": 4, "early_stopping": WAITS | {"patience": 3}},
        12,
        ("learning/stopping/best", "learning/stopping/waited", "learning/last_epochs/weights"),
    ),
    "warned": Run(  # in epoch 4, when it has been said that nothing improves
        {"num_epochs": 5, "scheduler": "constant", "early_stopping": WAITS | {"patience": 2, "action": "warn"}},
        17,
        ("learning/stopping/warned",),
    ),
    "tail": Run(  # in epoch 5, the first of the tail
        {"num_epochs": 8, "scheduler": "cosine", "early_stopping": WAITS | {"patience": 1}},
        22,
        ("learning/stopping/stop", "learning/schedule/tail", "progress/history/stop"),
    ),
    "plateau": Run(
        {
            "num_epochs": 4,
            "scheduler": "ReduceLROnPlateau",
            "scheduler_arguments": {"patience": 0, "threshold": 0.99},
        },
        12,
        ("learning/schedule/monitored",),
    ),
    "fp16": Run(  # in epoch 2, when gradients have overflowed twice: the scale is a quarter of the first one
        {"num_epochs": 3, "precision": "fp16", "batch_size": 2, "learning_rate": 0.03, "scheduler": "cosine"},
        20,
        ("learning/scaler",),
    ),
}

# What the result does not depend on, and why it is kept.
EXCEPTIONS = {
    "progress/seconds": "how long it took is no part of the result",
    "progress/epoch_seconds": "how long it took is no part of the result",
    "learning/optimizer/param_groups": "rates and momenta are set before each step, and the rest follows from params; "
    "torch's optimizers do not load without it",
}


def result(path):
    """What a run leaves, and what it warned of."""
    warnings = [line.partition(" WARNING ")[2] for line in (path / "train.log").read_text().splitlines()]
    return outcome(path) | {"warnings": [warning for warning in warnings if warning]}


def fields(saved):
    """The ways to all fields that are ours to keep: a part, a field of a part."""
    parts = [("learning", name) for name in saved["learning"]] + [("progress", name) for name in saved["progress"]]
    inner = [
        (*part, name)
        for part in parts
        if part[1] not in ("net", "scaler") and isinstance(saved[part[0]][part[1]], dict)
        for name in saved[part[0]][part[1]]
    ]
    return parts + inner


@pytest.fixture(scope="module")
def killed(server, data, place):
    """Gives, for the name of a run, the folder as the kill left it and the result without the kill."""

    @functools.cache
    def left_by(name):
        changes, pause, _ = RUNS[name]
        path = fresh(place / name, **changes)
        assert server.train(path, data, plants=[QUICK]).code == 0
        expected = result(path)
        fresh(path, **changes)
        at = ("reach", {"where": "training.recorder:Recorder.pause_point", "count": pause, "pause": 60})
        every = ("--set", "checkpoint_minutes=1e-6")
        ended = server.train(path, data, *every, plants=[QUICK, at], signals=[(0, signal.SIGKILL)])
        assert (ended.code, ended.reached) == (-signal.SIGKILL, True), ended.err
        return path, expected

    return left_by


@pytest.fixture
def continued(server, data, tmp_path):
    """Continues a copy of a killed run; gives how that ended, and the copy."""

    def goes_on(path, *plants):
        copied = tmp_path / "continued"
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(path, copied)
        return server.train(copied, data, plants=[QUICK, *plants]), copied

    return goes_on


@pytest.fixture
def misses(killed, continued):
    """Whether a run that is continued without a field is refused, or ends otherwise."""

    def missed(name, field):
        path, expected = killed(name)
        ended, copied = continued(path, ("forget", {"key": field}))
        return ended.code != 0 or result(copied) != expected

    return missed


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_misses_its_own_fields(killed, continued, misses, name):
    path, expected = killed(name)
    ended, copied = continued(path)
    assert ended.code == 0, ended.err
    assert result(copied) == expected  # with all fields, so that a difference means something
    for field in RUNS[name].missed:
        assert misses(name, field.split("/")), field


@pytest.mark.campaign
def test_every_field_is_missed(killed, misses, say):
    holds = {name: fields(checkpoint.load(RunFolder(killed(name)[0]))) for name in RUNS}

    def missed(field):
        # first by the run that was made for it
        order = sorted(RUNS, key=lambda name: "/".join(field) not in RUNS[name].missed)
        return any(misses(name, field) for name in order if field in holds[name])

    every = dict.fromkeys(chain.from_iterable(holds.values()))
    without_effect = {"/".join(field) for field in every if not missed(field)}
    say(f"fields of the checkpoint: {len(every)}, of no effect: {sorted(without_effect)}")
    assert len(every) >= 35
    assert without_effect <= set(EXCEPTIONS)
    assert len(EXCEPTIONS) <= 3


@pytest.mark.slow
def test_a_checkpoint_without_a_field_is_refused(killed, continued):
    path, _ = killed("best")
    parts = [field for field in fields(checkpoint.load(RunFolder(path))) if len(field) == 2]
    assert len(parts) >= 12
    for field in parts:
        ended, _ = continued(path, ("forget", {"key": field, "delete": True}))
        assert (ended.code, ended.err.count("\n")) == (4, 1), f"{field}: {ended.err}"
