"""A small data folder to spoil, and a training on it whose every word is looked at."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import train
from config import run_folder
from tests.conftest import write_image
from tests.images.raw_files import encoded
from tests.images.test_read import smooth
from tests.training.runs import experiment

QUICK = {"im_sz": 8, "num_epochs": 1, "average_epochs": 1, "layer_groups": 1}


def run(program: ModuleType, path: Path, data: Path, *options: str) -> tuple[int, str]:
    """Exit code of train.py or evaluate.py, and what a person sees: no traceback, no control character."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        code: int = program.main(["--data_dir", str(data), "--model_dir", str(path), *options])
    assert "Traceback" not in shown.getvalue()
    assert [line for line in shown.getvalue().splitlines() if not line.isprintable()] == []
    return code, shown.getvalue()


class Ended(NamedTuple):
    """How a training ended: its exit code, what it printed, and "data" of its environment.json."""

    code: int
    out: str
    err: str
    about: dict[str, Any]


class Trainer:
    """Trains in a folder of its own, without figures and copies of the sources."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr("training.recorder.plot_history", lambda *_: b"a figure")
        monkeypatch.setattr("training.environment.sources", lambda *_: {})
        self.path, self._capsys = path, capsys

    def __call__(self, data: Path, **changes: Any) -> Ended:
        """One training; nothing that a person sees of it may be a traceback or hold a control character."""
        shutil.rmtree(self.path, ignore_errors=True)
        experiment(self.path, **QUICK | changes)
        return self.again(data)

    def again(self, data: Path) -> Ended:
        """The same command once more."""
        self._capsys.readouterr()
        code = train.main(["--data_dir", str(data), "--model_dir", str(self.path)])
        out, err = self._capsys.readouterr()
        for line in (out + err).splitlines():
            assert line.isprintable(), line
        assert "Traceback" not in out + err + (self.path / run_folder.LOG).read_text()
        environment = self.path / run_folder.ENVIRONMENT
        return Ended(code, out, err, json.loads(environment.read_text())["data"] if environment.is_file() else {})


def small_data(path: Path) -> Path:
    """Two classes, 4 images of each in train and 2 in valid."""
    for split, count in (("train", 4), ("valid", 2)):
        for label, colour in (("ant", 200), ("bee", 60)):
            for index in range(count):
                write_image(path / split / label / f"{index}.png", (colour, index, 0), size=(10, 8))
    return path


def cut(kind: str, share: float) -> bytes:
    """The first part of an image file."""
    whole = encoded(smooth(60, 50), kind)
    return whole[: int(share * len(whole))]
