"""Ctrl-C, SIGTERM, SIGUSR1, at any moment: stopped within seconds, in a state from which the same command goes on."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import include
from config.run_folder import RunFolder
from tests.faults.server import LIMIT, Plant
from tests.faults.trials import differences, fresh
from training import checkpoint
from training.signals import ASKED

QUICK: Plant = ("quick", {})
PROMISED = 10  # seconds; a machine that does other work may take longer, and there only a hanging training fails
PARAMS = {"num_epochs": 2}
STREAMED = {"cache": "none", "num_workers": 2}

# Where the signal comes: a function and the number of its call.
MOMENTS = {
    "reading headers": ("images.folder:read_header", 5),
    "hashing": ("training.run:fingerprint", 1),
    "decoding": ("images.stream:Source.image", 5),
    "describing": ("training.run:describe", 1),
    "first step": ("training.recorder:Recorder.pause_point", 1),
    "in a step": ("training.loop:update", 2),
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
SAMPLE = [("decoding", signal.SIGUSR1), ("in a step", signal.SIGTERM), ("averaging", signal.SIGINT)]
PAUSE_POINT = "training.recorder:Recorder.pause_point"


def cases(sample, every):
    """Some with the time that they may take at most; by campaign every one, with the time that is promised."""
    some = [pytest.param(*values, LIMIT, marks=pytest.mark.slow) for values in sample]
    return some + [pytest.param(*values, PROMISED, marks=pytest.mark.campaign) for values in every]


def named(value):
    return getattr(value, "name", None)


@pytest.fixture
def path(place, request):
    """An experiment folder that no other test uses."""
    folder = place / request.node.name
    yield fresh(folder, **PARAMS)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def undisturbed(server, data, place):
    path = fresh(place / "undisturbed", **PARAMS)
    assert server.train(path, data, plants=[QUICK]).code == 0
    return path


def check_stopped(ended, path, number, within):
    assert (ended.code, ended.reached) == (128 + number, True), ended
    assert ended.seconds < within
    assert ended.err.count("\n") == 1, ended.err
    assert "the same command goes on" in ended.err
    status = RunFolder(path).status()
    assert (status["state"], status["reason"]) == ("stopped", "signal")


@pytest.mark.parametrize(("moment", "number", "within"), cases(SAMPLE, CASES), ids=named)
def test_stops_and_goes_on(server, data, path, undisturbed, moment, number, within):
    where, count = MOMENTS[moment]
    at = ("reach", {"where": where, "count": count, "pause": 0.2})
    check_stopped(server.train(path, data, plants=[QUICK, at], signals=[(0, number)]), path, number, within)
    if moment == "in a step":
        assert checkpoint.load(RunFolder(path))["progress"]["step"] == count
    ended = server.train(path, data, plants=[QUICK])
    assert ended.code == 0, ended.err
    assert differences(path, undisturbed) == []


MEASURING = "images.stream:StreamedStore._watched"  # workers decode what mean and std are taken from
WITH_WORKERS = [(PAUSE_POINT, -signal.SIGINT), (PAUSE_POINT, -signal.SIGTERM), (PAUSE_POINT, signal.SIGINT)]
WITH_WORKERS += [(MEASURING, -signal.SIGINT), (MEASURING, -signal.SIGTERM)]  # negative: to the workers too


@pytest.mark.parametrize(("where", "number", "within"), cases(WITH_WORKERS[:1], WITH_WORKERS))
def test_stops_with_its_loader_workers(server, data, path, undisturbed, where, number, within):
    fresh(path, **PARAMS, **STREAMED)
    at = ("reach", {"where": where, "count": 2, "pause": 0.2})
    ended = server.train(path, data, plants=[QUICK, at], signals=[(0, number)], to_the_end=True)
    check_stopped(ended, path, abs(number), within)
    assert all_gone(ended.pid)
    assert server.train(path, data, plants=[QUICK]).code == 0
    assert differences(path, undisturbed) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", ASKED)
def test_a_second_signal_ends_at_once(server, data, path, number):
    long_step = ("reach", {"where": PAUSE_POINT, "count": 2, "pause": LIMIT})
    ended = server.train(path, data, plants=[QUICK, long_step], signals=[(0, signal.SIGTERM), (0.2, number)])
    assert (ended.code, ended.reached) == (128 + number, True)
    assert ended.seconds < LIMIT / 2  # the step would take twice that


@pytest.mark.parametrize(("number", "within"), cases([(signal.SIGINT,)], [(number,) for number in ASKED]), ids=named)
def test_the_program_itself(data, path, number, within):
    fresh(path, num_epochs=10_000)
    with started(path, data) as process:
        wait_for(path / "checkpoint.pt", process)
        process.send_signal(number)
        _, error = process.communicate(timeout=within)
    assert process.returncode == 128 + number, error
    assert error.endswith("the same command goes on\n")
    assert error.count("\n") == 1
    assert RunFolder(path).status()["state"] == "stopped"


@pytest.mark.parametrize("within", [pytest.param(2, marks=pytest.mark.campaign), pytest.param(LIMIT)])
def test_a_second_process_leaves_at_once(data, path, within):
    holder = RunFolder(path)
    holder.lock()
    with started(path, data, "-X", "importtime") as process:
        _, error = process.communicate(timeout=within)
    imported, said = [], []
    for line in error.splitlines():
        (imported if line.startswith("import time:") else said).append(line)
    assert process.returncode == include.BUSY
    who = f"process {os.getpid()} on {socket.gethostname()}"
    assert said == [f"{path}: is being trained by {who}; wait for it or stop it"]
    assert len(imported) > 100
    assert not any(line.endswith((" torch", " numpy")) for line in imported)  # which would take seconds
    assert not (path / "train.log").exists()
    holder.unlock()


# --- loader workers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "count", [pytest.param(1, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.campaign)]
)
def test_workers_of_a_killed_training_hold_nothing_and_go(server, data, path, count):
    fresh(path, **PARAMS, **STREAMED)
    at = ("reach", {"where": PAUSE_POINT, "count": count, "pause": LIMIT})
    ended = server.train(path, data, plants=[QUICK, at], signals=[(0, signal.SIGKILL)])
    assert (ended.code, ended.reached) == (-signal.SIGKILL, True)
    assert group(ended.pid), "no worker outlived the training, so that nothing was tried"
    folder = RunFolder(path)
    folder.lock()
    folder.unlock()
    assert all_gone(ended.pid)


@pytest.mark.parametrize(
    "count",
    [pytest.param(count, marks=pytest.mark.campaign) for count in (1, 4, 6)]
    + [pytest.param(2, marks=pytest.mark.slow)],
)
def test_a_killed_worker_is_told_in_one_line(server, data, path, undisturbed, count):
    fresh(path, **PARAMS, **STREAMED)
    plant = ("lose_worker", {"where": PAUSE_POINT, "count": count})
    ended = server.train(path, data, plants=[QUICK, plant], to_the_end=True)
    assert ended.code == include.FAULT, ended
    assert ended.err.count("\n") == 1, ended.err
    assert "a loader worker died (SIGKILL" in ended.err
    status = RunFolder(path).status()
    assert (status["state"], status["reason"]) == ("failed", "error")
    assert all_gone(ended.pid)
    assert server.train(path, data, plants=[QUICK]).code == 0
    assert differences(path, undisturbed) == []


@contextlib.contextmanager
def started(path, data, *interpreter_options):
    """The program as a person starts it; it does not outlive the block."""
    command = [sys.executable, *interpreter_options, str(include.ROOT / "train.py")]
    command += ["--data_dir", str(data), "--model_dir", str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()  # nothing happens to one that has ended


def wait_for(path, process):
    """Waits until the process has made a file."""
    for _ in range(6000):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
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
    """Whether a group ends; torch's workers look for their parent every 5 seconds."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        if not group(leader):
            return True
        time.sleep(0.1)
    return False
