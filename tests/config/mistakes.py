"""Params files made at random, right and wrong ones, each with what must be said of it.

What is right is decided here anew, from params.schema.json and the rules below, not by the code under test.
"""

import json
import math
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import include

Node = Mapping[str, Any]  # one part of a JSON schema

SCHEMA: Node = json.loads((include.ROOT / "params.schema.json").read_text(encoding="utf-8"))
PROPERTIES: Node = {key: node for key, node in SCHEMA["properties"].items() if key != "$schema"}

TEXTS = ("accuracy", "loss", "f1", "x", "auto", "", "1", "no", "a/b", "a\nb", "é", "\ud800", "k" * 501, "net.py")
ANYTHING: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 0.5, 1.0, 1e9, 10**400, math.nan, math.inf, *TEXTS,
    [], {}, [1], [0.1, 0.2, 0.3], ["x"], ["x", "x"], [None], [[1]], {"low": 1, "high": 2}, {"name": "x"}, {"x": 1},
    [math.nan], {"x": "\ud800"},
)  # fmt: skip


# --- what is right ---------------------------------------------------------------------------------------------------


def fits(value: Any, node: Node) -> bool:
    """Whether a JSON value is what a schema describes; whole numbers are written without a point."""
    if "$ref" in node:
        return fits(value, SCHEMA["$defs"][node["$ref"].rpartition("/")[2]])
    if "anyOf" in node:
        return any(fits(value, option) for option in node["anyOf"])
    if "enum" in node or "const" in node:
        return any(value == word and type(value) is type(word) for word in node.get("enum", [node.get("const")]))
    return _KINDS[node["type"]](value, node)


def _number(value: Any, node: Node) -> bool:
    kinds = (int,) if node["type"] == "integer" else (int, float)
    return (
        type(value) in kinds
        and node.get("minimum", -math.inf) <= value <= node.get("maximum", math.inf)
        and node.get("exclusiveMinimum", -math.inf) < value < node.get("exclusiveMaximum", math.inf)
    )


def _array(value: Any, node: Node) -> bool:
    return (
        isinstance(value, list)
        and node.get("minItems", 0) <= len(value) <= node["maxItems"]
        and all(fits(item, node["items"]) for item in value)
    )


def _object(value: Any, node: Node) -> bool:
    if not isinstance(value, dict) or "properties" not in node:
        return isinstance(value, dict)
    known = node["properties"]
    return set(node.get("required", ())) <= set(value) <= set(known) and all(fits(value[k], known[k]) for k in value)


def _string(value: Any, node: Node) -> bool:
    if not isinstance(value, str):
        return False
    return "maxLength" not in node or (node["minLength"] <= len(value) <= node["maxLength"] and value.isprintable())


_KINDS: dict[str, Callable[[Any, Node], bool]] = {
    "array": _array,
    "integer": _number,
    "number": _number,
    "null": lambda value, _: value is None,
    "object": _object,
    "string": _string,
}


def unspeakable(value: Any) -> bool:
    """Whether something in it is no finite number, or no text."""
    if isinstance(value, dict):
        return any(map(unspeakable, value.values()))
    if isinstance(value, list):
        return any(map(unspeakable, value))
    if isinstance(value, str):
        return any("\ud800" <= character <= "\udfff" for character in value)
    return type(value) in (int, float) and (abs(value) > 10**300 or not math.isfinite(value))


def _named(name: Any, given: Node) -> bool:
    """Whether a metric is measured; anything is as long as metrics itself is wrong."""
    return name in ["loss", *given.get("metrics", ["accuracy"] if "metrics" not in given["wrong"] else [name])]


def _search_agrees(value: Any, given: Node) -> bool:
    if value is None:
        return True
    pruner = value.get("pruner")
    own = not isinstance(pruner, dict) or pruner.get("startup" if pruner["name"] != "median" else "reduction") is None
    best = None if "best_metric" in given["wrong"] else given.get("best_metric", "accuracy")
    metric = value.get("metric") or best
    better = None if metric is None else "min" if metric == "loss" else "max"
    return (
        own
        and not (pruner and value.get("seeds", 1) > 1)
        and (not value.get("metric") or _named(value["metric"], given))
        and (not value.get("mode") or better in (None, value["mode"]))
    )


