"""Experiment folders side by side: what was varied, and which runs may be compared. Reads only."""

import contextlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from config import run_folder
from config.schema import FREE_KEYS
from search.asked import asked
from search.read import DEFAULTS, Run, greater, read_run
from utils import UserError, did_you_mean, printable

# What says how or where a run was computed, or follows from the rest: no difference between settings.
NOT_VARIED: Final = FREE_KEYS | {"bs_test", "hyper_search", "n_clas", "save_summary_steps", "search", "seed"}
NO_EXPERIMENTS: Final = (run_folder.CODE, run_folder.REPORT)


@dataclass(frozen=True)
class Setting:
    """One combination of values and its finished runs, one or more for each seed.

    Args:
        values: by parameter; only what differs.
        runs: the finished runs in which the metric was measured.
        total: how many seeds were tried, whatever became of them.
    """

    values: dict[str, Any]
    runs: list[Run]
    total: int

    def mean(self, number: Callable[[Run], float]) -> float:
        """The mean over the seeds of a number that each run has."""
        return mean(self.by_seed(number).values())

    def by_seed(self, number: Callable[[Run], float]) -> dict[int, float]:
        """A number of each seed; the mean where a seed was run several times."""
        seeds: dict[int, list[float]] = {}
        for run in self.runs:
            seeds.setdefault(run.seed, []).append(number(run))
        return {seed: mean(numbers) for seed, numbers in sorted(seeds.items())}


@dataclass(frozen=True)
class Comparison:
    """All runs on the same data.

    Args:
        fingerprint: of the data; empty when no run got so far as to read it.
        data_dir: where it was.
        metric: what the settings are ranked by.
        names: the parameters that differ, in order.
        settings: best first.
        runs: every run, by name.
    """

    fingerprint: str
    data_dir: str
    metric: str
    names: tuple[str, ...]
    settings: list[Setting]
    runs: list[Run]

    @property
    def unranked(self) -> list[Run]:
        """The runs that are not part of a mean."""
        ranked = {id(run) for setting in self.settings for run in setting.runs}
        return [run for run in self.runs if id(run) not in ranked]

    @property
    def sign(self) -> int:
        """1 where a greater metric is better, else -1."""
        return 1 if greater(self.metric) else -1


def collect(parent_dir: Path | str, metric: str | None = None) -> list[Comparison]:
    """Every experiment below a folder, by the data it was trained on; most runs first.

    Args:
        parent_dir: the folder.
        metric: to rank by; None for what a search there asks for, else for what most runs kept their best epoch by.

    Raises:
        UserError: when there is no such folder, no experiment in it, or none that measured the metric.
    """
    parent = Path(parent_dir)
    if not parent.is_dir():
        raise UserError(f"{printable(str(parent))}: no such folder")
    runs = [read_run(path, parent) for path in experiment_folders(parent)]
    if not runs:
        raise UserError(
            f"{printable(str(parent))}: holds no experiment; an experiment is a folder with a {run_folder.PARAMS}"
        )
    measured = {name for run in runs for name in run.valid}
    if metric is not None and measured and metric not in measured:
        raise UserError(f'"{metric}" was not measured in any of these runs{did_you_mean(metric, measured)}')
    names = _varied(runs)
    for run in runs:
        run.values = {name: run.searched[name] if name in run.searched else value_of(run, name) for name in names}
    metric = metric or asked(parent, runs).metric
    groups: dict[str, list[Run]] = {}
    known = {run.fingerprint for run in runs} - {""}
    likely = known.pop() if len(known) == 1 else ""
    for run in runs:  # what has not finished, and is in no mean, most likely was to read the same
        groups.setdefault(run.fingerprint or likely * (run.state != "finished"), []).append(run)
    ordered = sorted(groups.items(), key=lambda item: (item[0] == "", -len(item[1]), item[0]))
    return [_comparison(fingerprint, members, names, metric) for fingerprint, members in ordered]


