"""The experiment folder: the one file that knows the names inside it, its manifest, lock and state."""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from utils import (
    BusyError,
    UserError,
    make_folder,
    move,
    printable,
    read_json,
    to_json,
    write_all_atomic,
    write_atomic,
)

PARAMS: Final = "params.json"
PARAMS_RESOLVED: Final = "params_resolved.json"
NET: Final = "net.py"
HISTORY: Final = "history.json"
HISTORY_FIGURE: Final = "train_history.png"
CHECKPOINT: Final = "checkpoint.pt"
CHECKPOINT_PREVIOUS: Final = "checkpoint.prev.pt"
LOG: Final = "train.log"
ENVIRONMENT: Final = "environment.json"
NET_SUMMARY: Final = "net_summary.txt"
AUGMENTATION: Final = "augm.json"
AUGMENTATION_PICKLE: Final = "augm.pkl"
CODE: Final = "code"
CODE_DIFF: Final = "code.diff"
PREDICTIONS_VALID: Final = "predictions_valid.npz"
STATUS: Final = "status.json"
SEARCH: Final = "search.json"
STOP: Final = "stop.json"
MANIFEST: Final = "manifest.json"
LOCK: Final = ".lock"
LR_FIND: Final = "lr_find.json"
LR_FIND_FIGURE: Final = "lr_find.png"
MONITOR: Final = "monitor.npz"
MONITOR_FIGURE: Final = "monitor.png"
HISTOGRAMS_FIGURE: Final = "monitor_histograms.png"
MONITORED: Final = (MONITOR, MONITOR_FIGURE, HISTOGRAMS_FIGURE)
TENSORBOARD: Final = "events.out.tfevents.dossier"
MLFLOW: Final = "mlflow_run.json"
REPORT: Final = "report"
REPORT_PAGE: Final = "index.html"
METRICS: Final = "metrics.json"  # of a report
PREDICTIONS: Final = "predictions.npz"  # of a report
ROBUSTNESS: Final = "robustness.json"  # of a report that measured it
TEST_LOG: Final = "test_set_openings.json"
EXPORT: Final = "export"  # the folder of what leaves the experiment:
MODEL_ONNX: Final = "model.onnx"
MODEL_INT8: Final = "model.int8.onnx"
MODEL_PT2: Final = "model.pt2"
MODEL_WEIGHTS: Final = "model.safetensors"
MODEL_NET: Final = "model.json"  # how to build the net of model.safetensors
MODEL_CARD: Final = "MODEL.md"
EXPORT_REPORT: Final = "export.json"

ASIDE: Final = "before-"  # with a time: results of an earlier run

LOCK_PATIENCE: Final = 0.2  # seconds

WEIGHTS: Final = ("best", "last", "averaged")
MEND: Final = "the train.py command of this experiment, given again, writes anew what training wrote"
EVALUATED: Final = "the evaluate.py command that wrote it, given again, writes it anew"
OF_EVALUATION: Final = (f"{REPORT}/", "metrics_test_", "calibration_")  # how names begin of what evaluate.py wrote
STATES: Final = ("queued", "running", "finished", "pruned", "stopped", "failed")
# Names of what evaluate.py finds with --tta, by the views that it adds.
TTA: Final = {None: "", "mirror": "_tta", "shift": "_tta_shift"}
# What a search or a person put there; everything else in the folder is a result.
INPUTS: Final = (PARAMS, NET, LOCK, SEARCH, "README.md")


def weights_name(kind: str) -> str:
    """weights_best.safetensors and its two siblings."""
    return f"weights_{kind}.safetensors"


def metrics_name(split: str, kind: str, tta: str | None = None, calibrated: bool = False) -> str:
    """metrics_val_best_weights.json, as the source template names it; metrics_test_… for the test split."""
    how = f"{TTA[tta]}{'_calibrated' * calibrated}"
    return f"metrics_{'val' if split == 'valid' else split}_{kind}_weights{how}.json"


