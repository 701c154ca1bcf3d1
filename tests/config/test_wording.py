"""wording: places, values and what is allowed, as messages say them."""

import json
from typing import Any

import pytest

from config import wording
from config.schema import Params, json_schema
from config.wording import allowed, dotted, meaning, short, shown, unknown


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [
        ("abcde", 5, "abcde"),
        ("abcdef", 5, "abcd…"),
        ("a\nb", 4, "a\\nb"),
        ("a\nbc", 4, "a\\n…"),  # as it is shown, not as it is written
        ("x" * 10**6, 5, "xxxx…"),
    ],
)
def test_short(text: str, length: int, expected: str) -> None:
    assert short(text, length) == expected


def test_a_line_has_80_characters() -> None:
    assert short("x" * 80) == "x" * 80
    assert short("x" * 81) == "x" * 79 + "…"


def test_values_are_shown_as_they_stand_in_a_file() -> None:
    value: Any = ["ü", True, None, 1.5]
    assert shown(value) == '["ü", true, null, 1.5]'
    assert shown("a" * 99) == '"' + "a" * 78 + "…"


def test_places() -> None:
    assert dotted(("early_stopping", "patience")) == "early_stopping.patience"
    assert dotted(("metrics", 0)) == "metrics[0]"
    assert dotted(("augment", 10, "name", 3)) == "augment[10].name[3]"
    assert dotted((0, "a")) == "[0].a"
    assert dotted(("a" * 99,)) == "a" * 79 + "…"


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (("bath_size",), '"bath_size" is not a parameter; did you mean "batch_size"?'),
        (("Dropout",), '"Dropout" is not a parameter; did you mean "ps"?'),
        (("patience",), '"patience" is not a parameter; did you mean "early_stopping.patience"?'),
        (("xyzzy",), '"xyzzy" is not a parameter; params.schema.json lists them all'),
        (("normalize", "men"), '"normalize.men" is not a parameter; did you mean "mean"?'),
        (("normalize", "dropout"), '"normalize.dropout" is not a parameter; choose from mean, std'),
        (("normalize", "x"), '"normalize.x" is not a parameter; choose from mean, std'),
        (("learning_rate", "hihg"), '"learning_rate.hihg" is not a parameter; did you mean "high"?'),
    ],
)
def test_unknown(place: tuple[str, ...], expected: str) -> None:
    assert unknown(place) == expected


def test_meaning() -> None:
    assert meaning(("arch",)) == json_schema()["properties"]["arch"]["description"]
    assert meaning(("learning_rate", "high")) == "learning rate of the head"
    assert meaning(("normalize", "std")) == "deviation of each"
    assert meaning(("search", "pruner", "name")).startswith("successive halving")


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (("arch",), None, "text of 1 to 500 characters"),
        (("about",), 5, "text, an object or null"),
        (("cuda",), "x", "0, 1, false or true"),
        (("channels",), 2, "1 or 3"),
        (("precision",), "fp61", '"auto", "fp32", "bf16" or "fp16"; did you mean "fp16"?'),
        (("precision",), "zzz", '"auto", "fp32", "bf16" or "fp16"'),
        (("precision",), 16, '"auto", "fp32", "bf16" or "fp16"'),
        (("normalize",), "atuo", '"auto" or an object (mean, std)'),
        (("normalize", "mean", 0), "x", "a number"),
        (("normalize", "mean"), 1, "a list of 1 to 3 (each a number)"),
        (("normalize", "std"), 1, "a list of 1 to 3 (each a number above 0)"),
        (("background",), 1, "a list of 3 (each a whole number from 0 to 255)"),
        (("metrics",), 1, "a list of 0 to 100 (each text of 1 to 500 characters)"),
        (("augment",), 1, "a list of 0 to 100 (each text of 1 to 500 characters or an object)"),
        (
            ("learning_rate",),
            "x",
            "a number at least 0, a list of 1 to 64 (each a number at least 0) or an object (low, high)",
        ),
        (("wd",), "x", "a number at least 0"),
        (("ps",), 1, "a number at least 0 and below 1"),
        (("pct_start",), 1, "a number above 0 and below 1"),
        (("crop_fraction",), 2, "a number from 0.1 to 1"),
        (("im_sz",), 2, "a whole number from 8 to 1024"),
        (("n_clas",), 1, "a whole number from 2 to 1000000 or null"),
        (("early_stopping", "min_delta"), "x", "a number at least 0"),
        (("hyper_search",), 1, "an object or null"),
    ],
)
def test_allowed(place: tuple[str | int, ...], value: object, expected: str) -> None:
    assert allowed(place, value) == expected


def test_every_bound_has_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that no parameter has today, too."""
    bounds = {"maximum": 9, "exclusiveMaximum": 9, "minimum": 1, "exclusiveMinimum": 1}
    properties = {key: {"type": "number", key: bound} for key, bound in bounds.items()}
    monkeypatch.setattr(wording, "_schema", lambda: {"properties": properties})
    assert {key: allowed((key,), 0) for key in bounds} == {
        "maximum": "a number at most 9",
        "exclusiveMaximum": "a number below 9",
        "minimum": "a number at least 1",
        "exclusiveMinimum": "a number above 1",
    }


@pytest.mark.parametrize("key", Params.model_fields)
def test_every_parameter_says_what_it_allows(key: str) -> None:
    phrase = allowed((key,), None)
    assert phrase
    default = json_schema()["properties"][key].get("default")
    if isinstance(default, str) and '"' in phrase:
        assert json.dumps(default) in phrase
