"""results.md and results.csv: experiment folders as one honest table. No torch."""

import math
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
from tabulate import tabulate

from config.run_folder import ENVIRONMENT, SEARCH, weights_name
from reports.comparison import best_of
from reports.intervals import Interval
from reports.tables import csv_bytes
from search.asked import options
from search.collect import Comparison, canonical, collect
from search.ranking import Row, ranking
from search.read import Run
from search.words import brief, duration, escaped, plural, show
from utils import printable, write_atomic

RESULTS_MD: Final = "results.md"
RESULTS_CSV: Final = "results.csv"
CONFIRMED: Final = 6  # seeds; with fewer pairs no sign test can reach 5%
LONGEST: Final = 50  # rows of a table in results.md; results.csv has all


def write_results(parent_dir: Path | str, metric: str | None = None) -> Path:
    """Writes results.md and results.csv into a folder, from all experiments below it; returns the path of results.md.

    Args:
        parent_dir: the folder.
        metric: to rank by; None for what a search there asks for, else for what most runs kept their best epoch by.

    Raises:
        UserError: when there is no such folder, or no experiment in it.
    """
    parent = Path(parent_dir)
    comparisons = [(comparison, ranking(comparison)) for comparison in collect(parent, metric)]
    write_atomic(parent / RESULTS_CSV, _csv(comparisons))
    write_atomic(parent / RESULTS_MD, _markdown(parent, comparisons).encode("utf-8", "backslashreplace"))
    return parent / RESULTS_MD


# --- results.csv -----------------------------------------------------------------------------------------------------


COLUMNS: Final = (
    "data", "rank", "state", "reason", "folder", "seeds_finished", "seeds_tried", "metric", "mean", "std", "low",
    "high", "each_seed", "best_epoch", "epochs", "last_epoch_mean", "valid_loss", "gap", "difference",
    "difference_low", "difference_high", "pairs", "paired_over", "separable", "seconds_per_epoch", "seconds",
    "memory_mb", "parameters", "test_mean", "test_std", "test_seeds",
)  # fmt: skip


def _csv(comparisons: list[tuple[Comparison, list[Row]]]) -> bytes:
    """A line for each setting, then one for each run that is in no mean; the parameters after the folder."""
    names = comparisons[0][0].names
    lines = []
    for comparison, ranked in comparisons:
        entries = [(row.setting.values, _of_setting(row, rank, comparison)) for rank, row in enumerate(ranked, 1)]
        entries += [(run.values, _of_run(run, comparison)) for run in comparison.unranked]
        for values, entry in entries:
            entry = {"data": comparison.fingerprint[:12], "metric": comparison.metric} | entry
            cells = [entry.get(name, "") for name in COLUMNS]
            lines.append([*map(_number, cells[:5]), *(show(values[n]) for n in names), *map(_number, cells[5:])])
    return csv_bytes([*COLUMNS[:5], *names, *COLUMNS[5:]], lines)


def _of_setting(row: Row, rank: int, comparison: Comparison) -> dict[str, Any]:
    setting, difference = row.setting, row.difference
    test = setting.by_seed(lambda run: run.test.get(comparison.metric, math.nan))
    tested = [value for value in test.values() if math.isfinite(value)]
    return {
        "rank": rank,
        "state": "finished",
        "folder": " ".join(run.name for run in setting.runs),
        "seeds_finished": len(row.scores),
        "seeds_tried": setting.total,
        "mean": row.mean,
        "std": row.std,
        "low": row.interval.low,
        "high": row.interval.high,
        "each_seed": " ".join(f"{seed}:{value:.6g}" for seed, value in row.scores.items()),
        "best_epoch": setting.mean(lambda run: (run.best or 0) + 1),
        "epochs": setting.mean(lambda run: run.epochs),
        "last_epoch_mean": setting.mean(lambda run: run.score(comparison.metric, epoch=-1)),
        "valid_loss": setting.mean(lambda run: run.score("loss")),
        "gap": setting.mean(lambda run: gap(run, comparison)),
        "difference": difference.value if difference else row.distance,
        "difference_low": difference.interval.low if difference else None,
        "difference_high": difference.interval.high if difference else None,
        "pairs": difference.pairs if difference else None,
        "paired_over": difference.over if difference else "",
        "separable": int(difference.separable) if difference else None,
        "seconds_per_epoch": setting.mean(lambda run: run.seconds / run.epochs),
        "seconds": sum(run.seconds for run in setting.runs),
        "memory_mb": setting.mean(lambda run: run.memory),
        "parameters": _whole(setting.mean(lambda run: run.size)),
        "test_mean": float(np.mean(tested)) if tested else None,
        "test_std": float(np.std(tested, ddof=1)) if len(tested) > 1 else None,
        "test_seeds": len(tested) or None,
    }


