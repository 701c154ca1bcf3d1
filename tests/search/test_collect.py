"""Which folders are experiments, what they say, and that nothing they hold makes reading them fail."""

import errno
import fcntl
import json
import math
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.run_folder import RunFolder
from search import jobs
from search.collect import collect, experiment_folders
from search.read import read_run
from tests.search.folders import experiment, grid, write
from utils import BusyError, UserError


def one(parent):
    [comparison] = collect(parent)
    return comparison


def test_which_folders_are_experiments(tmp_path):
    grid(tmp_path / "search", seeds=1)
    experiment(tmp_path / "deep/er/run")
    for other in ("run/code", "run/report/x", "before-20260101-000000", ".hidden", "run/before-20260101"):
        experiment(tmp_path / "deep/er" / other)
    experiment(tmp_path / "trained_parent")
    experiment(tmp_path / "trained_parent/child")
    (tmp_path / "written").mkdir()
    write(tmp_path / "written/params.json", {"arch": "conv"})
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "deep")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    elsewhere = tmp_path.parent / f"{tmp_path.name}_elsewhere"
    experiment(elsewhere / "moved")
    (elsewhere / "back").symlink_to(elsewhere)
    (tmp_path / "on_another_disk").symlink_to(elsewhere)
    found = [path.relative_to(tmp_path).as_posix() for path in experiment_folders(tmp_path)]
    assert found == [
        "deep/er/run",
        "on_another_disk/moved",
        "search/learning_rate_0.0001-ps_0.25",
        "search/learning_rate_0.0001-ps_0.5",
        "search/learning_rate_0.001-ps_0.25",
        "search/learning_rate_0.001-ps_0.5",
        "search/learning_rate_0.01-ps_0.25",
        "search/learning_rate_0.01-ps_0.5",
        "trained_parent",
        "trained_parent/child",
        "written",
    ]
    assert read_run(tmp_path / "written", tmp_path).state == "not started"


def test_what_a_run_says(tmp_path):
    folder = experiment(tmp_path / "x", {"ps": 0.3}, seed=4, epochs=3)
    rows = json.loads((folder / "history.json").read_text())["epochs"]
    for row, accuracy in zip(rows, (0.7, 0.9, 0.8), strict=True):
        row["valid"]["accuracy"] = accuracy
    write(folder / "history.json", {"epochs": rows, "steps": [], "stop": None})
    run = one(tmp_path).runs[0]
    assert (run.name, run.state, run.seed, run.epochs, run.best) == ("x", "finished", 4, 3, 1)
    assert (run.score("accuracy"), run.score("accuracy", epoch=-1)) == (0.9, 0.8)
    assert run.score("loss") == rows[1]["valid"]["loss"]
    assert run.score("accuracy", "train") == rows[1]["train"]["accuracy"]
    assert (run.seconds, run.memory, run.size, run.device) == (180, 903.5, 2236682, "cpu")
    assert run.fingerprint.startswith("78e6c510")
    assert math.isnan(run.score("f1"))


def test_the_best_epoch_is_that_of_training(tmp_path):
    """Ties go to the lower loss, then to the later epoch; what is not a number is last."""
    folder = experiment(tmp_path / "x", epochs=5)
    rows = json.loads((folder / "history.json").read_text())["epochs"]
    for row, (accuracy, loss) in zip(rows, [(0.9, 0.5), (0.9, 0.4), (0.9, 0.4), (None, 0.1), (0.8, 0.1)], strict=True):
        row["valid"] = {"loss": loss, "accuracy": accuracy}
    write(folder / "history.json", {"epochs": rows})
    assert read_run(folder, tmp_path).best == 2


def test_only_what_differs_is_told(tmp_path):
    experiment(tmp_path / "a", {"wd": 0.1, "early_stopping": {"patience": 3}}, searched=False, seed=1)
    experiment(tmp_path / "b", {"wd": 0.1, "early_stopping": {"patience": 4}, "about": "x"}, searched=False)
    experiment(tmp_path / "c", {"wd": 0.1, "early_stopping": {"patience": 3}, "num_workers": 0}, searched=False)
    comparison = one(tmp_path)
    assert comparison.names == ("early_stopping.patience",)
    assert sorted((s.values["early_stopping.patience"], len(s.runs)) for s in comparison.settings) == [(3, 2), (4, 1)]


def test_a_default_left_out_is_no_difference(tmp_path):
    experiment(tmp_path / "a", {"ps": 0.5, "cuda": 1}, searched=False)
    experiment(tmp_path / "b", searched=False)
    assert one(tmp_path).names == ()
    assert len(one(tmp_path).settings) == 1


