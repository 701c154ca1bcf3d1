"""A search whose driver, server and trainings are killed at random and started again."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import include
from search.jobs import look
from search.plan import make_plan
from tests.search.searches import search_folder
from tests.search.stand_in import EPOCHS
from tests.training.runs import outcome

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")

SECONDS = 300.0  # for whatever is waited for
MEASURED = ("seconds_per_epoch", "seconds", "memory_mb")  # what no two trainings have alike


def start(parent: Path, data: Path, *options: str, root: Path = include.ROOT) -> subprocess.Popen[bytes]:
    script = [sys.executable, str(root / "search_hyperparams.py"), "--jobs", "2", *options]
    return subprocess.Popen([*script, "--data_dir", str(data), "--parent_dir", str(parent)], stdout=subprocess.DEVNULL)


def descendants(pid: int) -> list[int]:
    """The process's children, their children and so on; nearest first."""
    found = [pid]
    for known in found:
        try:
            found += map(int, Path(f"/proc/{known}/task/{known}/children").read_text().split())
        except OSError:
            continue
    return found[1:]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.1)


def harass(
    parent: Path, data: Path, kills: int, chance: random.Random, *options: str, pause: float, root: Path = include.ROOT
) -> Counter[str]:
    """Runs the search to its end; until then kills one part of it after the other. Returns how many of each kind."""
    hit: Counter[str] = Counter()
    kinds = ["driver", "training", "server"]
    driver = start(parent, data, *options, root=root)
    seen = set[int]()
    while driver.poll() is None:
        if hit.total() < kills:
            wait_for(lambda: driver.poll() is not None or len(descendants(driver.pid)) > 1)  # noqa: B023
            time.sleep(chance.uniform(0, pause))
            below = descendants(driver.pid)
            seen |= set(below)
            kind = kinds[hit.total() % len(kinds)]
            target = {"driver": [driver.pid], "training": below[1:], "server": below[:1]}[kind]
            if driver.poll() is None and target and alive(pid := chance.choice(target)):
                os.kill(pid, signal.SIGKILL)
                hit[kind] += 1
                if kind == "driver":
                    driver.wait()
                    if chance.random() < 0.5:  # else the next driver finds the orphans still saving
                        wait_for(lambda: not any(map(alive, below)))  # noqa: B023
                    driver = start(parent, data, *options, root=root)
        time.sleep(0.1)
    assert driver.returncode == 0
    wait_for(lambda: not any(map(alive, seen)))
    return hit


@pytest.mark.parametrize("options", [(), ("--spawn",)], ids=["fork", "spawn"])
@pytest.mark.parametrize(
    ("kills", "rates"),
    [pytest.param(6, 10, marks=pytest.mark.slow), pytest.param(60, 40, marks=pytest.mark.campaign)],
    ids=["sample", "campaign"],
)
def test_every_trial_ends_once_whatever_is_killed(kills, rates, options, stand_in_root, tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [n / 1000 for n in range(1, rates + 1)]})
    hit = harass(parent, tmp_path, kills, random.Random(kills), *options, pause=0.5, root=stand_in_root)
    assert hit.total() == kills
    assert set(hit) == {"driver", "training", "server"}
    repeated = 0
    for trial in make_plan(parent).trials:
        assert look(trial.path).state == "finished"
        assert json.loads((trial.path / "checkpoint.pt").read_text()) == list(range(EPOCHS))
        work = (trial.path / "work.txt").read_text().splitlines()
        assert set(work) >= {f"epoch {epoch}" for epoch in range(EPOCHS)}
        assert "finished" not in work[:-1]  # a kill in the moment of the end may keep that word from being written
        repeated += len(work) - len(set(work))
    assert repeated <= 2 * kills  # a killed driver or server may take both trainings with it


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(times, stand_in_root, tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [n / 1000 for n in range(1, 40)]})
    driver = start(parent, tmp_path, root=stand_in_root)
    wait_for(lambda: driver.poll() is not None or (parent / "learning_rate_0.002" / "checkpoint.pt").exists())
    below = descendants(driver.pid)
    for _ in range(times):
        driver.send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert driver.wait(SECONDS) == 130
    wait_for(lambda: not any(map(alive, below)))
    states = Counter(look(trial.path).state for trial in make_plan(parent).trials)
    assert states["queued"] > 30
    assert not states["running"]
    if times == 1:
        assert not states["lost"]
        assert (parent / "results.md").is_file()


RANGES = {"learning_rate": {"low": 0.001, "high": 0.01, "log": True}, "ps": {"low": 0, "high": 0.5}}
# How often it is killed, how many trials of how many epochs it has, its hyper_search and its search.
SEARCHES = {
    "sample": (3, 2, 8, {"learning_rate": [0.01, 0.001]}, {}),
    "grid": (24, 12, 5, {"learning_rate": [0.01, 0.001], "ps": [0, 0.5]}, {"seeds": 3}),
    "random": (24, 12, 5, RANGES, {"method": "random", "trials": 12}),
    "tpe with asha": (24, 12, 9, RANGES, {"method": "tpe", "trials": 12, "pruner": "asha"}),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "sample" else pytest.mark.campaign) for name in SEARCHES],
)
def test_true_trainings_finish_once_whatever_is_killed(name, tiny_data, tmp_path):
    kills, count, epochs, hyper_search, search = SEARCHES[name]
    parent = search_folder(tmp_path / "x", hyper_search, num_epochs=epochs, search=search)
    # a short pause, so that the search is not over before the last kill
    hit = harass(parent, tiny_data, kills, random.Random(kills), pause=1)
    print(f"{name}: killed {dict(hit)}")
    assert hit.total() == kills
    trials = make_plan(parent).trials
    assert len(trials) == count
    for trial in trials:
        done = len(json.loads((trial.path / "history.json").read_text())["epochs"])
        assert (trial.path / "train.log").read_text().count(": finished, best") == (done == epochs)
        assert look(trial.path).state == ("finished" if done == epochs else "pruned")
    if "pruner" in search:  # what is tried next follows from what has ended: no two such searches are alike
        assert 0 < sum(look(trial.path).state == "pruned" for trial in trials) < count
        return
    alone = search_folder(tmp_path / "y", hyper_search, num_epochs=epochs, search=search)
    assert start(alone, tiny_data).wait() == 0
    assert table(parent) == table(alone)
    for trial in trials:
        assert outcome(trial.path) == outcome(alone / trial.name)


def table(parent: Path) -> list[dict[str, str]]:
    """results.csv but for times and memory."""
    with (parent / "results.csv").open(newline="") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    return [{key: cell for key, cell in row.items() if key not in MEASURED} for row in rows]


@pytest.mark.slow
def test_ctrl_c_saves_a_true_training_and_the_same_command_goes_on(tiny_data, tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01]}, num_epochs=200)
    (child,) = make_plan(parent).trials
    driver = start(parent, tiny_data, "--spawn")
    wait_for(lambda: driver.poll() is not None or (child.path / "history.json").exists())
    below = descendants(driver.pid)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(SECONDS) == 130
    assert not any(map(alive, below))
    assert look(child.path).state == "stopped"
    assert (child.path / "checkpoint.pt").is_file()
    assert (parent / "results.md").is_file()
