"""Learning curves: a PNG refreshed while training, and a live figure where somebody can see it."""

import gc
import io
import os
import sys
import time
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARE: Final = 0.05  # of the time that may go into the curves while a training runs
TRAIN, VALID, RATE = "#4878a8", "#d1603d", "#7a7a7a"  # told apart by the colour-blind and in grey


class Sparing:
    """Says when a picture is due. As a context it times the drawing; the first, with its imports, does not count.

    Args:
        share: of the time that drawing may take.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._took = self._started = 0.0
        self._ended: float | None = None

    def due(self) -> bool:
        """Whether drawing it anew takes no more than its share of the time."""
        return self._ended is None or self._share * (time.monotonic() - self._ended) >= self._took

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        gc.collect()  # figures are full of cycles, and what they hold would add up
        first, self._ended = self._ended is None, time.monotonic()
        self._took = 0.0 if first else self._ended - self._started


def plot_history(history: dict[str, Any], title: str) -> bytes:
    """The learning curves as a PNG.

    Args:
        history: as in history.json.
        title: the experiment's name.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    draw_history(figure, history, title)
    return png_bytes(figure)


def png_bytes(figure: "Figure") -> bytes:
    """A figure as a PNG; letters that its font lacks are drawn as boxes, without a warning for each."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def draw_history(figure: "Figure", history: dict[str, Any], title: str) -> None:
    """Draws a panel for the loss, one for each metric and one for the learning rates."""
    rows = history["epochs"]
    names = list(rows[0]["valid"]) if rows else ["loss"]
    figure.clear()
    figure.set_size_inches(4.2 * (len(names) + 1), 3.6)
    panels = figure.subplots(1, len(names) + 1, squeeze=False)[0]
    epochs = [row["epoch"] for row in rows]
    for panel, name in zip(panels, names, strict=False):
        for split, colour in (("train", TRAIN), ("valid", VALID)):
            values = [row[split].get(name) for row in rows]
            panel.plot(
                epochs, [float("nan") if v is None else v for v in values], color=colour, label=split, marker="."
            )
        _mark_best(panel, name, rows)
        panel.margins(y=0.1)  # room for the mark
        panel.set_title(name)
    _draw_rates(panels[-1], history)
    for panel in panels:
        if panel.lines:
            panel.legend(frameon=False)
        panel.set_xlabel("epoch")
        panel.grid(alpha=0.25)
        panel.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title, parse_math=False)


def _mark_best(panel: Any, name: str, rows: list[dict[str, Any]]) -> None:
    values = [(row["valid"][name], row["epoch"]) for row in rows if row["valid"].get(name) is not None]
    if values:
        value, epoch = (min if name == "loss" else max)(values)
        panel.annotate(
            f"{value:.4f}", (epoch, value), color=VALID, xytext=(0, 6), textcoords="offset points", ha="center"
        )


def _draw_rates(panel: Any, history: dict[str, Any]) -> None:
    """The rate of each layer group: of the steps that were recorded, else of the epochs' ends."""
    epochs, rows = history["epochs"], history["steps"]
    done = [row for row in rows if row["epoch"] <= len(epochs)]
    if len(done) > len(epochs):
        rows, places = done, _places([row["epoch"] for row in done])
    else:
        rows, places = epochs, [row["epoch"] for row in epochs]
    groups = len(rows[0]["learning_rate"]) if rows else 0
    for group in range(groups):
        rates = [row["learning_rate"][group] for row in rows]
        panel.plot(places, rates, color=RATE, alpha=(group + 1) / groups, label=f"group {group}")
    rates = [rate for row in rows for rate in row["learning_rate"] if rate > 0]
    if rates:
        panel.set_yscale("log")
        panel.set_ylim(max(min(rates), max(rates) * 1e-5) / 2, max(rates) * 2)
    panel.set_title("learning rate")


def _places(epochs: list[int]) -> list[float]:
    """Where recorded steps lie on the axis of epochs, those of an epoch evenly over it."""
    counts = Counter(epochs)
    seen: Counter[int] = Counter()
    places = []
    for epoch in epochs:
        places.append(epoch - 1 + seen[epoch] / counts[epoch])
        seen[epoch] += 1
    return places


def show_history(history: dict[str, Any], title: str) -> None:
    """Refreshes the live figure: inline in Jupyter, in a window where there is a display, nowhere otherwise."""
    if _in_jupyter():
        from IPython.display import Image, clear_output, display

        clear_output(wait=True)
        display(Image(plot_history(history, title)))
    elif _has_window():
        from matplotlib import pyplot

        pyplot.ion()
        figure = pyplot.figure(num="Dossier", layout="constrained")
        draw_history(figure, history, title)
        pyplot.pause(0.001)


def _in_jupyter() -> bool:
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    return running is not None and type(running).__name__ == "ZMQInteractiveShell"


def _has_window() -> bool:
    """Whether a person sits before a screen: a terminal and a display, and a backend that can open a window."""
    display = sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if not (display and sys.stdout.isatty()) or os.environ.get("MPLBACKEND", "").lower() == "agg":
        return False
    from matplotlib import get_backend

    return get_backend().lower() not in ("agg", "pdf", "svg", "ps", "cairo", "template")
