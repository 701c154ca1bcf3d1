"""What a message about params.json says: places, values, and what is allowed there, read off the JSON schema."""

import functools
import json
from typing import Any, Final

from config.schema import json_schema
from config.strict_json import Place
from utils import did_you_mean, nearest, printable

Node = dict[str, Any]  # one part of a JSON schema

# What other programs call it, where likeness alone would not find our name.
ELSEWHERE: Final = {
    "dropout": "ps",
    "eval_batch_size": "bs_test",
    "image_size": "im_sz",
    "img_size": "im_sz",
    "lr": "learning_rate",
    "model": "arch",
    "num_classes": "n_clas",
    "patience": "early_stopping.patience",
    "weight_decay": "wd",
}


def short(text: str, length: int = 80) -> str:
    """Text of any length and content, fit for one line."""
    text = printable(text[: length + 1])
    return text if len(text) <= length else text[: length - 1] + "…"


def shown(value: object) -> str:
    """A value as it stands in a file."""
    return short(json.dumps(value, ensure_ascii=False))


def dotted(place: Place) -> str:
    """A place as a person names it: early_stopping.patience, metrics[0]."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return short("".join(parts).removeprefix("."))


def unknown(place: Place) -> str:
    """What is wrong with a key that no parameter has."""
    name = str(place[-1])
    choices = [key for node in _nodes(place[:-1]) for key in node.get("properties", ())]
    hint = did_you_mean(name, choices)
    if len(place) == 1:
        near = ELSEWHERE.get(name.lower()) or nearest(name, choices)
        hint = f'; did you mean "{near}"?' if near else "; params.schema.json lists them all"
    return f'"{dotted(place)}" is not a parameter{hint}'


def meaning(place: Place) -> str:
    """What a parameter that must be there is for."""
    return str(_nodes(place)[0]["description"])


def allowed(place: Place, value: object) -> str:
    """What may stand at a place, and which of its words is nearest to the value that does."""
    nodes = _nodes(place)
    words = [word for node in nodes for word in node.get("enum", ()) if isinstance(word, str)]
    near = nearest(value, words) if isinstance(value, str) else None
    return _either([phrase for node in nodes for phrase in _phrases(node)]) + (
        f'; did you mean "{near}"?' if near else ""
    )


@functools.cache
def _schema() -> Node:
    return json_schema()


def _nodes(place: Place) -> list[Node]:
    """The parts of the schema that speak of a place: one for each kind of value it may hold."""
    nodes = [_schema()]
    for part in place:
        parts = (n.get("items") if isinstance(part, int) else n.get("properties", {}).get(part) for n in nodes)
        nodes = [kind for node in parts if node for kind in _kinds(node)]
    return nodes


def _kinds(node: Node) -> list[Node]:
    if "$ref" in node:
        return [_schema()["$defs"][node["$ref"].rpartition("/")[2]]]
    return [kind for option in node["anyOf"] for kind in _kinds(option)] if "anyOf" in node else [node]


def _phrases(node: Node) -> list[str]:
    if words := node.get("enum", [node["const"]] if "const" in node else []):
        return [json.dumps(word) for word in words]
    kind = node["type"]
    if kind == "array":
        items = _either([phrase for item in _kinds(node["items"]) for phrase in _phrases(item)])
        least, most = node.get("minItems", 0), node["maxItems"]
        return [f"a list of {most if least == most else f'{least} to {most}'} (each {items})"]
    if kind == "object":
        return [f"an object ({', '.join(node['properties'])})" if "properties" in node else "an object"]
    if kind == "string":
        return [f"text of 1 to {node['maxLength']} characters" if "maxLength" in node else "text"]
    if kind == "null":
        return ["null"]
    return [("a whole number" if kind == "integer" else "a number") + _range(node)]


def _range(node: Node) -> str:
    if "minimum" in node and "maximum" in node:
        return f" from {node['minimum']} to {node['maximum']}"
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "exclusiveMaximum": "below", "maximum": "at most"}
    parts = [f"{words} {node[bound]}" for bound, words in bounds.items() if bound in node]
    return f" {' and '.join(parts)}" if parts else ""


def _either(phrases: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(phrases[:-1]), *phrases[-1:]]))
