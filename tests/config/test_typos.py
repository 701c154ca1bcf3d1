"""The right name for every slip of a finger: one letter left out, put in, changed, or two swapped, in every key."""

import json
import string
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from config.parts import EarlyStopping, Normalization, Pruner, RateRange, Search
from config.schema import Params
from config.wording import ELSEWHERE
from tests.config.params_files import problems

INSIDE: dict[str, type[BaseModel]] = {
    "": Params,
    "early_stopping": EarlyStopping,
    "learning_rate": RateRange,
    "normalize": Normalization,
    "search": Search,
    "search.pruner": Pruner,
}
AMBIGUOUS = {"ps", "wd", "search.seeds"}  # a slip in two letters leaves one; "seedx" may be meant for "seed"


def one_edit(word: str) -> set[str]:
    letters = string.ascii_lowercase + "_"
    pairs = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    removed = {a + b[1:] for a, b in pairs if b}
    swapped = {a + b[1] + b[0] + b[2:] for a, b in pairs if len(b) > 1}
    changed = {a + c + b[1:] for a, b in pairs if b for c in letters}
    added = {a + c + b for a, b in pairs for c in letters}
    return (removed | swapped | changed | added) - {word, ""}


def placed(keys: dict[str, Any], place: str) -> dict[str, Any]:
    """A params file with some keys at a place."""
    for part in reversed(place.split(".") if place else []):
        keys = {part: keys}
    return {"arch": "conv"} | keys


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.campaign)])
def test_a_slip_finds_its_key(file: Path, every: int, capsys: pytest.CaptureFixture[str]) -> None:
    tried, right = Counter[str](), Counter[str]()
    for place, model in INSIDE.items():
        for key in model.model_fields:
            typos = sorted(one_edit(key) - set(model.model_fields) - set(ELSEWHERE))[:: 1 if len(key) < 4 else every]
            for start in range(0, len(typos), 90):  # many in one file: a typo is a line
                some = typos[start : start + 90]
                lines = problems(file, json.dumps(placed(dict.fromkeys(some), place)))
                told = [line for line in lines if "is not a parameter" in line]
                assert len(told) == len(some)
                tried[f"{place}.{key}"] += len(some)
                right[f"{place}.{key}"] += sum(f'; did you mean "{key}"?' in line for line in told)
    share = right.total() / tried.total()
    with capsys.disabled():
        print(
            f"\ntypos of {len(tried)} keys: {tried.total()}, told rightly: {right.total()} ({share:.2%})",
            file=sys.stderr,
        )
    assert len(tried) == sum(len(model.model_fields) for model in INSIDE.values())
    assert tried.total() >= 30_000 // every
    assert share >= 0.95
    assert {key.strip(".") for key in tried if right[key] / tried[key] < 0.95} <= AMBIGUOUS
