"""The grammar of hyper_search: which values of which parameters are tried, and what each trial's params.json holds."""

import copy
import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from config.load import Catalogues, load_params
from config.wording import shown
from utils import UserError, did_you_mean, positional

Combination = dict[str, Any]  # the searched parameters in force, by dotted name, each with its value

LONGEST_NAME: Final = 120  # of a trial's folder; file systems allow 255 bytes
MOST_COMBINATIONS: Final = 10_000
MOST_DRAWS: Final = 1000  # in search of values under which a condition holds
DIGITS: Final = 4  # significant, of a number drawn from a range: it is in the folder's name
RANGE_KEYS: Final = ("low", "high", "log", "step", "int")
NOT_SEARCHED: Final = ("about", "hyper_search", "search")


@dataclass(frozen=True)
class Choices:
    """Listed values."""

    values: tuple[Any, ...]

    def grid(self) -> Sequence[Any]:
        """All of them."""
        return self.values

    def at(self, position: float) -> Any:
        """The one at a position in [0, 1)."""
        return self.values[int(position * len(self.values))]

    def holds(self, value: Any) -> bool:
        """Whether it is one of them."""
        return _canonical(value) in map(_canonical, self.values)


@dataclass(frozen=True)
class Range:
    """All numbers from low to high, evenly or (log) evenly in their logarithm; with a step, only so many of them.

    The step is added, or in a log range multiplied with.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def grid(self) -> Sequence[Any]:
        """The numbers low, low + step … high; or low, low * step … high."""
        if self.step is None:
            return ()
        found, value, step = list[Any](), _decimal(self.low), _decimal(self.step)
        while value <= _decimal(self.high) and len(found) <= MOST_COMBINATIONS:
            found.append(int(value) if self.whole else float(value))
            value = value * step if self.log else value + step
        return found

    def at(self, position: float) -> Any:
        """The number at a position in [0, 1)."""
        if self.step is not None:
            return Choices(tuple(self.grid())).at(position)
        # Each whole number has an equal part of the range, the two at the ends as well.
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        value = low * (high / low) ** position if self.log else low + (high - low) * position
        value = min(max(round(value) if self.whole else float(f"{value:.{DIGITS}g}"), self.low), self.high)
        return int(value) if self.whole else float(value)

    def place(self, value: float) -> float:
        """The position in [0, 1] of a number; of a whole one the middle of its part."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        return math.log(value / low) / math.log(high / low) if self.log else (value - low) / (high - low)

    def holds(self, value: Any) -> bool:
        """Whether it is one of its numbers."""
        if type(value) not in (int, float) or not self.low <= value <= self.high:
            return False
        return value in self.grid() if self.step is not None else not self.whole or value == int(value)


@dataclass(frozen=True)
class Axis:
    """What is tried for one parameter, or for several that change together.

    Attributes:
        names: of the parameters, dotted.
        domain: the values; for several parameters each value is a list with one for each.
        when: it is tried only where each of these parameters has one of these values.
    """

    names: tuple[str, ...]
    domain: Choices | Range
    when: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def active(self, combination: Combination, base: Mapping[str, Any]) -> bool:
        """Whether it is tried beside these values of the earlier ones."""
        return all(
            (combination[name] if name in combination else lookup(base, name)) in values
            for name, values in self.when.items()
        )

    def with_value(self, combination: Combination, value: Any) -> Combination:
        """The combination with one of the domain's values."""
        return combination | dict(zip(self.names, value if len(self.names) > 1 else [value], strict=True))

    def value(self, combination: Combination) -> Any:
        """The domain's value in a combination; the reverse of with_value."""
        values = [combination[name] for name in self.names]
        return values if len(values) > 1 else values[0]


def combined(axes: Sequence[Axis], base: Mapping[str, Any], choose: Callable[[Axis], Any]) -> Combination:
    """The combination of the values that are chosen for each axis in force."""
    combination: Combination = {}
    for axis in axes:
        if axis.active(combination, base):
            combination = axis.with_value(combination, choose(axis))
    return combination


def belongs(combination: Combination, axes: Sequence[Axis], base: Mapping[str, Any]) -> bool:
    """Whether a search over these axes can try it."""
    found: Combination = {}
    for axis in axes:
        if axis.active(found, base):
            if not all(name in combination for name in axis.names) or not axis.domain.holds(axis.value(combination)):
                return False
            found = axis.with_value(found, axis.value(combination))
    return found.keys() == combination.keys()


def same(one: Any, other: Any) -> bool:
    """Whether two values, or two combinations, are one."""
    return _canonical(one) == _canonical(other)