def _rates_agree(value: Any, _: Node) -> Any:
    if isinstance(value, dict):
        return value["low"] < value["high"]
    return any(value) if isinstance(value, list) else value > 0


def _groups_agree(value: Any, given: Node) -> Any:
    rates = given.get("learning_rate")
    return "learning_rate" in given["wrong"] or not isinstance(rates, list) or len(rates) == value


def _normalize_agrees(value: Any, given: Node) -> Any:
    if "channels" in given["wrong"] or value == "auto":
        return True
    return len(value["mean"]) == len(value["std"]) == given.get("channels", 3)


def _searched_agree(value: Any, given: Node) -> bool:
    def is_there(name: str) -> bool:
        first, _, second = name.partition(".")
        inside = given["file"].get(first)
        return first in given["file"] and (not second or (isinstance(inside, dict) and second in inside))

    return all(is_there(name) for name in value or ())


def _stopping_agrees(value: Any, given: Node) -> bool:
    if value is None:
        return True
    monitor = value.get("monitor_metric", "loss")
    minimize = value.get("minimize")
    return _named(monitor, given) and not (monitor == "loss" and minimize is not None and not minimize)


def _compile_agrees(value: Any, given: Node) -> bool:
    monitor = given.get("monitor", 0)
    watched = monitor.get("what", ["histograms"]) if isinstance(monitor, dict) else ["histograms"] * bool(monitor)
    return not value or not {"activations", "histograms"} & set(watched)


def _distinct(value: Any, _: Node) -> bool:
    return len(set(value)) == len(value)


# What the schema cannot say: a value that fits, and the other values that are right, with the names of the wrong ones.
RULES: dict[str, Callable[[Any, Node], Any]] = {
    "arch": lambda value, _: value == "net.py" or not (value.endswith(".py") or set(value) & set("/\\")),
    "pretrain": lambda value, _: not isinstance(value, str) or value.lower() not in ("1", "no"),
    "learning_rate": _rates_agree,
    "layer_groups": _groups_agree,
    "normalize": _normalize_agrees,
    "augment": lambda value, _: all(
        isinstance(a, str) or (isinstance(a.get("name"), str) and a["name"]) for a in value
    ),
    "progressive_resizing": lambda value, given: (
        value is None or ("im_sz" in given["wrong"] or value["im_sz"] < given.get("im_sz", 224))
    ),
    "metrics": _distinct,
    "monitor": lambda value, given: not isinstance(value, dict) or _distinct(value.get("what", ()), given),
    "trackers": _distinct,
    "best_metric": _named,
    "early_stopping": _stopping_agrees,
    "compile": _compile_agrees,
    "search": _search_agrees,
    "hyper_search": _searched_agree,
}


def mistaken(values: dict[str, Any]) -> set[str]:
    """The keys of a file of which something must be said; those included that it lacks."""
    wrong = {key for key, value in values.items() if key not in PROPERTIES or unspeakable(value)}
    wrong |= {key for key in set(values) - wrong if not fits(values[key], PROPERTIES[key])}
    wrong |= {"arch"} - set(values)
    in_force = {"best_metric": "accuracy"} | values
    for key, rule in RULES.items():  # in an order in which each stands after those that it needs
        given = {k: v for k, v in in_force.items() if k not in wrong} | {"wrong": wrong, "file": values}
        if key in given and not rule(given[key], given):
            wrong.add(key)
    return wrong


