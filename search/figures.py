"""What the pictures of a search are drawn with: panels, scales, curves. matplotlib is imported when one is drawn."""

import io
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from search.collect import canonical
from search.words import brief, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito (2008)
GREY: Final = "#b4b4b4"
MOST_COLUMNS: Final = 4
MOST_TICKS: Final = 6


def panels(count: int, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    """A figure with so many panels, each of that size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, MOST_COLUMNS)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.remove()
    for panel in axes[:count]:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[:count])


def png(figure: "Figure") -> bytes:
    """The figure as a PNG; the same bytes for the same figure."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a folder may be named in any script
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


class Scale:
    """Where a parameter's values lie on an axis: numbers on a linear or a logarithmic one, anything else in a row.

    Args:
        values: as they occur.
    """

    def __init__(self, values: Sequence[Any]) -> None:
        distinct = {canonical(value): value for value in values}
        self.numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in distinct.values())
        ordered = sorted(distinct, key=lambda text: float(distinct[text])) if self.numeric else sorted(distinct)
        self.ranks = {text: rank for rank, text in enumerate(ordered)}
        self.texts = [short(brief(distinct[text]), 24) for text in ordered]
        self.places = [float(distinct[text]) if self.numeric else float(rank) for text, rank in self.ranks.items()]
        self.log = self.numeric and _log_spaced(self.places)

    def rank(self, value: Any) -> int:
        """How many of the distinct values come before it."""
        return self.ranks[canonical(value)]

    def share(self, rank: int) -> float:
        """Where a value lies between the first, 0, and the last, 1, by its rank."""
        low, place, high = ((math.log(x) if self.log else x) for x in np.array(self.places)[[0, rank, -1]])
        return float((place - low) / ((high - low) or 1))

    def ticks(self) -> list[int]:
        """The ranks of up to seven values, evenly spread over the axis."""
        wanted = np.linspace(0, 1, min(7, len(self.places)))
        shares = np.array([self.share(rank) for rank in range(len(self.places))])
        return sorted({int(np.abs(shares - share).argmin()) for share in wanted})

    def label(self, panel: "Axes") -> None:
        """Gives the panel's horizontal axis this scale."""
        if self.log:
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(lambda place, _: brief(float(place)))
        if not self.numeric or len(self.places) <= MOST_TICKS:
            slanted: dict[str, Any] = {"rotation": 30, "ha": "right"} if max(map(len, self.texts)) > 8 else {}
            panel.set_xticks(self.places, self.texts, parse_math=False, **slanted)
            panel.minorticks_off()
        if not self.numeric:
            panel.set_xlim(-0.5, len(self.texts) - 0.5)


def _log_spaced(places: list[float]) -> bool:
    """Whether rising positive numbers are spread more evenly by their ratios than by their differences."""
    if places[0] <= 0 or places[-1] / places[0] < 8:
        return False
    steps, ratios = np.diff(places), np.diff(np.log(places))
    return len(places) == 2 or bool(ratios.std() / ratios.mean() < steps.std() / steps.mean())


def over_seeds(curves: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (E,) at each epoch over the curves that reach it; 0 for a single one."""
    longest = max(map(len, curves), default=0)
    by_epoch = [np.array([curve[epoch] for curve in curves if len(curve) > epoch]) for epoch in range(longest)]
    means = np.array([values.mean() for values in by_epoch])
    return means, np.array([values.std(ddof=1) if len(values) > 1 else 0.0 for values in by_epoch])


def curve(panel: "Axes", values: np.ndarray, colour: str, **style: Any) -> None:
    """Draws numbers by epoch; a point where there is only one."""
    style.setdefault("marker", "." if len(values) == 1 else "")
    panel.plot(np.arange(1, len(values) + 1), values, color=colour, **style)


def outer_legend(figure: "Figure", panel: "Axes", title: str) -> None:
    """A legend below the panels, whose texts mean nothing but themselves."""
    handles, labels = panel.get_legend_handles_labels()  # the best is drawn last, and named first
    legend = figure.legend(
        handles[::-1], labels[::-1], loc="outside lower center", ncols=2, frameon=False, title=title, fontsize=8
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def time_unit(seconds: float) -> tuple[float, str]:
    """The unit in which so much time is read best: its length in seconds, its name."""
    for unit, name in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return unit, name
    return 1.0, "seconds"
