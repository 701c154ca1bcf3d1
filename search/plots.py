"""The pictures of a search, or of any set of experiments: each a PNG, those that make sense for what is there."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from search.collect import Comparison, canonical, collect, mean
from search.cost_plots import draw_against_size, draw_against_time, draw_best_so_far, draw_timeline
from search.figures import COLOURS, GREY, Scale, curve, outer_legend, over_seeds, panels, png
from search.importance import FEWEST_BEST, how_many, importance
from search.words import caption, plural, short
from utils import printable, write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_GREY: Final = 300  # curves behind the coloured ones
MOST_PANELS: Final = 8
MOST_MEANS: Final = 15  # values of a parameter; a line through more would follow the noise


def write_plots(parent_dir: Path | str, metric: str | None = None) -> list[Path]:
    """Draws what can be drawn of the experiments below a folder; pictures that no longer make sense are removed.

    Args:
        parent_dir: the folder, into which the pictures are written.
        metric: what makes a run better; None for what a search there asks for, else for what most runs were kept by.

    Returns:
        The pictures.

    Raises:
        UserError: when there is no such folder, or no experiment in it.
    """
    comparisons = collect(parent_dir, metric)
    shown = next((comparison for comparison in comparisons if comparison.settings), comparisons[0])
    runs = sum(len(setting.runs) for setting in shown.settings)
    counts = f"{plural(len(shown.settings), 'setting')}, {plural(runs, 'finished run')}"
    data = f", data {shown.fingerprint[:12]}" * (len(comparisons) > 1)
    title = f"{printable(Path(parent_dir).resolve().name)}: {counts}{data}"
    written = []
    for name, draw in PLOTS.items():
        path = Path(parent_dir) / name
        if (figure := draw(shown)) is None:
            path.unlink(missing_ok=True)
        else:
            figure.suptitle(title, fontsize=11, parse_math=False)
            write_atomic(path, png(figure))
            written.append(path)
    return written


# --- each picture ----------------------------------------------------------------------------------------------------


def draw_history(comparison: Comparison) -> "Figure | None":
    """The metric and the loss by epoch: the best settings in colour, with their spread over seeds, others in grey."""
    if not any(run.epochs for run in comparison.runs):
        return None
    names = list(dict.fromkeys([comparison.metric, "loss"]))
    best = comparison.settings[: len(COLOURS)]
    coloured = {id(run) for setting in best for run in setting.runs}
    others = [run for run in comparison.runs if run.epochs and id(run) not in coloured]
    others = others[:: max(1, math.ceil(len(others) / MOST_GREY))]
    figure, axes = panels(len(names), 5.2, 4.2)
    for panel, name in zip(axes, names, strict=True):
        for run in others:
            if name in run.valid:
                curve(panel, run.valid[name], GREY, linewidth=0.7, alpha=0.6, zorder=1)
        for setting, colour in reversed(list(zip(best, COLOURS, strict=False))):  # the best on top
            average, spread = over_seeds([run.valid[name] for run in setting.runs if name in run.valid])
            curve(panel, average, colour, label=caption(setting), linewidth=1.8, zorder=3)
            panel.fill_between(
                np.arange(1, len(average) + 1), average - spread, average + spread, color=colour, alpha=0.16, lw=0
            )
            train, _ = over_seeds([run.train[name] for run in setting.runs if name in run.train])
            curve(panel, train, colour, linewidth=0.9, linestyle=(0, (4, 2)), alpha=0.55, zorder=2)
        _limit(panel, [run.valid[name] for setting in best for run in setting.runs if name in run.valid])
        panel.set_xlabel("epoch")
        panel.set_title(f"{name}: validation, dashed training" if best else f"{name} on the validation images")
        panel.locator_params(axis="x", integer=True)
    if best:
        outer_legend(figure, axes[0], "best first" + (", others grey" if others else ""))
    return figure


def draw_responses(comparison: Comparison) -> "Figure | None":
    """The metric against each parameter: a point for each run, a line through the means of each value."""
    names = _varied(comparison)[:MOST_PANELS]
    if not names:
        return None
    figure, axes = panels(len(names), 3.8, 3.4)
    for panel, name in zip(axes, names, strict=False):
        scale = Scale([setting.values[name] for setting in comparison.settings])
        scores: dict[float, list[float]] = {}
        for setting in comparison.settings:
            place = scale.places[scale.rank(setting.values[name])]
            runs = [run.score(comparison.metric) for run in setting.runs]
            panel.plot([place] * len(runs), runs, "o", color=COLOURS[0], alpha=0.45, markersize=5, markeredgewidth=0)
            scores.setdefault(place, []).append(setting.mean(lambda run: run.score(comparison.metric)))
        if len(scores) <= MOST_MEANS:
            places = sorted(scores)
            style = {"linewidth": 1.4} if scale.numeric else {"linestyle": "", "marker": "_", "markersize": 24}
            panel.plot(places, [mean(scores[place]) for place in places], color=COLOURS[1], zorder=1, **style)
        scale.label(panel)
        panel.set_xlabel(name, parse_math=False)
        panel.set_ylabel(comparison.metric)
    return figure


def draw_heat_map(comparison: Comparison) -> "Figure | None":
    """The mean metric of each pair of values, where exactly two parameters were varied and most pairs tried."""
    names = _varied(comparison)
    if len(names) != 2:
        return None
    rows, columns = (Scale([setting.values[name] for setting in comparison.settings]) for name in names)
    grid = np.full((len(rows.places), len(columns.places)), math.nan)
    for setting in comparison.settings:
        place = rows.rank(setting.values[names[0]]), columns.rank(setting.values[names[1]])
        grid[place] = setting.mean(lambda run: run.score(comparison.metric))
    if min(grid.shape) < 2 or max(grid.shape) > 30 or np.isfinite(grid).mean() < 0.5:
        return None
    figure, [panel] = panels(1, 2.6 + 0.75 * grid.shape[1], 1.9 + 0.5 * grid.shape[0])
    low, high = np.nanmin(grid), np.nanmax(grid)
    picture = panel.imshow(grid, cmap="viridis" if comparison.sign > 0 else "viridis_r", aspect="auto", origin="lower")
    for (row, column), value in np.ndenumerate(grid):
        if math.isfinite(value):
            bright = (value - low) / max(high - low, 1e-12)
            shade = "black" if (bright if comparison.sign > 0 else 1 - bright) > 0.6 else "white"
            panel.text(column, row, f"{value:.3f}", ha="center", va="center", color=shade, fontsize=8)
    panel.set_xticks(range(len(columns.texts)), columns.texts, parse_math=False, rotation=30 * (len(columns.texts) > 6))
    panel.set_yticks(range(len(rows.texts)), rows.texts, parse_math=False)
    panel.set_xlabel(names[1], parse_math=False)
    panel.set_ylabel(names[0], parse_math=False)
    panel.grid(visible=False)
    figure.colorbar(picture, ax=panel, label=comparison.metric)
    return figure


def draw_parallel(comparison: Comparison) -> "Figure | None":
    """A line for each setting through the values of its parameters, coloured by the metric, the best on top."""
    names = _varied(comparison)[:MOST_PANELS]
    if len(names) < 3 or len(comparison.settings) < 5:
        return None
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scores = [setting.mean(lambda run: run.score(comparison.metric)) for setting in comparison.settings]
    scales = [Scale([setting.values[name] for setting in comparison.settings]) for name in names]
    norm = Normalize(*np.percentile(scores, [5, 100] if comparison.sign > 0 else [0, 95]))
    colours = colormaps["viridis" if comparison.sign > 0 else "viridis_r"]
    figure, [panel] = panels(1, 1.6 * len(names) + 3, 4.2)
    for setting, score in zip(reversed(comparison.settings), reversed(scores), strict=True):
        heights = [scale.share(scale.rank(setting.values[name])) for name, scale in zip(names, scales, strict=True)]
        panel.plot(range(len(names)), heights, color=colours(norm(score)), linewidth=1.2, alpha=0.75)
    behind = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
    for place, scale in enumerate(scales):
        panel.axvline(place, color="#444444", linewidth=0.8, zorder=1)
        for rank in scale.ticks():
            panel.text(place + 0.03, scale.share(rank), scale.texts[rank], fontsize=8, va="center", zorder=5,
                       parse_math=False, bbox=behind)  # fmt: skip
    panel.set_xticks(range(len(names)), names, parse_math=False)
    panel.set_yticks([])
    panel.set_xlim(-0.15, len(names) - 0.55)
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    figure.colorbar(ScalarMappable(norm, colours), ax=panel, label=comparison.metric)
    return figure


def draw_importance(comparison: Comparison) -> "Figure | None":
    """How much each parameter decides whether a setting is among the best; not of a few settings."""
    names, count = _varied(comparison), len(comparison.settings)
    if len(names) < 2 or count < 2 * FEWEST_BEST:
        return None
    columns = {name: [setting.values[name] for setting in comparison.settings] for name in names}
    best = how_many(count)
    shares = importance(columns, [rank < best for rank in range(count)])
    figure, [panel] = panels(1, 6.4, 1.3 + 0.36 * len(names))
    bars = panel.barh(range(len(names)), list(shares.values()), color=COLOURS[0], height=0.62)
    panel.bar_label(bars, [f"{share:.0%}" for share in shares.values()], padding=4, fontsize=9)
    panel.set_yticks(range(len(names)), [short(name, 44) for name in shares], parse_math=False)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_xlim(0, max(shares.values()) * 1.12)
    panel.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    panel.set_xlabel(f"share in being among the best {best} of {count} (PED-ANOVA)")
    panel.grid(axis="y", visible=False)
    return figure


PLOTS: Final[dict[str, Callable[[Comparison], "Figure | None"]]] = {
    "history_plots.png": draw_history,
    "response_plots.png": draw_responses,
    "heat_map.png": draw_heat_map,
    "best_so_far.png": draw_best_so_far,
    "metric_against_time.png": draw_against_time,
    "metric_against_size.png": draw_against_size,
    "parallel_coordinates.png": draw_parallel,
    "importance.png": draw_importance,
    "timeline.png": draw_timeline,
}


# --- what they share -------------------------------------------------------------------------------------------------


def _varied(comparison: Comparison) -> list[str]:
    """The parameters of which finished settings have more than one value, without those that only follow another.

    A batch size that was chosen for each arch says nothing of its own: it follows the arch.
    """
    seen = {name: [canonical(setting.values[name]) for setting in comparison.settings] for name in comparison.names}
    varied = [name for name, values in seen.items() if len(set(values)) > 1]
    texts = [name for name in varied if all(isinstance(s.values[name], str) for s in comparison.settings)]
    return [
        name
        for place, name in enumerate(varied)
        if not any(
            _follows(seen[name], seen[text])
            for text in texts
            if text != name and (name not in texts or varied.index(text) < place)
        )
    ]


def _follows(values: list[str], others: list[str]) -> bool:
    """Whether equal others always have equal values beside them."""
    return len(set(zip(values, others, strict=True))) == len(set(others))


def _limit(panel: "Axes", curves: list[np.ndarray]) -> None:
    """Keeps runs that went astray from pressing the best ones flat."""
    values = np.concatenate(curves) if curves else np.array([])
    values = values[np.isfinite(values)]
    if len(values) and (span := float(np.ptp(values))) > 0:
        low, high = panel.get_ylim()
        panel.set_ylim(max(low, float(values.min()) - span), min(high, float(values.max()) + span))
