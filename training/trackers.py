"""Trackers: a run's history told to programs that show and compare runs, TensorBoard and MLflow.

python -m training.trackers experiments/digits experiments/rates/* tensorboard

Each tracker is told the whole history after every epoch, and adds what it lacks. So an interruption at any point leaves
no gap and nothing twice, what a server missed while it was gone arrives later, and a run that was trained without a
tracker can be shown by one afterwards, by the command above.
"""

import argparse
import contextlib
import json
import logging
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from config import run_folder
from config.run_folder import RunFolder
from training.checkpoint import Progress
from utils import (
    TrainingFault,
    UserError,
    log,
    logging_to,
    optional_import,
    printable,
    read_json,
    reports_errors,
    write_atomic,
)

MLFLOW_CHUNK: Final = (1000, 100)  # metrics and parameters of a request: the most that MLflow takes
NOT_TOLD: Final = ("about", "hyper_search", "search")  # params that are no parameters of the run
MLFLOW_LONGEST: Final = 6000  # letters of a parameter's value
MLFLOW_SETTINGS: Final = {  # unless set already: nothing is sent to anybody else, no epoch waits minutes for a server
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
MLFLOW_ENDS: Final = {"finished": "FINISHED", "pruned": "KILLED", "stopped": "KILLED", "failed": "FAILED"}


class Point(NamedTuple):
    """A number at a place: an epoch, counted from 1, or a step, counted from 0; `time` in seconds since 1970."""

    tag: str
    place: int
    value: float
    time: float


class Told(NamedTuple):
    """What a tracker is told of a run.

    Attributes:
        params: those in force, flat.
        points: all numbers so far, in the order in which they came: later there are more, and the first stay.
        ended: the state the run ended in; None while it runs.
    """

    params: dict[str, bool | float | str]
    points: list[Point]
    ended: str | None


class Tracker(Protocol):
    """One of TRACKERS; it imports its package when it is made."""

    def update(self, told: Told) -> None:
        """Adds what it lacks."""


class TensorBoard:
    """An events file in the experiment folder, which `tensorboard --logdir experiments` shows under its path.

    Its bytes follow from the history. What is there already is their beginning, at whatever byte a kill has ended it,
    and the rest is appended, so that a TensorBoard that is open goes on reading.

    Args:
        folder: the experiment.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.file(run_folder.TENSORBOARD)
        self._figure = folder.file(run_folder.HISTORY_FIGURE)
        self._event = optional_import("tensorboard.compat.proto.event_pb2", "tensorboard").Event
        self._summary = optional_import("tensorboard.compat.proto.summary_pb2", "tensorboard")
        self._record = optional_import("tensorboard.summary.writer.record_writer", "tensorboard").RecordWriter
        self._hparams = optional_import("tensorboard.plugins.hparams.plugin_data_pb2", "tensorboard").HParamsPluginData
        self._data = bytearray()
        self._encoded = 0  # points in it

    def write(self, data: bytes) -> None:
        """Takes a part of a record, as a file would."""
        self._data += data

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""

    def update(self, told: Told) -> None:
        """Encodes the new points, and appends what the file lacks."""
        if not told.points:
            return
        start = told.points[0].time
        if not self._data:
            self._add(start, file_version="brain.Event:2")
            self._add(start, summary=self._session(told, start))
        for point in told.points[self._encoded :]:
            value = self._summary.Summary.Value(tag=point.tag, simple_value=point.value)
            self._add(point.time, point.place, summary=self._summary.Summary(value=[value]))
        self._encoded = len(told.points)
        whole = bytes(self._data)
        if told.ended == "finished":
            whole += self._ending(told)
        self._bring_up_to(whole)

    def _bring_up_to(self, whole: bytes) -> None:
        there = self._path.read_bytes() if self._path.is_file() else None
        if there is None or not whole.startswith(there):
            write_atomic(self._path, whole)
        elif len(there) < len(whole):
            with self._path.open("ab") as file:
                file.write(whole[len(there) :])

    def _add(self, time: float, step: int = 0, **content: Any) -> None:
        self._record(self).write(self._event(wall_time=time, step=step, **content).SerializeToString())

    def _ending(self, told: Told) -> bytes:
        """The curves, and that the session is over."""
        before, self._data = self._data, bytearray()
        last = told.points[-1]
        if self._figure.is_file():
            image = self._summary.Summary.Image(encoded_image_string=self._figure.read_bytes())
            value = self._summary.Summary.Value(tag="curves", image=image)
            self._add(last.time, last.place, summary=self._summary.Summary(value=[value]))
        content = self._hparams(version=0)
        content.session_end_info.status = 1  # STATUS_SUCCESS
        content.session_end_info.end_time_secs = last.time
        self._add(last.time, summary=self._plugin("_hparams_/session_end_info", content))
        after, self._data = bytes(self._data), before
        return after

    def _session(self, told: Told, start: float) -> Any:
        content = self._hparams(version=0)
        content.session_start_info.start_time_secs = start
        for name, value in told.params.items():
            field = content.session_start_info.hparams[name]
            if isinstance(value, bool):
                field.bool_value = value
            elif isinstance(value, str):
                field.string_value = value
            else:
                field.number_value = value
        return self._plugin("_hparams_/session_start_info", content)

    def _plugin(self, tag: str, content: Any) -> Any:
        data = self._summary.SummaryMetadata.PluginData(plugin_name="hparams", content=content.SerializeToString())
        metadata = self._summary.SummaryMetadata(plugin_data=data)
        return self._summary.Summary(value=[self._summary.Summary.Value(tag=tag, metadata=metadata)])


class MLflow:
    """A run of MLflow, in the store that MLFLOW_TRACKING_URI names, else in MLflow's own default beside the project.

    The run is found by a key that is written into the experiment folder before the run is made, so that a kill between
    the two leaves no second run. Its experiment is MLFLOW_EXPERIMENT_NAME, else the folder above.

    Args:
        folder: the experiment.
    """

    def __init__(self, folder: RunFolder) -> None:
        for name, value in MLFLOW_SETTINGS.items():
            os.environ.setdefault(name, value)
        self._mlflow = optional_import("mlflow", "mlflow")
        self._entities = optional_import("mlflow.entities", "mlflow")
        for name in ("mlflow", "alembic"):  # which tell of their own tables
            logging.getLogger(name).setLevel(logging.WARNING)
        self._folder = folder
        self._run = ""
        self._last: dict[str, int] = {}  # by metric, the last place that is there

    def update(self, told: Told) -> None:
        """Logs what lies behind the last place that is there."""
        client = self._mlflow.MlflowClient()
        if not self._run:
            self._find_run(client, told)
        try:
            self._log(client, told)
        except Exception:
            self._run = ""  # how much of it has arrived is asked for anew
            raise

    def _log(self, client: Any, told: Told) -> None:
        new = [point for point in told.points if point.place > self._last.get(point.tag, -1)]
        for start in range(0, len(new), MLFLOW_CHUNK[0]):
            chunk = new[start : start + MLFLOW_CHUNK[0]]
            metrics = [self._entities.Metric(p.tag, p.value, int(p.time * 1000), p.place) for p in chunk]
            client.log_batch(self._run, metrics=metrics)
            self._last |= {point.tag: point.place for point in chunk}
        if told.ended is not None:
            for name in (run_folder.PARAMS_RESOLVED, run_folder.HISTORY, run_folder.HISTORY_FIGURE):
                if self._folder.file(name).is_file():
                    client.log_artifact(self._run, str(self._folder.file(name)))
            client.set_terminated(self._run, MLFLOW_ENDS[told.ended])

    def _find_run(self, client: Any, told: Told) -> None:
        path = self._folder.file(run_folder.MLFLOW)
        known = read_json(path) if path.is_file() else {"key": secrets.token_hex(16)}
        if not path.is_file():
            self._folder.write_json(run_folder.MLFLOW, known)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self._folder.path.resolve().parent.name
        experiment = client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else client.create_experiment(name)
        found = client.search_runs([number], f"tags.`dossier.key` = '{known['key']}'")
        if found:
            run = found[0]
        else:
            start = int((told.points[0].time if told.points else 0) * 1000) or None
            tags = {"dossier.key": known["key"], "dossier.folder": str(self._folder.path.resolve())}
            run = client.create_run(number, start, tags, self._folder.path.name)
        self._run = run.info.run_id
        if known.get("run_id") != self._run:
            uri = {"run_id": self._run, "experiment": name, "tracking_uri": self._mlflow.get_tracking_uri()}
            self._folder.write_json(run_folder.MLFLOW, known | uri)
        missing = {key: str(value)[:MLFLOW_LONGEST] for key, value in told.params.items() if key not in run.data.params}
        params = [self._entities.Param(*item) for item in missing.items()]
        for start in range(0, len(params), MLFLOW_CHUNK[1]):
            client.log_batch(self._run, params=params[start : start + MLFLOW_CHUNK[1]])
        if run.info.status != "RUNNING":
            client.update_run(self._run, "RUNNING")
        histories = {tag: client.get_metric_history(self._run, tag) for tag in run.data.metrics}
        self._last = {tag: max(metric.step for metric in history) for tag, history in histories.items()}


# What params.json can name in "trackers".
TRACKERS: Final[dict[str, Callable[[RunFolder], Tracker]]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
}


class Trackers:
    """The trackers of one run. One that fails is heard of once, and told everything again after the next epoch.

    Args:
        names: keys of TRACKERS.
        folder: the experiment.

    Raises:
        UserError: a tracker's package is not installed.
    """

    def __init__(self, names: Sequence[str], folder: RunFolder) -> None:
        self._folder = folder
        self._trackers: dict[str, Tracker] = {name: TRACKERS[name](folder) for name in names}
        self._failed: set[str] = set()

    def follow(self, state: Progress) -> None:
        """After an epoch."""
        self._tell(state.history, None)

    def end(self, state: Progress, ended: str) -> None:
        """After the run, in the state it ended in."""
        self._tell(state.history, ended)

    @contextlib.contextmanager
    def session(self, state: Progress) -> Iterator[None]:
        """A block whose end by an exception is told too."""
        try:
            yield
        except BaseException as error:
            self.end(state, "stopped" if isinstance(error, KeyboardInterrupt) else "failed")
            raise

    def _tell(self, history: Mapping[str, Any], ended: str | None) -> None:
        for name, tracker in self._trackers.items():
            try:
                tracker.update(told(self._folder, history, ended))
            except Exception as error:  # what a tracker's package raises is its own affair
                if name not in self._failed:
                    log.warning("%s: %s; the training goes on, and what it misses is told after a later epoch", name,
                                _reason(error))  # fmt: skip
                self._failed.add(name)
                if ended == "finished":
                    log.warning("python -m training.trackers %s %s: tells %s what it missed", self._folder, name, name)


def told(folder: RunFolder, history: Mapping[str, Any], ended: str | None) -> Told:
    """What trackers are told of an experiment, from its history and what lies in its folder."""
    started = read_json(folder.file(run_folder.ENVIRONMENT))["started"]
    resolved = read_json(folder.file(run_folder.PARAMS_RESOLVED))
    params = dict(_flat({key: value for key, value in resolved.items() if key not in NOT_TOLD}))
    return Told(params, points(history, datetime.fromisoformat(started).timestamp()), ended)


def points(history: Mapping[str, Any], started: float) -> list[Point]:
    """The numbers of a history in the order in which they came; those that are not finite are left out.

    Args:
        history: as in history.json.
        started: seconds since 1970. A step of an epoch has the time at which the epoch began.
    """
    steps, found = list(history["steps"]), list[Point]()
    for epoch in (*history["epochs"], None):  # and the one that runs
        done = len(steps) if epoch is None else sum(step["epoch"] <= epoch["epoch"] for step in steps)
        numbers = [number for step in steps[:done] for number in _of_step(step)]
        steps = steps[done:]
        found += [Point(tag, place, value, started) for tag, place, value in numbers]
        if epoch is not None:
            started += epoch["seconds"]
            found += [Point(tag, epoch["epoch"], value, started) for tag, value in _of_epoch(epoch)]
    return [point for point in found if isinstance(point.value, int | float) and math.isfinite(point.value)]


def _of_step(step: Mapping[str, Any]) -> Iterator[tuple[str, int, float]]:
    yield "step/loss", step["step"], step["loss"]
    for group, rate in enumerate(step["learning_rate"]):
        yield f"step/learning_rate_{group}", step["step"], rate


def _of_epoch(epoch: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for split in ("train", "valid"):
        yield from ((f"{split}/{name}", value) for name, value in epoch[split].items())
    yield from ((f"epoch/learning_rate_{group}", rate) for group, rate in enumerate(epoch["learning_rate"]))
    yield from ((f"epoch/{name}", epoch[name]) for name in ("seconds", "images_per_second", "memory_mb"))


def _reason(error: Exception) -> str:
    return printable(str(error).partition("\n")[0] or type(error).__name__)


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | float | str]]:
    """Params as pairs of a dotted name and a plain value; what is null is left out, lists become JSON."""
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, list) else value


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Tells a tracker of experiments that were trained before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="experiment folders")
    parser.add_argument("tracker", choices=TRACKERS, help="the tracker")
    options = parser.parse_args(argv)
    with logging_to(None):
        for folder in map(RunFolder, options.folders):
            folder.lock()
            try:
                history = folder.read_json(run_folder.HISTORY)
                ended = folder.status().get("state")
                tracker = TRACKERS[options.tracker](folder)
                tracker.update(told(folder, history, ended if ended in MLFLOW_ENDS else None))
            except (UserError, TrainingFault):
                raise
            except Exception as error:
                message = f"{folder}: {options.tracker}: {_reason(error)}; the same command goes on"
                raise TrainingFault(message) from error
            finally:
                folder.unlock()
            log.info("%s: told to %s", folder, options.tracker)
    return 0


if __name__ == "__main__":
    sys.exit(main())
