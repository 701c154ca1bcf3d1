"""Which combination to try next, given how the earlier ones went; it follows from that and from the seed alone."""

import hashlib
import itertools
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from config.parts import Search
from config.space import Axis, Choices, Combination, Range, combined, same
from search.strategies import Base, randomly, sobol
from utils import UserError, optional_import

FIRST: Final = 10  # combinations of tpe and gp that are spread evenly
MOST_ASKED: Final = 10  # times a sampler may propose what was tried before
SIGMA: Final = 0.3  # of the first generation of cmaes, in parts of each range


@dataclass(frozen=True)
class Tried:
    """A combination that was proposed before.

    Attributes:
        combination: its values.
        state: finished, pruned, running (or waiting to), poor: failed in a way that is due to its values; failed.
        value: of the metric, greater is better; of a pruned one as far as it came; nan when it has none.
        epoch: after which it was pruned.
    """

    combination: Combination
    state: Literal["finished", "pruned", "running", "poor", "failed"]
    value: float = math.nan
    epoch: int = 0


def propose(axes: Sequence[Axis], base: Base, settings: Search, tried: Sequence[Tried]) -> Combination | None:
    """A combination that was not tried yet; None when there is none.

    Args:
        axes: what is searched.
        base: the other parameters.
        settings: method and seed.
        tried: in the order of proposal.
    """
    for combination in _candidates(axes, base, settings, _valued(tried)):
        if not any(same(combination, one.combination) for one in tried):
            return combination
    return None


def check(method: str, axes: Sequence[Axis]) -> None:
    """Whether a method can be used here.

    Raises:
        UserError: a package is missing, or the search is not one for it.
    """
    package = "cmaes" if method == "cmaes" else "optuna"
    optional_import(package, package)
    if method == "cmaes" and len(_numeric(axes)) < 2:
        raise UserError(
            "hyper_search: cmaes needs two parameters with numbers and without conditions; set search.method to tpe"
        )


def _candidates(axes: Sequence[Axis], base: Base, settings: Search, tried: Sequence[Tried]) -> Iterator[Combination]:
    if settings.method != "cmaes" and len(tried) < FIRST:
        yield from sobol(axes, base, settings.model_copy(update={"trials": FIRST}))
    yield from itertools.islice(SAMPLERS[settings.method](axes, base, settings, tried), MOST_ASKED)
    yield from randomly(axes, base, settings.model_copy(update={"trials": len(tried) + 1}))


def _valued(tried: Sequence[Tried]) -> list[Tried]:
    """With the lowest value of all for what is poor or was not measured."""
    worst = min((one.value for one in tried if not math.isnan(one.value)), default=math.nan)
    return [
        Tried(one.combination, "failed" if math.isnan(worst) else "finished", worst)
        if one.state == "poor" or (one.state in ("finished", "pruned") and math.isnan(one.value))
        else one
        for one in tried
    ]


def _seed(settings: Search, tried: Sequence[Tried]) -> int:
    """Another one for each proposal."""
    return int.from_bytes(hashlib.sha256(f"{settings.seed} {len(tried)}".encode()).digest()[:4], "big")


# --- by optuna -------------------------------------------------------------------------------------------------------


def tpe(axes: Sequence[Axis], base: Base, settings: Search, tried: Sequence[Tried]) -> Iterator[Combination]:
    """Values likelier among the good than among the rest, all parameters together (Bergstra et al. 2011)."""
    optuna = optional_import("optuna", "optuna")
    with warnings.catch_warnings():  # a group of parameters under one condition is, to optuna, an experiment
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            multivariate=True, group=any(axis.when for axis in axes), constant_liar=True, seed=_seed(settings, tried)
        )
    return _asked(optuna, sampler, axes, base, tried)


def gp(axes: Sequence[Axis], base: Base, settings: Search, tried: Sequence[Tried]) -> Iterator[Combination]:
    """The largest expected improvement under a Gaussian process. A parameter with a condition is drawn at random."""
    optuna = optional_import("optuna", "optuna")
    sampler = optuna.samplers.GPSampler(seed=_seed(settings, tried))
    # Of pruned ones it would see nothing.
    whole = [Tried(one.combination, "finished", one.value) if one.state == "pruned" else one for one in tried]
    return _asked(optuna, sampler, axes, base, whole)


