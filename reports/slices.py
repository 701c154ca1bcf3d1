"""Accuracy on parts of the images: by class, size, brightness, or what a table says of them. No torch."""

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from reports.intervals import Interval, wilson
from reports.tables import csv_bytes
from training.curves import png_bytes
from utils import UserError, printable

Array = np.ndarray[Any, Any]

FEWEST: Final = 20  # images of a slice from which its accuracy is shown
BINS: Final = 5  # of numbers, with equally many images as far as equal numbers allow
FEW_NUMBERS: Final = 6  # up to so many different numbers, each is a slice of its own
MOST_VALUES: Final = 50  # different texts of a column that can be slices


@dataclass(frozen=True)
class Slice:
    """Some of the images.

    Args:
        name: what they have in common.
        images: how many they are.
        right: how many of them are right.
    """

    name: str
    images: int
    right: int

    @property
    def enough(self) -> bool:
        """Whether there are so many images that the accuracy says something."""
        return self.images >= FEWEST

    @property
    def accuracy(self) -> float:
        """The share that is right."""
        return self.right / self.images

    @property
    def interval(self) -> Interval:
        """Its 95% interval (Wilson)."""
        return wilson(self.right, self.images)


@dataclass(frozen=True)
class Slicing:
    """The slices by one thing.

    Args:
        by: the thing: class, brightness, a column.
        slices: in their order.
        note: what of the images is in no slice, and why; "" when all are in one.
    """

    by: str
    slices: Sequence[Slice]
    note: str = ""


def by_members(by: str, right: Array, members: Iterable[tuple[str, Array]], note: str = "") -> Slicing:
    """Slices by which images belong to each: a bool (N,) for each name. Those without an image are left out."""
    slices = [Slice(name, int(mine.sum()), int(right[mine].sum())) for name, mine in members if mine.any()]
    return Slicing(by, slices, note)


def by_number(by: str, right: Array, values: Array) -> Slicing:
    """Slices of a number of each image: quantile bins; nan is no number.

    Args:
        by: what the number is.
        right: bool (N,).
        values: float (N,).
    """
    known = np.isfinite(values)
    unknown = int((~known).sum())
    note = f"{unknown:,} images have no number here." if unknown else ""
    different = np.unique(values[known])
    if len(different) <= FEW_NUMBERS:
        return by_members(by, right, ((f"{_shown(v)}", values == v) for v in different.tolist()), note)
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, BINS + 1)))
    members = []
    for index, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        last = index == len(edges) - 2
        mine = known & (values >= low) & ((values <= high) if last else (values < high))
        members.append((f"{_shown(low)} to {'' if last else 'below '}{_shown(high)}", mine))
    return by_members(by, right, members, note)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == round(value) else f"{value:.4g}"


def by_text(by: str, right: Array, values: Sequence[str]) -> Slicing:
    """Slices of a text of each image, the most frequent first; "" is none, and rare texts beyond many are left out."""
    counted = Counter(value for value in values if value)
    frequent = sorted(counted, key=lambda value: (-counted[value], value))[:MOST_VALUES]
    texts = np.array(values, dtype=object)
    missing = sum(not value for value in values)
    notes = [f"{missing:,} images have no text here."] if missing else []
    if len(counted) > MOST_VALUES:
        notes.append(f"Of {len(counted):,} different texts the {MOST_VALUES} most frequent are shown.")
    return by_members(by, right, ((value, texts == value) for value in frequent), " ".join(notes))


def by_column(name: str, right: Array, cells: Sequence[str]) -> Slicing:
    """Slices of a table's column: of numbers when every cell that is not empty holds one, else of texts.

    A column in which (nearly) every image has a text of its own, such as an identifier, has no slice.
    """
    given = [cell for cell in cells if cell]
    numbers = [_number(cell) for cell in cells]
    if given and all(not math.isnan(number) for number, cell in zip(numbers, cells, strict=True) if cell):
        return by_number(name, right, np.array(numbers))
    if max(Counter(given).values(), default=0) < FEWEST:
        return Slicing(name, [])
    return by_text(name, right, cells)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


# --- a table of the person's own --------------------------------------------------------------------------------------


