"""JSON as people write it by hand: what it says, on which line each value stands, and what is wrong with it."""

import json
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

MOST_BYTES: Final = 2**20
DEEPEST: Final = 32
_LONGEST_NUMBER: Final = 300  # digits; more than any float holds

Place = tuple[str | int, ...]  # the keys and indices that lead to a value


class JsonError(Exception):
    """A text that cannot be read: why, in one line, and on which line of it."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class Document(NamedTuple):
    """A JSON text: its value, the line of each place in it, and the places that are given twice (the last counts)."""

    value: Any
    lines: dict[Place, int]
    twice: list[tuple[Place, str]]


def read(path: Path) -> Document:
    """Reads a file; never more than MOST_BYTES of it.

    Raises:
        JsonError: when there is none, or it is not JSON in UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise JsonError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > MOST_BYTES:
        raise JsonError(f"is larger than {MOST_BYTES >> 20} MB; that is no parameter file")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        raise JsonError("is UTF-16 or not text at all; save it as UTF-8", 1)
    try:
        return parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise JsonError(f"is not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8", line) from error


def parse(text: str) -> Document:
    """Reads a text. NaN, Infinity and numbers too large become floats that are not finite, for the caller to refuse.

    Raises:
        JsonError: when it is not JSON, or nested deeper than DEEPEST.
    """
    try:
        value = json.loads(text, parse_int=_whole)
    except json.JSONDecodeError as error:
        raise JsonError(_remedy(error), error.lineno) from error
    except RecursionError as error:
        raise JsonError(f"is nested deeper than {DEEPEST} levels") from error
    return Document(value, *_places(text))


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else float("inf")


_MISTAKES: Final = (  # the last character before the error and what follows it; what to say
    (r"\s*\Z", "is empty; write { } with the parameters in it"),
    (r".?(//|/\*|#)", 'holds a comment, which JSON does not know; notes go under the key "about"'),
    (r".?,\s*[}\]]", "has a comma after the last item"),
    (r".?'", "has single quotes; JSON takes double quotes"),
    (r".?(True|False|None)\b", "has True, False or None; JSON spells them true, false, null"),
)


def _remedy(error: json.JSONDecodeError) -> str:
    context = error.doc[: error.pos].rstrip()[-1:] + error.doc[error.pos :]
    for pattern, message in _MISTAKES:
        if re.match(pattern, context):
            return message
    if error.msg == "Extra data":
        return "goes on after its end; remove what follows, or a closing bracket too many"
    if error.msg == "Expecting ',' delimiter":
        return f"lacks a comma or a closing bracket before column {error.colno}"
    return f"is not JSON: {error.msg} at column {error.colno}"


_TOKEN: Final = re.compile(r'"(?:[^"\\]+|\\.)*"|[{}\[\],]|[^\s{}\[\],:"]+|\n')
_OPEN: Final = {"{": None, "[": 0}


def _places(text: str) -> tuple[dict[Place, int], list[tuple[Place, str]]]:
    """The line of each place, and the keys given twice, of a text that is known to be JSON."""
    line = 1
    place: list[Any] = []  # of each open container: its present key or index; None where a key comes next
    keys: list[dict[str, int]] = []  # of each open container: its keys so far, with their lines
    lines: dict[Place, int] = {}
    twice: list[tuple[Place, str]] = []
    for token in _TOKEN.findall(text):
        if token == "\n":
            line += 1
        elif token == ",":
            place[-1] = place[-1] + 1 if isinstance(place[-1], int) else None
        elif token in ("}", "]"):
            place.pop()
            keys.pop()
        elif place and place[-1] is None:
            place[-1] = key = json.loads(token)
            lines[tuple(place)] = line
            if key in keys[-1]:
                twice.append((tuple(place), f"is given twice, on lines {keys[-1][key]} and {line}"))
            keys[-1][key] = line
        else:
            if not place or isinstance(place[-1], int):
                lines[tuple(place)] = line
            if token in _OPEN:
                place.append(_OPEN[token])
                keys.append({})
        if len(place) > DEEPEST:
            raise JsonError(f"is nested deeper than {DEEPEST} levels", line)
    return lines, twice
