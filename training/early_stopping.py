"""Early stopping that knows the schedule: it waits for the peak, and brings the rates down before it ends."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from config import parts
from model.metric import greater_is_better
from model.schedule import Schedule
from utils import UserError, log, positional

# Of the epochs under an annealing schedule, the part in which nothing is judged. With one-cycle the validation loss
# stalls while the rate is near its peak and falls to the end: stopping then cost up to 17 points of accuracy (CIFAR-10
# subset, 8 seeds, patience 1: 0.345 against 0.520 when run to the end).
PATIENT_PART = 0.25


@dataclass
class EarlyStopping:
    """Decides after each epoch whether training ends early. Epochs are counted from 1.

    Args:
        monitor: what is watched, for messages.
        direction: "min" when smaller is better.
        patience: epochs without improvement after which it ends.
        min_delta: an improvement is more than this.
        num_epochs: the epochs planned.
        earliest_epoch: the first epoch that is looked at.
        tail_epochs: epochs in which the rates go to zero before the end.
        action: "stop", or "warn" to say so once and go on.

    Attributes:
        stop: None, or once it is decided what happened: "reason", "epoch" of the decision, "best_epoch", "best",
            "tail_epochs".
    """

    monitor: str
    direction: Literal["min", "max"]
    patience: int
    min_delta: float
    num_epochs: int
    earliest_epoch: int = 1
    tail_epochs: int = 0
    action: Literal["stop", "warn"] = "stop"

    best: float | None = field(default=None, init=False)
    best_epoch: int = field(default=0, init=False)
    waited: int = field(default=0, init=False)
    warned: bool = field(default=False, init=False)
    stop: dict[str, Any] | None = field(default=None, init=False)

    def update(self, epoch: int, value: float) -> bool:
        """Takes the value after an epoch; nan is no improvement.

        Returns:
            True once, when it is decided that training ends after tail_epochs more.
        """
        if epoch < self.earliest_epoch or self.stop is not None:
            return False
        if self._improves(value):
            self.best, self.best_epoch, self.waited = float(value), epoch, 0
            return False
        self.waited += 1
        if self.waited < self.patience or epoch + self.tail_epochs >= self.num_epochs:  # the end is as near anyway
            return False
        by = f" by more than {positional(self.min_delta)}" if self.min_delta else ""
        reason = f"{self.monitor} has not improved{by} for {self.waited} epochs"
        if self.action == "warn":
            if not self.warned:
                log.warning("epoch %d: %s; training goes on, as early_stopping.action says", epoch, reason)
            self.warned = True
            return False
        self.stop = {
            "reason": reason,
            "epoch": epoch,
            "best_epoch": self.best_epoch or None,
            "best": self.best,
            "tail_epochs": self.tail_epochs,
        }
        log.info("epoch %d: %s; training ends after epoch %d", epoch, reason, self.last_epoch)
        return True

    @property
    def last_epoch(self) -> int:
        """The epoch after which training ends, as known so far."""
        return self.num_epochs if self.stop is None else self.stop["epoch"] + self.stop["tail_epochs"]

    def earliest_end(self, epoch: int) -> int:
        """The first epoch that may turn out to be the last, as known after an epoch."""
        if self.stop is not None or self.action == "warn":
            return self.last_epoch
        decided = max(epoch, self.earliest_epoch - 1) + self.patience - self.waited
        return min(self.num_epochs, decided + self.tail_epochs)

    def _improves(self, value: float) -> bool:
        if math.isnan(value) or self.best is None:
            return not math.isnan(value)
        gain = self.best - value if self.direction == "min" else value - self.best
        return gain > self.min_delta

    def state_dict(self) -> dict[str, Any]:
        """All that a decision depends on beside the settings."""
        return {name: getattr(self, name) for name in ("best", "best_epoch", "waited", "warned", "stop")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved state."""
        for name, value in state.items():
            setattr(self, name, value)


def make_early_stopping(settings: parts.EarlyStopping, schedule: Schedule, num_epochs: int) -> EarlyStopping:
    """The early stopping that params ask for, as it suits the schedule.

    Where the rates anneal, nothing is judged before their peak, nor in the first quarter of the epochs, and the end
    is a tail in which they go to zero; elsewhere every epoch counts and the end is at once.

    Raises:
        UserError: when `minimize` contradicts the metric.
    """
    greater = greater_is_better(settings.monitor_metric)
    if settings.minimize is not None and settings.minimize == greater:
        fitting = f"must be {int(not greater)} or left out: a {'greater' if greater else 'smaller'} value"
        raise UserError(f"early_stopping.minimize {fitting} of {settings.monitor_metric} is better")
    waits = math.ceil(max(schedule.peak, PATIENT_PART) * num_epochs) if schedule.anneals else 0
    return EarlyStopping(
        monitor=settings.monitor_metric,
        direction="max" if greater else "min",
        patience=settings.patience,
        min_delta=settings.min_delta,
        num_epochs=num_epochs,
        earliest_epoch=1 + waits,
        tail_epochs=settings.tail_epochs if schedule.anneals else 0,
        action=settings.action,
    )