def _of_run(run: Run, comparison: Comparison) -> dict[str, Any]:
    best = {} if run.best is None else {"best_epoch": run.best + 1, "valid_loss": run.score("loss")}
    return best | {
        "state": run.state,
        "reason": run.reason,
        "folder": run.name,
        "mean": run.score(comparison.metric),
        "each_seed": f"{run.seed}:{run.score(comparison.metric):.6g}" if run.epochs else f"{run.seed}:",
        "epochs": run.epochs,
        "last_epoch_mean": run.score(comparison.metric, epoch=-1),
        "seconds": run.seconds,
        "memory_mb": run.memory,
        "parameters": _whole(run.size),
    }


def _whole(value: float) -> float | int:
    return round(value) if math.isfinite(value) else value


def _number(value: Any) -> Any:
    """Six figures are more than any of these numbers is good for; what is not known is an empty cell."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def gap(run: Run, comparison: Comparison) -> float:
    """By how much the best epoch's metric is better on the training images than on the validation images."""
    return comparison.sign * (run.score(comparison.metric, "train") - run.score(comparison.metric))


# --- results.md ------------------------------------------------------------------------------------------------------


def _markdown(parent: Path, comparisons: list[tuple[Comparison, list[Row]]]) -> str:
    parts = [f"# Results of {escaped(str(parent))}"]
    if len(comparisons) > 1:
        parts.append("The runs were trained on different data: each has a table of its own, and they are not compared.")
    for comparison, ranked in comparisons:
        if len(comparisons) > 1:
            data = f"Data {comparison.fingerprint[:12]} ({escaped(comparison.data_dir)})"
            parts.append(f"## {data}" if comparison.fingerprint else f"## Data not known: no {ENVIRONMENT} tells")
        parts += [_summary(comparison), _ranking(comparison, ranked), _unranked(comparison), _footer(parent, comparison,
                  ranked)]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(comparison: Comparison) -> str:
    states = Counter(run.state for run in comparison.runs)
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    return (
        f"{plural(len(comparison.runs), 'run')} ({counts}), ranked by {escaped(comparison.metric)} on the validation "
        "images at each run's best epoch."
    )


