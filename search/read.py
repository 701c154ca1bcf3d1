"""One experiment folder as a row, from the small files a training leaves. Reads only; a damaged file is a state."""

import contextlib
import fcntl
import hashlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from config import run_folder
from config.schema import Params
from model.metric import greater_is_better
from utils import UserError, printable, read_json

NEVER_STARTED: Final = "not started"
LOST: Final = "lost"
DAMAGED: Final = "damaged"
MACHINES: Final = ("cuda", "memory_format", "normalize", "precision", "threads")  # left to the machine unless written


@dataclass
class Run:
    """One experiment folder.

    Args:
        name: the folder, relative to the one that was asked for.
        path: the folder.
        state: as in status.json; or lost, damaged, not started.
        reason: why it is in that state, one line.
        seed: of the run.
        searched: the values a search gave it, by parameter; empty without search.json.
        number: of the trial in its search.
        settings: of that search as the trial was made, where they are not the defaults; None when not known.
        params: its parameters where they are not the defaults; those in an inner object by dotted names; "net.py" is
            the first eight digits of the sha256 of its own net.
        resolved: whether these are the values in force rather than the ones written by hand; of what is left to the
            machine unless it is written, they always are the written ones.
        values: those of the parameters that differ between the runs.
        metric: what its best epoch is best at.
        valid: loss and each metric on the validation images, by epoch.
        train: the same on the training images, as seen during the epochs.
        test: loss and metrics of these best weights on the test images beside the training's; empty where evaluate.py
            has not measured them.
        test_images: fingerprint of these.
        best: index of the best epoch; None before the first.
        seconds: of all epochs.
        memory: peak in MB; nan when not known.
        size: number of the net's parameters; nan when not known.
        fingerprint: of the data, after "overfit" and a number where it learnt so few images by heart; empty when not
            known.
        data_dir: where the data was.
        device: what it ran on.
        started, updated: times of the first start and of the last change of state, ISO 8601; empty when not known.
    """

    name: str
    path: Path
    state: str = NEVER_STARTED
    reason: str = ""
    seed: int = 0
    searched: dict[str, Any] = field(default_factory=dict)
    number: int = 0
    settings: dict[str, Any] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    resolved: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    metric: str = "accuracy"
    valid: dict[str, np.ndarray] = field(default_factory=dict)
    train: dict[str, np.ndarray] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    test_images: str = ""
    best: int | None = None
    seconds: float = 0.0
    memory: float = math.nan
    size: float = math.nan
    fingerprint: str = ""
    data_dir: str = ""
    device: str = ""
    started: str = ""
    updated: str = ""

    @property
    def epochs(self) -> int:
        """How many were finished."""
        return len(self.valid.get("loss", ()))

    def score(self, metric: str, split: str = "valid", epoch: int | None = None) -> float:
        """A metric at the best epoch, or at that index of the epochs; nan when it was not measured."""
        values = (self.valid if split == "valid" else self.train).get(metric)
        index = self.best if epoch is None else epoch
        return math.nan if values is None or index is None or not len(values) else float(values[index])


def read_run(path: Path, parent: Path) -> Run:
    """What one folder says; a damaged file is the run's state, never an error."""
    name = path.relative_to(parent).as_posix()
    run = Run(path.name if name == "." else name, path)
    problems = []
    for file, take in _FILES.items():
        if problem := _read(run, path / file, take):
            problems.append(problem)
        if file == run_folder.PARAMS_RESOLVED and run.resolved:
            problems.clear()  # what became of the params.json it was made from matters no more
    if run.params.get("arch") == run_folder.NET:
        _take_own_net(run)
    if run.fingerprint and (images := run.params.get("overfit")):
        run.fingerprint = f"overfit{images}-{run.fingerprint}"
    if run.state == "running" and lock_is_free(path / run_folder.LOCK):
        run.state, run.reason = LOST, f"ended without a word in epoch {run.epochs + 1}; the same command continues it"
    if problems and run.state != "failed":
        run.state, run.reason = DAMAGED, "; ".join(problems)
    return run


def _read(run: Run, path: Path, take: Callable[[Run, Any], None]) -> str:
    """Hands a file's content over; returns what is wrong with it."""
    if not path.exists():
        return ""
    try:
        take(run, path.read_text(encoding="utf-8") if path.suffix == ".txt" else read_json(path))
    except UserError as error:
        return str(error).removeprefix(printable(str(path.parent)) + "/")
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, OSError):
        return f"{path.name}: is not what training writes"
    return ""


