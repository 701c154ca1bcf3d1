"""Learning rate schedules: the rates of a step follow from the step alone, never from how training got there."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from config.schema import Params
from model.metric import greater_is_better
from model.torch_schedule import PER_STEP, TORCH_SCHEDULERS, StandIn, arguments_of, build
from utils import UserError, did_you_mean, select

# --- our own: progress, 0 at the first step and 1 at the last, -> factor of a group's highest rate -------------------


def one_cycle(
    progress: float, *, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4
) -> float:
    """Cosine up from 1 / div_factor, then cosine down to 1 / (div_factor * final_div_factor) (arXiv 1708.07120).

    The rates are those of torch's OneCycleLR; momentum stays as the optimizer has it.
    """
    if progress < pct_start:
        return _cosine(1 / div_factor, 1.0, progress / pct_start)
    return _cosine(1.0, 1 / (div_factor * final_div_factor), (progress - pct_start) / (1 - pct_start))


def cosine(progress: float, *, warm_up: float = 0.05, div_factor: float = 25.0, final_factor: float = 0.0) -> float:
    """Linear from 1 / div_factor over the part `warm_up`, then cosine down to final_factor (arXiv 1608.03983)."""
    if progress < warm_up:
        return 1 / div_factor + (1 - 1 / div_factor) * progress / warm_up
    return _cosine(1.0, final_factor, (progress - warm_up) / (1 - warm_up))


def flat_cosine(progress: float, *, flat: float = 0.75, final_factor: float = 1e-5) -> float:
    """The highest rate over the part `flat`, then cosine down to final_factor (fastai's fit_flat_cos)."""
    return 1.0 if progress < flat else _cosine(1.0, final_factor, (progress - flat) / (1 - flat))


def step(progress: float, *, milestones: Sequence[float] = (0.5, 0.75), gamma: float = 0.1) -> float:
    """Times gamma at each milestone, a part of the training (arXiv 1512.03385, section 4.2: 32k and 48k of 64k)."""
    return float(gamma ** sum(progress >= milestone for milestone in milestones))


def constant(progress: float) -> float:
    """The highest rate throughout."""
    return 1.0


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


# What params.json can name in "scheduler" beside TORCH_SCHEDULERS.
SCHEDULES: Final[dict[str, Callable[..., float]]] = {
    "one_cycle": one_cycle,
    "cosine": cosine,
    "flat_cosine": flat_cosine,
    "step": step,
    "constant": constant,
}


@functools.cache
def catalogue() -> dict[str, frozenset[str] | None]:
    """The names and their arguments, for the check of params.json."""
    own = {name: frozenset(inspect.signature(function).parameters) for name, function in SCHEDULES.items()}
    torchs = {name: arguments_of(kind) for name, kind in TORCH_SCHEDULERS.items()}
    return {name: arguments - {"progress"} for name, arguments in (own | torchs).items()}


# --- what training holds ---------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What the parameter groups get for one step: a rate each, and a momentum where the scheduler moves it."""

    rates: list[float]
    momentum: float | None = None


class Schedule:
    """Sets the rates of an optimizer's parameter groups.

    Args:
        optimizer: whose groups get them.
        row_at: step number -> what the groups get.
        peak: progress in [0, 1] up to which the highest rate is held; 0 when it only falls, or does not anneal.
        anneals: whether the rates end low, under half of the highest, by design.
        monitor: "loss" or the metric on the validation split that `end_epoch` wants.
    """

    def __init__(
        self, optimizer: Optimizer, row_at: Callable[[int], Row], peak: float, anneals: bool, monitor: str
    ) -> None:
        """Nothing is set before the first step."""
        self.optimizer = optimizer
        self.row_at = row_at
        self.peak = peak
        self.anneals = anneals
        self.monitor = monitor
        self._tail: tuple[int, int, list[float]] | None = None  # first step, number of steps, rates at the first

    def set_rates(self, step: int) -> None:
        """Sets the rates for the step of this number, counted from 0 over the whole training."""
        if self._tail is None:
            rates, momentum = self.row_at(step)
        else:
            start, steps, highest = self._tail
            rates, momentum = [rate * max(0.0, 1 - (step - start) / steps) for rate in highest], None
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
            if momentum is not None and "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            elif momentum is not None:
                group["momentum"] = momentum

    def end_epoch(self, monitored: float) -> None:
        """Tells the value of `monitor` after an epoch; only ReduceLROnPlateau takes notice."""

    def start_tail(self, step: int, steps: int) -> None:
        """From this step on, the rates go linearly from what they are there to zero, reached after so many steps."""
        self._tail = (step, steps, self.row_at(step).rates)

    def state_dict(self) -> dict[str, Any]:
        """All that the rates depend on beside the step and the parameters."""
        return {"tail": self._tail}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved state."""
        self._tail = state["tail"]


class _PlateauSchedule(Schedule):
    """ReduceLROnPlateau: the rates follow from the monitored values so far, which are its state."""

    def __init__(self, optimizer: Optimizer, build_scheduler: Callable[[], LRScheduler], monitor: str) -> None:
        super().__init__(optimizer, lambda step: Row(_rates(self._scheduler)), 0.0, False, monitor)
        self._build = build_scheduler
        self._scheduler = build_scheduler()
        self._monitored: list[float] = []

    def end_epoch(self, monitored: float) -> None:
        self._monitored.append(float(monitored))
        self._scheduler.step(monitored)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"monitored": list(self._monitored)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._scheduler, self._monitored = self._build(), []
        for monitored in state["monitored"]:
            self.end_epoch(monitored)


def make_schedule(params: Params, optimizer: Optimizer, steps_per_epoch: int) -> Schedule:
    """The schedule that params name.

    Args:
        params: scheduler, scheduler_arguments, pct_start, div_factor, num_epochs and early_stopping count.
        optimizer: each parameter group has its highest rate as "max_lr" and its layer group as "group".
        steps_per_epoch: optimizer steps, not batches.

    Raises:
        UserError: for an unknown name and for arguments that do not suit it.
    """
    name = params.scheduler
    known = select(name, catalogue(), "scheduler") or frozenset()
    for key in params.scheduler_arguments:
        if key not in known:
            raise UserError(f'scheduler "{name}" has no argument "{key}"{did_you_mean(key, known)}')
    try:
        return (_own if name in SCHEDULES else _torchs)(params, optimizer, steps_per_epoch)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f'scheduler "{name}" does not take its scheduler_arguments: {error}') from error


def _own(params: Params, optimizer: Optimizer, steps_per_epoch: int) -> Schedule:
    """A schedule of SCHEDULES."""
    function = SCHEDULES[params.scheduler]
    last = max(1, params.num_epochs * steps_per_epoch - 1)
    shared = {"pct_start": params.pct_start, "div_factor": params.div_factor}
    accepted = inspect.signature(function).parameters
    arguments = {key: shared[key] for key in accepted if key in shared} | params.scheduler_arguments
    for key, value in arguments.items():
        below = 1 if key in ("pct_start", "warm_up", "flat", "milestones") else math.inf
        if not all(0 <= number < below for number in (value if isinstance(value, list) else [value])):
            raise ValueError(f"{key} must be at least 0 and below {below}, not {value}")
    if "pct_start" in arguments:  # as in torch, the peak is the step of number pct_start * steps - 1
        arguments["pct_start"] = max(0.0, (arguments["pct_start"] * (last + 1) - 1) / last)
    highest = [group["max_lr"] for group in optimizer.param_groups]

    def row_at(step: int) -> Row:
        factor = function(min(1.0, step / last), **arguments)
        return Row([rate * factor for rate in highest])

    return Schedule(
        optimizer, row_at, *_shape([function(i / 1000, **arguments) for i in range(1001)]), _monitor(params)
    )


def _torchs(params: Params, optimizer: Optimizer, steps_per_epoch: int) -> Schedule:
    """One of torch's: run once from start to end, as a table in which the steps are then looked up."""
    name, arguments = params.scheduler, dict(params.scheduler_arguments)
    interval = arguments.pop("interval", "step" if name in PER_STEP else "epoch")
    if interval not in ("step", "epoch"):
        raise ValueError(f'interval must be "step" or "epoch", not {interval}')
    steps = steps_per_epoch if interval == "epoch" else 1  # of one row of the table
    rows = params.num_epochs * steps_per_epoch // steps
    highest = [group["max_lr"] for group in optimizer.param_groups]
    filled = {
        "epochs": params.num_epochs,
        "steps_per_epoch": steps_per_epoch,
        "pct_start": params.pct_start,
        "div_factor": params.div_factor,
        "max_lr": highest,
        "base_lr": [rate / params.div_factor for rate in highest],
        "cycle_momentum": not optimizer.defaults.keys().isdisjoint(("momentum", "betas")),
    }

    def new() -> LRScheduler:
        return build(name, arguments, StandIn(optimizer), rows, filled)

    if name == "ReduceLROnPlateau":
        if interval == "step":
            raise ValueError('it is told the monitored value at the end of an epoch, so its interval must be "epoch"')
        filled["mode"] = "max" if greater_is_better(_monitor(params)) else "min"
        return _PlateauSchedule(optimizer, new, _monitor(params))
    rates, momenta = _table(new(), rows)
    moves = bool((momenta != _momentum(optimizer)).any())

    def row_at(step: int) -> Row:
        row = min(step // steps, rows - 1)
        return Row(rates[row].tolist(), float(momenta[row]) if moves else None)

    peak, anneals = _shape(rates.sum(axis=1).tolist())
    if name == "CyclicLR":  # where in a cycle it ends is chance
        peak, anneals = 0.0, False
    return Schedule(optimizer, row_at, peak, anneals, _monitor(params))


def _table(scheduler: LRScheduler, rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The rates (rows, groups) and momenta (rows,) of a whole training."""
    rates, momenta = np.empty((rows, len(scheduler.optimizer.param_groups))), np.empty(rows)
    scheduler.optimizer.step()
    for row in range(rows):
        if row:
            scheduler.step()
        rates[row], momenta[row] = _rates(scheduler), _momentum(scheduler.optimizer)
    return rates, momenta


def _rates(scheduler: LRScheduler) -> list[float]:
    return [float(group["lr"]) for group in scheduler.optimizer.param_groups]


def _momentum(optimizer: Optimizer) -> float:
    group = optimizer.param_groups[0]
    return float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))


def _shape(rates: Sequence[float]) -> tuple[float, bool]:
    """`peak` and `anneals` of rates at even distances."""
    if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
        raise ValueError("a learning rate would be negative or not finite")
    highest = max(rates)
    anneals = rates[-1] < highest / 2
    last = max(i for i, rate in enumerate(rates) if rate == highest)
    return (last / max(1, len(rates) - 1) if anneals else 0.0), anneals


def _monitor(params: Params) -> str:
    return params.early_stopping.monitor_metric if params.early_stopping else "loss"
