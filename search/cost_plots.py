"""What a search cost: the best so far, the metric against time and size, and when each run began and ended."""

import math
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from search.collect import Comparison
from search.figures import COLOURS, GREY, panels, time_unit
from search.read import Run
from search.words import brief, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATES: Final = {"finished": "#4878a8", "running": "#009e73", "pruned": "#e69f00", "stopped": "#cc79a7",
                 "failed": "#d55e00", "lost": "#7a2f00", "damaged": "#000000"}  # fmt: skip
MOST_BARS: Final = 60
MOST_NAMED: Final = 12  # settings; more names would lie upon each other


def draw_best_so_far(comparison: Comparison) -> "Figure | None":
    """The best metric found against the training time spent, in the order in which the runs ended."""
    ended = sorted((run for run in comparison.runs if run.epochs and run.updated), key=lambda run: run.updated)
    ranked = {id(run) for setting in comparison.settings for run in setting.runs}
    spent = np.cumsum([run.seconds for run in ended])
    points = [(cost, run.score(comparison.metric)) for cost, run in zip(spent, ended, strict=True) if id(run) in ranked]
    if len(points) < 2:
        return None
    unit, name = time_unit(float(spent[-1]))
    costs, scores = np.array([cost for cost, _ in points]) / unit, np.array([score for _, score in points])
    best = np.maximum.accumulate(scores * comparison.sign) * comparison.sign
    figure, [panel] = panels(1, 6.4, 4)
    panel.plot(costs, scores, "o", color=GREY, markersize=4, label="a run")
    panel.step([*costs, spent[-1] / unit], [*best, best[-1]], where="post", color=COLOURS[0], label="best so far")
    panel.set_xlabel(f"training time spent, {name}")
    panel.set_ylabel(comparison.metric)
    panel.set_xlim(0, None)
    panel.legend(frameon=False)
    return figure


def draw_against_time(comparison: Comparison) -> "Figure | None":
    """The metric of each setting against the time of a training, with the Pareto front."""
    longest = max((setting.mean(_seconds) for setting in comparison.settings), default=0)
    unit, name = time_unit(longest)
    return _trade_off(comparison, lambda run: run.seconds / unit, f"time of one training, {name}")


def draw_against_size(comparison: Comparison) -> "Figure | None":
    """The metric of each setting against the net's size, with the Pareto front."""
    return _trade_off(comparison, lambda run: run.size / 1e6, "parameters of the net, millions")


def draw_timeline(comparison: Comparison) -> "Figure | None":
    """Each run from its first start to its end, coloured by what became of it; the latest where there are many."""
    begun = [run for run in comparison.runs if run.state != "queued"]
    spans = [(start, end, run) for run in begun if (start := _time(run.started)) and (end := _time(run.updated))]
    spans = sorted(spans, key=lambda span: (span[0], span[2].name))[-MOST_BARS:]
    if len(spans) < 2:
        return None
    first = spans[0][0]
    unit, name = time_unit(max(end for _, end, _ in spans) - first)
    figure, [panel] = panels(1, 8, 1.4 + 0.22 * len(spans))
    for row, (start, end, run) in enumerate(spans):
        colour = STATES.get(run.state, GREY)
        panel.barh(row, max(end - start, 1) / unit, left=(start - first) / unit, color=colour, height=0.72)
    panel.set_yticks(range(len(spans)), [short(run.name, 44) for *_, run in spans], fontsize=7, parse_math=False)
    panel.set_ylim(len(spans) - 0.4, -0.6)
    panel.set_xlabel(f"{name} since the first start")
    panel.grid(axis="y", visible=False)
    for state in dict.fromkeys(run.state for *_, run in spans):
        panel.barh(0, 0, color=STATES.get(state, GREY), label=state)  # for the legend alone
    panel.legend(frameon=False, loc="lower left")
    return figure


def _trade_off(comparison: Comparison, cost: Callable[[Run], float], label: str) -> "Figure | None":
    """Each setting's metric against a cost, and the front of those that no other beats in both, with their ranks.

    A few settings that differ in their nets are called by the net, whether they are on the front or not.
    """
    scored = [
        (setting.mean(cost), -comparison.sign * setting.mean(lambda run: run.score(comparison.metric)), rank)
        for rank, setting in enumerate(comparison.settings, 1)
    ]
    points = sorted(point for point in scored if math.isfinite(point[0]) and point[0] > 0)
    if len({cost for cost, *_ in points}) < 2 or len(points) < 3:
        return None
    figure, [panel] = panels(1, 6.4, 4)
    costs, scores, ranks = np.array(points).T
    scores *= -comparison.sign
    worth = scores * comparison.sign
    front = worth > np.maximum.accumulate([-math.inf, *worth[:-1]])
    panel.plot(costs, scores, "o", color=GREY, markersize=5, label="a setting")
    panel.step(costs[front], scores[front], where="post", color=COLOURS[0], marker="o", label="Pareto front")
    nets = [str(setting.values.get("arch", "")) for setting in comparison.settings]
    by_net = len(set(nets)) == len(nets) <= MOST_NAMED
    called = np.ones_like(front) if by_net else front
    for place, score, rank in zip(costs[called], scores[called], ranks[called], strict=True):
        text = short(nets[int(rank) - 1], 24) if by_net else f"rank {rank:.0f}"
        right = place > costs[-1] / 2 and by_net  # a name may be long: it stays inside
        panel.annotate(text, (place, score), (-5 if right else 5, -11 * comparison.sign), textcoords="offset points",
                       fontsize=8, va="center", ha="right" if right else "left", parse_math=False)  # fmt: skip
    panel.margins(0.06, 0.1)
    if costs[-1] > 10 * costs[0]:
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(lambda place, _: brief(float(place)))
    panel.set_xlabel(label)
    panel.set_ylabel(comparison.metric)
    panel.legend(frameon=False)
    return figure


def _seconds(run: Run) -> float:
    return run.seconds


def _time(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