def _take_status(run: Run, status: dict[str, Any]) -> None:
    if status["state"] not in run_folder.STATES:
        raise ValueError(status["state"])
    run.state = status["state"]
    here = re.compile(rf"^.*/{re.escape(run.path.name)}(?:/|: )")  # the table names the folder already
    message = "; ".join(here.sub("", line) for line in str(status.get("message") or "").splitlines())
    run.reason = printable(": ".join(part for part in (str(status.get("reason") or ""), message) if part))
    run.started, run.updated = str(status.get("started") or ""), str(status.get("updated") or "")


def _take_params(run: Run, params: dict[str, Any]) -> None:
    given = {sys.intern(key): value for key, value in flat(params.items())}
    run.params = {key: value for key, value in given.items() if value != DEFAULTS.get(key)}
    run.seed = int(params.get("seed", 0))
    run.metric = str(params.get("best_metric", run.metric))


def _take_resolved(run: Run, params: dict[str, Any]) -> None:
    written = run.params
    _take_params(run, params)
    run.params = {key: value for key, value in run.params.items() if not _of_the_machine(key)}
    run.params |= {key: value for key, value in written.items() if _of_the_machine(key)}
    run.resolved = True


def _of_the_machine(key: str) -> bool:
    return key.split(".")[0] in MACHINES


def _take_search(run: Run, search: dict[str, Any]) -> None:
    run.searched = {str(name): value for name, value in search["values"].items()}
    run.number, run.settings = int(search.get("trial", 0)), search.get("settings")


def _take_history(run: Run, history: dict[str, Any]) -> None:
    rows = history["epochs"]
    if not rows:
        return
    valid, train = (
        {sys.intern(name): np.array([_number(row[split][name]) for row in rows]) for name in rows[0][split]}
        for split in ("valid", "train")
    )
    run.seconds = sum(_number(row["seconds"]) for row in rows)
    run.memory = max(_number(row["memory_mb"]) for row in rows)
    metric = run.metric if run.metric in valid else "loss"
    scores = valid[metric] * (1 if greater(metric) else -1)
    ranks = [(_rank(score), _rank(-loss)) for score, loss in zip(scores, valid["loss"], strict=True)]
    run.best = max(range(len(rows)), key=lambda epoch: (ranks[epoch], epoch))  # as training breaks ties
    run.valid, run.train = valid, train


def _take_environment(run: Run, environment: dict[str, Any]) -> None:
    run.fingerprint = sys.intern(str(environment["data"]["fingerprint"]))
    run.data_dir = sys.intern(str(environment["data"]["folder"]))
    run.device = sys.intern(str(environment.get("device", "")))
    run.started = str(environment.get("started") or run.started)  # status.json knows the last start


def _take_summary(run: Run, summary: str) -> None:
    if found := re.search(r"([\d,]+) parameters", summary):
        run.size = float(found[1].replace(",", ""))


def _take_own_net(run: Run) -> None:
    """Two net.py are two nets, though their parameters are the same."""
    for file in (run.path / run_folder.CODE / run_folder.NET, run.path / run_folder.NET):
        with contextlib.suppress(OSError):
            run.params[run_folder.NET] = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
            return


def _take_test(run: Run, metrics: dict[str, Any]) -> None:
    epoch, known = metrics.get("epoch"), metrics.get("trained_on_this_data", True)
    if run.best is None or epoch != run.best + 1 or not known:  # an earlier best's, or of another data folder
        return
    run.test_images = sys.intern(str(metrics.get("fingerprint", "")))
    run.test = {sys.intern(name): float(value) for name, value in metrics.items() if type(value) in (int, float)}


# In the order of reading: the resolved parameters take the place of those written by hand.
_FILES: Final[dict[str, Callable[[Run, Any], None]]] = {
    run_folder.PARAMS: _take_params,
    run_folder.PARAMS_RESOLVED: _take_resolved,
    run_folder.STATUS: _take_status,
    run_folder.SEARCH: _take_search,
    run_folder.HISTORY: _take_history,
    run_folder.ENVIRONMENT: _take_environment,
    run_folder.NET_SUMMARY: _take_summary,
    run_folder.metrics_name("test", "best"): _take_test,
}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _rank(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def greater(metric: str) -> bool:
    """Whether more of it is better; of a metric that is not known here, that too."""
    with contextlib.suppress(UserError):
        return greater_is_better(metric)
    return True


def lock_is_free(path: Path) -> bool:
    """Whether no process trains in the folder; asked with a shared lock, which is given back at once."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def flat(items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The items with those of inner objects by dotted names."""
    for key, value in items:
        if isinstance(value, dict):
            yield from flat((f"{key}.{inner}", below) for inner, below in value.items())
        else:
            yield key, value


DEFAULTS: Final = dict(
    flat((name, field.default) for name, field in Params.model_fields.items() if not field.is_required())
)
