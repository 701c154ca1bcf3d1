"""What every augmentation is: checked arguments, and random numbers keyed by seed, epoch and sample alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor

from images.keyed_random import uniform

Numbers = NDArray[np.float64]
PaddingMode = Literal["reflection", "border", "fill"]


def _spread(centre: float, least: float = -math.inf) -> Callable[[object], object]:
    """Reads one number v as the range from centre - v (but never below `least`) to centre + v, as torchvision does."""

    def convert(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        if value < 0:
            raise ValueError("Input should be a number ≥ 0, or a low and a high one")
        return (max(least, centre - value), centre + value)

    return convert


def _ascending(value: tuple[float, ...]) -> tuple[float, ...]:
    if any(low > high for low, high in zip(value[::2], value[1::2], strict=True)):
        raise ValueError("Input should have the low number before the high one")
    return value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Share = Annotated[Number, Field(gt=0, le=1)]
Factor = Annotated[Number, Field(ge=0, le=100)]
Ratio = Annotated[Number, Field(ge=0.01, le=100)]
Angle = Annotated[Number, Field(ge=-360, le=360)]
Slant = Annotated[Number, Field(gt=-90, lt=90)]
Turn = Annotated[Number, Field(ge=-0.5, le=0.5)]

Shares = Annotated[tuple[Share, Share], AfterValidator(_ascending)]
Ratios = Annotated[tuple[Ratio, Ratio], AfterValidator(_ascending)]
Factors = Annotated[tuple[Factor, Factor], BeforeValidator(_spread(1, least=0)), AfterValidator(_ascending)]
Angles = Annotated[tuple[Angle, Angle], BeforeValidator(_spread(0)), AfterValidator(_ascending)]
Turns = Annotated[tuple[Turn, Turn], BeforeValidator(_spread(0)), AfterValidator(_ascending)]
Slants = Annotated[
    tuple[Slant, Slant] | tuple[Slant, Slant, Slant, Slant], BeforeValidator(_spread(0)), AfterValidator(_ascending)
]


@dataclass(frozen=True)
class Draw:
    """The random numbers of one operation for the images of a batch.

    Args:
        seed: the experiment's seed.
        epoch: counted from 0.
        indices: (B,) int64, each image's position in its split.
        stream: the operation's place in the list, so that two equal operations differ.
    """

    seed: int
    epoch: int
    indices: NDArray[np.int64]
    stream: str

    def __len__(self) -> int:
        """The number of images."""
        return len(self.indices)

    def uniform(self, what: str, low: float = 0.0, high: float = 1.0) -> Numbers:
        """(B,) numbers in [low, high); the same for every call with the same `what`."""
        return uniform(self.seed, self.epoch, self.indices, f"{self.stream} {what}", low, high)

    def only(self, chosen: NDArray[np.bool_]) -> "Draw":
        """The same numbers, for the chosen images alone."""
        return replace(self, indices=self.indices[chosen])

    def at_first(self) -> "Draw":
        """The numbers of epoch 0."""
        return replace(self, epoch=0)


class Operation(BaseModel):
    """One augmentation; its fields are the arguments that params.json may name.

    Args:
        p: probability that an image is touched at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    p: Fraction = 1.0

    def chosen(self, draw: Draw) -> NDArray[np.bool_]:
        """(B,) which images are touched."""
        return draw.uniform("p") < self.p

    def description(self) -> dict[str, Any]:
        """Every argument in force, as JSON holds it."""
        return self.model_dump(mode="json")


class Geometric(Operation):
    """An operation that moves pixels, described by one matrix per image."""

    crops: ClassVar[bool] = False  # gives the square output image out of one of any shape

    def matrices(self, draw: Draw, frame: Numbers) -> Numbers:
        """Where the output's points come from.

        Args:
            draw: random numbers of B images.
            frame: (B, 2) height and width of what the operation is given, in pixels.

        Returns:
            (B, 3, 3): output coordinates to input coordinates, both from -1 to 1 (see images/geometry).
        """
        raise NotImplementedError


class Pixelwise(Operation):
    """An operation that changes values and leaves places."""

    normalised: ClassVar[bool] = False  # works on what the net is fed, not on values in 0 … 255

    def change(self, images: Tensor, draw: Draw) -> Tensor:
        """(B, C, S, S) float32 to the same; the given images may be overwritten."""
        raise NotImplementedError

    def change_chosen(self, images: Tensor, draw: Draw) -> Tensor:
        """The same, for the images that are chosen."""
        chosen = self.chosen(draw)
        return change_some(images, chosen, lambda some: self.change(some, draw.only(chosen)))


def change_some(images: Tensor, chosen: NDArray[np.bool_], change: Callable[..., Tensor], *amounts: Tensor) -> Tensor:
    """Changes the chosen images of a batch, by an amount for each of them; in place unless all are chosen."""
    if chosen.all():
        return change(images, *amounts)
    if chosen.any():
        places = torch.from_numpy(np.flatnonzero(chosen)).to(images.device)
        images[places] = change(images[places], *amounts)
    return images


def per_image(values: Numbers, like: Tensor) -> Tensor:
    """(B,) numbers as a (B, 1, 1, 1) float32 tensor beside the images."""
    return torch.from_numpy(values).to(like.device, torch.float32).view(-1, 1, 1, 1)
