"""load_params on what hypothesis makes: valid files come back whole, nothing else surprises."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import strict_json
from config.parts import EarlyStopping, RateRange
from config.schema import Params
from tests.config.params_files import CATALOGUES, TEMPLATE, load
from utils import UserError

FINITE = st.floats(0, 1e6, exclude_min=True, allow_subnormal=False)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz_0123456789é", min_size=1, max_size=12)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
RATES = st.one_of(
    FINITE,
    st.lists(FINITE, min_size=1, max_size=64),
    st.tuples(FINITE, FINITE)
    .filter(lambda pair: pair[0] < pair[1])
    .map(lambda pair: {"low": pair[0], "high": pair[1]}),
)
VALID = {
    "about": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    "pretrain": st.sampled_from([0, 1, True, False, "weights.pt", "IMAGENET1K_V1"]),
    "cuda": st.sampled_from([0, 1, True, False]),
    "n_clas": st.none() | st.integers(2, 1000),
    "im_sz": st.integers(8, 1024),
    "batch_size": st.integers(1, 10_000),
    "bs_test": st.none() | st.integers(1, 10_000),
    "learning_rate": RATES,
    "ps": st.floats(0, 1, exclude_max=True),
    "pct_start": st.floats(0, 1, exclude_min=True, exclude_max=True),
    "background": st.lists(st.integers(0, 255), min_size=3, max_size=3),
    "precision": st.sampled_from(["auto", "fp32", "bf16", "fp16"]),
    "optimizer": NAMES,
    "optimizer_arguments": st.dictionaries(NAMES, st.integers() | FINITE | st.lists(FINITE, max_size=3), max_size=3),
    "augment": st.lists(NAMES | st.dictionaries(NAMES, FINITE, max_size=2).map(lambda d: d | {"name": "x"})),
    "metrics": st.lists(NAMES, max_size=3, unique=True).map(lambda names: ["accuracy", *(set(names) - {"accuracy"})]),
    "early_stopping": st.none() | st.fixed_dictionaries({}, optional={
        "patience": st.integers(1, 100), "min_delta": FINITE, "minimize": st.sampled_from([None, 1, True]),
        "action": st.sampled_from(["stop", "warn"]),
    }),
    "seed": st.integers(0, 2**32 - 1),
}  # fmt: skip


# pytest -m campaign runs the full counts.
COUNTS = pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.campaign)])


@COUNTS
def test_valid_params_round_trip(file: Path, count: int) -> None:
    @settings(max_examples=count)
    @given(st.fixed_dictionaries({"arch": NAMES}, optional=VALID))
    def check(values: dict[str, Any]) -> None:
        params = load(file, json.dumps(values))
        for key, value in values.items():
            got = getattr(params, key)
            assert (got.model_dump() if isinstance(got, RateRange) else got) == value or isinstance(got, EarlyStopping)
        resolved = json.dumps(params.model_dump(mode="json"), allow_nan=False)
        assert load(file, resolved) == params
        assert load(file, '{"arch": "x"}', *(f"{key}={json.dumps(value)}" for key, value in values.items())) == params

    check()


KEYS = st.sampled_from([*Params.model_fields, "low", "high", "RateRange", "str", "literal['auto']", "name", "$schema"])
NEARLY = st.dictionaries(
    KEYS | st.text(max_size=6), JSON_VALUES | st.dictionaries(KEYS, JSON_VALUES, max_size=3), max_size=6
)
SCRAPS = st.text('{}[]:,"\\ntrufalse019.eE+-NaIi \n\ud800archps_', max_size=60)


@COUNTS
def test_nothing_else_surprises(file: Path, count: int) -> None:
    outcomes = Counter[bool]()

    def loads(text: str, *overrides: str) -> None:
        lines = None
        try:
            load(file, text, *overrides, catalogues=CATALOGUES)
        except UserError as error:  # anything else is a fault
            lines = str(error).split("\n")
        assert all(line.isprintable() and 0 < len(line) < 1000 for line in lines or ()), lines
        outcomes[lines is None] += 1

    @settings(max_examples=count)
    @given(NEARLY)
    def wrong_values(values: dict[str, Any]) -> None:
        loads(json.dumps(values))
        loads(json.dumps({"arch": "resnet18"} | values))

    @settings(max_examples=count)
    @given(SCRAPS, st.text(max_size=20))
    def scraps(text: str, override: str) -> None:
        loads(text)
        loads(f'{{"arch": "resnet18", "about": {text}}}')
        loads(TEMPLATE, override, f"{override}={text}")
        loads(TEMPLATE, f"about={text}")

    @settings(max_examples=count)
    @given(st.integers(0, len(TEMPLATE)), st.integers(0, 12), st.text(max_size=4))
    def damaged(at: int, cut: int, put: str) -> None:
        loads(TEMPLATE[:at] + put + TEMPLATE[at + cut :])

    wrong_values()
    scraps()
    damaged()
    assert min(outcomes[True], outcomes[False]) >= count // 20, outcomes


@COUNTS
def test_the_lines_are_those_of_the_text(count: int) -> None:
    def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [place, *(inner for key, item in pairs for inner in places(item, (*place, key)))]

    @settings(max_examples=count)
    @given(JSON_VALUES, st.sampled_from([None, 0, 3]))
    def check(value: Any, indent: int | None) -> None:
        text = json.dumps({"first": 1, "value": value}, indent=indent)
        document = strict_json.parse(text)
        assert document.value == {"first": 1, "value": value}
        assert document.twice == []
        assert list(document.lines) == places(document.value)
        if indent is None:
            assert set(document.lines.values()) == {1}
            return
        starts = list(document.lines.values())  # each place on a line of its own
        assert starts == sorted(set(starts))
        for place, line in document.lines.items():
            if place and isinstance(place[-1], str):
                assert text.split("\n")[line - 1].strip().startswith(json.dumps(place[-1]))

    check()