def _ranking(comparison: Comparison, ranked: list[Row]) -> str:
    if not ranked:
        finished = any(run.state == "finished" for run in comparison.runs)
        return f"No run measured {escaped(comparison.metric)}." if finished else "No run has finished yet."
    metric, one_seed = comparison.metric, all(len(row.scores) == 1 for row in ranked)
    any_test = any(comparison.metric in run.test for row in ranked for run in row.setting.runs)
    by_hand = not all(run.searched for row in ranked for run in row.setting.runs)  # values alone do not name a folder
    header = ["rank", *["folder"][: by_hand], *comparison.names, "seeds", f"{metric}, best epoch", "95% interval",
              "difference to the best", *[f"{metric}, test"][:any_test], f"{metric}, last epoch", "best epoch",
              "valid loss", "train-valid gap", "s/epoch", "time", "memory MB", "parameters"]  # fmt: skip
    lines = []
    for rank, row in enumerate(ranked[:LONGEST], 1):
        of = _of_setting(row, rank, comparison)
        lines.append([
            str(rank), *[row.setting.runs[0].name][: by_hand], *map(brief, row.setting.values.values()),
            f"{len(row.scores)}/{row.setting.total}",
            f"{row.mean:.4f}" + ("" if math.isnan(row.std) else f" ± {row.std:.4f}"),
            _ends(row.interval) or f"n = {len(row.scores)}", _difference(row) if rank > 1 else "best",
            *[_test(of)][:any_test], _figure(of["last_epoch_mean"]), f"{of['best_epoch']:.3g} of {of['epochs']:.3g}",
            _figure(of["valid_loss"]), _figure(of["gap"]), _figure(of["seconds_per_epoch"], ".3g"),
            duration(of["seconds"]), _figure(of["memory_mb"], ".0f"), _figure(of["parameters"] / 1e6, ".3g", " M"),
        ])  # fmt: skip
    kept_by = " or ".join(sorted({run.metric for row in ranked for run in row.setting.runs}))
    notes = [
        f"Best epoch: the one best at {escaped(kept_by)} on these same images, whose weights were kept; valid loss and "
        "gap are of that epoch. "
        f"Gap: by how much {escaped(metric)} is better on the training images, as seen in training.",
    ]
    if one_seed:
        notes.append("n = 1: no setting was repeated with another seed, so what a seed changes is not known.")
    else:
        notes.append("± is the standard deviation over seeds, the interval that of their mean (Student's t).")
    if any_test:
        notes.append(
            "Test: of the kept weights, where evaluate.py has measured it on the same images; nothing is ranked by it."
        )
    if any(row.difference for row in ranked):
        notes.append(_how_compared(ranked))
    if len(ranked) > LONGEST:
        notes.append(f"The first {LONGEST} of {len(ranked)} settings; {RESULTS_CSV} has all.")
    return _table(header, lines) + "\n\n" + " ".join(notes)


def _test(of: dict[str, Any]) -> str:
    if of["test_mean"] is None:
        return "-"
    spread = "" if of["test_std"] is None else f" ± {of['test_std']:.4f}"
    missing = of["seeds_finished"] - of["test_seeds"]
    return f"{of['test_mean']:.4f}{spread}" + f" ({of['test_seeds']} of {of['seeds_finished']} seeds)" * bool(missing)


def _how_compared(ranked: list[Row]) -> str:
    over = {row.difference.over for row in ranked if row.difference}
    said = []
    if "seeds" in over:
        said.append("on the seeds both have")
    if "images" in over:
        said.append('where it says "images", on the same validation images, one run each: what other images might '
                    "show, not what other seeds would")  # fmt: skip
    return (
        f"Differences are paired ({'; '.join(said)}), with 95% intervals, each for itself; not separable: the interval "
        "holds 0, or there is none."
    )


def _difference(row: Row) -> str:
    difference = row.difference
    if difference is None:
        return f"{row.distance:+.4f}, not compared"
    ends = _ends(difference.interval, "+")
    basis = f"{difference.pairs} {difference.over}"
    text = f"{difference.value:+.4f} ({ends + ', ' if ends else ''}{basis})"
    return text if difference.separable else f"{text} not separable"


def _unranked(comparison: Comparison) -> str:
    runs = comparison.unranked
    if not runs:
        return ""
    header = ["not ranked", *comparison.names, "seed", "state", "epochs", f"best {comparison.metric} so far", "reason"]
    lines = [
        [run.name, *map(brief, run.values.values()), str(run.seed), run.state, str(run.epochs),
         _figure(run.score(comparison.metric)), run.reason]
        for run in runs[:LONGEST]
    ]  # fmt: skip
    more = f"\n\nThe first {LONGEST} of {len(runs)}; {RESULTS_CSV} has all." if len(runs) > LONGEST else ""
    return _table(header, lines) + more