def probes(axes: Sequence[Axis], base: Mapping[str, Any]) -> list[Combination]:
    """Combinations in which each listed value and each end of a range occurs, to be checked before any is tried."""
    found: dict[str, Combination] = {}
    for axis in axes:
        domain = axis.domain
        for value in domain.values if isinstance(domain, Choices) else [domain.at(0.0), domain.at(1.0 - 2**-53)]:
            for draw in range(MOST_DRAWS):  # until the conditions of the axis hold
                chance = random.Random(f"{axis.names} {draw}")
                combination = combined(
                    axes,
                    base,
                    lambda a: value if a is axis else a.domain.at(chance.random()),  # noqa: B023
                )
                if axis.names[0] in combination:
                    found.setdefault(_canonical(combination), combination)
                    break
    return list(found.values())


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _decimal(number: float) -> Decimal:
    return Decimal(repr(number))


# --- reading ---------------------------------------------------------------------------------------------------------


def read_axes(base: Mapping[str, Any], label: str, *, grid: bool) -> tuple[Axis, ...]:
    """The axes of a params.json, in its order.

    Args:
        base: what the file holds, checked by load_params: so every name in hyper_search is one of its keys.
        label: the file, as messages name it.
        grid: whether every combination is to be tried: a range needs a step then.

    Raises:
        UserError: one line per mistake.
    """
    problems, axes, taken = list[str](), list[Axis](), list[str]()
    for key, written in (base.get("hyper_search") or {}).items():
        names = tuple(key.split(","))
        found = list(_wrong_names(names, taken))
        when: Any = {}
        if isinstance(written, dict):
            when = written.get("when", {})
            found += _wrong_keys(written) or _wrong_condition(when, names, axes, base)
        found = found or list(_wrong_domain(names, written, grid))
        problems += [f"{label}: hyper_search: {key}: {message}" for message in found]
        if not found:
            conditions = {name: _listed(values) for name, values in when.items()}
            axes.append(Axis(names, _domain(written), conditions))
        taken += names
    if not taken:
        problems = [
            f'{label}: hyper_search is missing; it names what is tried, as in {{"learning_rate": [0.01, 0.001]}}'
        ]
    if problems:
        raise UserError("\n".join(problems))
    return tuple(axes)


def _domain(written: Any) -> Choices | Range:
    values = written.get("values") if isinstance(written, dict) else written
    if values is not None:
        return Choices(tuple(values))
    log, whole = bool(written.get("log")), bool(written.get("int"))
    return Range(written["low"], written["high"], log, written.get("step"), whole)


