"""A range test: the run's own training with a rate that rises exponentially, from which a learning rate is suggested.

One sweep raises the rates of all layer groups together, in the ratio of params.learning_rate. Whether a training
diverges is decided by all groups at once, so rates that were each found with the other groups held do not add up to a
set that can be used; the ratio stays the person's choice. The net, its images, loss, optimizer, precision and
accumulation are those of the run, from its first weights on; with "gradual" freezing all groups train, as in the end.
"""

import contextlib
import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from config import run_folder
from config.parts import RateRange
from config.run_folder import RunFolder
from config.schema import Params
from images.read_ahead import Reading
from model.optim import group_rates
from model.schedule import Row, Schedule
from training import checkpoint
from training.build import Built, build
from training.checkpoint import Progress, Seen
from training.curves import RATE, TRAIN, VALID, png_bytes
from training.loop import Parts, train_epoch
from training.machine import choose_machine
from training.processes import Processes
from training.run import open_data
from utils import TrainingFault, log, logging_to, positional, printable, to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 120  # of the group with the highest; 17 steps per factor of ten
WIDTH: Final = 0.15  # of the smoothing: the standard deviation of a Gaussian, in factors of ten
PASSED: Final = 0.8  # of the loss's fall: where the suggested rate lies
NOISE: Final = 2.5  # a fall of fewer standard deviations of a step's loss is none

Array = NDArray[np.float64]


class Found(NamedTuple):
    """What the losses of a sweep say.

    Attributes:
        smoothed: (N,) the losses without their noise.
        suggested: a rate on the lower part of the slope, None where the loss does not fall.
        steepest: the rate at which it falls fastest.
        lowest: the rate at which it is lowest.
    """

    smoothed: Array
    suggested: float | None
    steepest: float
    lowest: float


def find(folder: RunFolder, reading: Reading, params: Params, processes: Processes) -> None:
    """Tests the rates of an experiment, writes lr_find.json and lr_find.png, and prints what to put into params.json.

    Nothing else in the folder changes but the manifest, and no random number generator.

    Args:
        folder: the experiment, trained, half trained or not.
        reading: of data/<name> with train/ and valid/.
        params: checked parameters.
        processes: that share each batch.

    Raises:
        UserError: bad data, or parameters that do not fit it. TrainingFault: the loss is not finite from the start.
    """
    gpus = [torch.cuda.current_device()] if params.cuda and torch.cuda.is_available() else []
    with logging_to(None), processes.failing_together(), torch.random.fork_rng(gpus):
        if checkpoint.exists(folder):
            log.info("%s: has been trained; the test starts from the weights it started from", folder)
        with processes.in_turn():
            data, _ = open_data(reading, params)
        # Only now: as long as others read the folder, the cores look busy.
        machine = choose_machine(params, None, exact=False, processes=processes.count)
        built = build(params.model_copy(update={"monitor": False, "compile": False}), folder, data, machine, processes)
        rates, losses = sweep(built.parts)
        found = suggest(rates, losses)
        report = describe(built, rates, losses, found)
        figure = plot(report, printable(folder.path.name))
        folder.write_all({run_folder.LR_FIND: to_json(report), run_folder.LR_FIND_FIGURE: figure})
        _say(folder, report)


# --- the sweep -------------------------------------------------------------------------------------------------------


class _Enough(Exception):
    """The sweep is over."""


class _Watcher:
    """Takes down the mean loss of each step, over all processes, and ends the sweep when it is over."""

    def __init__(self, processes: Processes) -> None:
        self.losses: list[float] = []
        self._processes = processes
        self._before = (0.0, 0.0)
        self._seen: Seen | None = None

    def pause_point(self, state: Progress) -> None:
        """Between two steps."""
        state.look()
        if state.seen is not self._seen:
            self._seen, self._before = state.seen, (0.0, 0.0)
        now = self._processes.total(state.seen.loss_sum), self._processes.total(state.seen.images)
        self.losses.append((now[0] - self._before[0]) / (now[1] - self._before[1]))
        self._before = now
        if len(self.losses) == STEPS or diverges(self.losses):
            raise _Enough


