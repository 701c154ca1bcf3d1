"""params.json and --set overrides -> Params, or one error with a line for every mistake in them."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from config import strict_json
from config.schema import Params
from config.strict_json import JsonError, Place
from config.wording import allowed, dotted, meaning, short, shown, unknown
from utils import UserError, did_you_mean, printable

# For each key that holds names: the names there are, each with the arguments it takes (None: not checked).
Catalogues = Mapping[str, Mapping[str, frozenset[str] | None]]
Origin = tuple[int, str]  # for sorting, and the file's line or the override as a message names it
Problem = tuple[Place, str]  # a place in the file, and what is wrong there

MOST_PROBLEMS: Final = 100
WEIGHTS_SUFFIXES: Final = (".pt", ".pth", ".bin", ".safetensors")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def load_params(path: Path | str, overrides: Sequence[str] = (), catalogues: Catalogues | None = None) -> Params:
    """Reads and checks a params.json.

    Args:
        path: the file.
        overrides: `key=value` each, as given to --set; a dot leads into an object, the last one counts. The value is
            JSON, or else plain text.
        catalogues: the names that only torch knows; None leaves them unchecked.

    Raises:
        UserError: one line per mistake in the file and the overrides.
    """
    file = printable(str(path))
    try:
        document = strict_json.read(Path(path))
    except JsonError as error:
        raise UserError(f"{file}{f':{error.line}' if error.line else ''}: {error}") from error
    if not isinstance(document.value, dict):
        raise UserError(f"{file}:1: holds {shown(document.value)}; it must be one object {{ }} with parameters")

    origins = {place: (line, f"{file}:{line}") for place, line in document.lines.items()} | {(): (0, file)}
    reported = [
        (origins[place], f"{dotted(place)} {message}") for place, message in document.twice[: MOST_PROBLEMS + 1]
    ]
    for number, override in enumerate(overrides):
        origin = (strict_json.MOST_BYTES + number, f"--set {short(override)}")  # after every line there can be
        reported += [(origin, message) for message in _override(document.value, origins, override, origin)]
    document.value.pop("$schema", None)  # an editor's

    found: dict[Place, str] = {}
    data = _readable(document.value, (), found)
    problems = chain(_invalid(data), _not_in_file(data), _not_in_catalogues(data, catalogues or {}))
    for place, message in islice(problems, MOST_PROBLEMS + 1):
        found.setdefault(place, message)
    reported += [(_origin(place, origins), message) for place, message in found.items()]
    if reported:
        reported.sort(key=lambda problem: problem[0])
        lines = [f"{label}: {short(message, 500)}" for (_, label), message in reported]
        raise UserError("\n".join(lines[:MOST_PROBLEMS] + ["… and more"] * (len(lines) > MOST_PROBLEMS)))
    return Params.model_validate(data)


def _origin(place: Place, origins: Mapping[Place, Origin]) -> Origin:
    """Where the value at a place was written; for one that is missing, what it is missing from."""
    while place not in origins:
        place = place[:-1]
    return origins[place]


def _override(data: dict[str, Any], origins: dict[Place, Origin], text: str, origin: Origin) -> list[str]:
    """Puts one key=value into the data; returns what is wrong with it."""
    key, equals, written = text.partition("=")
    place = tuple(key.strip().split("."))
    if not equals or not all(place):
        return ["must read key=value, as in learning_rate=0.01 or early_stopping.patience=3"]
    target = data
    for depth, part in enumerate(place[:-1], start=1):
        if target.get(part) is None:
            target[part] = {}
            origins[place[:depth]] = origin
        target = target[part]
        if not isinstance(target, dict):
            return [f"{dotted(place[:depth])} is {shown(target)}; it has no {shown(place[depth])} to set"]
    try:
        value, _, twice = strict_json.parse(written)
    except JsonError:
        value, twice = written, []
    target[place[-1]] = value
    for inner in [known for known in origins if known[: len(place)] == place]:
        del origins[inner]
    origins[place] = origin
    return [f"{dotted(place + inside)} is given twice" for inside, _ in twice]


def _readable(value: Any, place: Place, found: dict[Place, str]) -> Any:
    """The value without what JSON cannot hold, which is noted."""
    if isinstance(value, dict):
        for key in [key for key in value if _SURROGATE.search(key)]:
            found[*place, key] = f"{dotted((*place, key))} holds half a character (a lone surrogate) in its name"
        return {key: _readable(v, (*place, key), found) for key, v in value.items() if not _SURROGATE.search(key)}
    if isinstance(value, list):
        return [_readable(item, (*place, index), found) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        found[place] = f"{dotted(place)} is {shown(value)}; it must be a finite number"
        return None
    if isinstance(value, str) and _SURROGATE.search(value):
        found[place] = f"{dotted(place)} is {shown(value)}; that holds half a character (a lone surrogate)"
        return None
    return value


# --- the schema ------------------------------------------------------------------------------------------------------


def _invalid(data: dict[str, Any]) -> Iterator[Problem]:
    """What the schema refuses, each place once."""
    try:
        Params.model_validate(data)
        return
    except ValidationError as error:
        details = error.errors(include_url=False)
    by_place: dict[Place, ErrorDetails] = {}
    for detail in details:
        place = _place(detail, data)
        if place not in by_place or detail["type"] == "value_error":
            by_place[place] = detail
    # A value that may be of several kinds is refused by each: what is said of its inside is nearer the point.
    outer = {place[:depth] for place in by_place for depth in range(len(place))}
    for place, detail in by_place.items():
        if place not in outer:
            yield place, _message(place, detail)


def _place(detail: ErrorDetails, data: Any) -> Place:
    """The place in the file: pydantic's, without the names of the kinds that it tried."""
    place = detail["loc"][:1]
    inside = data.get(place[0])
    for part in detail["loc"][1:]:
        keys = inside if isinstance(inside, dict) else range(len(inside)) if isinstance(inside, list) else ()
        if part in keys:
            inside = inside[part]
            place = (*place, part)
    return (*place, detail["loc"][-1]) if detail["type"] == "missing" and len(detail["loc"]) > 1 else place


