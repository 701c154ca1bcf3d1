"""A CSV file that describes images: which file, which class."""

import csv
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import include
from images.walk import Walk, is_hidden
from utils import UserError, did_you_mean, log, printable

if TYPE_CHECKING:
    from _csv import Reader

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
    kept = (
        c if c.isalnum() or unicodedata.category(c).startswith("M") else " "  # letters, digits, and marks on letters
        for c in label.lower().replace("&", " and ")
    )
    return "_".join("".join(kept).split())


def read_table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """The line number and the cells of these columns, row by row; commas, semicolons or tabs between cells.

    Raises:
        UserError: naming the file and the line, or the column that is missing and the nearest there is.
    """
    shown = printable(path.name)
    limit = csv.field_size_limit(2**27)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = file.readline()
            file.seek(0)
            mark = max(",;\t", key=lambda mark: len({name.strip('" \r\n') for name in names.split(mark)} & {*columns}))
            reader = csv.reader(file, delimiter=mark, strict=True)
            yield from _rows(reader, shown, columns)
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{shown}: is not a CSV file in UTF-8 ({error})") from error
    finally:
        csv.field_size_limit(limit)


def _rows(reader: "Reader", shown: str, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    try:
        header = [name.strip() for name in next(reader, [])]
        for column in columns:
            if header.count(column) != 1:
                wrong = "two columns" if column in header else "no column"
                near = "" if column in header else did_you_mean(column, header)
                raise UserError(f'{shown}: has {wrong} "{column}"{near}')
        places = [header.index(column) for column in columns]
        for row in reader:
            if any(row[len(header) :]):
                raise UserError(f"{shown}:{reader.line_num}: has {len(row)} cells, the first line {len(header)}")
            if row:
                yield reader.line_num, [row[place].strip() if place < len(row) else "" for place in places]
    except csv.Error as error:
        raise UserError(f"{shown}:{reader.line_num}: is not a line of CSV ({error})") from error


class Images:
    """Finds the images that cells name: by the path under a folder, or by a file name that only one image has.

    A cell may leave out the suffix.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))  # noqa: PTH100 (gives a name to ".", and leaves links as they are)
        self._by_name: dict[str, set[str]] | None = None

    def find(self, cell: str) -> tuple[str, str]:
        """The image's name, which does not tell in which folders it was looked for, and its path under the folder.

        Raises:
            LookupError: with the reason, as what a row is without.
        """
        name = os.path.relpath(cell, self.folder) if Path(cell).is_absolute() else os.path.normpath(cell)
        if os.path.isfile(self.folder / name) and not name.startswith("../"):  # noqa: PTH113 (bears with any name)
            if any(map(is_hidden, name.split("/"))) or not name.lower().endswith(include.IMAGE_SUFFIXES):
                raise LookupError("a file that is hidden or not an image by its name")
            return name, name
        found = self._index().get(name, set())
        if len(found) > 1:
            raise LookupError("a file name that several images share")
        if not found:
            raise LookupError("no image of that name")
        path = next(iter(found))
        return PurePosixPath(path).name, path

    def _index(self) -> dict[str, set[str]]:
        """Paths under the folder, by the names that a cell may have for them."""
        if self._by_name is None:
            by_name: defaultdict[str, set[str]] = defaultdict(set)
            start = self.folder.name
            for image in Walk(self.folder.parent, start).images(start):
                path = PurePosixPath(image.removeprefix(f"{start}/"))
                for name in (path.name, path.stem, str(path.with_suffix(""))):
                    by_name[name].add(str(path))
            self._by_name = dict(by_name)
        return self._by_name


def table_images(
    path: Path, images_dir: Path, image_column: str, label_column: str, rule: str
) -> Iterator[tuple[str, str, Path]]:
    """The class, a file name and the file of every row; rows that cannot be used are named and counted.

    Raises:
        UserError: when no row can be used, when an image has two classes, or two labels make one folder name.
    """
    images, label_of, shown = Images(images_dir), label_rule(rule), printable(path.name)
    left_out: defaultdict[str, list[str]] = defaultdict(list)  # reason -> rows
    labels: dict[str, str] = {}  # folder name -> label
    classes: dict[str, str] = {}  # path -> folder name
    names: dict[str, str] = {}  # path -> name
    for line, (cell, text) in read_table(path, (image_column, label_column)):
        label = unicodedata.normalize("NFC", label_of(text))  # an accent may be a character of its own
        folder = class_name(label)
        if not folder:
            left_out[f'no label in "{label_column}"'].append(f"line {line}")
            continue
        try:
            name, image = images.find(cell)
        except LookupError as error:
            left_out[str(error)].append(f"{printable(cell)} (line {line})")
            continue
        if labels.setdefault(folder, label) != label:
            both = printable(f'"{labels[folder]}" and "{label}"')
            raise UserError(
                f"{shown}:{line}: the labels {both} both become {folder}; make them one, or tell them apart"
            )
        if classes.setdefault(image, folder) != folder:
            raise UserError(f"{shown}:{line}: {printable(image)} is {folder} here and {classes[image]} before")
        names.setdefault(image, name)
    for reason, rows in left_out.items():
        _tell(shown, reason, rows)
    if not classes:
        where = printable(str(images_dir))
        raise UserError(f"{shown}: no row names an image in {where}; see --image_column and --images_dir")
    for image, folder in classes.items():
        yield folder, names[image], images.folder / image


def _tell(shown: str, reason: str, rows: list[str]) -> None:
    more = f", and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    count = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
    log.warning("%s: left out %s with %s: %s%s", shown, count, reason, ", ".join(rows[:NAMED]), more)
