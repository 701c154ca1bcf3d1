"""Files made to do harm: nothing in them runs but the net.py that a person trains."""

import ast
import hashlib
import io
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluate
import include
import train
from config import run_folder
from config.run_folder import AUGMENTATION_PICKLE, CHECKPOINT, CHECKPOINT_PREVIOUS, RunFolder
from tests.faults.dirty import QUICK, run, small_data
from tests.test_layout import SOURCES, imports, name_of, own_module, tree
from tests.training.runs import experiment, outcome
from tests.training.test_run import interrupt_at
from training import checkpoint

TINY = QUICK | {"arch": "shallow"}


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    """A folder that only code out of a data file would make."""
    path = tmp_path / "it ran"
    yield path
    assert not path.exists()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("training.recorder.plot_history", lambda *_: b"a figure")
    monkeypatch.setattr("training.environment.SOURCES", ())


@pytest.fixture
def data(tmp_path):
    """Small data with a test split."""
    path = small_data(tmp_path / "data")
    shutil.copytree(path / "valid", path / "test")
    return path


@pytest.fixture
def finished(tmp_path, data, quick):
    path = experiment(tmp_path / "run", **TINY)
    assert run(train, path, data)[0] == 0
    return path


@pytest.fixture
def stopped(tmp_path, data, quick, monkeypatch):
    path = experiment(tmp_path / "run", **TINY | {"num_epochs": 2, "batch_size": 4})
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        assert run(train, path, data)[0] == 143
    return path


# --- pickles ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def unpickled():
    """The classes and functions that the standard unpickler looks up while a test runs."""
    _AUDIT.clear()
    yield _AUDIT
    _AUDIT.clear()


_AUDIT: list[Any] = []
sys.addaudithook(lambda event, arguments: _AUDIT.append(arguments) if event == "pickle.find_class" else None)


def test_the_trap_works(tmp_path, unpickled):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))  # noqa: S301
    assert (tmp_path / "sprung").is_dir()
    assert unpickled


def test_the_pickled_augmentation_is_never_read(finished, data, marker, unpickled):
    RunFolder(finished).write(AUGMENTATION_PICKLE, pickle.dumps(Trap(marker)))  # its digest is in the manifest
    assert run(train, finished, data)[0] == 3
    assert run(evaluate, finished, data)[0] == 0
    (finished / AUGMENTATION_PICKLE).write_bytes(pickle.dumps(Trap(marker)))
    (finished / run_folder.HISTORY).unlink()
    assert run(train, finished, data)[0] == 0  # mends
    assert unpickled == []


def test_the_pickled_augmentation_is_not_read_on_resume(stopped, data, marker, unpickled):
    (stopped / AUGMENTATION_PICKLE).write_bytes(pickle.dumps(Trap(marker)))
    assert run(train, stopped, data)[0] == 0
    assert b"mkdir" not in (stopped / AUGMENTATION_PICKLE).read_bytes()
    assert unpickled == []