def _wrong_names(names: Sequence[str], taken: Sequence[str]) -> Iterator[str]:
    for name in names:
        if name.partition(".")[0] in NOT_SEARCHED:
            yield f"{name} does not change a training; it cannot be searched"
        if any(f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.") for other in taken):
            yield f"{name} is searched twice"
    if len(set(names)) < len(names):
        yield "it names a parameter twice"


def _wrong_keys(written: Mapping[str, Any]) -> list[str]:
    known = (*RANGE_KEYS, "values", "when")
    wrong = [f"{shown(key)} is not known here{did_you_mean(key, known)}" for key in written if key not in known]
    if not wrong and ("values" in written) == bool(written.keys() & set(RANGE_KEYS)):
        wrong = ['it must be a list, {"values": [...]} or a range {"low": ..., "high": ...}']
    return wrong


def _wrong_condition(when: Any, names: Sequence[str], axes: Sequence[Axis], base: Mapping[str, Any]) -> list[str]:
    if not isinstance(when, dict):
        return [f'its when is {shown(when)}; it must read {{"arch": ["resnet50"]}}']
    searched = {name for key in base["hyper_search"] for name in key.split(",")}
    earlier = {name for axis in axes for name in axis.names}
    missing = [n for n in when if n not in searched and lookup(base, n, missing := object()) is missing]
    later = [n for n in when if n in searched and n not in earlier]
    wrong = [f"its when asks for {shown(n)}, which this file does not hold{did_you_mean(n, base)}" for n in missing]
    wrong += [f"its when asks for {shown(n)}, which must come before {names[0]} in hyper_search" for n in later]
    return wrong or [problem for n, values in when.items() for problem in _wrong_values(n, _listed(values), axes, base)]


def _wrong_values(name: str, values: Sequence[Any], axes: Sequence[Axis], base: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the values of an earlier parameter in a condition: one that it never has."""
    axis = next((axis for axis in axes if name in axis.names), None)
    known = [lookup(base, name)] if axis is None or axis.when else []
    if axis is not None and isinstance(axis.domain, Choices):
        known += [axis.with_value({}, value)[name] for value in axis.domain.values]
    if not values:
        yield f"its when lists no value of {name}"
    for value in values:
        drawn = axis is not None and isinstance(axis.domain, Range) and axis.domain.holds(value)
        if value not in known and not drawn:
            choices = [choice for choice in known if isinstance(choice, str)]
            near = did_you_mean(value, choices) if isinstance(value, str) else ""
            yield f"its when asks for {name} {shown(value)}, which is not tried{near}"


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _wrong_domain(names: Sequence[str], written: Any, grid: bool) -> Iterator[str]:
    values = written.get("values") if isinstance(written, dict) else written
    if isinstance(written, dict) and "values" not in written:
        yield from _wrong_range(written, grid) if len(names) == 1 else ["parameters that change together need a list"]
    elif not isinstance(values, list) or not values:
        yield f'it is {shown(values)}; it must be a list of values, or a range {{"low": ..., "high": ...}}'
    elif len({json.dumps(value, sort_keys=True) for value in values}) < len(values):
        yield "it lists a value twice"
    elif len(names) > 1:
        for value in values:
            if not isinstance(value, list) or len(value) != len(names):
                yield f"{shown(value)} must be a list of {len(names)}: one value for each of {', '.join(names)}"


def _wrong_range(written: Mapping[str, Any], grid: bool) -> Iterator[str]:
    numbers: dict[str, Any] = {
        key: written.get(key) for key in ("low", "high", "step") if key in written or key != "step"
    }
    for key, value in numbers.items():
        if type(value) not in (int, float):
            yield f"its {key} is {shown(value)}; it must be a number"
            return
        if written.get("int") and value != int(value):
            yield f"its {key} is {shown(value)}; it must be whole, as int is given"
    for key in ("log", "int"):
        if written.get(key, 0) not in (0, 1):
            yield f"its {key} is {shown(written[key])}; it must be true or false"
    low, high, step, log = numbers["low"], numbers["high"], written.get("step"), written.get("log")
    if low >= high:
        yield f"its low {low} must be below its high {high}"
    if log and low <= 0:
        yield f"its low is {low}; with log it must be above 0"
    if step is not None and step <= (1 if log else 0):
        yield f"its step is {step}; it must be above {'1, as low is multiplied by it' if log else 0}"
    if step is None and grid:
        yield 'a grid needs a "step" in every range; or set "search": {"method": "random"}'


# --- trials ----------------------------------------------------------------------------------------------------------


def lookup(base: Mapping[str, Any], name: str, missing: Any = None) -> Any:
    """The value at a dotted name."""
    value: Any = base
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return missing
        value = value[part]
    return value


def child_params(base: Mapping[str, Any], combination: Combination, seed: int) -> dict[str, Any]:
    """What a trial's params.json holds.

    Args:
        base: what the search's params.json holds.
        combination: the trial's values.
        seed: 1 for the base's own seed, 2 for the next one.
    """
    child = {
        key: copy.deepcopy(value) for key, value in base.items() if key not in ("$schema", "hyper_search", "search")
    }
    for name, value in combination.items():
        *path, last = name.split(".")
        target = child
        for part in path:
            target = target[part]
        target[last] = copy.deepcopy(value)
    if seed > 1:
        child["seed"] = child.get("seed", 0) + seed - 1
    return child


def trial_name(combination: Combination, seed: int, *, digest: bool = False) -> str:
    """The folder's name: learning_rate_0.001-ps_0.5, and -seed_2 for the second seed.

    Args:
        combination: the trial's values.
        seed: 1 for the first one.
        digest: tell the values apart by eight digits, as also where the name cannot show them.
    """
    plain = "-".join(f"{name}_{_written(value)}" for name, value in combination.items()) or "base"
    safe = re.sub(r"[^A-Za-z0-9._+-]", "_", plain)
    suffix = f"-seed_{seed}" if seed > 1 else ""
    if digest or safe != plain or len(safe + suffix) > LONGEST_NAME:
        canonical = json.dumps(combination, sort_keys=True).encode()
        suffix = f"-{hashlib.sha256(canonical).hexdigest()[:8]}{suffix}"
    return safe[: LONGEST_NAME - len(suffix)] + suffix


def _written(value: Any) -> str:
    if isinstance(value, list) and value:
        return "_".join(map(_written, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return positional(value)
    return value if isinstance(value, str) else json.dumps(value)


def wrong_combinations(
    path: Path, combinations: Sequence[Combination], catalogues: Catalogues | None = None
) -> list[str]:
    """What is wrong with any of them, each mistake once.

    Args:
        path: the search's params.json.
        combinations: the values of each trial.
        catalogues: the names that only torch knows; None leaves them unchecked.
    """
    found: dict[str, None] = {}
    for combination in combinations:
        try:
            load_params(path, [f"{name}={json.dumps(value)}" for name, value in combination.items()], catalogues)
        except UserError as error:
            found |= dict.fromkeys(line.replace("--set ", "hyper_search: ", 1) for line in str(error).splitlines())
    return list(found)