# --- files -----------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A file, and what load_params must make of it.

    Attributes:
        text: the whole file.
        values: what it says; of a key that is given twice, the later value.
        lines: of each key, the line it stands on, or both.
        wrong: the keys of which something must be said.
        said: what must be said of the whole file instead, in one line; "" where it is JSON.
    """

    text: bytes
    values: dict[str, Any]
    lines: dict[str, list[int]]
    wrong: set[str]
    said: str


def random_case(number: int) -> Case:
    """The case of a number."""
    draw = random.Random(number)
    keys = draw.sample(sorted(PROPERTIES), draw.choice([1, 2, 3, 5, 8]))
    pairs = [(key, _value(PROPERTIES[key], draw)) for key in dict.fromkeys(["arch", *keys])]
    if draw.random() < 0.1:
        pairs.append((_typo(draw.choice(sorted(PROPERTIES)), draw), draw.choice(ANYTHING)))
    if draw.random() < 0.1:
        twice = draw.choice(pairs)[0]
        pairs.append((twice, _value(PROPERTIES.get(twice, {"type": "null"}), draw)))
    if draw.random() < 0.05:
        pairs = [pair for pair in pairs if pair[0] != "arch"] or [("ps", 0)]
    values = dict(pairs)
    lines = {key: [n for n, (k, _) in enumerate(pairs, start=2) if k == key] for key in values}
    rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs)
    text, said = DAMAGE[draw.choice(sorted(DAMAGE)) if draw.random() < 0.2 else "none"]
    wrong = mistaken(values) | {key for key in lines if len(lines[key]) > 1}
    return Case(text("{\n" + rows + "\n}"), values, lines, wrong, said)


# What happens to a text on the way, and what must be said of it.
DAMAGE: dict[str, tuple[Callable[[str], bytes], str]] = {
    "none": (str.encode, ""),
    "byte order mark": (lambda text: text.encode("utf-8-sig"), ""),
    "lines of Windows": (lambda text: text.replace("\n", "\r\n").encode(), ""),
    "comma at the end": (lambda text: text[:-2].encode() + b",\n}", "has a comma after the last item"),
    "comment": (lambda text: b"{ // so" + text[1:].encode(), "holds a comment"),
    "no end": (lambda text: text[:-1].encode(), "lacks a comma or a closing bracket"),
    "more after the end": (lambda text: text.encode() + b"\n{}", "goes on after its end"),
    "single quotes": (lambda text: text.replace('"', "'").encode(), "has single quotes"),
    "UTF-16": (lambda text: text.encode("utf-16"), "is UTF-16 or not text at all"),
    "Latin-1": (lambda text: b'{"about": "' + "é".encode("latin-1") + b'",' + text[1:].encode(), "is not UTF-8"),
    "Python": (lambda text: b'{"cuda": True,' + text[1:].encode(), "has True, False or None"),
}  # fmt: skip


def _value(node: Node, draw: random.Random) -> Any:
    """A value that a schema describes, or one near it, or anything."""
    if draw.random() < 0.2:
        return draw.choice(ANYTHING)
    if "$ref" in node:
        return _value(SCHEMA["$defs"][node["$ref"].rpartition("/")[2]], draw)
    if "anyOf" in node:
        return _value(draw.choice(node["anyOf"]), draw)
    if "enum" in node or "const" in node:
        return draw.choice(node.get("enum", [node.get("const")]))
    return _MAKERS[node["type"]](node, draw)


def _near_bounds(node: Node, draw: random.Random) -> Any:
    bounds = [node[name] for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum") if name in node]
    least, most = min([0, *bounds]), max([3, *bounds])
    step = draw.choice([0, 0, 0, 1, -1, 0.5]) if draw.random() < 0.5 else 0
    if node["type"] == "integer":
        return draw.choice([*bounds, draw.randint(least, most)]) + step
    return draw.choice([*bounds, round(draw.uniform(least, min(most, 1)), 3)]) + step


def _some_properties(node: Node, draw: random.Random) -> Any:
    known = node.get("properties", {"ps": {"type": "array", "items": {"type": "number"}, "maxItems": 3}})
    needed = [key for key in node.get("required", ()) if draw.random() < 0.9]
    keys = dict.fromkeys(needed + draw.sample(sorted(known), draw.randint(0, min(2, len(known)))))
    made = {key: _value(known[key], draw) for key in keys}
    return made | ({_typo(draw.choice(sorted(known)), draw): 1} if draw.random() < 0.05 else {})


_MAKERS: dict[str, Callable[[Node, random.Random], Any]] = {
    "array": lambda node, draw: [
        _value(node["items"], draw)
        for _ in range(draw.choice([node.get("minItems", 0), 1, 2, 3, 3, 3, min(node["maxItems"], 100) + 1]))
    ],
    "integer": _near_bounds,
    "number": _near_bounds,
    "null": lambda node, draw: None,
    "object": _some_properties,
    "string": lambda node, draw: draw.choice(TEXTS[:5]),
}


def _typo(word: str, draw: random.Random) -> str:
    """A word with one letter too many, too few, or doubled in another's place; never a parameter of that name."""
    at = draw.randrange(len(word))
    typo = word[:at] + draw.choice(["", "q", word[at] * 2]) + word[at + 1 :]
    return typo if typo and typo not in PROPERTIES and typo != word else word + "q"
