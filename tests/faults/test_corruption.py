"""Damaged files of an experiment: always noticed when read, and written anew where the checkpoint knows them."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

import evaluate
import train
from config import run_folder
from config.run_folder import CHECKPOINT, CHECKPOINT_PREVIOUS, MANIFEST, STATUS, TEST_LOG, TRAINED, RunFolder
from tests.faults.damage import KINDS, damaged
from tests.faults.dirty import run
from tests.training.runs import experiment, outcome
from tests.training.test_run import interrupt_at
from training import checkpoint
from utils import UserError

TINY = {"arch": "shallow", "im_sz": 8, "num_epochs": 2, "layer_groups": 1}
EACH = 1000  # corruptions per kind of artefact
SAMPLE = 24  # of them through the programs in CI
READ = (
    *TRAINED,
    f"{run_folder.CODE}/include.py",
    "report/valid_best/metrics.json",
    "report/valid_best/predictions.npz",
)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.recorder.plot_history", lambda *_: b"a figure")
        patch.setattr("training.environment.SOURCES", ())
        patch.setattr("training.environment._git", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def finished(data, place):
    """A finished run with a report on valid."""
    path = experiment(place / "finished", **TINY)
    assert run(train, path, data)[0] == 0
    assert run(evaluate, path, data, "--split", "valid")[0] == 0
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def stopped(data, place):
    """A run that was stopped in its second epoch, with two checkpoints."""
    path = experiment(place / "stopped", **TINY)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 8)
        assert run(train, path, data)[0] == 143
    assert (path / CHECKPOINT_PREVIOUS).is_file()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def copied(place):
    """Copies an experiment, to be damaged."""
    target = place / "copied"

    def copy(path):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(path, target)
        return target

    yield copy
    shutil.rmtree(target, ignore_errors=True)


def contents(path: Path) -> dict[str, bytes]:
    """Every file that a training writes, but for its state and log."""
    names = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    return {name: (path / name).read_bytes() for name in names if name not in (STATUS, run_folder.LOG, run_folder.LOCK)}


# --- noticed ---------------------------------------------------------------------------------------------------------

noticed: Counter[str] = Counter()


@pytest.mark.parametrize("name", READ)
def test_every_artefact_is_verified_when_it_is_read(finished, copied, name):
    path = copied(finished)
    whole = (path / name).read_bytes()
    assert RunFolder(path).read(name) == whole
    for kind, bad in damaged(whole, EACH):
        (path / name).write_bytes(bad)
        folder = RunFolder(path)
        assert not folder.intact(name)
        with pytest.raises(UserError, match="damaged or changed since it was written"):
            folder.read(name)
        noticed[kind] += 1


def test_every_damage_of_a_checkpoint(finished):
    whole = (finished / CHECKPOINT).read_bytes()
    checkpoint.decode(whole)
    for kind, bad in damaged(whole, EACH):
        with pytest.raises(ValueError, match="sha256"):
            checkpoint.decode(bad)
        noticed[kind] += 1


def test_every_damage_of_the_manifest(finished, copied):
    path = copied(finished)
    for kind, bad in damaged((path / MANIFEST).read_bytes(), EACH):
        (path / MANIFEST).write_bytes(bad)
        with pytest.raises(UserError, match=r"manifest\.json is missing, damaged or does not name it"):
            RunFolder(path).read(run_folder.HISTORY)
        noticed[kind] += 1


def test_enough_was_damaged(request, say):
    if len([item for item in request.session.items if item.path == request.path]) < 30:
        pytest.skip("only some of the tests were chosen")
    say(f"corruptions noticed: {noticed.total()} of {len(READ) + 2} kinds of artefact, {dict(noticed)}")
    assert noticed.total() == EACH * (len(READ) + 2)
    assert set(noticed) == set(KINDS)


EVALUATED = {
    run_folder.PARAMS_RESOLVED: "best",
    run_folder.ENVIRONMENT: "best",
    MANIFEST: "best",
    **{run_folder.weights_name(kind): kind for kind in run_folder.WEIGHTS},
}


@pytest.mark.parametrize("count", [SAMPLE, pytest.param(EACH, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("name", EVALUATED)
def test_evaluation_refuses_what_is_damaged(finished, copied, data, say, name, count):
    path = copied(finished)
    before = contents(path)
    for kind, bad in damaged(before[name], count, seed=1):
        (path / name).write_bytes(bad)
        code, shown = run(evaluate, path, data, "--split", "valid", "--weights", EVALUATED[name])
        assert code == 2, f"{kind}: {shown}"
        assert len(shown.splitlines()) == 1
        assert str(path) in shown
        assert name in shown
        assert contents(path) == before | {name: bad}
    if count == EACH:
        say(f"{name}: {count} corruptions, all refused by evaluate.py")


def test_evaluation_refuses_damaged_metrics_of_the_training(finished, copied, data):
    path = copied(finished)
    name = run_folder.metrics_name("valid", "best")
    (path / name).write_bytes((path / name).read_bytes().replace(b'"epoch": ', b'"epoch": 1'))
    code, shown = run(evaluate, path, data, "--split", "valid")
    assert code == 2
    assert f"{name}: damaged or changed" in shown


# --- mended ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, pytest.param(EACH // 4, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("name", [*TRAINED, f"{run_folder.CODE}/utils.py", MANIFEST])
def test_a_finished_run_is_mended_by_its_command(finished, copied, data, say, name, count):
    path = copied(finished)
    before = contents(path)
    reports = {found for found in before if found.startswith("report/")}
    for kind, bad in damaged(before[name], count, seed=len(name)):
        (path / name).write_bytes(bad)
        code, shown = run(train, path, data)
        assert code == 0, f"{kind}: {shown}"
        after = contents(path)
        if name != MANIFEST:
            assert after == before
        elif after != before:  # the reports are evaluate.py's to vouch for
            assert {found for found in before if after[found] != before[found]} == {MANIFEST}
            assert not any(RunFolder(path).intact(found) for found in reports)
            (path / MANIFEST).write_bytes(before[MANIFEST])
    if count > 1:
        say(f"{name}: {count} corruptions mended")
    assert run(evaluate, path, data, "--split", "valid")[0] == 0
    assert outcome(path) == outcome(finished)


def test_everything_lost_but_the_checkpoint(finished, copied, data):
    path = copied(finished)
    before = contents(path)
    for name in before:
        if name not in (CHECKPOINT, CHECKPOINT_PREVIOUS, run_folder.PARAMS):
            (path / name).unlink()
    code, _ = run(train, path, data)
    assert code == 0
    after = contents(path)
    assert {name for name in before if after.get(name) != before[name]} == {
        MANIFEST, *(name for name in before if name.startswith("report/"))
    }  # fmt: skip


def test_a_whole_finished_run_is_left_alone(finished, copied, data):
    path = copied(finished)
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in path.rglob("*") if p.name != run_folder.LOCK}
    code, shown = run(train, path, data)
    assert (code, shown) == (
        3, f"{path}: already finished; --overwrite trains again and keeps these results aside\n"
    )  # fmt: skip
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in path.rglob("*") if p.name != run_folder.LOCK} == before


@pytest.mark.parametrize("how", ["removed", "damaged"])
def test_without_a_checkpoint_nothing_is_mended_and_nothing_trained_over(finished, copied, data, how):
    path = copied(finished)
    for name in (CHECKPOINT, CHECKPOINT_PREVIOUS):
        if how == "removed":
            (path / name).unlink()
        else:
            (path / name).write_bytes((path / name).read_bytes()[:-1])
    assert run(train, path, data)[0] == 3
    (path / run_folder.HISTORY).write_bytes(b"{}")
    before = contents(path)
    code, shown = run(train, path, data)
    assert code == 3
    assert "already finished, but without a checkpoint to mend history.json from; --overwrite" in shown
    assert contents(path) == before
    assert RunFolder(path).status()["state"] == "finished"


def test_results_without_a_checkpoint_are_not_trained_over(stopped, copied, data):
    path = copied(stopped)
    for name in (CHECKPOINT, CHECKPOINT_PREVIOUS):
        (path / name).unlink()
    before = contents(path)
    code, shown = run(train, path, data)
    assert code == 2
    assert "holds results but no checkpoint; --overwrite trains anew and keeps them aside" in shown
    assert contents(path) == before


@pytest.mark.parametrize("bad", [b"", b"{", b"[]", b'{"state": "finishee"}', b'{"state": 5}', b"\xff"])
def test_a_damaged_state_is_no_obstacle(finished, copied, data, bad):
    path = copied(finished)
    before = contents(path)
    (path / STATUS).write_bytes(bad)
    assert run(train, path, data)[0] == 0
    assert RunFolder(path).status()["state"] == "finished"
    assert contents(path) == before


# --- resumed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [12, pytest.param(EACH, marks=pytest.mark.campaign)])
def test_the_checkpoint_before_stands_in_for_a_damaged_one(stopped, copied, data, finished, say, count):
    whole = (stopped / CHECKPOINT).read_bytes()
    for number, (kind, bad) in enumerate(damaged(whole, count, seed=2)):
        path = copied(stopped)
        (path / CHECKPOINT).write_bytes(bad)
        code, shown = run(train, path, data)
        assert code == 0, f"{kind}: {shown}"
        warnings = [line for line in shown.splitlines() if "damaged" in line]
        assert warnings == [
            f"{path}/checkpoint.pt: damaged (its sha256 is not the one it ends in); continuing from checkpoint.prev.pt"
        ]
        assert outcome(path) == outcome(finished), f"{number}: {kind}"
    if count == EACH:
        say(f"checkpoint.pt: {count} corruptions, each continued from the one before to the same outcome")


def test_no_checkpoint_left_is_refused_and_nothing_touched(stopped, copied, data):
    path = copied(stopped)
    for name in (CHECKPOINT, CHECKPOINT_PREVIOUS):
        (path / name).write_bytes((path / name).read_bytes()[:-1])
    before = contents(path)
    code, shown = run(train, path, data)
    assert code == 2
    assert "checkpoint.pt: damaged" in shown
    assert "checkpoint.prev.pt: damaged" in shown
    assert "use --overwrite" in shown
    assert contents(path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_derived_files_of_a_stopped_run_are_mended(stopped, copied, data, finished, kind):
    path = copied(stopped)
    for name, whole in contents(path).items():
        if whole and name not in (CHECKPOINT, CHECKPOINT_PREVIOUS, run_folder.PARAMS):
            bad = next(bad for found, bad in damaged(whole, 4, seed=len(name)) if found == kind)
            (path / name).write_bytes(bad)
    code, shown = run(train, path, data)
    assert code == 0, shown
    folder = RunFolder(path)
    assert outcome(path) == outcome(finished)
    assert set(TRAINED) <= set(folder.digests())
    assert all(folder.intact(name) for name in folder.digests())


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_list_of_openings_is_said_and_kept_as_far_as_it_goes(finished, copied, data, kind):
    path = copied(finished)
    assert "opened 1 time" in run(evaluate, path, data)[1]
    name, bad = next((found, bad) for found, bad in damaged((path / TEST_LOG).read_bytes(), 4) if found == kind)
    assert name == kind
    (path / TEST_LOG).write_bytes(bad)
    code, shown = run(evaluate, path, data)
    assert code == 0
    assert f"{TEST_LOG}: damaged or changed; the test set may have been opened more often" in shown
    assert json.loads((path / TEST_LOG).read_text())
    assert "damaged" not in run(evaluate, path, data)[1]
