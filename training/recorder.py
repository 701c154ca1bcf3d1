"""What a running training leaves in its folder: the checkpoint first, then everything derived from it."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from config import run_folder
from config.run_folder import RunFolder
from images.folder import Split
from model.metric import greater_is_better
from training import checkpoint, curves
from training.checkpoint import Progress, Seen
from training.curves import Sparing, plot_history, show_history
from training.evaluation import Predictions
from training.processes import Processes
from training.signals import Signals
from utils import Interrupted, UserError, log, peak_memory_mb, printable, read_json


class Learns(Protocol):
    """Anything with a state that training changes."""

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors, numbers, strings, lists and dicts."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Takes over a saved state."""


class Pauses(Protocol):
    """What `train_epoch` tells of each step."""

    def pause_point(self, state: Progress) -> None:
        """Between two steps; may raise to end the training there."""


class Recorder:
    """Writes the checkpoint and what is derived from it.

    Args:
        folder: the experiment.
        learning: the parts whose state must survive, by name.
        origin: what the run depends on (params, data, device); a run is continued only with the same.
        valid: the validation split, whose paths stand beside its predictions.
        signals: the requests from outside to stop.
        checkpoint_minutes: save within an epoch too, this often; 0 for epoch ends only.
        processes: that train, and decide together when to save and when to stop.

    Attributes:
        followers: told of each state that has been committed, after its files are written.
    """

    def __init__(
        self,
        folder: RunFolder,
        learning: Mapping[str, Learns],
        origin: dict[str, Any],
        valid: Split,
        signals: Signals,
        checkpoint_minutes: float,
        processes: Processes,
    ) -> None:
        self.folder = folder
        self.learning = learning
        self.origin = origin
        self.valid = valid
        self.signals = signals
        self.processes = processes
        self.checkpoint_seconds = checkpoint_minutes * 60 or math.inf
        self.followers: list[Callable[[Progress], None]] = []
        self._saved = time.monotonic()
        self._sparing = Sparing(curves.SHARE)
        self._drawn = self._published = 0  # epochs of the curves and of the best weights last written

    def save(self, state: Progress) -> None:
        """Commits where the run stands."""
        state.look()
        state.seen.gather(self.processes.gather)
        self.commit(state)
        self._saved = time.monotonic()

    def commit(self, state: Progress) -> None:
        """Writes the checkpoint."""
        learned = {name: part.state_dict() for name, part in self.learning.items()}
        checkpoint.save(self.folder, {"learning": learned, "progress": state.state_dict(), "origin": self.origin})

    def restore(self, saved: dict[str, Any], state: Progress) -> None:
        """Takes a saved state over into the parts and the progress; what was copied does not stay in memory."""
        for name, part in self.learning.items():
            part.load_state_dict(saved["learning"].pop(name))
        state.load_state_dict(saved["progress"])

    def pause_point(self, state: Progress) -> None:
        """Between two steps: saves when it is time, and leaves when a signal asked for it.

        Raises:
            Interrupted: after saving.
        """
        due = time.monotonic() - self._saved >= self.checkpoint_seconds
        signal, due_anywhere = self.processes.highest(self.signals.received or 0, due)
        if signal or due_anywhere:
            self.save(state)
        if signal:
            raise Interrupted(signal, f"{self.folder}: stopped in epoch {state.epoch + 1}; the same command goes on")

    def epoch_end(self, state: Progress) -> None:
        """Commits the finished epoch, brings the derived files up to date and says how it went."""
        self.save(state)
        self.publish(state)
        row = state.history["epochs"][-1]
        self.folder.set_state("running", epoch=state.epoch, best_epoch=state.best["epoch"] if state.best else None)
        numbers = "  ".join(f"{split} {_listed(row[split])}" for split in ("train", "valid"))
        mark = "  *" if state.best and state.best["epoch"] == row["epoch"] else ""
        log.info(
            "epoch %3d  %s  %.1f s  %.0f images/s%s",
            row["epoch"],
            numbers,
            row["seconds"],
            row["images_per_second"],
            mark,
        )

    def publish(self, state: Progress) -> None:
        """Writes every file that follows from the state and is missing, old or damaged; the curves when due."""
        best_epoch = state.best["epoch"] if state.best else 0
        self.folder.write_json(run_folder.HISTORY, state.history)
        if state.best is not None:
            names = (
                run_folder.weights_name("best"),
                run_folder.metrics_name("valid", "best"),
                run_folder.PREDICTIONS_VALID,
            )
            if self._published != best_epoch or not all(map(self.folder.intact, names)):
                self.keep_weights("best", state.best["weights"], best_epoch, state.best["metrics"])
                self.folder.write(run_folder.PREDICTIONS_VALID, self._predictions(state.best))
                self._published = best_epoch
        if self._sparing.due():
            self.draw(state)
        for follow in self.followers:
            follow(state)

    def draw(self, state: Progress) -> None:
        """Brings the learning curves up to date."""
        if self._drawn == state.epoch:
            return
        with self._sparing:
            title = printable(self.folder.path.name)
            self.folder.write(run_folder.HISTORY_FIGURE, plot_history(state.history, title))
            show_history(state.history, title)
            self._drawn = state.epoch

    def keep_weights(self, kind: str, weights: dict[str, Tensor], epoch: int, values: dict[str, float]) -> None:
        """Writes weights_<kind>.safetensors and its metrics on the validation split."""
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
        self.folder.write(run_folder.weights_name(kind), safetensors_bytes(copies))
        about = {
            "weights": kind,
            "epoch": epoch,
            "monitor": self.origin["params"]["best_metric"],
            "num_images": len(self.valid.paths),
        }
        self.folder.write_json(run_folder.metrics_name("valid", kind), values | about)

    def requested(self, epoch: int) -> str | None:
        """What stop.json asks for after an epoch: "stopped" or "pruned"; None too where it names a later epoch."""
        return self.processes.from_first(lambda: self._request(epoch))

    def _request(self, epoch: int) -> str | None:
        path = self.folder.file(run_folder.STOP)
        if not path.is_file():
            return None
        request: dict[str, Any] = {}
        with contextlib.suppress(UserError):  # an empty file is a request too
            found = read_json(path)
            request = found if isinstance(found, dict) else {}
        first = request.get("epoch")
        if isinstance(first, int) and epoch < first:
            return None
        return "pruned" if request.get("state") == "pruned" else "stopped"

    def _predictions(self, best: dict[str, Any]) -> bytes:
        outputs = {name: best[name].numpy() for name in ("logits", "labels")}
        return checkpoint.npz_bytes(**outputs, paths=self.valid.paths, classes=self.origin["classes"])


