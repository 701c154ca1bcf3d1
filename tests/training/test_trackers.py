"""Trackers are told what history.json holds: all of it, once, whatever happens on the way."""

import json
import os
import subprocess
import sys

import pytest

import include
import train
from config import run_folder
from config.run_folder import RunFolder
from tests.training.runs import TIMES, experiment, outcome
from tests.training.test_run import interrupt_at
from training import trackers

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
event_multiplexer = pytest.importorskip("tensorboard.backend.event_processing.event_multiplexer")
mlflow = pytest.importorskip("mlflow")

EVENTS = run_folder.TENSORBOARD


def run(path, data, *options):
    return train.main(["--data_dir", str(data), "--model_dir", str(path), *options])


def expected(path):
    """tag -> (place, value) of a run's history."""
    history = json.loads((path / run_folder.HISTORY).read_text())
    found = {}
    for point in trackers.points(history, 0.0):
        found.setdefault(point.tag, []).append((point.place, point.value))
    return found


def without_times(found):
    return {tag: values for tag, values in found.items() if tag.removeprefix("epoch/") not in TIMES}


def shown(path):
    """tag -> (place, value) as TensorBoard reads it."""
    events = event_accumulator.EventAccumulator(str(path), {event_accumulator.SCALARS: 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for tag, values in wanted.items():
        assert [place for place, _ in found[tag]] == [place for place, _ in values], tag
        assert [value for _, value in found[tag]] == pytest.approx([value for _, value in values], rel=1e-6), tag


# --- what is told ----------------------------------------------------------------------------------------------------


HISTORY = {
    "steps": [{"step": i, "epoch": 1 + i // 2, "loss": 1.0 / (1 + i), "learning_rate": [0.1, 0.2]} for i in range(5)],
    "epochs": [
        {"epoch": e, "train": {"loss": 0.5}, "valid": {"loss": 0.6, "auroc": None}, "learning_rate": [0.1, 0.2],
         "seconds": 10.0, "images_per_second": 3.0, "memory_mb": 4.0}
        for e in (1, 2)
    ],
    "stop": None,
}  # fmt: skip


def test_points_come_in_the_order_of_time_and_the_first_stay():
    found = trackers.points(HISTORY, 1000.0)
    times = [point.time for point in found]
    assert times == sorted(times)
    assert {point.time for point in found if point.tag.startswith("step/")} == {1000.0, 1010.0, 1020.0}
    assert [point.place for point in found if point.tag == "step/loss"] == [0, 1, 2, 3, 4]
    assert [point.place for point in found if point.tag == "valid/loss"] == [1, 2]
    assert not any(point.tag == "valid/auroc" for point in found)  # null in history.json, nan in memory
    for steps, epochs in ((0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (4, 2), (5, 2)):
        part = HISTORY | {"steps": HISTORY["steps"][:steps], "epochs": HISTORY["epochs"][:epochs]}
        known = trackers.points(part, 1000.0)
        assert known == found[: len(known)]


def test_params_are_told_flat():
    params = {"arch": "conv", "early_stopping": {"patience": 3}, "augment": ["a"], "n_clas": None, "cuda": False}
    assert dict(trackers._flat(params)) == {
        "arch": "conv", "early_stopping.patience": 3, "augment": '["a"]', "cuda": False,
    }  # fmt: skip


# --- TensorBoard -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracked(tiny_data, tmp_path_factory):
    path = experiment(tmp_path_factory.mktemp("tracked") / "experiments" / "x", trackers=["tensorboard"])
    assert run(path, tiny_data) == 0
    return path


def test_tensorboard_shows_the_history_under_the_path_of_the_run(tracked):
    same(shown(tracked), expected(tracked))
    runs = event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(tracked.parent)).Reload().Runs()
    assert list(runs) == ["x"]
    assert "curves" in runs["x"]["images"]


def test_tensorboard_knows_the_parameters(tracked):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = event_accumulator.EventAccumulator(str(tracked)).Reload()
    content = {
        tag: HParamsPluginData.FromString(events.SummaryMetadata(tag).plugin_data.content)
        for tag in ("_hparams_/session_start_info", "_hparams_/session_end_info")
    }
    params = content["_hparams_/session_start_info"].session_start_info.hparams
    assert params["learning_rate"].number_value == 0.01
    assert params["arch"].string_value == "conv"
    assert content["_hparams_/session_end_info"].session_end_info.status == 1


def test_a_kill_at_any_byte_is_mended(tracked):
    folder = RunFolder(tracked)
    whole = (tracked / EVENTS).read_bytes()
    history = json.loads((tracked / run_folder.HISTORY).read_text())
    everything = trackers.told(folder, history, "finished")
    half = everything._replace(points=everything.points[: len(everything.points) // 2], ended=None)
    for length in [*range(0, len(whole), len(whole) // 20), len(whole)]:
        (tracked / EVENTS).write_bytes(whole[:length])
        tracker = trackers.TensorBoard(folder)
        if length < len(whole) // 4:
            tracker.update(half)
        tracker.update(everything)
        assert (tracked / EVENTS).read_bytes() == whole, length
    (tracked / EVENTS).write_bytes(b"something else")
    trackers.TensorBoard(folder).update(everything)
    assert (tracked / EVENTS).read_bytes() == whole


def test_what_is_there_stays_open_to_a_reader(tracked):
    """Appended, not replaced: a TensorBoard that has the file open goes on reading."""
    folder = RunFolder(tracked)
    whole = (tracked / EVENTS).read_bytes()
    (tracked / EVENTS).write_bytes(whole[:1000])
    number = (tracked / EVENTS).stat().st_ino
    history = json.loads((tracked / run_folder.HISTORY).read_text())
    trackers.TensorBoard(folder).update(trackers.told(folder, history, "finished"))
    assert (tracked / EVENTS).stat().st_ino == number
    assert (tracked / EVENTS).read_bytes() == whole


@pytest.mark.slow
def test_interrupted_and_continued_is_shown_whole(tracked, tiny_data, tmp_path, monkeypatch):
    for moment in (2, 9):
        path = experiment(tmp_path / str(moment), trackers=["tensorboard"])
        with monkeypatch.context() as patch:
            interrupt_at(patch, moment)
            assert run(path, tiny_data) == 143
        assert run(path, tiny_data) == 0
        same(shown(path), expected(path))
        assert without_times(expected(path)) == without_times(expected(tracked))
        assert outcome(path) == outcome(tracked)


def test_a_run_trained_without_is_told_afterwards(tracked, capsys):
    whole = (tracked / EVENTS).read_bytes()
    (tracked / EVENTS).unlink()
    assert trackers.main([str(tracked), "tensorboard"]) == 0
    assert "told to tensorboard" in capsys.readouterr().out
    assert (tracked / EVENTS).read_bytes() == whole


def test_a_folder_that_was_never_trained_is_refused(tmp_path, capsys):
    assert trackers.main([str(experiment(tmp_path / "x")), "tensorboard"]) == 2
    assert "has this experiment been trained?" in capsys.readouterr().err


# --- MLflow ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store of files, which needs no data base to be set up, and shows what is there twice."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(None)
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(None)


def the_run(client, name="experiments"):
    (found,) = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    return found


def logged(client, run_id):
    tags = client.get_run(run_id).data.metrics
    return {tag: [(m.step, m.value) for m in client.get_metric_history(run_id, tag)] for tag in tags}


@pytest.mark.slow
def test_mlflow_has_one_run_for_a_folder_whatever_happens(tiny_data, tmp_path, monkeypatch, store, capsys):
    path = experiment(tmp_path / "experiments" / "x", trackers=["mlflow", "tensorboard"])
    for moment in (2, 6):
        with monkeypatch.context() as patch:
            interrupt_at(patch, moment)
            assert run(path, tiny_data) == 143
        assert the_run(store).info.status == "KILLED"
    known = json.loads((path / run_folder.MLFLOW).read_text())
    (path / run_folder.MLFLOW).write_text(json.dumps({"key": known["key"]}))  # as a kill leaves it
    assert run(path, tiny_data) == 0
    found = the_run(store)
    same(logged(store, found.info.run_id), expected(path))
    assert (found.info.status, found.info.run_name) == ("FINISHED", "x")
    assert found.data.params["learning_rate"] == "0.01"
    assert {a.path for a in store.list_artifacts(found.info.run_id)} == {
        *(run_folder.PARAMS_RESOLVED, run_folder.HISTORY, run_folder.HISTORY_FIGURE)
    }
    assert json.loads((path / run_folder.MLFLOW).read_text())["run_id"] == found.info.run_id == known["run_id"]
    assert trackers.main([str(path), "mlflow"]) == 0
    same(logged(store, found.info.run_id), expected(path))


@pytest.mark.slow
def test_a_server_that_is_gone_stops_nothing(tiny_data, tmp_path, monkeypatch, store, capsys):
    path = experiment(tmp_path / "experiments" / "x", trackers=["mlflow"], num_epochs=4)
    original, calls = mlflow.MlflowClient.log_batch, [0]

    def log_batch(self, run_id, metrics=(), **others):
        calls[0] += 1
        if calls[0] in (2, 3):
            original(self, run_id, metrics=metrics[:3])  # the answer to a part of it gets lost
            raise ConnectionError("the server\nis gone")
        return original(self, run_id, metrics=metrics, **others)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", log_batch)
    assert run(path, tiny_data) == 0
    assert capsys.readouterr().out.count("mlflow: the server; the training goes on") == 1
    same(logged(store, the_run(store).info.run_id), expected(path))


def test_a_store_that_never_answers(tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    mlflow.set_tracking_uri(None)
    path = experiment(tmp_path / "experiments" / "x", trackers=["mlflow"], num_epochs=1)
    assert run(path, tiny_data) == 0
    assert f"python -m training.trackers {path} mlflow" in capsys.readouterr().out
    assert trackers.main([str(path), "mlflow"]) == 4
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of sqlalchemy, when this process reads the store
def test_the_default_store_is_mlflows_own(tiny_data, tmp_path):
    path = experiment(tmp_path / "experiments" / "x", trackers=["mlflow"], num_epochs=1)
    command = [sys.executable, str(include.ROOT / "train.py"), "--data_dir", str(tiny_data), "--model_dir", str(path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mlflow:" not in done.stdout
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    same(logged(client, the_run(client).info.run_id), expected(path))


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_package_is_told_before_anything_is_trained(tiny_data, tmp_path, monkeypatch, capsys, name):
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    path = experiment(tmp_path / "x", trackers=[name])
    assert run(path, tiny_data) == 2
    assert f"is not installed: pip install '{name}'" in capsys.readouterr().err
    assert not (path / run_folder.CHECKPOINT).exists()


def test_every_tracker_is_in_the_schema():
    from config.schema import json_schema

    allowed = json_schema()["properties"]["trackers"]["items"]["enum"]
    assert allowed == list(trackers.TRACKERS)
