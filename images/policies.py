"""RandAugment and TrivialAugment: operations drawn from a table, for each image its own."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from images import colour
from images.geometry import Warp, linear, scaling
from images.operation import Draw, Numbers, Pixelwise, change_some, per_image

SIGNED: Final = frozenset(
    ["shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "colour", "contrast", "sharpness"]
)

COLOUR: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "brightness": colour.brightness,
    "colour": colour.saturation,
    "contrast": colour.contrast,
    "sharpness": colour.sharpness,
    "posterize": colour.posterize,
    "solarize": colour.solarize,
    "autocontrast": colour.autocontrast,
    "equalize": colour.equalize,
}


def _space(shear: float, translate: float, rotate: float, factor: float, bits: float) -> dict[str, tuple[float, float]]:
    """What each operation does at the least and at the greatest strength; the SIGNED ones go as far the other way."""
    return {
        "identity": (0, 0),
        "shear_x": (0, shear),  # pixels along x per pixel along y, about the top left
        "shear_y": (0, shear),
        "translate_x": (0, translate),  # share of the width
        "translate_y": (0, translate),
        "rotate": (0, rotate),  # degrees
        "brightness": (1, factor),
        "colour": (1, factor),
        "contrast": (1, factor),
        "sharpness": (1, factor),
        "posterize": (8, bits),  # bits kept
        "solarize": (255, 0),  # threshold
        "autocontrast": (0, 0),
        "equalize": (0, 0),
    }


class _Policy(Warp, Pixelwise):
    """Each image's own operations; the geometric ones join the run's one matrix, the others come after sampling."""

    space: ClassVar[Mapping[str, tuple[float, float]]]

    def _strengths(self, draw: Draw) -> list[Numbers]:
        """For each operation in a row, (B,) strengths from 0 to 1."""
        raise NotImplementedError

    def _rounds(self, draw: Draw) -> Iterator[tuple[NDArray[np.int64], Numbers]]:
        """For each operation in a row, (B,) its place in `space` and (B,) its amount."""
        bounds = np.array(list(self.space.values()), float)
        signed = np.array([name in SIGNED for name in self.space])
        for count, strength in enumerate(self._strengths(draw)):
            which = draw.uniform(f"operation {count}", 0, len(bounds)).astype(np.int64)
            low, high = bounds[which].T
            negative = signed[which] & (draw.uniform(f"sign {count}") < 0.5)
            yield which, low + np.where(negative, -1, 1) * strength * (high - low)

    @override
    def matrices(self, draw: Draw, frame: Numbers) -> Numbers:
        result = scaling(np.ones(len(draw)), np.ones(len(draw)))
        names = list(self.space)
        height, width = frame.T
        for which, amounts in self._rounds(draw):
            amount = {name: np.where(which == names.index(name), amounts, 0.0) for name in names[:6]}
            angle, shear_x, shear_y = np.radians(amount["rotate"]), amount["shear_x"], amount["shear_y"]
            step = linear(np.cos(angle), shear_x - np.sin(angle), shear_y + np.sin(angle), np.cos(angle), frame)
            step[:, 0, 2] = shear_x * height / width - 2 * amount["translate_x"]
            step[:, 1, 2] = shear_y * width / height - 2 * amount["translate_y"]
            result = result @ step
        return result

    @override
    def change(self, images: Tensor, draw: Draw) -> Tensor:
        for which, amounts in self._rounds(draw):
            for place, name in enumerate(self.space):
                if name in COLOUR:
                    chosen = which == place
                    images = change_some(images, chosen, COLOUR[name], per_image(amounts[chosen], images))
        return images


class RandAugment(_Policy):
    """E. Cubuk et al., "RandAugment: practical automated data augmentation with a reduced search space", 2019.

    Args:
        num_ops: how many operations each image gets.
        magnitude: their strength, 0 to 30, in the ranges of torchvision.transforms.v2.RandAugment.
        padding_mode: what is seen beyond the image's edges; see images/geometry.
        p: probability that an image is touched at all.
    """

    space: ClassVar = _space(shear=0.3, translate=150 / 331, rotate=30, factor=1.9, bits=4)
    num_ops: Annotated[int, Field(strict=True, ge=0, le=20)] = 2
    magnitude: Annotated[float, Field(strict=True, ge=0, le=30)] = 9

    @override
    def _strengths(self, draw: Draw) -> list[Numbers]:
        return [np.full(len(draw), self.magnitude / 30)] * self.num_ops


class TrivialAugment(_Policy):
    """S. Müller and F. Hutter, "TrivialAugment: tuning-free yet state-of-the-art data augmentation", 2021.

    One operation of random strength, in the ranges of torchvision.transforms.v2.TrivialAugmentWide; a shift goes up to
    1/7 of the side, which is torchvision's 32 pixels at 224.

    Args:
        padding_mode: what is seen beyond the image's edges; see images/geometry.
        p: probability that an image is touched at all.
    """

    space: ClassVar = _space(shear=0.99, translate=32 / 224, rotate=135, factor=1.99, bits=2)

    @override
    def _strengths(self, draw: Draw) -> list[Numbers]:
        return [np.floor(draw.uniform("strength", 0, 31)) / 30]
