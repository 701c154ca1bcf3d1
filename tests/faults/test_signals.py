"""Ctrl-C, SIGTERM, SIGUSR1, at any moment: stopped within seconds, in a state from which the same command goes on."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import include
from config.run_folder import RunFolder
from tests.faults.server import Plant
from tests.faults.trials import differences, fresh
from training.signals import ASKED

pytestmark = pytest.mark.campaign

QUICK: Plant = ("quick", {})
WITHIN = 10  # seconds
PARAMS = {"num_epochs": 2}
STREAMED = {"cache": "none", "num_workers": 2}

# Where the signal comes: a function and the number of its call.
MOMENTS = {
    "reading headers": ("images.folder:read_header", 5),
    "hashing": ("training.run:fingerprint", 1),
    "decoding": ("images.stream:Source.image", 5),
    "describing": ("training.run:describe", 1),
    "first step": ("training.recorder:Recorder.pause_point", 1),
    "validation": ("training.recorder:Recorder.pause_point", 5),
    "saving": ("training.checkpoint:save", 1),
    "plotting": ("training.recorder:plot_history", 1),
    "last validation": ("training.recorder:Recorder.pause_point", 10),
    "last save": ("training.checkpoint:save", 2),
    "averaging": ("training.run:recompute_batch_norm", 1),
    "last weights": ("training.recorder:Recorder.keep_weights", 3),
}
CASES = [(moment, ASKED[turn % 3]) for turn, moment in enumerate(MOMENTS)]
CASES += [
    (moment, number) for moment in ("decoding", "validation") for number in ASKED if (moment, number) not in CASES
]


@pytest.fixture(scope="module")
def undisturbed(server, data, place):
    path = fresh(place / "undisturbed", **PARAMS)
    assert server.train(path, data, plants=[QUICK]).code == 0
    return path


def check_stopped(ended, path, number):
    assert (ended.code, ended.reached) == (128 + number, True), ended
    assert ended.seconds < WITHIN
    assert ended.err.count("\n") == 1
    assert "the same command goes on" in ended.err
    status = RunFolder(path).status()
    assert (status["state"], status["reason"]) == ("stopped", "signal")


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "number"), CASES, ids=lambda value: getattr(value, "name", value))
def test_stops_and_goes_on(server, data, place, undisturbed, moment, number):
    path = fresh(place / "stopped", **PARAMS)
    where, count = MOMENTS[moment]
    at = ("reach", {"where": where, "count": count, "pause": 0.2})
    check_stopped(server.train(path, data, plants=[QUICK, at], signals=[(0, number)]), path, number)
    ended = server.train(path, data, plants=[QUICK])
    assert ended.code == 0, ended.err
    assert differences(path, undisturbed) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, -signal.SIGINT, -signal.SIGTERM])  # negative: to all its processes
def test_stops_with_its_loader_workers(server, data, place, undisturbed, number):
    path = fresh(place / "stopped", **PARAMS, **STREAMED)
    at = ("reach", {"where": "training.recorder:Recorder.pause_point", "count": 2, "pause": 0.2})
    ended = server.train(path, data, plants=[QUICK, at], signals=[(0, number)], to_the_end=True)
    check_stopped(ended, path, abs(number))
    assert all_gone(ended.pid)
    assert server.train(path, data, plants=[QUICK]).code == 0
    assert differences(path, undisturbed) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", ASKED)
def test_a_second_signal_ends_at_once(server, data, place, number):
    path = fresh(place / "stopped", **PARAMS)
    long_step = ("reach", {"where": "training.recorder:Recorder.pause_point", "count": 2, "pause": 60})
    ended = server.train(path, data, plants=[QUICK, long_step], signals=[(0, signal.SIGTERM), (0.2, number)])
    assert (ended.code, ended.reached) == (128 + number, True)
    assert ended.seconds < 2


@pytest.mark.slow
@pytest.mark.parametrize("number", ASKED)
def test_the_program_itself(data, place, number):
    path = fresh(place / "stopped", num_epochs=10_000)
    with started(path, data) as process:
        wait_for(path / "checkpoint.pt", process)
        process.send_signal(number)
        at = time.monotonic()
        _, error = process.communicate(timeout=WITHIN)
        assert time.monotonic() - at < WITHIN
    assert process.returncode == 128 + number, error
    assert error.endswith("the same command goes on\n")
    assert error.count("\n") == 1
    assert RunFolder(path).status()["state"] == "stopped"


def test_a_second_process_leaves_at_once(data, place):
    path = fresh(place / "held", **PARAMS)
    holder = RunFolder(path)
    holder.lock()
    at = time.monotonic()
    with started(path, data) as process:
        _, error = process.communicate(timeout=60)
    assert time.monotonic() - at < 2
    assert process.returncode == include.BUSY
    who = f"process {os.getpid()} on {socket.gethostname()}"
    assert error == f"{path}: is being trained by {who}; wait for it or stop it\n"
    assert not (path / "train.log").exists()
    holder.unlock()


# --- loader workers --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_workers_of_a_killed_training_hold_nothing_and_go(server, data, place, count):
    path = fresh(place / "killed", **PARAMS, **STREAMED)
    at = ("reach", {"where": "training.recorder:Recorder.pause_point", "count": count, "pause": 60})
    ended = server.train(path, data, plants=[QUICK, at], signals=[(0, signal.SIGKILL)])
    assert (ended.code, ended.reached) == (-signal.SIGKILL, True)
    assert group(ended.pid), "no worker outlived the training, so that nothing was tried"
    folder = RunFolder(path)
    folder.lock()
    folder.unlock()
    assert all_gone(ended.pid)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_a_killed_worker_is_told_in_one_line(server, data, place, undisturbed, count):
    path = fresh(place / "killed", **PARAMS, **STREAMED)
    plant = ("lose_worker", {"where": "training.recorder:Recorder.pause_point", "count": count})
    ended = server.train(path, data, plants=[QUICK, plant], to_the_end=True)
    assert ended.code == include.FAULT, ended
    assert ended.err.count("\n") == 1
    assert "a loader worker died (SIGKILL" in ended.err
    assert ended.seconds < 30
    status = RunFolder(path).status()
    assert (status["state"], status["reason"]) == ("failed", "error")
    assert all_gone(ended.pid)
    assert server.train(path, data, plants=[QUICK]).code == 0
    assert differences(path, undisturbed) == []


def started(path, data):
    command = [sys.executable, str(include.ROOT / "train.py"), "--data_dir", str(data), "--model_dir", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path, process):
    for _ in range(6000):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    pytest.fail("it did not begin")


def group(leader):
    """The living processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, _, group_id = (path / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(group_id) == leader and state != "Z":
                found.append(path.name)
    return found


def all_gone(leader):
    """Whether a group ends within the time in which torch's workers look for their parent, and some more."""
    for _ in itertools.repeat(None, 150):
        if not group(leader):
            return True
        time.sleep(0.1)
    return False
