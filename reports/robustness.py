"""How the net bears corrupted images: its main metric under each kind and severity, as curves and as a table."""

import contextlib
import functools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from config.schema import Params
from images.augment import normalise
from images.folder import Split
from images.keyed_random import permutation
from images.read import Pixels, read_image
from images.stream import Indices, stack
from images.view import View
from model.data_loader import Loader
from model.metric import metrics
from reports.corruptions import COMMON, CORRUPTIONS, REFERENCE, SEVERITIES, corrupt, level, name
from reports.intervals import Interval, metric_interval, wilson
from reports.tables import csv_bytes
from training.curves import TRAIN, VALID, png_bytes
from training.evaluation import Autocast
from utils import progress

Array = np.ndarray[Any, Any]
T = TypeVar("T")

IMAGES: Final = 500  # of a split that are corrupted unless told otherwise
DRAWS: Final = 200  # of the bootstrap of a metric that is no share of the images
_COLUMNS: Final = 4  # of the figure


class Condition(NamedTuple):
    """A kind of corruption at a severity."""

    kind: str
    severity: float


@dataclass(frozen=True)
class Point:
    """The metric under one condition, with its 95% interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Robustness:
    """What was measured.

    Attributes:
        metric: name of the metric.
        images: how many images were corrupted.
        side: the median of their short sides, in pixels.
        clean: the metric without corruption.
        points: the metric under each condition.
    """

    metric: str
    images: int
    side: int
    clean: Point
    points: dict[Condition, Point]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that were measured."""
        return tuple(dict.fromkeys(condition.kind for condition in self.points))

    def curve(self, kind: str) -> dict[float, Point]:
        """By severity; 0 is clean."""
        return {0.0: self.clean} | {at.severity: point for at, point in self.points.items() if at.kind == kind}

    def area(self, kind: str) -> float:
        """Area under a kind's curve by trapezia, severities 0 to 5 being 0 to 1: 1 for a net that is always right."""
        curve = self.curve(kind)
        return float(np.trapezoid([point.value for point in curve.values()], list(curve)) / SEVERITIES[-1])

    @property
    def corrupted(self) -> float:
        """Mean over the fifteen common kinds and the five severities."""
        common = [p.value for at, p in self.points.items() if at.kind in COMMON and at.severity in SEVERITIES]
        return float(np.mean(common))

    @property
    def relative(self) -> float:
        """What of the clean metric is left on average: `corrupted` in units of it."""
        return self.corrupted / self.clean.value if self.clean.value else math.nan


def main_metric(params: Params, multi_label: bool) -> str:
    """What is measured: accuracy where an image has one class, else what the experiment's weights are best at."""
    return params.best_metric if multi_label and params.best_metric in metrics else "accuracy"


def conditions(channels: int) -> tuple[Condition, ...]:
    """All that images are put under; a grey image has no colour to lose."""
    return tuple(
        Condition(kind, severity)
        for kind, corruption in CORRUPTIONS.items()
        if channels == 3 or not corruption.colour
        for severity in corruption.severities
    )


