"""Trainings that take no time: each epoch's accuracy is a function of the parameters. They heed stop.json."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from config.run_folder import RunFolder
from search.engine import Engine
from search.launchers import Ended
from search.layout import lay_out
from search.plan import Plan, make_plan
from training.signals import Signals

Curve = Callable[[dict[str, Any], int], float]  # params, epoch from 1 -> accuracy; nan: it diverges there


class Killed(BaseException):
    """The driver is gone."""


class Trainings:
    """A launcher whose trainings all get one epoch further whenever they are waited for.

    Attributes:
        epochs: how often each epoch of each trial was trained.
        order: the names, as they were started.
        kill_in: after so many waits the driver and its trainings are gone.
    """

    remedy = ""

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        self.epochs: Counter[tuple[str, int]] = Counter()
        self.order: list[str] = []
        self.kill_in = math.inf
        self.most = 0
        self.checked: list[dict[str, Any]] = []
        self.running: dict[str, RunFolder] = {}

    def wrong(self, params, combinations):
        self.checked = combinations
        return []

    def held(self):
        return ()

    def signal(self, number):
        pass

    def kill(self):
        pass

    def close(self):
        self.running.clear()

    def train(self, name, arguments, environment):
        self.order.append(name)
        self.running[name] = RunFolder(Path(arguments[arguments.index("--model_dir") + 1]))
        self.running[name].set_state("running")
        self.most = max(self.most, len(self.running))

    def wait(self, seconds):
        self.kill_in -= 1
        if self.kill_in < 0:
            raise Killed
        ended = [(name, self.state(name, folder)) for name, folder in self.running.items()]
        for name, state in ended:
            if state != "running":
                self.running.pop(name).set_state(state, reason="diverged" if state == "failed" else None)
        return [Ended(name, 4 if state == "failed" else 0, "") for name, state in ended if state != "running"]

    def state(self, name: str, folder: RunFolder) -> str:
        """Trains an epoch, as training/loop.py does; returns the state after it."""
        params = json.loads(folder.params.read_text())
        rows = (
            json.loads(folder.file("history.json").read_text())["epochs"]
            if folder.file("history.json").exists()
            else []
        )
        epoch = len(rows) + 1
        value = self.curve(params, epoch)
        if math.isnan(value):
            return "failed"
        self.epochs[name, epoch] += 1
        rows.append({"epoch": epoch, "valid": {"loss": 1 - value, "accuracy": value}})
        best = max(rows, key=lambda row: row["valid"]["accuracy"])["valid"]
        for file, content in (("checkpoint.pt", epoch), ("history.json", {"epochs": rows}),
                              ("metrics_val_best_weights.json", best), ("weights_best.safetensors", 0)):  # fmt: skip
            folder.file(file).write_text(json.dumps(content))
        stop = json.loads(folder.file("stop.json").read_text()) if folder.file("stop.json").exists() else None
        if stop is not None and epoch >= stop.get("epoch", 0):
            return str(stop.get("state", "stopped"))
        return "finished" if epoch == params["num_epochs"] else "running"


def search(parent: Path, trainings: Trainings, *overrides: str, slots: int = 1, extend: bool = False) -> Plan:
    """Runs a search with them, or what is left of it; returns its plan."""
    plan = make_plan(parent, overrides)
    lay_out(plan, extend=extend)
    trainings.running.clear()
    Engine(plan, parent, [{}] * slots, lambda: trainings, Signals("")).run(plan.trials)
    return plan


def killed_again_and_again(parent: Path, trainings: Trainings, *overrides: str, every: int, slots: int = 1) -> Plan:
    """The same, with the driver and its trainings killed after every so many epochs."""
    while True:
        trainings.kill_in = every
        try:
            return search(parent, trainings, *overrides, slots=slots)
        except Killed:
            continue
