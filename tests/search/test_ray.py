"""Trainings as tasks of a real Ray cluster of this machine alone."""

import importlib.util
import re
import signal
import sys
import time
from unittest.mock import MagicMock

import pytest

import include
from search import ray_cluster
from search.plan import make_plan
from search.ray_cluster import Ray
from tests.search.searches import search_folder
from tests.search.waiting import states, times_finished, wait_for
from utils import UserError

SECONDS = 200.0
RATES = [n / 1000 for n in range(1, 13)]

with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="pip install ray")


@pytest.fixture
def stand_in(stand_in_root, monkeypatch):
    monkeypatch.setattr(include, "ROOT", stand_in_root)


@with_ray
@pytest.mark.slow
def test_stopped_and_killed_midway_and_started_again(search, stand_in, tmp_path):
    parent = search_folder(tmp_path / "a search", {"learning_rate": RATES})
    names = [trial.name for trial in make_plan(parent).trials]
    first = search(parent, tmp_path, "--engine", "ray")
    wait_for(lambda: states(parent, names).count("f") >= 2)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=SECONDS)
    assert (first.returncode, err) == (130, f"{parent}: stopped; the same command goes on\n")
    left = states(parent, names)
    assert left.count("f") + left.count("s") + left.count("q") == 12
    assert left.count("q") > 0

    second = search(parent, tmp_path, "--engine", "ray", "--jobs", "2")
    wait_for(lambda: states(parent, names).count("f") >= left.count("f") + 2)
    second.kill()
    second.communicate(timeout=SECONDS)

    third = search(parent, tmp_path, "--engine", "ray")
    _, err = third.communicate(timeout=SECONDS)
    assert (third.returncode, err) == (0, "")
    assert states(parent, names) == "f" * 12
    assert times_finished(parent, names) == ["once\n"] * 12
    assert (parent / "results.md").is_file()


@with_ray
@pytest.mark.slow
def test_a_true_search(search, tiny_data, tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01, 1e30]})
    found = search(parent, tiny_data, "--engine", "ray")
    out, err = found.communicate(timeout=3 * SECONDS)
    assert (found.returncode, err) == (1, "")
    assert "learning_rate_0.01: finished, accuracy" in out
    assert re.search(r"learning_rate_10+: failed \(diverged\)", out)
    assert (parent / "learning_rate_0.01" / "weights_best.safetensors").is_file()


@with_ray
@pytest.mark.slow
def test_what_cannot_be_had(search, tmp_path):
    def refused(*options):
        parent = search_folder(tmp_path / "x", {"learning_rate": [0.01]})
        done = search(parent, tmp_path, "--engine", "ray", *options)
        _, err = done.communicate(timeout=SECONDS)
        assert done.returncode == 2
        return err

    assert refused("--gpus_per_trial", "99") == "no machine of the Ray cluster has 1 cores and 99 GPUs for a training\n"
    assert re.fullmatch(r"--ray_address auto: .*\n", refused("--ray_address", "auto"))


def test_with_nothing_running_a_wait_takes_its_time(monkeypatch):
    """Else a search whose next trial has to wait would keep a core busy."""
    machine = {"Alive": True, "Resources": {"CPU": 1}}
    ray = MagicMock(**{"nodes.return_value": [machine]})
    monkeypatch.setattr(ray_cluster, "optional_import", lambda *_: ray)
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    assert Ray().wait(0.5) == []
    assert slept == [0.5]


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"^ray is not installed: pip install 'ray'$"):
        Ray()