def _asked(
    optuna: Any, sampler: Any, axes: Sequence[Axis], base: Base, tried: Sequence[Tried]
) -> Iterator[Combination]:
    """What a sampler of optuna proposes, again and again, in a study made anew from what was tried."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    states = {"finished": "COMPLETE", "pruned": "PRUNED", "running": "RUNNING", "failed": "FAIL"}
    for one in tried:
        active = [axis for axis in axes if axis.names[0] in one.combination]
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[states[one.state]],
                params={_label(axis): _number(axis, one.combination) for axis in active},
                distributions={_label(axis): _distribution(optuna, axis) for axis in active},
                value=one.value if one.state == "finished" else None,
                intermediate_values={one.epoch: one.value} if one.state == "pruned" else None,
            )
        )
    while True:
        trial = study.ask()
        yield combined(axes, base, lambda axis: _suggested(trial, axis))  # noqa: B023


def _label(axis: Axis) -> str:
    return ",".join(axis.names)


def _levels(axis: Axis) -> tuple[Any, ...]:
    """The values that an axis lists, numbers in their order; none of a range without a step."""
    values = tuple(axis.domain.grid())
    return tuple(sorted(values)) if _ordered(values) else values


def _ordered(values: Sequence[Any]) -> bool:
    return all(type(value) in (int, float) for value in values)


def _distribution(optuna: Any, axis: Axis) -> Any:
    levels = _levels(axis)
    if not levels:
        return optuna.distributions.FloatDistribution(0.0, 1.0)
    if _ordered(levels):
        return optuna.distributions.IntDistribution(0, len(levels) - 1)
    return optuna.distributions.CategoricalDistribution(tuple(range(len(levels))))


def _number(axis: Axis, combination: Combination) -> float:
    """What stands for a value in a study: the place in a range, the index in a list."""
    value = axis.value(combination)
    if isinstance(axis.domain, Range) and axis.domain.step is None:
        return axis.domain.place(value)
    return next(index for index, level in enumerate(_levels(axis)) if same(level, value))


def _suggested(trial: Any, axis: Axis) -> Any:
    label, levels = _label(axis), _levels(axis)
    if not levels:
        return axis.domain.at(trial.suggest_float(label, 0.0, 1.0))
    if _ordered(levels):
        return levels[trial.suggest_int(label, 0, len(levels) - 1)]
    return levels[trial.suggest_categorical(label, tuple(range(len(levels))))]


# --- by cmaes --------------------------------------------------------------------------------------------------------


def cmaes(axes: Sequence[Axis], base: Base, settings: Search, tried: Sequence[Tried]) -> Iterator[Combination]:
    """Draws from a normal distribution that moves and turns toward the good (Hansen 2016).

    Each generation is told when all of it has been proposed; what still runs then counts as its worst. A parameter with
    a condition, or without an order, is drawn at random.
    """
    package = optional_import("cmaes", "cmaes")
    numeric = _numeric(axes)
    mean, bounds = np.full(len(numeric), 0.5), np.array([[0.0, 1.0]] * len(numeric))
    optimizer = package.CMA(mean, SIGMA, bounds=bounds, seed=_seed(settings, tried))
    size = optimizer.population_size
    for start in range(0, len(tried) - size + 1, size):
        generation = tried[start : start + size]
        known = [one.value for one in generation if not math.isnan(one.value)]
        if known:
            optimizer.tell([
                (np.array([_place(axis, one.combination) for axis in numeric]),
                 -(min(known) if math.isnan(one.value) else one.value))
                for one in generation
            ])  # fmt: skip
        if optimizer.should_stop():  # it has converged: begin anew
            optimizer = package.CMA(mean, SIGMA, bounds=bounds, seed=_seed(settings, tried))
    for attempt in itertools.count():
        places = dict(zip(map(_label, numeric), optimizer.ask().tolist(), strict=True))
        yield combined(axes, base, lambda axis: _drawn(axis, places, f"{settings.seed} {len(tried)} {attempt}"))  # noqa: B023


def _numeric(axes: Sequence[Axis]) -> list[Axis]:
    """The parameters with an order of their values and without conditions."""
    return [axis for axis in axes if not axis.when and _ordered(_levels(axis))]


def _place(axis: Axis, combination: Combination) -> float:
    number, levels = _number(axis, combination), _levels(axis)
    return (number + 0.5) / len(levels) if levels else number


def _drawn(axis: Axis, places: Mapping[str, float], chance: str) -> Any:
    place = places.get(_label(axis))
    if place is None:
        return axis.domain.at(random.Random(f"{chance} {axis.names[0]}").random())
    levels = _levels(axis)
    return Choices(levels).at(min(place, 1 - 2**-53)) if levels else axis.domain.at(place)


SAMPLERS: Final[dict[str, Callable[[Sequence[Axis], Base, Search, Sequence[Tried]], Iterator[Combination]]]] = {
    "tpe": tpe,
    "gp": gp,
    "cmaes": cmaes,
}
