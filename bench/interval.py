"""A mean with its uncertainty, as the benchmarks' tables show it."""

import math
from collections.abc import Sequence

import numpy as np

from reports.comparison import t_interval


def with_interval(values: Sequence[float] | np.ndarray, digits: int = 4) -> str:
    """Mean and 95% t-interval, or how few values there are; nothing of none."""
    if not len(values):
        return ""
    mean, (low, high) = float(np.mean(values)), t_interval(list(values))
    if math.isnan(low):
        return f"{mean:.{digits}f} (n = {len(values)})"
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