def calibration_name(kind: str, tta: str | None = None) -> str:
    """calibration_best.json: temperature and threshold for those weights, fitted on valid."""
    return f"calibration_{kind}{TTA[tta]}.json"


# What training leaves besides its checkpoints, the sources, the log and its state.
TRAINED: Final = (
    *(weights_name(kind) for kind in WEIGHTS),
    *(metrics_name("valid", kind) for kind in WEIGHTS),
    *(PARAMS_RESOLVED, ENVIRONMENT, NET_SUMMARY, AUGMENTATION, AUGMENTATION_PICKLE),
    *(HISTORY, HISTORY_FIGURE, PREDICTIONS_VALID),
)


class RunFolder:
    """One experiment folder.

    Args:
        path: the folder, or the params.json inside it.

    Raises:
        UserError: when there is no such folder, or no params.json in it.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        self.path = path.parent if path.name == PARAMS else path
        if not self.params.is_file():
            what = "no such folder" if not self.path.is_dir() else f"no {PARAMS} in it"
            raise UserError(f"{printable(str(self.path))}: {what}; an experiment is a folder with a {PARAMS}")
        self._lock: int | None = None
        self._digests: dict[str, str] | None = None

    def __str__(self) -> str:
        return printable(str(self.path))

    @property
    def params(self) -> Path:
        """The params.json a person wrote; never rewritten."""
        return self.path / PARAMS

    def file(self, name: str) -> Path:
        """The path of one of the names above."""
        return self.path / name

    # --- artefacts ---

    def write(self, name: str, data: bytes) -> None:
        """Writes an artefact whole and records its sha256 in manifest.json."""
        self.write_all({name: data})

    def write_all(self, files: Mapping[str, bytes]) -> None:
        """Writes artefacts, each whole, and then the manifest once."""
        digests = dict(self.digests())
        folders: dict[Path, dict[str, bytes]] = {}
        for path, data in ((Path(name), data) for name, data in files.items()):
            folders.setdefault(path.parent, {})[path.name] = data
        for parent in sorted(folders, reverse=True):  # a folder is flushed after those in it were made
            make_folder(self.path / parent)
            written = write_all_atomic(self.path / parent, folders[parent])
            digests |= {str(parent / name): digest for name, digest in written.items()}
        if digests != self.digests():
            write_atomic(self.path / MANIFEST, _manifest(digests))
            self._digests = digests

    def write_json(self, name: str, value: Any) -> None:
        """Writes an artefact as strict JSON."""
        self.write(name, to_json(value))

    def read(self, name: str) -> bytes:
        """An artefact's bytes, checked against the manifest.

        Raises:
            UserError: when the file is missing, is not what was written, or cannot be told to be.
        """
        shown = printable(str(self.path / name))
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise UserError(f"{shown}: cannot be read ({error.strerror}); has this experiment been trained?") from error
        expected, mend = self.digests().get(name), EVALUATED if name.startswith(OF_EVALUATION) else MEND
        if expected is None:
            raise UserError(f"{shown}: cannot be verified: {MANIFEST} is missing, damaged or does not name it; {mend}")
        if hashlib.sha256(data).hexdigest() != expected:
            raise UserError(
                f"{shown}: damaged or changed since it was written (sha256 differs from {MANIFEST}); {mend}"
            )
        return data

    def read_json(self, name: str) -> Any:
        """An artefact that is JSON.

        Raises:
            UserError: when the file is missing, or is not what was written.
        """
        self.read(name)
        return read_json(self.path / name)

    def digests(self) -> dict[str, str]:
        """The manifest: sha256 of each artefact by name; empty when there is none, or when a byte of it is damaged."""
        if self._digests is None:
            self._digests = {}
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
                data = (self.path / MANIFEST).read_bytes()
                found = json.loads(data)
                del found[MANIFEST]
                if _manifest(found) == data:
                    self._digests = found
        return self._digests

    def intact(self, name: str) -> bool:
        """Whether the artefact is there and is what the manifest says."""
        path = self.path / name
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == self.digests().get(name)

    # --- state ---

    def status(self) -> dict[str, Any]:
        """status.json; empty before the first run."""
        path = self.path / STATUS
        status = read_json(path) if path.is_file() else {}
        return status if isinstance(status, dict) else {}

    def set_state(self, state: str, **fields: Any) -> None:
        """Writes status.json: the state, and what else is known about it (kept from the state before)."""
        if state not in STATES:
            raise ValueError(f"{state} is not one of {STATES}")
        try:
            before = self.status()
        except UserError:
            before = {}
        status = before | {"state": state, "updated": datetime.now(UTC).isoformat(timespec="seconds")} | fields
        write_atomic(self.path / STATUS, to_json(status))

    # --- one process at a time ---

    def lock(self) -> None:
        """Takes the folder for this process until it ends; a crash frees it too. Taken already, it stays so.

        Raises:
            BusyError: naming the process that holds it.
            UserError: when the folder cannot be written.
        """
        if self._lock is not None:
            return
        path = self.path / LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UserError(f"{self}: cannot be written ({error.strerror}); choose a writable folder") from error
        try:
            _lock_alone(descriptor)
        except BlockingIOError as error:
            holder = printable(os.read(descriptor, 200).decode("utf-8", "replace")) or "another process"
            os.close(descriptor)
            raise BusyError(f"{self}: is being trained by {holder}; wait for it or stop it") from error
        except OSError as error:
            os.close(descriptor)
            raise UserError(f"{self}: cannot be locked ({error.strerror}); choose another file system") from error
        self._lock = descriptor
        with contextlib.suppress(OSError):  # on a full disk the lock holds without its holder's name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def unlock(self) -> None:
        """Gives the folder back; in a forked worker, lets go of the parent's lock without freeing it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def sweep(self, prefix: str) -> None:
        """Removes the temporary files a killed process left; only while holding the lock, which covers no child."""
        for folder, inner, names in os.walk(self.path):
            inner[:] = [name for name in inner if not _is_child_experiment(Path(folder, name))]
            for name in names:
                if name.startswith(prefix):
                    with contextlib.suppress(OSError):  # one that stays harms nothing
                        Path(folder, name).unlink()

    def results(self) -> list[Path]:
        """Everything at the top of the folder that is not an input."""
        children = (p for p in self.path.iterdir() if p.name not in INPUTS and not _is_child_experiment(p))
        return sorted(p for p in children if not p.name.startswith(ASIDE))

    def move_results_aside(self) -> Path | None:
        """Moves the results of a run into before-<time>/, so that nothing is lost; None when there are none.

        Raises:
            TrainingFault: when one cannot be moved.
        """
        if not (results := self.results()):
            return None
        stamp = ASIDE + time.strftime("%Y%m%d-%H%M%S")
        taken = sum(1 for p in self.path.iterdir() if p.name.startswith(stamp))
        aside = self.path / (f"{stamp}-{taken}" if taken else stamp)
        make_folder(aside)
        for path in results:
            move(path, aside / path.name)
        self._digests = None
        return aside


def _lock_alone(descriptor: int) -> None:
    """Locks a file for this process alone.

    A table or a search that asks whether somebody trains here holds a shared lock for microseconds: tried again.

    Raises:
        BlockingIOError: it is held for longer than that.
    """
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(LOCK_PATIENCE / 20)
        else:
            return


def _manifest(digests: Mapping[str, str]) -> bytes:
    """The digests as JSON, and last the sha256 of them all, so that damage to the manifest itself shows."""
    ordered = dict(sorted(digests.items()))
    return to_json(ordered | {MANIFEST: hashlib.sha256(to_json(ordered)).hexdigest()})


def _is_child_experiment(path: Path) -> bool:
    return path.is_dir() and (path / PARAMS).is_file() and path.name != CODE
