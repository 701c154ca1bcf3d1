"""The checkpoint: the one commit point of a run. Everything else in the folder is derived from it."""

import contextlib
import copy
import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from config import run_folder
from config.run_folder import RunFolder
from utils import TrainingFault, UserError, keep_previous, log, printable, write_atomic

MAGIC: Final = b"dossier-sha256:"
VERSION: Final = 1
NAMES: Final = (run_folder.CHECKPOINT, run_folder.CHECKPOINT_PREVIOUS)  # the newest first


@dataclass
class Seen:
    """What the running epoch has seen so far: outputs for the metrics, in the order of training.

    Outputs and losses stay on the device until somebody waits for it anyway, so that a GPU is not waited for at every
    step; then the outputs move to the CPU, as those of a million images would fill it.
    """

    images: int = 0
    losses: list[Tensor] = field(default_factory=list)  # each () float, since the last time they were summed
    counts: list[int] = field(default_factory=list)  # images of each of them
    summed: float = 0.0  # the losses before those
    logits: list[Tensor] = field(default_factory=list)  # each (B, C), float32
    labels: list[Tensor] = field(default_factory=list)  # each (B,) or (B, C)

    @property
    def loss_sum(self) -> float:
        """The sum of their losses."""
        if self.losses:
            for loss, count in zip(torch.stack(self.losses).tolist(), self.counts, strict=True):
                self.summed += loss * count
            self.losses, self.counts = [], []
        return self.summed

    @property
    def loss(self) -> float:
        """Their mean loss."""
        return self.loss_sum / self.images if self.images else math.nan

    def settle(self) -> None:
        """Moves the outputs to the CPU that are not there yet."""
        for parts in (self.logits, self.labels):
            for place in range(len(parts) - 1, -1, -1):
                if parts[place].device.type == "cpu":
                    break
                parts[place] = parts[place].cpu()

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Takes in a batch: logits (B, C) and labels as they are, and the mean loss () of its images."""
        self.images += len(labels)
        self.losses.append(loss)
        self.counts.append(len(labels))
        self.logits.append(logits)
        self.labels.append(labels)

    def gather(self, gather: Callable[[dict[str, Tensor]], list[dict[str, Tensor]]]) -> None:
        """Moves into the first process what all have seen; `gather` as that of training/processes."""
        lists = {"logits": self.logits, "labels": self.labels}
        outputs = {name: _joined(tensors)[0] for name, tensors in lists.items() if tensors}
        sums = torch.tensor([self.images, self.loss_sum], dtype=torch.float64)
        parts = gather({"sums": sums} | outputs)
        self.images = sum(int(part["sums"][0]) for part in parts)
        self.summed = sum(float(part["sums"][1]) for part in parts)
        self.logits, self.labels = ([part[name] for part in parts if name in part] for name in lists)

    def outputs(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits (N, C) and labels of all images so far."""
        return _joined(self.logits)[0].numpy(), _joined(self.labels)[0].numpy()

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors and numbers."""
        sums = {"images": self.images, "loss_sum": self.loss_sum}
        return sums | {"logits": _joined(self.logits), "labels": _joined(self.labels)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved state."""
        self.images, self.summed, self.losses, self.counts = state["images"], state["loss_sum"], [], []
        self.logits, self.labels = state["logits"], state["labels"]


def _joined(parts: list[Tensor]) -> list[Tensor]:
    return [torch.cat([part.cpu() for part in parts])] if parts else []  # after a restart the first is on the CPU


