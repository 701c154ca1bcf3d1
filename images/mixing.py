"""Mixing the images of a batch in pairs, and their targets alike; keyed by (seed, epoch, step)."""

import math

import numpy as np
import torch
from torch import Tensor

from images.keyed_random import integer_seed


def mix(
    images: Tensor, targets: Tensor, mixup_alpha: float, cutmix_alpha: float, seed: int, epoch: int, step: int
) -> tuple[Tensor, Tensor]:
    """Mixup, cutmix, or for each batch one of both at equal odds; an alpha of 0 switches its kind off.

    Args:
        images: (B, C, H, W) float.
        targets: (B, classes) float.
        mixup_alpha: of mixup's Beta(alpha, alpha) distribution.
        cutmix_alpha: of cutmix's.
        seed: the experiment's seed.
        epoch: counted from 0.
        step: the batch's place in the epoch, counted from 0.

    Returns:
        Images and targets of the same shapes and dtypes; the given ones are left as they are.
    """
    coin = integer_seed(seed, epoch, step, "mixup or cutmix") % 2
    if mixup_alpha and (coin or not cutmix_alpha):
        return mixup(images, targets, mixup_alpha, seed, epoch, step)
    return cutmix(images, targets, cutmix_alpha, seed, epoch, step) if cutmix_alpha else (images, targets)


def mixup(images: Tensor, targets: Tensor, alpha: float, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
    """Blends each image with its neighbour. H. Zhang et al., "mixup: beyond empirical risk minimization", 2018.

    Arguments and results as for `mix`.
    """
    kept = np.random.default_rng(integer_seed(seed, epoch, step, "mixup")).beta(alpha, alpha)
    return torch.lerp(images.roll(1, 0), images, kept), torch.lerp(targets.roll(1, 0), targets, kept)


def cutmix(images: Tensor, targets: Tensor, alpha: float, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
    """Pastes a box of the neighbour into each image. S. Yun et al., "CutMix", 2019.

    The targets are weighted by the area of the box within the image, in pixels. Arguments and results as for `mix`.
    """
    height, width = images.shape[-2:]
    random = np.random.default_rng(integer_seed(seed, epoch, step, "cutmix"))
    side = math.sqrt(1 - random.beta(alpha, alpha))
    rows, columns = (_span(random, length, side) for length in (height, width))
    mixed = images.clone()
    mixed[..., rows, columns] = images.roll(1, 0)[..., rows, columns]
    pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return mixed, torch.lerp(targets, targets.roll(1, 0), pasted)


def _span(random: np.random.Generator, length: int, share: float) -> slice:
    """A stretch of about length * share pixels about a random one, cut off at the ends."""
    centre, half = random.integers(length), share * length / 2
    return slice(max(0, round(centre - half)), min(length, round(centre + half)))
