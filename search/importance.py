"""Which parameter decides whether a setting is among the best: PED-ANOVA. No torch.

Watanabe, Bansal and Hutter (2023), arXiv:2304.10255: for each parameter by itself, the density of its values among the
best settings is compared with that among all of them; the more the two differ (Pearson's divergence), the more the
parameter decides. Comparing with the settings that were tried, not with the whole range, keeps it fair to searches that
try promising values more often.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from search.figures import Scale

Array = np.ndarray[Any, Any]

CELLS: Final = 50  # into which the range of drawn numbers is divided
BEST_SHARE: Final = 0.1
FEWEST_BEST: Final = 5  # with fewer the densities say little


def importance(columns: Mapping[str, Sequence[Any]], best: Sequence[bool]) -> dict[str, float]:
    """Each parameter's share of what tells the best settings from all; the shares add up to 1.

    Args:
        columns: by parameter, the value in each setting.
        best: whether each setting is among the best.
    """
    chosen = np.asarray(best, dtype=bool)
    found = {name: _divergence(values, chosen) for name, values in columns.items()}
    total = sum(found.values())
    shares = {name: value / total if total > 0 else 1 / len(found) for name, value in found.items()}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def how_many(settings: int) -> int:
    """How many of so many settings count as the best."""
    return max(FEWEST_BEST, math.ceil(BEST_SHARE * settings))


def _divergence(values: Sequence[Any], best: Array) -> float:
    """Pearson's divergence of a parameter's density among the best from that among all."""
    scale = Scale(values)
    drawn = scale.numeric and 2 * len(scale.places) > len(values)  # else values that were listed: a cell each
    count = CELLS if drawn else len(scale.places)
    ranks = [scale.rank(value) for value in values]
    cells = np.array([round(scale.share(rank) * (CELLS - 1)) if drawn else rank for rank in ranks])
    density = _of_numbers if scale.numeric else _of_categories
    among_best, among_all = (density(np.bincount(some, minlength=count)) for some in (cells[best], cells))
    return float((among_all * (among_best / among_all - 1) ** 2).sum())


def _of_numbers(counts: Array) -> Array:
    """Density (K,) over cells in order, from how often each occurred (K,): a sum of normal kernels.

    Their width is Scott's (1992), at least a third of a cell; one more observation, spread over all, keeps it above 0.
    """
    from scipy.special import ndtr  # scipy.stats takes a second to import

    cells, total = np.arange(len(counts)), counts.sum()
    occupied = counts > 0
    centres, weights = cells[occupied], counts[occupied]
    deviation = math.sqrt(float((centres - centres @ weights / total) ** 2 @ weights) / max(1, total - 1))
    quarters = np.searchsorted(np.cumsum(weights), [total // 4, total * 3 // 4])
    quarters[1] = np.searchsorted(np.cumsum(weights), total * 3 // 4, side="right")
    middle_half = float(np.ptp(centres[np.minimum(quarters, len(centres) - 1)]))
    width = max(1.059 * min(middle_half / 1.34, deviation) * total**-0.2, 0.5 / 1.64)
    middles = np.append(centres, (len(cells) - 1) / 2)[:, None]  # (kernels, 1)
    widths = np.append(np.full(len(centres), width), len(cells))[:, None]
    mass = ndtr((cells + 0.5 - middles) / widths) - ndtr((cells - 0.5 - middles) / widths)  # (kernels, K)
    mass /= mass.sum(axis=1, keepdims=True)
    return np.asarray(np.append(weights, 1) / (total + 1) @ mass)


def _of_categories(counts: Array) -> Array:
    """Density (K,) over cells without order: the shares, drawn towards equal ones (Aitchison and Aitken 1976).

    One more observation, spread over all, keeps it above 0.
    """
    kernels = np.count_nonzero(counts) + 1
    spread = 1 / (kernels + len(counts))  # of an observation's weight, to each category
    total = counts.sum()
    return np.asarray((counts * (1 - len(counts) * spread) + total * spread + 1 / len(counts)) / (total + 1))
