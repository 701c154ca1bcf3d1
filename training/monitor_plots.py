"""The pictures of a watched training: curves of each layer group and layer, and histograms of all layers over time."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config import run_folder
from config.run_folder import RunFolder
from training.checkpoint import Progress, npz_bytes
from training.curves import RATE, VALID, Sparing, png_bytes
from training.monitor import DECADES, KINDS, STILL, WILD, Monitor
from utils import printable

SHARE: Final = 0.02  # of the time that may go into pictures while a training runs
COLOURS: Final = "viridis"  # from the first to the last of groups and layers
STRIP: Final = (14, 30)  # points of height that a layer's histogram gets, among many layers and among few
LONGEST_NAME: Final = 34  # letters

Array = NDArray[Any]


class Pictures:
    """Keeps the files of a watched training up to date.

    Args:
        monitor: what watches it.
        folder: the experiment.
    """

    def __init__(self, monitor: Monitor, folder: RunFolder) -> None:
        self._monitor, self._folder = monitor, folder
        self._sparing = Sparing(SHARE)

    def follow(self, state: Progress) -> None:
        """After an epoch: writes the numbers, and draws them where that is due."""
        if not self._monitor.rows:
            return
        self._folder.write(run_folder.MONITOR, npz_bytes(**self._monitor.arrays()))
        if self._sparing.due():
            self.draw()

    def draw(self) -> None:
        """Writes the pictures; nothing before the first look."""
        if not self._monitor.rows:
            return
        with self._sparing:
            arrays, title = self._monitor.arrays(), printable(self._folder.path.name)
            self._folder.write(run_folder.MONITOR_FIGURE, curves(arrays, title))
            if "histograms" in arrays:
                self._folder.write(run_folder.HISTOGRAMS_FIGURE, histograms(arrays, title))


def curves(arrays: dict[str, Any], title: str) -> bytes:
    """Gradients and updates of the layer groups, activations and dead units of the layers, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((10, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(2, 2, sharex=True).flat)
    steps = arrays["step"]
    for panel, (name, what) in zip(panels, PANELS.items(), strict=True):
        panel.set_title(what)
        panel.grid(alpha=0.25)
        if name not in arrays:
            panel.text(0.5, 0.5, "not looked at", transform=panel.transAxes, ha="center", color=RATE)
            continue
        _draw_lines(panel, steps, arrays[name], "group" if name in ("gradient", "update") else "layer")
        if name == "dead":
            panel.set_ylim(-0.02, 1.02)
        else:
            _scale(panel, arrays[name])
        if name == "update":
            for edge in (STILL, WILD):
                panel.axhline(edge, color=VALID, linewidth=1, linestyle=":")
            panel.set_ylim(STILL / 3, WILD * 3)
    for panel in panels[2:]:
        panel.set_xlabel("step")
    figure.suptitle(title, parse_math=False)
    return png_bytes(figure)


PANELS: Final = {
    "gradient": "norm of the gradient",
    "update": "update, as a part of the weights",
    "std": "standard deviation of the activations",
    "dead": "part of the units that are dead",
}


def _scale(panel: Any, values: Array) -> None:
    """A logarithmic axis over at least a factor of ten, with few and plain labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    panel.set_yscale("log")
    drawn = values[values > 0]
    if drawn.size:
        middle, half = np.log10(drawn.min() * drawn.max()) / 2, max(np.log10(drawn.max() / drawn.min()) / 2, 0.5)
        panel.set_ylim(10 ** (middle - 1.1 * half - 0.1), 10 ** (middle + 1.1 * half + 0.1))
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 3) if half < 1.5 else (1,)))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _draw_lines(panel: Any, steps: Array, values: Array, what: str) -> None:
    """A line for each column (R, N), its colour telling how deep it lies; zeros are gaps on a logarithmic axis."""
    from matplotlib import colormaps

    count = values.shape[1]
    colours = colormaps[COLOURS](np.linspace(0, 0.9, count))
    named = {0, count - 1} if what == "layer" else set(range(count))
    marker = "." if len(steps) < 15 else ""
    for index in range(count):
        label = f"{what} {index}" if what == "group" else ("first layer" if index == 0 else "last layer")
        panel.plot(
            steps, values[:, index], color=colours[index], linewidth=1.2, marker=marker,
            label=label if index in named else None,
        )  # fmt: skip
    if count <= 8 or what == "layer":
        panel.legend(frameon=False, fontsize=8)


def histograms(arrays: dict[str, Any], title: str) -> bytes:
    """Magnitudes of the weights, gradients and activations of every layer over time, as one PNG.

    A strip for each layer, in order of use. In it time goes from left to right, small magnitudes lie at the bottom and
    large ones at the top, and the brighter a place, the more values are there (the logarithm of their number).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = arrays["histograms"]  # (T, L, 3, BINS)
    layers = [shortened(printable(name or "net")) for name in arrays["layers"]]
    strip = max(STRIP[0], min(STRIP[1], 600 / len(layers)))
    figure = Figure((11, min(1.1 + len(layers) * strip / 72, 100)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(KINDS), sharey=True)
    last = float(arrays["step"][-1])
    for index, (panel, (kind, first)) in enumerate(zip(panels, KINDS.items(), strict=True)):
        panel.imshow(
            strips(counts[:, :, index]), aspect="auto", cmap="magma", interpolation="nearest",
            extent=(0, max(last, 1), len(layers), 0), vmin=0, vmax=1,
        )  # fmt: skip
        panel.set_title(f"{kind}: 1e{first} to 1e{first + DECADES}", fontsize=10)
        panel.set_xlabel("step")
        for edge in range(1, len(layers)):
            panel.axhline(edge, color="0.6", linewidth=0.8)
        panel.tick_params(axis="y", length=0)
    panels[0].set_yticks(np.arange(len(layers)) + 0.5, layers, fontsize=7, parse_math=False)
    figure.suptitle(title, parse_math=False)
    return png_bytes(figure)


def strips(counts: Array) -> Array:
    """Brightness (L * BINS, T) in 0 … 1 from counts (T, L, BINS); large magnitudes above small ones in each strip."""
    logarithm = np.log1p(counts)
    brightness = logarithm / np.maximum(logarithm.max(axis=2, keepdims=True), 1)
    strip: Array = brightness[:, :, ::-1].transpose(1, 2, 0).reshape(-1, len(counts))
    return strip


def shortened(name: str) -> str:
    """A module's name, its middle left out where it is long."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"
