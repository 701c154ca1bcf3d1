"""Tables that other programs open: CSV whose cells a spreadsheet does not take for formulas."""

import csv
import io
from collections.abc import Iterable, Sequence

from utils import printable

FORMULA_STARTS = ("=", "+", "-", "@")


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """The table as CSV in UTF-8.

    Control characters are written as escapes, so that a row is a line; text that a spreadsheet would run as a formula
    gets an apostrophe in front; numbers stay as they are.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_cell(value) for value in header])
    writer.writerows([_cell(value) for value in row] for row in rows)
    return buffer.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
