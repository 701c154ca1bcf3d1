"""Any transform of torchvision.transforms.v2 by name, on one image at a time."""

import inspect
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PrivateAttr
from torch import Tensor
from typing_extensions import override

from images.keyed_random import integer_seed
from images.operation import Draw, Pixelwise
from utils import UserError, did_you_mean

PREFIX = "v2."


@cache
def transforms() -> dict[str, type]:
    """The transforms that torchvision has, by "v2." name; imports torchvision, which takes seconds."""
    from torchvision.transforms import v2

    found = {name: value for name, value in vars(v2).items() if inspect.isclass(value) and value is not v2.Transform}
    return {PREFIX + name: value for name, value in found.items() if issubclass(value, v2.Transform)}


def argument_names(transform: type) -> frozenset[str] | None:
    """The arguments it can be given; None when it takes any."""
    parameters = inspect.signature(transform).parameters.values()
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters if parameter.kind != parameter.VAR_POSITIONAL)


class TorchvisionTransform(Pixelwise):
    """A transform that gives a uint8 image of the shape it was given; seeded anew for each image.

    Args:
        name: "v2." and the class's name.
        arguments: what the class is constructed with.
    """

    name: str
    arguments: dict[str, Any]
    _transform: Any = PrivateAttr()

    def model_post_init(self, _: object) -> None:
        """Constructs the transform."""
        if self.name not in transforms():
            raise UserError(f'"{self.name}" is not in torchvision.transforms.v2{did_you_mean(self.name, transforms())}')
        try:
            self._transform = transforms()[self.name](**self.arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f'"{self.name}": {_one_line(error)}') from error

    @override
    def chosen(self, draw: Draw) -> NDArray[np.bool_]:
        """All: a probability is the transform's own affair."""
        return np.ones(len(draw), dtype=bool)

    @override
    def description(self) -> dict[str, Any]:
        return self.arguments

    def check(self, im_sz: int, channels: int) -> None:
        """Tries the transform on a black image.

        Raises:
            UserError: when it cannot stand here.
        """
        with torch.random.fork_rng(devices=[]):
            self._one(torch.zeros(channels, im_sz, im_sz, dtype=torch.uint8))

    @override
    def change(self, images: Tensor, draw: Draw) -> Tensor:
        cuda = images.device.type == "cuda"
        values = images.round().to(torch.uint8)
        with torch.random.fork_rng(devices=[images.device] if cuda else []):
            for place, index in enumerate(draw.indices.tolist()):
                seed = integer_seed(draw.seed, draw.epoch, index, draw.stream)
                torch.default_generator.manual_seed(seed)
                if cuda:
                    torch.cuda.manual_seed(seed)
                images[place] = self._one(values[place])
        return images

    def _one(self, image: Tensor) -> Tensor:
        what = f"uint8 {tuple(image.shape)}"
        try:
            result = self._transform(image)
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f'"{self.name}" cannot transform an image ({what}): {_one_line(error)}') from error
        if not isinstance(result, Tensor) or (result.dtype, result.shape) != (image.dtype, image.shape):
            got = f"{result.dtype} {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
            raise UserError(f'"{self.name}" makes {got.removeprefix("torch.")} of an image ({what}); it must keep both')
        return result


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
