"""From names on a command line to lines of answers: finding images, and writing what the model says. No torch."""

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

from export.contract import Contract
from export.predictor import Prediction
from images.read import ImageError
from images.shards import locate, walk
from images.walk import Walk
from reports.tables import csv_bytes
from utils import Interrupted, TrainingFault, UserError, printable

STANDARD_INPUT: Final = "-"
Line = Callable[[Path, Prediction | ImageError], str]


def find(names: Sequence[str], listed: TextIO) -> Iterator[Path]:
    """The images meant: files as they are named, also in tar files, folders with all in them, for "-" a path a line.

    Raises:
        UserError: a folder holds no image, or there is no such file or folder.
    """
    for name in names:
        path = Path(name)
        if name == STANDARD_INPUT:
            yield from _listed(listed)
        elif os.path.isdir(path):  # noqa: PTH112 (Path's raises where a name is too long)
            yield from _walked(path)
        elif os.path.lexists(path) or _in_tar(path):
            yield path
        else:
            raise UserError(f"{printable(name)}: no such file or folder")


def _listed(lines: TextIO) -> Iterator[Path]:
    """A path on each line that is not blank, whatever its bytes: a file's name need not be text."""
    if isinstance(lines, io.TextIOWrapper):
        lines.reconfigure(encoding=sys.getfilesystemencoding(), errors=sys.getfilesystemencodeerrors())
    yield from (Path(line.rstrip("\r\n")) for line in lines or () if line.strip())  # a closed stream is None


def _in_tar(path: Path) -> bool:
    try:
        return locate(path) is not None
    except OSError:
        return False


def _walked(folder: Path) -> list[Path]:
    try:
        found = Walk(folder, ".").images(".")
        if not found:
            way = walk(folder, ".")
            if way.problems:  # tar files that cannot be read
                raise UserError(way.problems[0])
            found = way.images(".")
    except OSError as error:
        raise UserError(f"{printable(str(error.filename))}: cannot be read ({error.strerror})") from error
    if not found:
        raise UserError(f"{printable(str(folder))}: holds no image")
    return [folder / path for path in found]


def as_table(top: int, contract: Contract) -> tuple[str, Line]:
    """Columns for people; the head is empty."""
    width = min(24, max(len(printable(name)) for name in contract.classes))

    def line(path: Path, answer: Prediction | ImageError) -> str:
        shown = printable(str(path))
        if isinstance(answer, ImageError):
            return f"{shown}  -  {answer.reason}\n"
        best = (f"{printable(name):{width}} {chance:.4f}" for name, chance in answer.top(top))
        return f"{shown}  {'  '.join(best)}{'  unsure' if answer.sure is False else ''}\n"

    return "", line


def as_csv(top: int, contract: Contract) -> tuple[str, Line]:
    """A row for each image: its path, the best classes each with its probability, and what is wrong with the file.

    Of a model with a threshold also whether the answer is sure: true or false.
    """
    count, decides = min(top, len(contract.classes)), contract.threshold is not None

    def row(cells: Sequence[object]) -> str:
        return csv_bytes(cells, ()).decode()  # type: ignore[arg-type]

    def line(path: Path, answer: Prediction | ImageError) -> str:
        if isinstance(answer, ImageError):
            return row([str(path), *[""] * (2 * count + decides), answer.reason])
        best = [cell for name, chance in answer.top(top) for cell in (name, f"{chance:.6f}")]
        return row([str(path), *best, *[str(answer.sure).lower()] * decides, ""])

    ranks = [cell for rank in range(1, count + 1) for cell in (f"class_{rank}", f"probability_{rank}")]
    return row(["image", *ranks, *["sure"] * decides, "error"]), line


def as_jsonl(top: int, contract: Contract) -> tuple[str, Line]:
    """An object for each image: "image" and "classes", best first, or "error"; "sure" where there is a threshold."""

    def line(path: Path, answer: Prediction | ImageError) -> str:
        if isinstance(answer, ImageError):
            return _json({"image": str(path), "error": answer.reason})
        best = [{"class": name, "probability": round(chance, 6)} for name, chance in answer.top(top)]
        decided = {} if answer.sure is None else {"sure": answer.sure}
        return _json({"image": str(path), "classes": best} | decided)

    return "", line


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"


# What --format can name.
FORMATS: Final = {"table": as_table, "csv": as_csv, "jsonl": as_jsonl}


def write_lines(lines: Iterable[str]) -> None:
    """Writes to standard output in characters that the terminal has.

    Raises:
        Interrupted: what reads it has ended, as `head` does.
        TrainingFault: it cannot be written, such as on a full disk.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        for line in lines:
            sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes at its end
        if isinstance(error, BrokenPipeError):
            raise Interrupted(signal.SIGPIPE) from None
        raise TrainingFault(f"standard output: cannot be written ({error.strerror})") from error
