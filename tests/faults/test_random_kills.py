"""Killed at any moment, again and again, and continued by the same command: the same outcome."""

import random
import re
import shutil
import signal
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.faults.server import Plant
from tests.faults.trials import differences, fresh
from tests.model.test_schedule import ARGUMENTS, EVERY

BASE = {"num_epochs": 4, "batch_size": 4, "ps": 0.2}  # 6 steps and 3 batches of validation per epoch
STOPS = {"patience": 1, "monitor_metric": "accuracy", "min_delta": 1}
CASES: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "ema": {"ema_decay": 0.9},
    "early_stopping": {"early_stopping": STOPS, "scheduler": "cosine"},
    "gradual": {"freeze": "gradual"},
    **{name: {"scheduler": name, "scheduler_arguments": ARGUMENTS.get(name, {})} for name in EVERY},
    "ReduceLROnPlateau": {"scheduler": "ReduceLROnPlateau", "scheduler_arguments": {"patience": 0, "threshold": 0.9}},
}
EVERYTHING = {"ema_decay": 0.9, "freeze": "gradual", "mixup": 0.2, "gradient_accumulation": 2, "early_stopping": STOPS}
QUICK: tuple[Plant, ...] = (("quick", {}), ("small_net", {}))
PAUSES = 9 * BASE["num_epochs"]


@dataclass
class Counts:
    killed: Counter[str] = field(default_factory=Counter)
    after_checkpoint: int = 0
    resumed: set[tuple[str, ...]] = field(default_factory=set)  # epoch and step at which a run was taken up again
    runs: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self):
        kills = f"{self.killed.total()} kills, {self.after_checkpoint} after the first checkpoint"
        return f"{kills}, {len(self.resumed)} distinct resume points, {self.runs} runs, {len(self.wrong)} different"


class Harness:
    def __init__(self, server, data, place):
        self.server, self.data, self.place = server, data, place
        self.draw = random.Random(0)

    def kill(self, case, changes, count, counts):
        """Kills runs of some params so many times, each run a few times, and compares each with an undisturbed one."""
        params = BASE | changes
        reference = fresh(self.place / "undisturbed", **params)
        ended = self.server.train(reference, self.data, plants=QUICK)
        assert ended.code == 0, ended.err
        while counts.killed[case] < count:
            path = fresh(self.place / "killed", **params)
            for _ in range(self.draw.randint(3, 6)):
                self._kill_once(path, case, counts)
            ended = self._train(path, counts)
            counts.runs += 1
            if ended.code != 0 and "already finished" not in ended.err:
                counts.wrong.append(f"{case}: exit code {ended.code}: {ended.err}")
            else:
                counts.wrong += [f"{case}: {difference}" for difference in differences(path, reference)]
            shutil.rmtree(path)
        shutil.rmtree(reference)

    def _kill_once(self, path, case, counts):
        if self.draw.random() < 0.15:  # while it starts
            aim, delay = [], self.draw.uniform(0, 0.4)
        else:
            pause = {"where": "training.recorder:Recorder.pause_point", "count": self.draw.randint(1, PAUSES // 3)}
            aim, delay = [("reach", pause)], self.draw.choice([0, self.draw.uniform(0, 0.1)])
        ended = self._train(path, counts, aim, [(delay, signal.SIGKILL)])
        if ended.code == -signal.SIGKILL:
            counts.killed[case] += 1
            counts.after_checkpoint += (path / "checkpoint.pt").exists()

    def _train(self, path, counts, plants=(), signals=()):
        every = "checkpoint_minutes=1e-6" if self.draw.random() < 0.6 else "checkpoint_minutes=0"
        ended = self.server.train(path, self.data, "--set", every, plants=[*QUICK, *plants], signals=signals)
        if found := re.search(r"continuing after epoch (\d+), step (\d+)", ended.out):
            counts.resumed.add(found.groups())
        return ended


@pytest.fixture
def harness(server, data, place):
    return Harness(server, data, place)


@pytest.mark.slow
def test_some_random_kills(harness, say):
    counts = Counts()
    harness.kill("everything", EVERYTHING, 24, counts)
    say(f"random kills: {counts}")
    assert counts.killed.total() >= 24
    assert counts.after_checkpoint >= 15
    assert len(counts.resumed) >= 5
    assert not counts.wrong, "\n".join(counts.wrong)


@pytest.mark.campaign
def test_many_random_kills(harness, say):
    counts = Counts()
    harness.kill("plain", {}, 120, counts)
    harness.kill("everything", EVERYTHING, 120, counts)
    say(f"random kills: {counts}")
    assert counts.killed.total() >= 200
    assert counts.after_checkpoint >= 150
    assert len(counts.resumed) >= 30
    assert not counts.wrong, "\n".join(counts.wrong)


@pytest.mark.campaign
@pytest.mark.parametrize("case", CASES)
def test_random_kills_of_each_kind(harness, say, case):
    counts = Counts()
    harness.kill(case, CASES[case], 20, counts)
    say(f"random kills, {case}: {counts}")
    assert counts.killed.total() >= 20
    assert counts.after_checkpoint >= 8
    assert not counts.wrong, "\n".join(counts.wrong)