def diverges(losses: list[float]) -> bool:
    """Whether the last losses are far above the first: by their mean's double, and by at least one."""
    if not math.isfinite(losses[-1]):
        return True
    start, now = (sum(part) / len(part) for part in (losses[:5], losses[-3:]))
    return len(losses) > 5 and now > start + max(start, 1.0)


def sweep(parts: Parts) -> tuple[Array, Array]:
    """Trains with rising rates until the loss diverges, or the highest rate is reached.

    Returns:
        The rates (N,) of the group with the highest, and the mean loss (N,) of each step's images.
    """
    highest = max(group["max_lr"] for group in parts.optimizer.param_groups)
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)

    def row_at(step: int) -> Row:
        return Row([group["max_lr"] / highest * float(rates[step]) for group in parts.optimizer.param_groups])

    prepare_net, thawed = parts.prepare_net, parts.num_epochs - 1
    parts = dataclasses.replace(
        parts,
        schedule=Schedule(parts.optimizer, row_at, 0.0, False, "loss"),
        prepare_net=lambda _: prepare_net(thawed),
        ema=None,
        metrics=(),
    )
    state, watcher = Progress(), _Watcher(parts.processes)
    with contextlib.suppress(_Enough):
        while True:
            try:
                train_epoch(parts, state, watcher)
            except TrainingFault as fault:
                if fault.reason != "diverged":
                    raise
                break
            state.epoch, state.batch, state.seen = state.epoch + 1, 0, Seen()
    losses = [loss for loss in watcher.losses if math.isfinite(loss)]
    if len(losses) < STEPS // 10:
        raise TrainingFault("the loss is not finite at the lowest rates already: look at the images and the net",
                            "diverged")  # fmt: skip
    return rates[: len(losses)], np.array(losses)


# --- what it says ----------------------------------------------------------------------------------------------------


def suggest(rates: Array, losses: Array) -> Found:
    """Reads a rate off the losses of a sweep: that at which four fifths of their fall have been passed.

    The fall is counted from the losses at the lowest rates to the lowest of all. A rate of params.json is the highest
    of its schedule, so it may lie beyond the steepest descent (Smith, arXiv 1506.01186) and the middle of the valley
    (fastai), but not where the loss is lowest, which is the edge of what the training bears. A crossing on a slope
    moves less with noise than an extreme does.

    Args:
        rates: (N,) rising geometrically.
        losses: (N,) of a step each.
    """
    places = np.log10(rates)
    smoothed, slopes = _smooth(places, losses)
    first = places < places[0] + 1
    plateau, bottom = float(np.median(smoothed[first])), int(smoothed.argmin())
    fall = plateau - float(smoothed[bottom])
    noise = float(np.std((losses - smoothed)[first]))
    suggested = None
    if fall > max(NOISE * noise, 0.01 * abs(plateau)) and not first[bottom]:
        above = np.flatnonzero(smoothed[:bottom] > plateau - PASSED * fall)  # the last: a dip of noise is not the slope
        suggested = float(rates[above[-1]])
    return Found(smoothed, suggested, float(rates[slopes[: bottom + 1].argmin()]), float(rates[bottom]))


