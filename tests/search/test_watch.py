"""The live board: what it shows, when it ends, and that it only reads."""

import fcntl
import sys
import time

import pytest

from search import watch as module
from search.collect import collect
from search.watch import board, watch
from synthesize_results import main
from tests.search.folders import experiment, grid, write
from utils import UserError


class Locked:
    """Holds a folder's lock, as a search or a training does."""

    def __init__(self, folder):
        self.file = (folder / ".lock").open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def free(self):
        self.file.close()


@pytest.fixture
def search(tmp_path):
    """Six settings have finished, one training runs, two wait."""
    grid(tmp_path)
    experiment(tmp_path / "runs", {"learning_rate": 0.1, "ps": 0.5}, 0.7, epochs=4, state="running")
    params = {"arch": "conv", "num_epochs": 9, "learning_rate": 0.1, "ps": 0.5}
    write(tmp_path / "runs/params_resolved.json", params)
    for name in "ab":
        experiment(tmp_path / name, {"learning_rate": 1, "ps": 0.5}, state="queued")
    return tmp_path


def look_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_board(search):
    locked = Locked(search / "runs")
    first, running, head, *leaders = board(search, collect(search))
    assert first == f"{search}: 18 finished, 2 queued, 1 running"
    assert running.startswith("  runs  epoch 4/9  loss 0.")
    assert running.endswith("60 s/epoch  5 min left")
    assert head == "best accuracy"
    assert leaders[0].startswith("   1  0.88")
    assert leaders[0].endswith("  learning_rate 0.001, ps 0.25 (3 seeds)")
    assert len(leaders) == 6
    locked.free()
    assert ", 1 lost" in board(search, collect(search))[0]


def test_different_data_has_boards_of_its_own(tmp_path):
    grid(tmp_path / "a", seeds=1)
    grid(tmp_path / "b", seeds=1, fingerprint="ff" * 32)
    assert sum(line.startswith("best accuracy, data ") for line in board(tmp_path, collect(tmp_path))) == 2


@pytest.mark.parametrize("terminal", [False, True])
def test_it_follows_a_search_to_its_end_and_writes_nothing(search, capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    driver, training = Locked(search), Locked(search / "runs")
    before, naps = look_of(search), []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            assert look_of(search) == before
            write(search / "runs/status.json", {"state": "finished"})
            training.free()
        elif len(naps) == 5:
            driver.free()

    monkeypatch.setattr(time, "sleep", nap)
    watch(search)
    assert len(naps) == 5
    assert min(naps) >= module.REFRESH_SECONDS
    said = capsys.readouterr().out
    *earlier, last = said.split(f"{search}: ")
    assert last.startswith("19 finished, 2 queued\n")
    if terminal:
        assert said.count("\x1b[") == 2 * 5
        assert len(earlier) == 6
    else:
        assert "\x1b" not in said
        assert len(earlier) == 3  # nothing, and the boards of one training running and of none


def test_nothing_runs(tmp_path, capsys):
    grid(tmp_path, seeds=1)
    before = look_of(tmp_path)
    assert main(["--parent_dir", str(tmp_path), "--watch", "--metric", "loss"]) == 0
    assert "best loss" in capsys.readouterr().out
    assert look_of(tmp_path) == before
    with pytest.raises(UserError, match="no such folder"):
        watch(tmp_path / "nowhere")
