"""Training, on one page: `fit` runs the epochs, `train_epoch` the steps of one."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from images.keyed_random import integer_seed
from model.data_loader import Batch, Loader
from model.metric import compute
from model.schedule import Schedule
from training.averaging import EMA, LastEpochs
from training.checkpoint import Progress, Seen
from training.early_stopping import EarlyStopping
from training.evaluation import Autocast, Predictions, predict
from training.monitor import Monitor
from training.processes import Processes
from training.recorder import Pauses, Recorder, epoch_row, keep_best, step_row
from utils import TrainingFault
from utils import progress as progress_bar


@dataclass(frozen=True)
class Parts:
    """What training is made of, built once by training/build.py."""

    processes: Processes
    net: nn.Module
    forward: Callable[[Batch, bool], Tensor]  # a batch, and whether it is the last before a step -> logits (B, C)
    train: Loader
    valid: Loader
    loss: Callable[[Tensor, Tensor], Tensor]  # logits (B, C) float32, targets -> scalar mean
    optimizer: Optimizer
    schedule: Schedule
    prepare_net: Callable[[int], None]  # epoch -> training mode, frozen groups, BatchNorm modes
    autocast: Autocast
    scaler: torch.amp.GradScaler
    ema: EMA | None
    last_epochs: LastEpochs
    stopping: EarlyStopping | None
    monitor: Monitor
    metrics: tuple[str, ...]
    best_metric: str
    num_epochs: int
    gradient_accumulation: int
    gradient_clip: float
    save_summary_steps: int
    seed: int

    @property
    def evaluated(self) -> nn.Module:
        """The net that is validated and kept: the moving average of the weights where there is one."""
        return self.net if self.ema is None else self.ema.net


def fit(parts: Parts, state: Progress, recorder: Recorder) -> str:
    """Runs the epochs that are left.

    Returns:
        Why it ended: "finished", or what stop.json asked for: "stopped" or "pruned".
    """
    while state.epoch < last_epoch(parts):
        train = train_epoch(parts, state, recorder)
        outputs = validate(parts, parts.evaluated, lambda: recorder.pause_point(state))
        valid = measure(parts, outputs)
        if not math.isfinite(valid["loss"]):
            raise TrainingFault(f"the validation loss of epoch {state.epoch + 1} is not finite", "diverged")
        state.history["epochs"].append(epoch_row(state, current_rates(parts.optimizer), train, valid))
        keep_best(state, parts.best_metric, parts.evaluated, outputs)
        watch(parts, state)
        ends = earliest_end(parts, state.epoch + 1), last_epoch(parts)
        parts.last_epochs.add(parts.net, state.epoch + 1, *ends)
        state.seconds, state.epoch_seconds = state.seconds + state.epoch_seconds, 0.0
        state.epoch, state.batch, state.seen = state.epoch + 1, 0, Seen()
        recorder.epoch_end(state)
        if state.epoch < last_epoch(parts) and (request := recorder.requested(state.epoch)) is not None:
            return request
    return "finished"


def train_epoch(parts: Parts, state: Progress, recorder: Pauses) -> dict[str, float]:
    """Runs what is left of the running epoch; returns the loss and metrics over all its images."""
    parts.prepare_net(state.epoch)
    batches = parts.train.batches(state.epoch, start=state.batch)
    bar = progress_bar((), f"epoch {state.epoch + 1}", len(parts.train), initial=state.batch, unit="batch")
    started = time.monotonic() - state.epoch_seconds
    for group in grouped(batches, parts.gradient_accumulation):
        parts.schedule.set_rates(state.step)
        random = integer_seed(parts.seed, state.epoch, state.step, "net")  # dropout, stochastic depth
        torch.manual_seed(random + parts.processes.index)
        parts.monitor.before_step(state)
        images = sum(batch.total for batch in group)
        for batch in group:
            with parts.autocast():
                logits = parts.forward(batch, batch is group[-1]).float()  # (B, C)
                loss = parts.loss(logits, batch.targets)
            parts.scaler.scale(loss * (batch.counted / images)).backward()  # type: ignore[no-untyped-call]
            state.seen.add(logits.detach()[: batch.counted], batch.labels[: batch.counted], loss.detach())
        update(parts, state)
        if state.step % parts.save_summary_steps == 0:
            bar.set_postfix(loss=f"{state.look():.4f}", refresh=False)
            mean = parts.processes.total(loss.item() * batch.counted) / batch.total
            state.history["steps"].append(step_row(state, current_rates(parts.optimizer), mean))
        state.step, state.batch = state.step + 1, state.batch + len(group)
        state.epoch_seconds = time.monotonic() - started
        bar.update(len(group))
        recorder.pause_point(state)
    bar.close()
    state.look()
    state.seen.gather(parts.processes.gather)
    return parts.processes.from_first(lambda: {"loss": state.seen.loss} | compute(parts.metrics, *state.seen.outputs()))


def validate(parts: Parts, net: nn.Module, after_batch: Callable[[], None] | None = None) -> Predictions:
    """A net's outputs on the validation split."""
    return predict(net, parts.valid, parts.autocast, after_batch, processes=parts.processes)


def measure(parts: Parts, outputs: Predictions) -> dict[str, float]:
    """The loss and metrics of a whole split's outputs."""
    return parts.processes.from_first(lambda: compute(parts.metrics, outputs.logits, outputs.labels, parts.loss))


def update(parts: Parts, state: Progress) -> None:
    """One optimizer step from the accumulated gradients, whose norm is looked at before any state is saved."""
    parts.scaler.unscale_(parts.optimizer)
    parts.monitor.before_update()
    weights = [p for p in parts.net.parameters() if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(weights, parts.gradient_clip or math.inf)
    if not parts.scaler.is_enabled() or parts.scaler.get_scale() < 1:  # fp16: a step that overflows is left out, as
        state.norms.append(norm)  # long as the scale of the gradients can be lowered
    parts.scaler.step(parts.optimizer)
    parts.scaler.update()
    parts.monitor.after_update()
    parts.optimizer.zero_grad(set_to_none=True)
    if parts.ema is not None:
        parts.ema.update(parts.net)


def watch(parts: Parts, state: Progress) -> None:
    """Tells the schedule and early stopping how the epoch went; may bring the run's end nearer."""
    valid = state.history["epochs"][-1]["valid"]
    parts.schedule.end_epoch(valid[parts.schedule.monitor])
    if parts.stopping is not None and parts.stopping.update(state.epoch + 1, valid[parts.stopping.monitor]):
        state.history["stop"] = parts.stopping.stop
        steps = math.ceil(len(parts.train) / parts.gradient_accumulation)
        if parts.stopping.tail_epochs:
            parts.schedule.start_tail(state.step, parts.stopping.tail_epochs * steps)


def last_epoch(parts: Parts) -> int:
    """The epoch after which the run ends, as known so far."""
    return parts.num_epochs if parts.stopping is None else parts.stopping.last_epoch


def earliest_end(parts: Parts, epoch: int) -> int:
    """The first epoch that may turn out to be the last, as known after an epoch."""
    return parts.num_epochs if parts.stopping is None else parts.stopping.earliest_end(epoch)


def current_rates(optimizer: Optimizer) -> list[float]:
    """The learning rate of each layer group, stem first."""
    return list({group["group"]: group["lr"] for group in optimizer.param_groups}.values())


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """The batches in lists of `size`; the last may be shorter."""
    batches = iter(batches)
    while group := list(itertools.islice(batches, size)):
        yield group