@pytest.mark.parametrize(
    ("key", "one_value", "other"),
    [("precision", "fp32", "bf16"), ("memory_format", "contiguous", "channels_last"), ("threads", 1, 2),
     ("cuda", 0, 1), ("normalize", "auto", {"mean": [0, 0, 0], "std": [1, 1, 1]})],
)  # fmt: skip
def test_what_is_left_to_the_machine_is_a_difference_only_as_written(tmp_path, key, one_value, other):
    def resolve(folder, value):
        params = json.loads((folder / "params_resolved.json").read_text())
        write(folder / "params_resolved.json", params | {key: value})

    resolve(experiment(tmp_path / "a", searched=False), one_value)
    resolve(experiment(tmp_path / "b", searched=False), other)
    assert (one(tmp_path).names, len(one(tmp_path).settings)) == ((), 1)
    for name, value in (("a", one_value), ("b", other)):
        resolve(experiment(tmp_path / name, {key: value}, searched=False), value)
    names = {name.split(".")[0] for name in one(tmp_path).names}
    assert (names, len(one(tmp_path).settings)) == ({key}, 2)


def test_what_became_of_the_written_parameters_of_a_trained_run_harms_nothing(tmp_path):
    folder = experiment(tmp_path / "x")
    for damage in (lambda path: path.write_text("{"), lambda path: path.unlink()):
        damage(folder / "params.json")
        assert one(tmp_path).runs[0].state == "finished"


def test_values_of_a_search_come_first(tmp_path):
    """A searched parameter is told though it does not differ; a value that is an object is one value."""
    rates = {"low": 1e-5, "high": 1e-3}
    experiment(tmp_path / "a", {"learning_rate": rates, "wd": 0.1})
    experiment(tmp_path / "b", {"learning_rate": 0.01, "wd": 0.1})
    comparison = one(tmp_path)
    assert comparison.names == ("learning_rate", "wd")
    assert {str(setting.values["learning_rate"]) for setting in comparison.settings} == {str(rates), "0.01"}


def test_searched_and_other_folders_together(tmp_path):
    grid(tmp_path / "g", seeds=1)
    experiment(tmp_path / "mine", {"learning_rate": 0.001, "ps": 0.25, "wd": 0.3}, searched=False)
    experiment(tmp_path / "same", {"learning_rate": 0.001, "ps": 0.25}, searched=False, seed=9)
    comparison = one(tmp_path)
    assert comparison.names == ("learning_rate", "ps", "wd")
    assert len(comparison.settings) == 7
    assert max(len(setting.runs) for setting in comparison.settings) == 2


def test_searches_side_by_side(tmp_path):
    """What two searches do not have in common tells their trials apart, though neither searched it."""
    for name, arch, quality in (("small", "shallow", 0.6), ("large", "deep", 0.9)):
        for rate in (0.01, 0.1):
            folder = experiment(tmp_path / name / f"rate_{rate}", {"learning_rate": rate}, quality)
            params = json.loads((folder / "params_resolved.json").read_text())
            write(folder / "params_resolved.json", params | {"arch": arch})
        experiment(tmp_path / name / "rate_1", {"learning_rate": 1}, state="queued")
    comparison = one(tmp_path)
    assert comparison.names == ("learning_rate", "arch")
    assert [s.values["arch"] for s in comparison.settings] == ["deep", "deep", "shallow", "shallow"]


def test_a_seed_run_twice_counts_once(tmp_path):
    experiment(tmp_path / "a", searched=False)
    experiment(tmp_path / "b", searched=False)
    [setting] = one(tmp_path).settings
    assert len(setting.runs) == 2
    assert list(setting.by_seed(lambda run: run.score("accuracy"))) == [0]
    assert setting.total == 1


def test_only_finished_runs_enter_a_mean(tmp_path):
    for seed, state in enumerate(("finished", "pruned", "stopped", "failed", "running", "queued")):
        experiment(tmp_path / state, {"ps": 0.1}, seed=seed, state=state)
    comparison = one(tmp_path)
    [setting] = comparison.settings
    assert (len(setting.runs), setting.total) == (1, 6)
    assert sorted(run.state for run in comparison.unranked) == ["failed", "lost", "pruned", "queued", "stopped"]


def test_running_and_lost(tmp_path):
    folder = experiment(tmp_path / "x", state="running")
    assert read_run(folder, tmp_path).state == "lost"
    with (folder / ".lock").open("w") as lock:
        assert read_run(folder, tmp_path).state == "lost"
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_run(folder, tmp_path).state == "running"
        assert read_run(folder, tmp_path).state == "running"
    assert "epoch 6" in read_run(folder, tmp_path).reason


