"""A run is continued only as what it was started as: every change is refused and said, and undone it goes on."""

import json
import shutil

import pytest

import train
from tests.conftest import write_image
from tests.faults.dirty import QUICK, run, small_data
from tests.training.runs import SMALL, experiment, outcome
from tests.training.test_run import interrupt_at

SHORT = SMALL | QUICK | {"arch": "shallow", "num_epochs": 2, "batch_size": 4}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("training.recorder.plot_history", lambda *_: b"a figure")
    monkeypatch.setattr("training.environment.SOURCES", ())


@pytest.fixture
def data(tmp_path):
    return small_data(tmp_path / "data")


@pytest.fixture
def stopped(tmp_path, data, monkeypatch):
    path = experiment(tmp_path / "run", **SHORT)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        assert run(train, path, data)[0] == 143
    return path


def rename_class(data):
    for split in ("train", "valid"):
        (data / split / "bee").rename(data / split / "wasp")


def add_class(data):
    for split in ("train", "valid"):
        write_image(data / split / "cat\n/0.png")


def relabel(data):
    (data / "train/ant/0.png").rename(data / "train/swapped.png")
    (data / "train/bee/0.png").rename(data / "train/ant/0.png")
    (data / "train/swapped.png").rename(data / "train/bee/0.png")


OTHER = "images: as many as before, but not the same names and contents"
CHANGES = {
    "class renamed": (rename_class, "classes: ant, bee -> ant, wasp"),
    "class added": (add_class, "classes: ant, bee -> ant, bee, cat\\n"),
    "image added": (lambda data: write_image(data / "train/ant/9.png"), "images: train 8 -> 9"),
    "image removed": (lambda data: (data / "valid/bee/0.png").unlink(), "images: valid 4 -> 3"),
    "image renamed": (lambda data: (data / "train/ant/0.png").rename(data / "train/ant/9.png"), OTHER),
    "image changed": (lambda data: write_image(data / "train/ant/0.png", (1, 2, 3)), OTHER),
    "labels swapped": (relabel, OTHER),
    "image moved": (lambda data: (data / "train/ant/0.png").rename(data / "valid/ant/9.png"), "8 -> 7, valid 4 -> 5"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_changed_data(stopped, data, tmp_path, what):
    change, expected = CHANGES[what]
    shutil.copytree(data, tmp_path / "as it was")
    before = (stopped / "checkpoint.pt").read_bytes()
    change(data)
    code, shown = run(train, stopped, data)
    assert code == 2
    assert expected in shown
    assert f"{stopped}: cannot be continued, for these changed since it was started: " in shown
    assert "undo the change, or use --overwrite" in shown
    assert len([line for line in shown.splitlines() if "cannot be continued" in line]) == 1
    assert (stopped / "checkpoint.pt").read_bytes() == before
    assert run(train, stopped, tmp_path / "as it was")[0] == 0


def test_the_place_of_the_data_does_not_matter(stopped, data, tmp_path):
    moved = shutil.move(data, tmp_path / "elsewhere")
    assert run(train, stopped, moved)[0] == 0


def test_ignored_files_do_not_matter(stopped, data):
    (data / "train/ant/.DS_Store").touch()
    (data / "train/ant/notes.txt").touch()
    assert run(train, stopped, data)[0] == 0


def test_several_changes_are_said_at_once(stopped, data):
    rename_class(data)
    (stopped / "params.json").write_text(json.dumps(SHORT | {"wd": 0.5, "seed": 3, "num_workers": 1}))
    code, shown = run(train, stopped, data)
    assert code == 2
    (line,) = (line for line in shown.splitlines() if "cannot be continued" in line)
    for part in ("wd: 0.0001 -> 0.5", "seed: 0 -> 3", "classes: ant, bee -> ant, wasp"):
        assert part in line
    assert "num_workers" not in line


def test_overwriting_takes_the_change_and_keeps_the_results(stopped, data):
    rename_class(data)
    assert run(train, stopped, data, "--overwrite")[0] == 0
    (aside,) = stopped.glob("before-*")
    assert (aside / "checkpoint.pt").is_file()
    fresh = experiment(stopped.parent / "fresh", **SHORT)
    assert run(train, fresh, data)[0] == 0
    assert outcome(stopped) == outcome(fresh)
