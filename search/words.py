"""How tables, pictures and the terminal put values, settings and times into words. No torch."""

import re
from typing import Any

from search.collect import Setting
from utils import positional, printable


def show(value: Any, digits: int = 17) -> str:
    """A parameter's value as people write it, with so many significant digits: 0.0001, [0.1, 0.2], - for none."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return f"[{', '.join(show(item, digits) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {show(item, digits)}" for key, item in value.items()) + "}"
    if isinstance(value, float) and digits < 17:
        return positional(float(f"{value:.{digits}g}"))
    return positional(value) if isinstance(value, int | float) else printable(str(value))


def brief(value: Any) -> str:
    """A parameter's value where people read it: four digits tell drawn numbers apart."""
    return show(value, 4)


def caption(setting: Setting) -> str:
    """A setting in a few words: its values, else its folder, and how many seeds."""
    values = ", ".join(f"{name} {brief(value)}" for name, value in setting.values.items())
    seeds = len({run.seed for run in setting.runs})
    return short(values or printable(setting.runs[0].name), 60) + (f" ({seeds} seeds)" if seeds > 1 else "")


def short(text: str, length: int) -> str:
    """The text, cut in the middle where it is longer."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def escaped(text: str) -> str:
    """Text as a cell or a word of Markdown that means nothing else."""
    text = re.sub(r"([\\`*<>\[\]|~$&#])", r"\\\1", printable(text))
    return re.sub(r"(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])", r"\\_", text)


def duration(seconds: float) -> str:
    """42 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"


def plural(count: int, what: str) -> str:
    """1 run, 2 runs."""
    return f"{count} {what}{'s' * (count != 1)}"