def sample(split: Split, count: int, seed: int) -> Indices:
    """Positions of at most `count` images, of each class (or combination of classes) its share of them, ascending."""
    order = permutation(seed, 0, len(split.paths), "robustness")
    if count >= len(order):
        return np.sort(order)
    _, groups = np.unique(split.targets, axis=0, return_inverse=True)
    order = order[np.argsort(groups.reshape(-1)[order], kind="stable")]
    return np.sort(order[(np.arange(count) * len(order)) // count])


def robustness(
    net: nn.Module,
    loader: Loader,
    root: Path,
    params: Params,
    autocast: Autocast = contextlib.nullcontext,
    images: int = IMAGES,
    under: Sequence[Condition] | None = None,
) -> Robustness:
    """Corrupts some images of a split in every way and runs the net over them.

    A decoded image that is larger than what the net looks at is first brought to that size, as in ImageNet-C, so that
    a severity means the same for photos of any resolution; then it is corrupted, and goes the way of evaluation.

    Args:
        net: on the loader's device; maps (B, C, S, S) to logits (B, classes).
        loader: an evaluation loader of the split.
        root: the data folder.
        params: the experiment's.
        autocast: the precision to compute in.
        images: how many images at most.
        under: the conditions; None: all.
    """
    chosen = sample(loader.split, images, params.seed)
    under = conditions(params.channels) if under is None else under
    steps: tuple[Condition | None, ...] = (None, *under)
    parts = [chosen[start : start + loader.batch_size] for start in range(0, len(chosen), loader.batch_size)]
    logits: dict[Condition | None, list[Array]] = {step: [] for step in steps}
    sides: list[int] = []
    threads = max(1, params.num_workers)

    def batches(pool: ThreadPoolExecutor) -> Iterator[tuple[Condition | None, Tensor]]:
        for part in parts:
            paths = [loader.split.paths[index] for index in part]
            decoded = list(pool.map(functools.partial(_decoded, root, params), paths))
            sides.extend(min(image.shape[:2]) for image in decoded)
            jobs = (functools.partial(_canvas, decoded, paths, params, step) for step in steps)
            yield from zip(steps, _ahead(pool, jobs, threads), strict=True)

    net.eval()
    with torch.inference_mode(), ThreadPoolExecutor(threads) as pool:
        for step, canvas in progress(batches(pool), "robustness", len(steps) * len(parts), unit="batch"):
            batch = normalise(canvas.to(loader.device).permute(0, 3, 1, 2), loader.mean, loader.std)
            with autocast():
                output = net(batch)
            logits[step].append(output.float().cpu().numpy())
    metric, labels = main_metric(params, loader.multi_label), loader.split.targets[chosen]
    clean, *points = (_point(metric, np.concatenate(logits[step]), labels, params.seed) for step in steps)
    return Robustness(metric, len(chosen), int(np.median(sides)), clean, dict(zip(under, points, strict=True)))


def _decoded(root: Path, params: Params, path: str) -> Pixels:
    """An image as it is corrupted: (H, W, C) uint8, at most as large as the net looks at."""
    image = read_image(root / path, params.channels, params.background, params.max_megapixels)
    return View.of(params, training=True).apply(image)


def _canvas(images: Sequence[Pixels], paths: Sequence[str], params: Params, step: Condition | None) -> Tensor:
    """The images under a condition, as the net is to see them, (B, S, S, C) uint8."""
    view = View.of(params, training=False)
    changed = images if step is None else [
        corrupt(image, step.kind, step.severity, params.seed, path) for image, path in zip(images, paths, strict=True)
    ]  # fmt: skip
    return stack([view.apply(image) for image in changed])[0]


def _ahead(pool: ThreadPoolExecutor, jobs: Iterable[Callable[[], T]], depth: int) -> Iterator[T]:
    """The results of the jobs in their order, of which some are always being worked at."""
    waiting: deque[Future[T]] = deque()
    for job in jobs:
        waiting.append(pool.submit(job))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _point(metric: str, logits: Array, labels: Array, seed: int) -> Point:
    value = metrics[metric](logits, labels)
    if math.isnan(value):
        return Point(value, Interval(math.nan, math.nan))
    if metrics[metric].proportion:
        return Point(value, wilson(round(value * len(labels)), len(labels)))
    return Point(value, metric_interval(metrics[metric], logits, labels, DRAWS, seed))


# --- what is written --------------------------------------------------------------------------------------------------


def robustness_csv(result: Robustness) -> bytes:
    """A row for clean images and one for each condition, with its level for REFERENCE pixels and for these images."""
    header = ["corruption", "kind", "severity", "parameter", f"level at {REFERENCE} px", f"level at {result.side} px",
              result.metric, "low", "high", "images"]  # fmt: skip

    def row(what: Sequence[object], point: Point) -> list[object]:
        return [*what, round(point.value, 6), *(round(end, 6) for end in point.interval), result.images]

    rows = [row(["clean", "", 0, "", "", ""], result.clean)]
    for at, point in result.points.items():
        levels = (round(level(*at, scale), 6) for scale in (1.0, result.side / REFERENCE))
        rows.append(row([name(*at), at.kind, at.severity, CORRUPTIONS[at.kind].parameter, *levels], point))
    return csv_bytes(header, rows)


def summary(result: Robustness) -> dict[str, Any]:
    """The numbers that sum it up, for JSON."""
    return {
        "metric": result.metric,
        "images": result.images,
        "clean": result.clean.value,
        "clean_interval": result.clean.interval,
        "corrupted": result.corrupted,
        "relative": result.relative,
        "area": {kind: result.area(kind) for kind in result.kinds},
    }


def robustness_figure(result: Robustness, title: str) -> bytes:
    """A PNG with a panel for each kind: the metric against severity, its interval as a band, clean as a dashed line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(result.kinds) // _COLUMNS)
    figure = Figure(figsize=(3 * _COLUMNS, 2.3 * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for kind, panel in zip(result.kinds, panels, strict=False):
        curve = result.curve(kind)
        severities, points = list(curve), list(curve.values())
        low, high = zip(*(point.interval for point in points), strict=True)
        panel.axhline(result.clean.value, color=VALID, linestyle="--", linewidth=1)
        panel.fill_between(severities, low, high, color=TRAIN, alpha=0.25, linewidth=0)
        panel.plot(severities, [point.value for point in points], color=TRAIN, marker=".", linewidth=1.6)
        panel.set_title(f"{kind.replace('_', ' ')}  (area {result.area(kind):.2f})", fontsize=10)
        panel.grid(alpha=0.25)
        panel.set_xticks((0, *SEVERITIES))
        panel.set_ylim(0, 1.02)
    for panel in panels[len(result.kinds) :]:
        panel.set_visible(False)
    for panel in panels[::_COLUMNS]:
        panel.set_ylabel(result.metric)
    for panel in panels[max(0, len(result.kinds) - _COLUMNS) : len(result.kinds)]:
        panel.set_xlabel("severity")
        panel.tick_params(labelbottom=True)
    figure.suptitle(f"{title} (n = {result.images}; dashed: clean; band: 95% interval)", parse_math=False)
    return png_bytes(figure)