class Witness(Recorder):
    """The recorder of all processes but the first: it takes part in what is decided, and writes nothing."""

    def commit(self, state: Progress) -> None:
        """Written by the first process."""

    def restore(self, saved: dict[str, Any], state: Progress) -> None:
        """Takes a saved state over, but for what the running epoch has seen, which is the first process's."""
        super().restore(saved, state)
        state.seen = Seen()

    def publish(self, state: Progress) -> None:
        """Written by the first process."""

    def draw(self, state: Progress) -> None:
        """Written by the first process."""

    def keep_weights(self, kind: str, weights: dict[str, Tensor], epoch: int, values: dict[str, float]) -> None:
        """Written by the first process."""


def step_row(state: Progress, rates: list[float], loss: float) -> dict[str, Any]:
    """One training step's entry in history.json."""
    return {"step": state.step, "epoch": state.epoch + 1, "loss": loss, "learning_rate": rates}


def epoch_row(state: Progress, rates: list[float], train: dict[str, float], valid: dict[str, float]) -> dict[str, Any]:
    """One epoch's entry in history.json; rates per layer group at its end, memory at its peak in MB."""
    return {
        "epoch": state.epoch + 1,
        "train": train,
        "valid": valid,
        "learning_rate": rates,
        "seconds": round(state.epoch_seconds, 3),
        "images_per_second": round(state.seen.images / max(state.epoch_seconds, 1e-9), 1),
        "memory_mb": round(_memory_mb(), 1),
    }


def keep_best(state: Progress, metric: str, net: nn.Module, outputs: Predictions) -> None:
    """Keeps the finished epoch's weights and outputs when it is the best so far.

    Ties go to the lower validation loss, then to the later epoch.

    Args:
        state: its history already holds the epoch.
        metric: "loss" or the name of a metric; its declared direction counts.
        net: the net that was validated.
        outputs: logits (N, C) and labels of the validation split.
    """
    row = state.history["epochs"][-1]
    if state.best is not None and _rank(metric, row["valid"]) < _rank(metric, state.best["metrics"]):
        return
    state.best = {
        "epoch": row["epoch"],
        "metrics": row["valid"],
        "weights": {name: tensor.detach().cpu().clone() for name, tensor in net.state_dict().items()},
        "logits": torch.from_numpy(outputs.logits),
        "labels": torch.from_numpy(outputs.labels),
    }


def _rank(metric: str, values: dict[str, float]) -> tuple[float, float]:
    sign = 1.0 if greater_is_better(metric) else -1.0
    value = sign * values[metric]
    return (-math.inf if math.isnan(value) else value, -values["loss"])


def _memory_mb() -> float:
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.cuda.max_memory_allocated() / 2**20 if used else peak_memory_mb()


def _listed(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in values.items())