def _smooth(places: Array, losses: Array) -> tuple[Array, Array]:
    """Value and slope (N,) of a straight line fitted around each place with Gaussian weights; no lag, no bent ends."""
    offsets = places[None, :] - places[:, None]  # (N, N)
    weights = np.exp(-0.5 * (offsets / WIDTH) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    mean_offset, mean_loss = (weights * offsets).sum(axis=1), weights @ losses
    variance = (weights * offsets**2).sum(axis=1) - mean_offset**2
    covariance = (weights * offsets) @ losses - mean_offset * mean_loss
    slopes = covariance / np.maximum(variance, 1e-12)
    return mean_loss - slopes * mean_offset, slopes


def describe(built: Built, rates: Array, losses: Array, found: Found) -> dict[str, Any]:
    """What lr_find.json holds; a layer group that does not train has null for its suggestion."""
    net, given = built.parts.net, built.params.learning_rate
    ratio = group_rates(given, len(built.groups))
    trains = [any(net.get_parameter(name).requires_grad for name in names) for names in built.groups]
    factor = None if found.suggested is None else found.suggested / max(ratio)
    return {
        "suggested": None if factor is None else _scaled(given, factor),
        "groups": [
            _rounded(rate * factor) if rate and on and factor else None for rate, on in zip(ratio, trains, strict=True)
        ],
        "ratio": [rate / max(ratio) for rate in ratio],
        "steepest": found.steepest,
        "lowest": found.lowest,
        "diverged": len(losses) < STEPS,
        "rates": rates,
        "losses": losses,
        "smoothed": found.smoothed,
    }


def _scaled(given: float | list[float] | RateRange, factor: float) -> float | list[float] | dict[str, float]:
    """learning_rate as the person wrote it, times a factor."""
    if isinstance(given, RateRange):
        return {"low": _rounded(given.low * factor), "high": _rounded(given.high * factor)}
    return [_rounded(rate * factor) for rate in given] if isinstance(given, list) else _rounded(given * factor)


def _rounded(rate: float) -> float:
    """To two digits: a range test knows no more."""
    return float(f"{rate:.1e}")


def line(suggested: float | list[float] | dict[str, float]) -> str:
    """The line of params.json."""
    if isinstance(suggested, dict):
        value = "{" + ", ".join(f'"{name}": {positional(rate)}' for name, rate in suggested.items()) + "}"
    elif isinstance(suggested, list):
        value = "[" + ", ".join(map(positional, suggested)) + "]"
    else:
        value = positional(suggested)
    return f'"learning_rate": {value}'


def _say(folder: RunFolder, report: dict[str, Any]) -> None:
    log.info("%s", folder.file(run_folder.LR_FIND_FIGURE))
    if report["suggested"] is None:
        log.warning("the loss does not fall at any rate from %s to %s: try --overfit 20, which says whether the net "
                    "can learn at all", positional(LOWEST), positional(report["rates"][-1]))  # fmt: skip
        return
    for number, rate in enumerate(report["groups"]):
        what = "does not train; no suggestion" if rate is None else positional(rate)
        log.info("layer group %d: %s", number, what)
    log.info("%s", line(report["suggested"]))


def plot(report: dict[str, Any], title: str) -> bytes:
    """The losses against the rate, with what is suggested, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    _draw(figure, report, title)
    return png_bytes(figure)


def _draw(figure: "Figure", report: dict[str, Any], title: str) -> None:
    rates, losses, smoothed = (np.asarray(report[name]) for name in ("rates", "losses", "smoothed"))
    panel = figure.subplots()
    panel.plot(rates, losses, ".", color=RATE, alpha=0.5, markersize=4, label="loss of a step")
    panel.plot(rates, smoothed, color=TRAIN, label="smoothed")
    if report["suggested"] is not None:
        middle = max(rate for rate in report["groups"] if rate is not None) / max(
            part for part, rate in zip(report["ratio"], report["groups"], strict=True) if rate is not None
        )
        listed = "\n".join(
            f"group {number}: {'held' if rate is None else positional(rate)}"
            for number, rate in enumerate(report["groups"])
        )
        panel.axvline(middle, color=VALID, label=f"suggested\n{listed}")
    panel.axvline(report["steepest"], color=RATE, linewidth=1, linestyle=":", label="steepest")
    panel.axvline(report["lowest"], color=RATE, linewidth=1, linestyle="--", label="lowest")
    low, high = float(smoothed.min()), float(np.median(smoothed[:10]))
    panel.set_ylim(low - 0.15 * (high - low) - 0.05, high + 0.6 * max(high - low, 0.5))
    panel.set_xscale("log")
    panel.set_xlabel("learning rate of the layer group with the highest")
    panel.set_ylabel("training loss")
    panel.legend(frameon=False, fontsize=9, loc="best")
    panel.grid(alpha=0.25)
    panel.set_title(title, parse_math=False)