def _footer(parent: Path, comparison: Comparison, ranked: list[Row]) -> str:
    runs = comparison.runs
    spent, unranked = (sum(run.seconds for run in some) for some in (runs, comparison.unranked))
    devices = ", ".join(sorted({run.device for run in runs if run.device}))
    cost = (
        f"Cost: {sum(run.epochs for run in runs)} epochs, {duration(spent)} of training"
        + (f" on {escaped(devices)}" if devices else "")
        + (f", {duration(unranked)} of it in runs that are not ranked" if unranked else "")
        + "."
    )
    if not ranked:
        return cost
    return "\n\n".join([cost, _luck(comparison, ranked), _next_commands(parent, comparison, ranked)])


def _luck(comparison: Comparison, ranked: list[Row]) -> str:
    """How optimistic the best row is, in words and as a number where the noise is known."""
    metric, trials = escaped(comparison.metric), sum(len(row.setting.runs) for row in ranked)
    early = {canonical(list(run.values.values())) for run in comparison.unranked if run.state == "pruned"}
    count = len(ranked) + len(early)  # what was ended early was in the running too
    tried = plural(trials, "trial") + f", {len(early)} ended early" * bool(early)
    if count == 1:
        return (
            f"The best epoch was chosen on the validation images, so its {metric} flatters a little; the test set says."
        )
    text = f"The best of {count} settings ({tried}), chosen on the images it is judged on, looks better than it is: "
    repeated = [row for row in ranked if len(row.scores) > 1]
    if not repeated:
        return (
            text + "by how much cannot be said from one seed each; confirm it with more seeds, then open the test set."
        )
    freedom = sum(len(row.scores) - 1 for row in repeated)
    noise = math.sqrt(sum(row.std**2 * (len(row.scores) - 1) for row in repeated) / freedom)
    error = noise / math.sqrt(float(np.mean([len(row.scores) for row in ranked])))
    return text + (
        f"were all {count} equally good, luck with seeds alone would put the first {best_of(count, error):.4f} ahead "
        f"of their mean (standard deviation over seeds {noise:.4f}). The choice of the best epoch adds to it."
    )


def _next_commands(parent: Path, comparison: Comparison, ranked: list[Row]) -> str:
    best = max(ranked[0].setting.runs, key=lambda run: comparison.sign * run.score(comparison.metric))
    data, model = (shlex.quote(printable(str(path))) for path in (comparison.data_dir or "data/d", best.path))
    lines = []
    if (best.path / SEARCH).is_file() and len(ranked[0].scores) < CONFIRMED and "seed" not in best.searched:
        folder = shlex.quote(printable(str(best.path.parent)))
        lines += [
            "# is it the best, or lucky? more seeds of the first",
            f"python search_hyperparams.py --data_dir {data} --parent_dir {folder} --confirm {CONFIRMED}"
            + options(best.path.parent, comparison.runs),
        ]
    if not (best.path / weights_name("best")).is_file():
        lines += ["# its weights were not kept", f"python train.py --data_dir {data} --model_dir {model} --overwrite"]
    lines += [
        "# when the choice is made: open the test set, once",
        f"python evaluate.py --data_dir {data} --model_dir {model}",
    ]
    text = "\n".join(lines)
    fence = "`" * (1 + max([2, *map(len, re.findall("`+", text))]))
    return f"Next:\n\n{fence}sh\n{text}\n{fence}"


def _table(header: list[str], lines: list[list[str]]) -> str:
    cells = [[escaped(cell if len(cell) <= 160 else f"{cell[:159]}…") for cell in line] for line in lines]
    return str(tabulate(cells, [escaped(name) for name in header], tablefmt="pipe", disable_numparse=True))


def _ends(interval: Interval, sign: str = "") -> str:
    return "" if math.isnan(interval.low) else f"{interval.low:{sign}.4f} to {interval.high:{sign}.4f}"


def _figure(value: float, form: str = ".4f", unit: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}{unit}"
