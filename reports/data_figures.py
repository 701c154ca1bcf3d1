"""Pictures of a data folder: images per class, sizes, brightness. matplotlib is imported when one is drawn."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from images.appearance import Appearance
from images.read import Header
from training.curves import png_bytes
from utils import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = {"train": "#0072b2", "valid": "#d55e00", "test": "#009e73"}  # Okabe and Ito (2008)
MOST_BARS: Final = 40  # classes that get a bar of their own
POINTS: Final = 4000  # of the scatter plot of sizes; of more images, evenly spread ones are drawn


def _panels(count: int, width: float, height: float) -> "tuple[Figure, Sequence[Axes]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, count, squeeze=False)[0]
    for panel in panels:
        panel.grid(alpha=0.25)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def classes_figure(counts: Mapping[str, Mapping[str, int]], classes: Sequence[str]) -> bytes:
    """Images per class and split: a bar for each class, or, where they are many, all classes by their size.

    Args:
        counts: images by split and class.
        classes: names, in order.
    """
    many = len(classes) > MOST_BARS
    figure, (panel,) = _panels(1, 8, 3.4 if many else 1.1 + 0.26 * len(classes))
    left = np.zeros(len(classes))
    for split, of in counts.items():
        values = np.array([of.get(name, 0) for name in classes], float)
        if many:
            panel.step(np.arange(1, len(classes) + 1), np.sort(values)[::-1], color=COLOURS[split], label=split)
        else:
            panel.barh(np.arange(len(classes)), values, left=left, color=COLOURS[split], label=split)
            left += values
    if many:
        panel.set_xlabel("classes, each split's largest first")
        panel.set_ylabel("images")
        panel.set_ylim(bottom=0)
    else:
        panel.set_yticks(np.arange(len(classes)), [printable(name)[:24] for name in classes], parse_math=False)
        panel.invert_yaxis()
        panel.set_xlabel("images")
    panel.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return png_bytes(figure)


def sizes_figure(headers: Mapping[str, Header]) -> bytes:
    """Width against height of the images, and their aspect ratios.

    Args:
        headers: by path, which begins with the split.
    """
    figure, (sizes, aspects) = _panels(2, 9.6, 3.8)
    table = {split: np.array([(h.width, h.height) for h in of], float) for split, of in _by_split(headers).items()}
    everything = np.concatenate(list(table.values()))
    aspect_bins = np.linspace(*_ends(np.log2(everything[:, 0] / everything[:, 1])), 31)
    for split, values in table.items():
        drawn = values[:: -(-len(values) // POINTS)]
        sizes.scatter(drawn[:, 0], drawn[:, 1], 8, COLOURS[split], alpha=0.5, linewidths=0, label=split)
        _share(aspects, np.log2(values[:, 0] / values[:, 1]), aspect_bins, split)
    if everything.max() > 4 * everything.min():
        doubled = [2**k for k in range(20) if everything.min() / 2 <= 2**k <= everything.max() * 2]
        sizes.set_xscale("log")
        sizes.set_yscale("log")
        sizes.minorticks_off()
        sizes.set_xticks(doubled, [str(side) for side in doubled])
        sizes.set_yticks(doubled, [str(side) for side in doubled])
    sizes.set_xlabel("width, pixels")
    sizes.set_ylabel("height, pixels")
    ticks = [tick for tick in (-4, -3, -2, -1, 0, 1, 2, 3, 4) if aspect_bins[0] <= tick <= aspect_bins[-1]]
    aspects.set_xticks(ticks, [f"1:{2**-t:g}" if t < 0 else f"{2**t:g}:1" for t in ticks])
    aspects.set_xlabel("width to height")
    aspects.set_ylabel("share of the images")
    sizes.legend(frameon=False)
    return png_bytes(figure)


def looks_figure(looks: Mapping[str, Appearance]) -> bytes:
    """How brightness, contrast and detail are spread in each split.

    Args:
        looks: by path, which begins with the split.
    """
    figure, panels = _panels(3, 9.6, 3.2)
    table = {split: np.array(of, float) for split, of in _by_split(looks).items()}
    everything = np.concatenate(list(table.values()))
    for column, (panel, name) in enumerate(zip(panels, Appearance._fields, strict=True)):
        bins = np.linspace(*_ends(everything[:, column]), 31)
        for split, values in table.items():
            _share(panel, values[:, column], bins, split)
        panel.set_xlabel(name)
    panels[0].set_ylabel("share of the images")
    panels[-1].legend(frameon=False)
    return png_bytes(figure)


def _by_split(of: Mapping[str, Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for path, value in of.items():
        found.setdefault(path.partition("/")[0], []).append(value)
    return found


def _ends(values: "np.ndarray[Any, Any]") -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _share(panel: "Axes", values: "np.ndarray[Any, Any]", bins: "np.ndarray[Any, Any]", split: str) -> None:
    shares = np.histogram(values, bins)[0] / max(1, len(values))
    panel.stairs(shares, bins, color=COLOURS[split], label=split)