def read_columns(path: Path, images: Sequence[str]) -> dict[str, list[str]]:
    """The columns of a CSV file with a cell for each image, "" where it has none.

    The column that names the images is the one that finds the most of them: by the path below the data folder or the
    split, by the file's name, or that without its suffix, where only one image has it.

    Args:
        path: the CSV file, UTF-8; commas, semicolons or tabs between cells.
        images: N paths relative to the data folder.

    Returns:
        N cells for each other column.

    Raises:
        UserError: naming the file, and what is wrong with it.
    """
    shown = printable(str(path))
    header, rows = _read(path, shown)
    names = _names(images)
    found = [sum(row[column] in names for row in rows) for column in range(len(header))]
    key = int(np.argmax(found)) if found else 0
    if not found or not found[key]:
        example = printable(images[0]) if images else ""
        raise UserError(f"{shown}: no column names the images of this split; one must hold paths such as {example}")
    columns = {name: [""] * len(images) for column, name in enumerate(header) if column != key and name}
    for row in rows:
        if (index := names.get(row[key])) is not None:
            for column, name in enumerate(header):
                if column != key and name:
                    columns[name][index] = row[column]
    return columns


def _read(path: Path, shown: str) -> tuple[list[str], list[list[str]]]:
    limit = csv.field_size_limit(2**27)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            mark = max(",;\t", key=first.count)
            header, *rows = ([cell.strip() for cell in row] for row in csv.reader(file, delimiter=mark) if row)
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{shown}: is not a CSV file in UTF-8 ({error})") from error
    except ValueError as error:
        raise UserError(f"{shown}: is empty; its first line must name the columns") from error
    finally:
        csv.field_size_limit(limit)
    if double := [name for name, times in Counter(header).items() if times > 1 and name]:
        raise UserError(f'{shown}:1: has two columns "{printable(double[0])}"')
    return header, [(row + [""] * len(header))[: len(header)] for row in rows]


def _names(images: Sequence[str]) -> dict[str, int]:
    """The image that each name stands for; names that several share stand for none."""
    by_name: defaultdict[str, set[int]] = defaultdict(set)
    for index, image in enumerate(images):
        path = PurePosixPath(image)
        below = str(path.relative_to(path.parts[0])) if len(path.parts) > 1 else image
        for name in (image, below, path.name, path.stem):
            by_name[name].add(index)
    return {name: next(iter(indices)) for name, indices in by_name.items() if len(indices) == 1}


# --- as files ---------------------------------------------------------------------------------------------------------


def slices_csv(slicings: Sequence[Slicing]) -> bytes:
    """One row for each slice, those with too few images too."""
    rows = (
        [slicing.by, part.name, part.images, part.right, part.accuracy, *part.interval]
        for slicing in slicings
        for part in slicing.slices
    )
    return csv_bytes(["by", "slice", "images", "right", "accuracy", "low", "high"], rows)


def slices_figure(slicings: Mapping[str, Sequence[Slice]], accuracy: float) -> bytes:
    """Accuracy with intervals, a panel for each thing sliced by, as a PNG.

    Args:
        slicings: slices with enough images, by what they are sliced by.
        accuracy: over all images, drawn as a line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [1 + len(parts) for parts in slicings.values()]
    figure = Figure(figsize=(7.5, 0.27 * sum(heights) + 0.4 * len(heights) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(slicings), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (by, parts) in zip(panels, slicings.items(), strict=True):
        values, ends = np.array([part.accuracy for part in parts]), np.array([part.interval for part in parts])
        places = np.arange(len(parts))
        panel.errorbar(values, places, xerr=np.abs(ends - values[:, None]).T, fmt="o", color="#4878a8", capsize=2)
        names = [f"{printable(part.name)[:28]} ({part.images:,})" for part in parts]
        panel.set_yticks(places, names, parse_math=False, fontsize=8)
        panel.set_ylim(len(parts) - 0.5, -0.5)
        panel.axvline(accuracy, color="#d1603d", linewidth=1)
        panel.set_title(printable(by)[:60], loc="left", fontsize=9, parse_math=False)
        panel.grid(axis="x", alpha=0.25)
    panels[-1].set_xlabel("accuracy with 95% intervals; line: all images; in brackets: images")
    return png_bytes(figure)
