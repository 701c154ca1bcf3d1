"""Which combinations of the searched values are tried: each strategy proposes the same list for the same search."""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from config.parts import Search
from config.space import MOST_COMBINATIONS, Axis, Combination, combined
from utils import UserError

Base = Mapping[str, Any]


def grid(axes: Sequence[Axis], base: Base, settings: Search) -> list[Combination]:
    """Every combination, the last parameter changing fastest; shuffled for a pruner, which compares who came so far."""
    combinations: list[Combination] = [{}]
    for axis in axes:
        values = axis.domain.grid()
        active = [axis.active(combination, base) for combination in combinations]
        if len(active) + sum(active) * (len(values) - 1) > MOST_COMBINATIONS:
            raise UserError(
                f"hyper_search: a grid of more than {MOST_COMBINATIONS} combinations; "
                'list fewer values, or set "search": {"method": "random", "trials": 100}'
            )
        combinations = [
            combined
            for combination, searched in zip(combinations, active, strict=True)
            for combined in ([axis.with_value(combination, value) for value in values] if searched else [combination])
        ]
    if settings.pruner is not None:
        random.Random(settings.seed).shuffle(combinations)
    return combinations


def randomly(axes: Sequence[Axis], base: Base, settings: Search) -> list[Combination]:
    """Independent draws. Each number follows from the seed, the trial and the parameter: more trials change none."""

    def positions() -> Iterator[list[float]]:
        for trial in itertools.count():
            yield [random.Random(f"{settings.seed} {trial} {axis.names[0]}").random() for axis in axes]

    return _distinct(axes, base, settings.trials, positions())


def sobol(axes: Sequence[Axis], base: Base, settings: Search) -> list[Combination]:
    """A scrambled Sobol sequence: draws that fill the space evenly (Owen 1998, by scipy)."""
    from scipy.stats.qmc import Sobol

    def positions() -> Iterator[list[float]]:
        sequence = Sobol(len(axes), scramble=True, rng=settings.seed)
        yield from sequence.random_base2(max(settings.trials - 1, 1).bit_length()).tolist()
        while sequence.num_generated < 2**20:  # doubled, as only whole powers of two are even
            yield from sequence.random_base2(sequence.num_generated.bit_length() - 1).tolist()

    return _distinct(axes, base, settings.trials, positions())


def _distinct(axes: Sequence[Axis], base: Base, trials: int, positions: Iterable[list[float]]) -> list[Combination]:
    """The first so many combinations that differ; fewer when there hardly are more."""
    found: dict[str, Combination] = {}
    for position in itertools.islice(positions, 20 * trials + 1000):
        places = {axis.names: place for axis, place in zip(axes, position, strict=True)}
        combination = combined(axes, base, lambda axis: axis.domain.at(places[axis.names]))  # noqa: B023
        found.setdefault(repr(combination), combination)
        if len(found) == trials:
            break
    return list(found.values())


STRATEGIES: Final[dict[str, Callable[[Sequence[Axis], Base, Search], list[Combination]]]] = {
    "grid": grid,
    "random": randomly,
    "sobol": sobol,
}