@dataclass
class Progress:
    """Where a run stands. With the parts that learn (net, optimizer, …) it is all that exact resume needs.

    There is no random state in it: every random number is a function of the seed, the epoch and the image or step.
    """

    epoch: int = 0  # finished epochs
    batch: int = 0  # batches done of the running epoch
    step: int = 0  # optimizer steps since the start
    seconds: float = 0.0  # training time of all sessions, without pauses
    epoch_seconds: float = 0.0  # of the running epoch
    history: dict[str, Any] = field(default_factory=lambda: {"epochs": [], "steps": [], "stop": None})
    best: dict[str, Any] | None = None  # epoch, metrics, weights, logits (N, C), labels, of the best epoch on valid
    seen: Seen = field(default_factory=Seen)
    norms: list[Tensor] = field(default_factory=list)  # of the gradients since the last look; never saved

    def look(self) -> float:
        """Waits for the device: the mean loss of the running epoch so far. No state is saved without it.

        Raises:
            TrainingFault: a gradient was not finite, so the weights are not either.
        """
        norms, self.norms = self.norms, []
        if norms and not torch.isfinite(torch.stack(norms)).all():
            raise TrainingFault("the gradient is not finite: lower learning_rate, or set gradient_clip", "diverged")
        self.seen.settle()
        return self.seen.loss

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors, numbers, strings, lists and dicts; a copy where training goes on changing it."""
        plain = {name: getattr(self, name) for name in ("epoch", "batch", "step", "seconds", "epoch_seconds", "best")}
        return plain | {"history": copy.deepcopy(self.history), "seen": self.seen.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved state."""
        for name in ("epoch", "batch", "step", "seconds", "epoch_seconds", "best", "history"):
            setattr(self, name, state[name])
        self.seen.load_state_dict(state["seen"])


def encode(state: dict[str, Any]) -> bytes:
    """The state as a torch file that ends in its own sha256; torch.load reads it with weights_only=True."""
    buffer = io.BytesIO()
    torch.save(state | {"version": VERSION}, buffer)
    buffer.write(MAGIC + hashlib.sha256(buffer.getbuffer()).hexdigest().encode())
    return buffer.getvalue()  # the only copy of the state: joining bytes would make two more


def decode(data: bytes) -> dict[str, Any]:
    """The state from `encode`'s bytes.

    Raises:
        ValueError: when a byte differs, is missing or was added, it holds code, or the version is another.
    """
    end = data.rfind(MAGIC)
    if end < 0 or hashlib.sha256(memoryview(data)[:end]).hexdigest().encode() != data[end + len(MAGIC) :]:
        raise ValueError("its sha256 is not the one it ends in")
    try:  # with its digest, which torch passes over: without would be another copy of the state
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # its digest is right, so somebody made it: it can be anything
        raise ValueError("it is no state of a training, or it holds code") from error
    version = state.get("version") if isinstance(state, dict) else None
    if version != VERSION:
        raise ValueError(f"it has version {version}, this program reads {VERSION}")
    return dict(state)


def save(folder: RunFolder, state: dict[str, Any]) -> None:
    """Writes checkpoint.pt, keeping the one before as checkpoint.prev.pt.

    The manifest does not name them: a kill between the two files would leave a digest that nothing mends.
    """
    data = encode(state)
    keep_previous(folder.file(run_folder.CHECKPOINT), folder.file(run_folder.CHECKPOINT_PREVIOUS))
    write_atomic(folder.file(run_folder.CHECKPOINT), data)


def load(folder: RunFolder) -> dict[str, Any] | None:
    """The newest intact state, or None when training has not reached a first checkpoint.

    Raises:
        UserError: when there are checkpoints but none is intact.
    """
    damaged = []
    for name in NAMES:
        try:
            state = decode(folder.file(name).read_bytes())
        except FileNotFoundError:
            continue
        except (ValueError, OSError) as error:
            damaged.append(f"{printable(str(folder.file(name)))}: damaged ({printable(str(error))})")
            continue
        if damaged:
            log.warning("%s; continuing from %s", damaged[0], name)
        return state
    if damaged:
        raise UserError(f"{'; '.join(damaged)}; use --overwrite to train again from the start")
    return None


def exists(folder: RunFolder) -> bool:
    """Whether there is an intact state."""
    for name in NAMES:
        with contextlib.suppress(ValueError, OSError):
            decode(folder.file(name).read_bytes())
            return True
    return False


def npz_bytes(**arrays: Any) -> bytes:
    """Arrays as the bytes of an .npz file; the same bytes for the same arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.asarray(values) for name, values in arrays.items()})
    return buffer.getvalue()
