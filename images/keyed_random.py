"""Random numbers that depend on what they are for, (seed, epoch, sample index, stream), and on nothing drawn before."""

import hashlib
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

# splitmix64: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def _digest(parts: tuple[int | str, ...]) -> int:
    text = repr([part if isinstance(part, str) else int(part) for part in parts])
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest()[:8], "little")


def integer_seed(*parts: int | str) -> int:
    """One seed of 63 bits for a torch or numpy generator, from numbers and names."""
    return _digest(parts) >> 1


def uniform(
    seed: int, epoch: int, indices: ArrayLike, stream: str, low: float = 0.0, high: float = 1.0
) -> NDArray[np.float64]:
    """Uniform numbers in [low, high), one per sample.

    Args:
        seed: the experiment's seed.
        epoch: counted from 0.
        indices: (B,) integers ≥ 0: each sample's position in its split.
        stream: what the number is for, such as "flip"; two streams are independent.
        low: least value.
        high: bound of the values.

    Returns:
        (B,) float64; equal for equal arguments, on any machine and in any batch.
    """
    key = np.uint64(_digest((seed, epoch, stream)))
    counters = np.atleast_1d(np.asarray(indices)).astype(np.uint64)
    bits = _mix(key ^ _mix((counters + np.uint64(1)) * _GOLDEN))
    unit = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return low + (high - low) * unit


def permutation(seed: int, epoch: int, count: int, stream: str) -> NDArray[np.int64]:
    """The numbers 0 … count-1 in an order that is random and depends on the arguments alone."""
    return np.argsort(uniform(seed, epoch, np.arange(count), stream), kind="stable")
