"""Thousands of params files, each with its expected outcome: what is said of which line, or every value as written."""

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from config.load import load_params
from config.schema import Params
from tests.config import mistakes
from tests.config.mistakes import DAMAGE, PROPERTIES, Case, random_case
from utils import UserError


def lines_said(file: Path) -> list[str]:
    """What load_params says of a file, line by line; anything but a UserError is a fault."""
    try:
        load_params(file)
    except UserError as error:
        return str(error).split("\n")
    return []


def said_of(line: str, file: Path) -> tuple[int | None, str]:
    """The line of the file, and the parameter, of which a message speaks."""
    found = re.fullmatch(rf'{re.escape(str(file))}(?::(\d+))?: (?:hyper_search: )?"?([^ "\[.]+).*', line)
    assert found is not None, line
    key = "hyper_search" if ": hyper_search: " in line else found[2]
    return int(found[1]) if found[1] else None, key


def same(got: Any, written: Any) -> bool:
    """Whether a loaded value is the written one; a flag may be written as 0 or 1, a float without its point."""
    if isinstance(written, dict) and isinstance(got, dict):
        return all(key in got and same(got[key], value) for key, value in written.items())
    if isinstance(written, list) and isinstance(got, list):
        return len(got) == len(written) and all(map(same, got, written))
    return got is None if written is None else got == written and type(got) in (type(written), bool, float)


def check(case: Case, file: Path) -> None:
    """Compares what is said of a file, or what is read from it, with what is expected."""
    file.write_bytes(case.text)
    lines = lines_said(file)
    assert all(line.isprintable() and len(line) < 1000 for line in lines)
    if case.said:
        assert len(lines) == 1
        assert case.said in lines[0]
        return
    places = [said_of(line, file) for line in lines]
    assert {key for _, key in places} == case.wrong
    assert all(line in case.lines.get(key, [None]) for line, key in places)
    if not lines:
        read = load_params(file).model_dump(mode="json")
        defaults = Params(arch="x").model_dump(mode="json")
        rates = case.values.get("learning_rate")
        if isinstance(rates, list):
            defaults["layer_groups"] = len(rates)
        for key in PROPERTIES:
            assert same(read[key], case.values[key]) if key in case.values else read[key] == defaults[key], key


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.campaign)])
def test_every_mistake_is_told_and_nothing_else(file: Path, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = Counter[str]()
    right, wrong = Counter[str](), Counter[str]()
    for number in range(count):
        case = random_case(number)
        try:
            check(case, file)
        except Exception as error:
            raise AssertionError(f"case {number}: {case}") from error
        outcomes["not JSON" if case.said else "wrong" if case.wrong else "right"] += 1
        if not case.said:
            wrong.update(case.wrong)
            right.update(set(case.values) - case.wrong)
    with capsys.disabled():
        print(f"\nparams files: {dict(outcomes)}, mistakes in them: {wrong.total()}", file=sys.stderr)
    assert min(outcomes.values()) >= count // 10
    assert all(right[key] and wrong[key] for key in PROPERTIES)


def test_each_kind_of_damage_is_made() -> None:
    said = {random_case(number).said for number in range(1000)}
    assert said == {expected for _, expected in DAMAGE.values()}


def test_the_schema_knows_every_parameter() -> None:
    assert set(mistakes.PROPERTIES) == set(Params.model_fields)
    assert set(mistakes.RULES) <= set(PROPERTIES)