def test_where_it_cannot_be_asked_whether_somebody_trains(tmp_path, monkeypatch):
    """As on a network file system that is out of locks: what the folder says is believed, by the search as well."""
    folder = experiment(tmp_path / "x", state="running")
    (folder / ".lock").touch()

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert read_run(folder, tmp_path).state == jobs.look(folder).state == "running"


def test_a_look_keeps_no_training_from_starting(tmp_path, monkeypatch):
    """A training that starts in the moment of the look waits it out; one that meets a training leaves at once."""
    folder = experiment(tmp_path / "x", state="running")
    looking = (folder / ".lock").open("w")
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda seconds: looking.close())
    training = RunFolder(folder)
    training.lock()
    assert read_run(folder, tmp_path).state == "running"
    monkeypatch.undo()
    with pytest.raises(BusyError, match="is being trained by process"):
        RunFolder(folder).lock()
    training.unlock()


def test_what_never_read_its_data_stands_with_the_others(tmp_path):
    grid(tmp_path, seeds=1)
    experiment(tmp_path / "later", {"learning_rate": 1, "ps": 0.5}, state="queued")
    assert len(one(tmp_path).runs) == 7
    experiment(tmp_path / "other", {"learning_rate": 1, "ps": 0.5}, fingerprint="ab" * 32)
    assert [(c.fingerprint[:4], len(c.runs)) for c in collect(tmp_path)] == [("78e6", 6), ("abab", 1), ("", 1)]


def test_what_finished_on_data_that_is_not_known_is_ranked_with_no_other(tmp_path):
    grid(tmp_path, seeds=1)
    lost = {"learning_rate": 0.001, "ps": 0.5}
    (experiment(tmp_path / "unknown", lost, 0.99) / "environment.json").unlink()
    experiment(tmp_path / "later", lost, state="queued")
    assert [(c.fingerprint[:4], len(c.runs), len(c.settings)) for c in collect(tmp_path)] == [
        ("78e6", 7, 6),
        ("", 1, 1),
    ]


def test_nothing_to_collect(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        collect(tmp_path / "x")
    with pytest.raises(UserError, match="holds no experiment"):
        collect(tmp_path)


FILES = ["status.json", "params_resolved.json", "search.json", "history.json", "environment.json", "net_summary.txt"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b'{"epochs": [{"ep', b"\xff\xfe\x00", b"[" * 100_000])
def test_a_damaged_file_is_a_row(tmp_path, name, content):
    folder = experiment(tmp_path / "x")
    experiment(tmp_path / "y")
    (folder / name).write_bytes(content)
    runs = {run.name: run for run in one(tmp_path).runs}
    if name != "net_summary.txt" or b"\xff" in content:
        assert runs["x"].state == "damaged"
        assert runs["x"].reason.startswith(f"{name}: is not ")
        assert "\n" not in runs["x"].reason
    assert runs["y"].state == "finished"


def test_the_state_of_a_failed_run_is_kept(tmp_path):
    folder = experiment(
        tmp_path / "x",
        state="failed",
        reason="invalid",
        message=f"{tmp_path}/x/params.json:1: a\n{tmp_path}/x/params.json:2: b",
    )
    for name in ("params_resolved.json", "history.json", "environment.json"):
        (folder / name).unlink()
    (folder / "params.json").write_text("{")
    run = read_run(folder, tmp_path)
    assert (run.state, run.reason) == ("failed", "invalid: params.json:1: a; params.json:2: b")


def test_a_folder_in_the_place_of_a_file(tmp_path):
    folder = experiment(tmp_path / "x")
    (folder / "history.json").unlink()
    (folder / "history.json").mkdir()
    assert read_run(folder, tmp_path).state == "damaged"


def _paths(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _paths(inner, (*path, key))


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.just(10**400),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_anywhere(tmp_path_factory, data):
    """Whatever stands in one place of one file, reading and comparing go on, and a state is told."""
    parent = tmp_path_factory.mktemp("odd")
    folder = experiment(parent / "x", {"ps": 0.1, "wd": [1, 2]}, epochs=2)
    experiment(parent / "y", {"ps": 0.2, "wd": [1, 2]}, epochs=2)
    path = folder / data.draw(st.sampled_from(FILES[:5]))
    content = json.loads(path.read_text())
    *way, last = data.draw(st.sampled_from([place for place in _paths(content) if place]))
    target = content
    for key in way:
        target = target[key]
    target[last] = data.draw(ODD)
    write(path, content)
    runs = [run for comparison in collect(parent) for run in comparison.runs]
    assert len(runs) == 2
    assert all(run.state for run in runs)