def _message(place: Place, detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        return unknown(place)
    if detail["type"] == "missing":
        return f"{dotted(place)} is missing: {meaning(place)}"
    remedy = (
        detail["ctx"]["error"] if detail["type"] == "value_error" else f"it must be {allowed(place, detail['input'])}"
    )
    return f"{dotted(place)} is {shown(detail['input'])}; {remedy}"


# --- names -----------------------------------------------------------------------------------------------------------


def _not_in_file(data: dict[str, Any]) -> Iterator[Problem]:
    """The keys of hyper_search that name no parameter of this file."""
    search = data.get("hyper_search")
    here = [key for key in _dotted_keys(data) if not key.startswith(("about", "hyper_search"))]
    for key in search if isinstance(search, dict) else ():
        for name in key.split(","):
            if name not in here:
                known = name in Params.model_fields and name not in ("about", "hyper_search")
                hint = "; give it a value outside hyper_search too" if known else did_you_mean(name, here)
                yield ("hyper_search", key), f"hyper_search: {shown(name)} is not a parameter in this file{hint}"


def _dotted_keys(data: dict[str, Any]) -> Iterator[str]:
    for key, value in data.items():
        yield key
        yield from (f"{key}.{inner}" for inner in (_dotted_keys(value) if isinstance(value, dict) else ()))


def _not_in_catalogues(data: dict[str, Any], catalogues: Catalogues) -> Iterator[Problem]:
    """The names, and the arguments, that are not in the catalogues."""
    for key, names in catalogues.items():
        for place, name, arguments in _uses(key, data):
            if name not in names:
                yield place, f"{dotted(place)} is {shown(name)}, which is not known{did_you_mean(name, names)}"
                continue
            accepted = names[name]
            for argument in arguments:
                if accepted is not None and argument[-1] not in accepted:
                    hint = did_you_mean(str(argument[-1]), accepted)
                    yield argument, f"{dotted(argument)} is not an argument of {name}{hint}"


def _uses(key: str, data: dict[str, Any]) -> Iterator[tuple[Place, str, list[Place]]]:
    """The places where a key names something: the place, the name, and the places of the arguments given with it."""
    value = data.get(key, Params.model_fields[key].default)
    entries: list[tuple[Place, Any]] = [((key,), value)]
    if isinstance(value, list):
        entries = [((key, index), entry) for index, entry in enumerate(value)]
    for place, entry in entries:
        if isinstance(entry, dict) and isinstance(name := entry.get("name"), str):
            yield (*place, "name"), name, [(*place, argument) for argument in entry if argument != "name"]
        elif isinstance(entry, str) and (key, entry) != ("arch", "net.py"):
            given = data.get(f"{key}_arguments")
            yield place, entry, [(f"{key}_arguments", a) for a in (given if isinstance(given, dict) else ())]


# --- pretrain ---------------------------------------------------------------------------------------------------------


def is_weights_path(pretrain: object) -> bool:
    """Whether it names a file or an experiment folder, rather than weights that a library publishes."""
    return isinstance(pretrain, str) and ("/" in pretrain or pretrain.endswith(WEIGHTS_SUFFIXES))