def sealed(content: Any) -> bytes:
    """A checkpoint whose digest is right."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    return data + checkpoint.MAGIC + hashlib.sha256(data).hexdigest().encode()


@pytest.mark.parametrize("content", [
    lambda marker: {"version": checkpoint.VERSION, "origin": Trap(marker)},
    Trap,
    lambda marker: torch.zeros(3),
    lambda marker: {"version": "1"},
    lambda marker: [{}],
], ids=["code within", "code alone", "a tensor", "another version", "a list"])  # fmt: skip
def test_checkpoints(stopped, data, marker, unpickled, content):
    before = outcome_of_continuing(stopped, data)
    (stopped / CHECKPOINT).write_bytes(sealed(content(marker)))
    copy = shutil.copytree(stopped, stopped.parent / "copy")
    code, shown = run(train, copy, data)
    assert code == 0
    assert f"{copy}/checkpoint.pt: damaged (it " in shown
    assert outcome(copy) == before
    (stopped / CHECKPOINT_PREVIOUS).write_bytes(sealed(content(marker)))
    code, shown = run(train, stopped, data)
    assert code == 2
    assert len([line for line in shown.splitlines() if "checkpoint.prev.pt: damaged (it " in line]) == 1
    assert unpickled == []


def outcome_of_continuing(path, data):
    copy = shutil.copytree(path, path.parent / "undisturbed")
    assert run(train, copy, data)[0] == 0
    return outcome(copy)


def pickled(content: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "pickle":
        return pickle.dumps(content)
    torch.save(content, buffer, _use_new_zipfile_serialization=kind == "torch")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["pickle", "torch", "old torch"])
def test_weights_that_are_a_pickle(finished, data, marker, unpickled, kind):
    name = run_folder.weights_name("best")
    RunFolder(finished).write(name, pickled({"weight": Trap(marker)}, kind))  # its digest is in the manifest
    code, shown = run(evaluate, finished, data)
    assert code == 2
    assert f"{finished}/{name}: is no safetensors file (" in shown
    assert len(shown.splitlines()) == 1
    assert unpickled == []


BROKEN = [b"", b"\xff" * 8, (2**62).to_bytes(8, "little") + b"{}", (9).to_bytes(8, "little") + b"{" * 9]


@pytest.mark.parametrize("content", BROKEN)
def test_weights_that_are_no_safetensors(finished, data, content):
    RunFolder(finished).write(run_folder.weights_name("best"), content)
    code, shown = run(evaluate, finished, data)
    assert code == 2
    assert "is no safetensors file (" in shown


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("kind", ["pickle", "torch", "old torch"])
def test_pretrained_weights_that_are_a_pickle(tmp_path, data, marker, unpickled, suffix, kind, quick):
    weights = tmp_path / f"weights{suffix}"
    weights.write_bytes(pickled({"weight": Trap(marker)}, kind))
    code, shown = run(train, experiment(tmp_path / "run", **TINY | {"pretrain": str(weights)}), data)
    assert code == 2
    assert str(weights) in shown
    assert unpickled == []


def test_predictions_hold_no_objects(finished, data):
    assert run(evaluate, finished, data)[0] == 0
    for path in (finished / run_folder.PREDICTIONS_VALID, *finished.glob("report/*/predictions.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            assert all(arrays[name].dtype != object for name in arrays)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_can_unpickle(path):
    module = tree(path)
    for name in imports(module):
        assert name.split(".")[0] not in {"cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
        assert not name.startswith(("pickle.", "torch.load", "numpy.load")), name
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pickle":
            assert node.attr in {"dumps", "UnpicklingError"}, f"line {node.lineno}"
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"read_pickle", "unsafe_load", "jit_load", "find_class"}, f"line {node.lineno}"


# --- net.py ----------------------------------------------------------------------------------------------------------

NET = """
from torch import nn

def build_net(params, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * params.im_sz**2, num_classes))
"""
# The programs that may run an experiment's own net.py, and how the first two come to it.
TRUSTED = {"train.py", "evaluate.py", "export_model.py", "predict.py"}
BUILDERS = {"training/build.py", "training/trained.py"}


def all_imports(path: Path, seen: set[Path]) -> set[Path]:
    """The project's files that importing and calling a file can load."""
    seen.add(path)
    for name in imports(tree(path)):
        if (own := own_module(name)) is not None and own not in seen:
            all_imports(own, seen)
    return seen


def test_only_trusted_programs_reach_what_runs_a_net():
    callers = {
        name_of(path)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and "build_net" in ast.unparse(node.func) and path.parent.name != "model"
    }
    assert callers >= BUILDERS
    runs_code = {
        name_of(path)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("exec", "eval", "runpy.run_path")
    }
    assert runs_code == {"model/net.py", "training/server.py"}  # the server runs train.py alone
    for script in (path for path in SOURCES if path.parent == include.ROOT and path.name not in TRUSTED):
        reached = {name_of(path) for path in all_imports(script, set())}
        assert not reached & callers, f"{script.name} reaches {reached & callers}"


def with_net(path: Path) -> Path:
    experiment(path, **TINY | {"arch": "net.py", "num_epochs": 2, "batch_size": 4})
    (path / "net.py").write_text(NET)
    return path


def trapped(marker: Path) -> str:
    return f"import os\nos.mkdir({str(marker)!r})\n{NET}"


def test_evaluation_builds_the_net_from_the_code_as_trained(tmp_path, data, marker, quick):
    path = with_net(tmp_path / "run")
    assert run(train, path, data)[0] == 0
    (path / "net.py").write_text(trapped(marker))
    assert run(evaluate, path, data)[0] == 0
    assert run(train, path, data)[0] == 3
    (path / "code/net.py").write_text(trapped(marker))
    code, shown = run(evaluate, path, data)
    assert code == 2
    assert f"{path}/code/net.py: damaged or changed since it was written" in shown


def test_a_changed_net_is_not_run_when_a_training_is_continued(tmp_path, data, marker, quick, monkeypatch):
    path = with_net(tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        assert run(train, path, data)[0] == 143
    (path / "net.py").write_text(trapped(marker))
    code, shown = run(train, path, data)
    assert code == 2
    assert "net.py is not what code/net.py keeps of it" in shown
    (path / "net.py").write_text(NET)
    assert run(train, path, data)[0] == 0