def experiment_folders(parent: Path) -> list[Path]:
    """Every folder that was trained, or that holds a params.json and no other experiment; in natural order."""
    found: dict[str, bool] = {}  # folder -> whether it was trained
    waiting, home, linked = [str(parent)], os.path.realpath(parent), set[str]()
    while waiting:
        folder = waiting.pop()
        files = set()
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():  # noqa: PTH112 (bears loops)
                    if entry.name.startswith((".", "before-")) or entry.name in NO_EXPERIMENTS:
                        continue
                    if not entry.is_symlink() or _leads_to_new(entry.path, home, linked):
                        waiting.append(entry.path)
                else:
                    files.add(entry.name)
        trained = not files.isdisjoint((run_folder.STATUS, run_folder.HISTORY, run_folder.PARAMS_RESOLVED))
        if trained or run_folder.PARAMS in files:
            found[folder] = trained
    above = {str(ancestor) for folder in found for ancestor in Path(folder).parents}
    runs = (Path(folder) for folder, trained in found.items() if trained or folder not in above)
    return sorted(runs, key=lambda path: natural(str(path)))


def _leads_to_new(link: str, home: str, linked: set[str]) -> bool:
    """Whether a link leads out of a folder, and to where none of those seen did."""
    real = os.path.realpath(link)
    if real in linked or os.path.commonpath([real, home]) in (real, home):
        return False
    linked.add(real)
    return True


def natural(text: str) -> list[Any]:
    """A key that sorts 2 before 10 and 0.01 before 0.1."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(float(part), part) if i % 2 else (0.0, part) for i, part in enumerate(parts)]


# --- what differs ----------------------------------------------------------------------------------------------------


def value_of(run: Run, name: str) -> Any:
    """A parameter's value in a run, the default where it was left out."""
    return run.params[name] if name in run.params else DEFAULTS.get(name)


def mean(numbers: Collection[float]) -> float:
    """Ten times as fast for a few numbers as that of numpy."""
    return sum(numbers) / len(numbers)


def canonical(value: Any) -> str:
    """Text that is equal for equal values: 1 and 1.0 are one."""
    if isinstance(value, list):
        return f"[{', '.join(canonical(item) for item in value)}]"
    with contextlib.suppress(OverflowError):
        value = float(value) if isinstance(value, int) else value
    return json.dumps(value, sort_keys=True)


def _varied(runs: list[Run]) -> tuple[str, ...]:
    """The parameters to tell the runs apart by: those searched, and those in which searches or other runs differ."""
    searched = dict.fromkeys(name for run in runs for name in run.searched if name != "seed")
    known = [run for run in runs if run.resolved] or runs
    searches = {run.path.parent: run for run in known if run.searched}  # its trials differ in what it set alone
    compared = [*(run for run in known if not run.searched), *searches.values()]
    differ = []
    for key in sorted({key for run in compared for key in run.params}):
        inside = any(key == name or key.startswith(f"{name}.") for name in searched)
        if not inside and key.split(".")[0] not in NOT_VARIED:
            first = value_of(compared[0], key)
            if any(value_of(run, key) != first for run in compared):
                differ.append(key)
    return (*searched, *differ)


def _comparison(fingerprint: str, runs: list[Run], names: tuple[str, ...], wanted: str | None) -> Comparison:
    metric = (
        wanted
        or Counter(run.metric for run in runs if run.epochs or not any(r.epochs for r in runs)).most_common(1)[0][0]
    )
    tested = Counter(run.test_images for run in runs if run.test).most_common(1)
    settings: dict[str, list[Run]] = {}
    for run in runs:
        if tested and run.test_images != tested[0][0]:
            run.test = {}  # on other images than most were
        settings.setdefault(canonical(list(run.values.values())), []).append(run)
    ranked = []
    for members in settings.values():
        measured = [run for run in members if run.state == "finished" and math.isfinite(run.score(metric))]
        if measured:
            ranked.append(Setting(members[0].values, measured, len({run.seed for run in members})))
    sign = -1 if greater(metric) else 1
    ranked.sort(key=lambda setting: (sign * setting.mean(lambda run: run.score(metric)), setting.runs[0].name))
    data_dir = next((run.data_dir for run in runs if run.data_dir), "")
    return Comparison(fingerprint, data_dir, metric, names, ranked, runs)
