"""Whether maps of attribution are true: deleting what they show must change the answer more than deleting anything."""

import contextlib
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from images.keyed_random import integer_seed
from reports.comparison import t_interval
from reports.feature_maps import undisturbed
from reports.intervals import Interval
from training.evaluation import Autocast

Array = np.ndarray[Any, Any]

STEPS: Final = 10  # parts in which an image is deleted or inserted
BLUR: Final = 16  # cells a side that are left of an image that insertion begins with


@dataclass(frozen=True)
class Faithfulness:
    """Areas under the curves of the class's probability, (N,) float64 each, in 0 … 1.

    Attributes:
        deletion: the image's places are covered with the mean colour, those that the map shows first; less is better.
        insertion: they are put into a blurred image in the same order; more is better.
        random_deletion: the same in the order of a random map.
        random_insertion: the same in the order of a random map.
    """

    deletion: Array
    insertion: Array
    random_deletion: Array
    random_insertion: Array

    @property
    def gains(self) -> dict[str, tuple[float, Interval]]:
        """How much better than the random maps, with the 95% interval of the mean over the images."""
        differences = {
            "deletion": self.random_deletion - self.deletion,
            "insertion": self.insertion - self.random_insertion,
        }
        return {name: (float(gain.mean()), t_interval(gain.tolist())) for name, gain in differences.items()}

    @property
    def verdict(self) -> str:
        """What that says, in a sentence."""
        images = f"{len(self.deletion)} image{'s' * (len(self.deletion) != 1)}"
        lows = {name: interval.low for name, (_, interval) in self.gains.items()}
        better = [name for name, low in lows.items() if low > 0]
        if len(better) == 2:
            return f"On these {images} the maps show what the net goes by better than random maps do, by both measures."
        if better:
            return f"On these {images} the maps are better than random ones by {better[0]} alone: trust them with care."
        return f"On these {images} the maps are no better than random ones that one could tell: do not trust them."


def faithfulness(
    net: nn.Module,
    images: Tensor,
    classes: Tensor,
    maps: Array,
    cells: int,
    seed: int,
    multi_label: bool = False,
    autocast: Autocast = contextlib.nullcontext,
) -> Faithfulness:
    """Deletion and insertion (Petsiuk et al., RISE, arXiv 1806.07421) by the maps and by random ones.

    A random map is as coarse as the map it is compared with: fine noise would spoil an image more, whatever it hits.

    Args:
        net: maps (B, C, S, S) to logits (B, classes); it is left as it was.
        images: (N, C, S, S) float32 as the net takes them, 0 being the mean colour.
        classes: (N,) int64, the class that each map is about.
        maps: (N, S, S).
        cells: how many cells a side the maps had.
        seed: of the random maps and of the order of places that a map does not tell apart.
        multi_label: whether a class's probability is its sigmoid, instead of the softmax.
        autocast: the precision to compute in.
    """
    areas = []
    with undisturbed(net), torch.no_grad(), autocast():
        for number, (image, target, heat) in enumerate(zip(images, classes.tolist(), maps, strict=True)):
            random = np.random.default_rng(integer_seed(seed, number, "faithfulness"))
            orders = (heat, _coarse(cells, heat.shape, random))
            batch = torch.cat([_steps(image, _rank(order, random)) for order in orders])
            logits = net(batch).float()
            chances = (logits.sigmoid() if multi_label else logits.softmax(dim=1))[:, target]
            curves = chances.double().cpu().numpy().reshape(4, STEPS + 1)
            areas.append(np.trapezoid(curves, dx=1 / STEPS, axis=1))
    deletion, insertion, random_deletion, random_insertion = np.array(areas).reshape(-1, 4).T
    return Faithfulness(deletion, insertion, random_deletion, random_insertion)


def _coarse(cells: int, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """A random map of so many cells a side, enlarged as maps are."""
    noise = torch.from_numpy(random.random((1, 1, cells, cells), np.float32))
    return np.asarray(functional.interpolate(noise, shape, mode="bilinear")[0, 0].numpy())


def _rank(heat: Array, random: np.random.Generator) -> Tensor:
    """Place of each pixel in the order of falling heat, from 0 to below 1; equal ones in a random order."""
    order = np.lexsort((random.random(heat.size), -heat.ravel()))
    rank = np.empty(heat.size, np.float32)
    rank[order] = np.arange(heat.size) / heat.size
    return torch.from_numpy(rank.reshape(heat.shape))


def _steps(image: Tensor, rank: Tensor) -> Tensor:
    """The image with 0 … STEPS parts deleted, then the blurred one with as many inserted: (2 (STEPS + 1), C, S, S)."""
    side = image.shape[-1]
    parts = torch.arange(STEPS + 1, device=image.device) / STEPS
    reached = (rank.to(image.device) < parts[:, None, None])[:, None]  # (STEPS + 1, 1, S, S)
    small = functional.adaptive_avg_pool2d(image, max(1, min(BLUR, math.ceil(side / 4))))
    blurred = functional.interpolate(small[None], (side, side), mode="bilinear")
    return torch.cat([torch.where(reached, 0.0, image), torch.where(reached, image, blurred)])
