"""What a search was asked for, on its command line or in its params.json. Reads only."""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path

from config import run_folder
from config.parts import Search
from search.read import Run
from utils import UserError, printable, read_json


def asked(folder: Path, runs: Iterable[Run]) -> Search:
    """The settings of the search in a folder, as its last trial was made; without trials, those of its params.json."""
    trials = [run for run in runs if run.path.parent == folder and run.settings is not None]
    try:
        return Search.model_validate(max(trials, key=lambda run: run.number).settings)
    except ValueError:  # there is none, or it is damaged
        return _written(folder)


def options(folder: Path, runs: Iterable[Run]) -> str:
    """What a command line must say beside params.json to ask for the same again, each option after a space."""
    there, written = (search.model_dump(exclude_defaults=True) for search in (asked(folder, runs), _written(folder)))
    given = {
        key: there.get(key, field.default)
        for key, field in Search.model_fields.items()
        if there.get(key) != written.get(key)
    }
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
    return "".join(f" --{key} {shlex.quote(printable(text))}" for key, text in texts.items())


def _written(folder: Path) -> Search:
    try:
        return Search.model_validate(read_json(folder / run_folder.PARAMS)["search"])
    except (UserError, LookupError, TypeError, ValueError):  # it asks for nothing, or in a way that no search takes
        return Search()
