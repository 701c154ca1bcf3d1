"""A CSV file that describes images: which file, which class."""

import csv
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import include
from utils import UserError, did_you_mean, log, printable

NAMED: Final = 10  # rows named in a message; the rest are counted


def as_is(cell: str) -> str:
    """The cell itself."""
    return cell.strip()


def first_level(cell: str) -> str:
    """The first level of a category tree such as ["Home Furnishing >> Curtains >> …"]."""
    return re.split(">|\\|", cell.strip(" []\"'"))[0].strip()


LABEL_RULES: Final[dict[str, Callable[[str], str]]] = {"as_is": as_is, "first_level": first_level}


def label_rule(text: str) -> Callable[[str], str]:
    """The rule of that name, or of a regular expression: regex:PATTERN gives its first group, or all it matches."""
    if not text.startswith("regex:"):
        if text not in LABEL_RULES:
            raise UserError(f'"{text}" is not a known label rule{did_you_mean(text, LABEL_RULES)}, or regex:PATTERN')
        return LABEL_RULES[text]
    try:
        pattern = re.compile(text.removeprefix("regex:"))
    except re.error as error:
        raise UserError(f"--label_rule {text}: not a regular expression ({error})") from error

    def matched(cell: str) -> str:
        found = pattern.search(cell)
        return "" if found is None else (found[1] or "" if pattern.groups else found[0]).strip()

    return matched


def class_name(label: str) -> str:
    """A label as a folder's name: "Home Decor & Festive Needs" becomes home_decor_and_festive_needs."""
    return re.sub(r"\W+", "_", label.lower().replace("&", " and ")).strip("_")


def read_table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """The line number and the cells of these columns, row by row; commas, semicolons or tabs between cells.

    Raises:
        UserError: naming the file and the line, or the column that is missing and the nearest there is.
    """
    csv.field_size_limit(2**27)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            header = next(reader, [])
            for column in columns:
                if column not in header:
                    raise UserError(f'{path}: has no column "{column}"{did_you_mean(column, header)}')
            places = [header.index(column) for column in columns]
            for row in reader:
                if row:
                    yield reader.line_num, [row[place] if place < len(row) else "" for place in places]
    except OSError as error:
        raise UserError(f"{path.name}: cannot be read ({error.strerror})") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path.name}: is not a CSV file in UTF-8 ({error})") from error


class Images:
    """Finds the files that cells name, by their path under a folder or, where that is not there, by a unique name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, cell: str) -> tuple[str, Path] | None:
        """The image's name under the folder and its file; None when it is missing, ambiguous, or outside the folder."""
        name = os.path.normpath(os.path.relpath(cell, self.folder) if Path(cell).is_absolute() else cell)
        if name.split("/")[0] == "..":
            return None
        if (path := self.folder / name).is_file():
            return name, path
        found = self._index().get(name, [])
        return (name, found[0]) if len(found) == 1 else None

    def _index(self) -> dict[str, list[Path]]:
        if self._by_name is None:
            self._by_name = {}
            for parent, _, names in os.walk(self.folder):
                for name in names:
                    if name.lower().endswith(include.IMAGE_SUFFIXES):
                        self._by_name.setdefault(name, []).append(Path(parent) / name)
        return self._by_name


def table_images(
    path: Path, images_dir: Path, image_column: str, label_column: str, rule: str
) -> Iterator[tuple[str, str, Path]]:
    """The class, a file name and the file of every row; rows that cannot be used are named and counted.

    Raises:
        UserError: when no row can be used, when an image has two classes, or two labels make one folder name.
    """
    images, label_of = Images(images_dir), label_rule(rule)
    missing: list[str] = []
    unlabelled: list[str] = []
    labels: dict[str, str] = {}  # folder name -> label
    classes: dict[tuple[str, Path], str] = {}
    for line, (cell, text) in read_table(path, (image_column, label_column)):
        label = label_of(text)
        folder = class_name(label)
        if not folder:
            unlabelled.append(f"line {line}")
        elif not cell.strip() or (image := images.find(cell.strip())) is None:
            missing.append(f"{printable(cell)} (line {line})")
        elif labels.setdefault(folder, label) != label:
            raise UserError(f'{path}:{line}: the labels "{labels[folder]}" and "{label}" both become {folder}')
        elif classes.setdefault(image, folder) != folder:
            raise UserError(f"{path.name}:{line}: {image[0]} is {folder} here and {classes[image]} before")
    _tell(path, "without its image", missing)
    _tell(path, f'without a label in "{label_column}"', unlabelled)
    if not classes:
        raise UserError(f"{path.name}: no row names an image in {images_dir}; see --image_column and --images_dir")
    for (name, file), folder in classes.items():
        yield folder, name, file


def _tell(path: Path, what: str, rows: list[str]) -> None:
    if rows:
        more = f", and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        count = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
        log.warning("%s: %s %s left out: %s%s", path.name, count, what, ", ".join(rows[:NAMED]), more)
