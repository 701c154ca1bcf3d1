"""Augmentation of a batch on its device: one geometric sampling, then colours, then normalisation.

The operations run in the order they are named, but for this: all geometric ones come first, as one matrix per image,
and random_erasing comes last. What an image becomes depends on (seed, epoch, its index) and on nothing else.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import interpolate

from images import colour, geometry, policies, torchvision_v2
from images.geometry import Warp, identity
from images.operation import Draw, Geometric, Numbers, Operation, PaddingMode, Pixelwise
from images.sampling import Resize, sample, view_matrices
from images.torchvision_v2 import TorchvisionTransform
from utils import UserError, did_you_mean, select

Named = str | Mapping[str, Any]
Steps = Sequence[tuple[Operation, Draw]]

AUGMENTATIONS: Final[dict[str, type[Operation]]] = {
    "random_resized_crop": geometry.RandomResizedCrop,
    "random_crop": geometry.RandomCrop,
    "horizontal_flip": geometry.HorizontalFlip,
    "alternating_flip": geometry.AlternatingFlip,
    "vertical_flip": geometry.VerticalFlip,
    "rotation": geometry.Rotation,
    "zoom": geometry.Zoom,
    "affine": geometry.Affine,
    "perspective": geometry.Perspective,
    "colour_jitter": colour.ColourJitter,
    "greyscale": colour.Greyscale,
    "gaussian_blur": colour.GaussianBlur,
    "rand_augment": policies.RandAugment,
    "trivial_augment": policies.TrivialAugment,
    "random_erasing": colour.RandomErasing,
}


class _Catalogue(Mapping[str, frozenset[str] | None]):
    """The names and their arguments; torchvision's are added when one of them is asked for."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str] | None] = {
            name: frozenset(operation.model_fields) for name, operation in AUGMENTATIONS.items()
        }

    def __getitem__(self, name: str) -> frozenset[str] | None:
        if name.startswith(torchvision_v2.PREFIX) and name not in self._names:
            found = torchvision_v2.transforms()
            self._names |= {other: torchvision_v2.argument_names(transform) for other, transform in found.items()}
        return self._names[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def catalogue() -> Mapping[str, frozenset[str] | None]:
    """Every augmentation that params.json can name, with the names of its arguments (None: not checked)."""
    return _Catalogue()


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What the net is fed: (value / 255 - mean) / std.

    Args:
        images: (B, C, S, S) in 0 … 255, any dtype.
        mean: (C,) of values in 0 … 1.
        std: (C,) likewise.

    Returns:
        float32 (B, C, S, S).
    """
    shift, scale = (255 * torch.tensor(numbers, device=images.device).view(1, -1, 1, 1) for numbers in (mean, std))
    return (images.float() - shift).div_(scale)


def growing_side(first: int, epochs: int, full: int, epoch: int) -> int:
    """The side of images that grow from the first to the full one within some epochs, by multiples of 8 pixels."""
    return first + (full - first) * epoch // epochs // 8 * 8


class Augment:
    """Augments batches. Called with a canvas, it gives what the net is fed in training.

    Args:
        operations: names, or mappings with "name" and arguments, as in params.augment.
        im_sz: side of the output in pixels.
        mean: (C,) of values in 0 … 1; C = 1 or 3 is the number of channels.
        std: (C,) likewise.
        resize: how an image is brought to the square where no operation crops it; see images/sampling.
        crop_fraction: share of the short side that "crop" keeps.
        background: red, green, blue in 0 … 255, for padding_mode "fill".
        progressive: side in the first epoch, and the epochs in which it grows to im_sz; None: im_sz throughout.

    Raises:
        UserError: for an unknown name or a wrong argument, one line for each.
    """

    def __init__(
        self,
        operations: Sequence[Named],
        im_sz: int,
        mean: Sequence[float],
        std: Sequence[float],
        resize: Resize = "crop",
        crop_fraction: float = 0.875,
        background: Sequence[float] = (255, 255, 255),
        progressive: Sequence[int] | None = None,
    ) -> None:
        """Checks the operations and tries torchvision's."""
        self.operations = _read(operations)
        self.im_sz = im_sz
        self.mean, self.std, self.background = tuple(mean), tuple(std), tuple(background)
        self.resize, self.crop_fraction = resize, crop_fraction
        self.progressive = None if progressive is None else (progressive[0], progressive[1])
        self.padding_mode = _one_padding_mode(self.operations) or ("fill" if resize == "letterbox" else "reflection")
        for _, operation in self.operations:
            if isinstance(operation, TorchvisionTransform):
                operation.check(im_sz, len(self.mean))

    def __call__(self, canvas: Tensor, sizes: Tensor, seed: int, epoch: int, indices: Tensor) -> Tensor:
        """Augments and normalises a batch, on the canvas's device.

        Args:
            canvas: uint8 (B, H, W, C); each image at the top left, what is beside it is never seen.
            sizes: int64 (B, 2), height and width of the images; best on the CPU.
            seed: the experiment's seed.
            epoch: counted from 0.
            indices: int64 (B,), each image's position in its split; best on the CPU.

        Returns:
            float32 (B, C, S, S), S being the epoch's side.
        """
        keys = indices.cpu().numpy()
        steps = [
            (operation, Draw(seed, epoch, keys, f"{place} {name}"))
            for place, (name, operation) in enumerate(self.operations)
        ]
        frames = sizes.cpu().numpy().astype(np.float64)
        matrices = self._matrices(steps, frames)
        images = sample(canvas, frames, matrices, self.im_sz, self.padding_mode, self._background(canvas.device))
        if (side := self.side(epoch)) != self.im_sz:  # the same picture, smaller
            images = interpolate(images, (side, side), mode="bilinear", antialias=True)
        images = _change(images, steps, normalised=False)
        return _change(normalise(images, self.mean, self.std), steps, normalised=True)

    def side(self, epoch: int) -> int:
        """Of the images in an epoch, counted from 0."""
        if self.progressive is None or epoch >= self.progressive[1]:
            return self.im_sz
        return growing_side(*self.progressive, self.im_sz, epoch)

    def _background(self, device: torch.device) -> Tensor:
        """(C,) float32 in 0 … 255."""
        colours = torch.tensor(self.background, dtype=torch.float32, device=device)
        return colours if len(self.mean) == 3 else colour.to_grey(colours.view(1, 3, 1, 1)).flatten()

    def _matrices(self, steps: Steps, sizes: Numbers) -> Numbers:
        """(B, 3, 3): where in the image each output point lies, all geometric operations together."""
        geometric = [(operation, draw) for operation, draw in steps if isinstance(operation, Geometric)]
        view = view_matrices(sizes, self.im_sz, self.resize, self.crop_fraction)
        square = np.full_like(sizes, self.im_sz)
        is_square = not any(operation.crops for operation, _ in geometric)
        result = view if is_square else identity(len(sizes))
        for operation, draw in geometric:
            step = operation.matrices(draw, square if is_square else sizes)
            untouched = view if operation.crops and not is_square else identity(len(sizes))
            result = result @ np.where(operation.chosen(draw)[:, None, None], step, untouched)
            is_square |= operation.crops
        return result


def describe(augment: Augment) -> dict[str, Any]:
    """Every setting in force, as JSON holds it."""
    return {
        "operations": [{"name": name, **operation.description()} for name, operation in augment.operations],
        "im_sz": augment.im_sz,
        "mean": list(augment.mean),
        "std": list(augment.std),
        "resize": augment.resize,
        "crop_fraction": augment.crop_fraction,
        "background": list(augment.background),
        "progressive": augment.progressive and list(augment.progressive),
    }


def from_description(description: Mapping[str, Any]) -> Augment:
    """The augmentation that was described."""
    return Augment(**description)


def _change(images: Tensor, steps: Steps, *, normalised: bool) -> Tensor:
    for operation, draw in steps:
        if isinstance(operation, Pixelwise) and operation.normalised == normalised:
            images = operation.change_chosen(images, draw)
    return images


def _read(named: Sequence[Named]) -> tuple[tuple[str, Operation], ...]:
    operations: list[tuple[str, Operation]] = []
    problems: list[str] = []
    for item in named:
        arguments = {"name": item} if isinstance(item, str) else dict(item)
        name = arguments.pop("name", None)
        if not isinstance(name, str):
            problems.append(f'augment: each entry is a name, or an object with "name" and arguments; got {item!r}')
            continue
        try:
            if name.startswith(torchvision_v2.PREFIX):
                operations.append((name, TorchvisionTransform(name=name, arguments=arguments)))
            else:
                operations.append((name, select(name, AUGMENTATIONS, "augmentation").model_validate(arguments)))
        except UserError as error:
            problems.append(f"augment: {error}")
        except ValidationError as error:
            problems += [f'augment: "{name}": {line}' for line in _lines(error, arguments, AUGMENTATIONS[name])]
    if problems:
        raise UserError("\n".join(problems))
    return tuple(operations)


def _lines(error: ValidationError, arguments: Mapping[str, Any], operation: type[Operation]) -> Iterator[str]:
    problems = {str(problem["loc"][0]): problem for problem in reversed(error.errors())}  # the first of each argument
    for where, problem in reversed(problems.items()):
        if problem["type"] == "extra_forbidden":
            yield f'"{where}" is not an argument{did_you_mean(where, operation.model_fields)}'
        else:
            yield f"{where}: {problem['msg'].removeprefix('Value error, ')}; got {arguments[where]!r}"


def _one_padding_mode(operations: Sequence[tuple[str, Operation]]) -> PaddingMode | None:
    named = {o.padding_mode for _, o in operations if isinstance(o, Warp) and o.padding_mode is not None}
    if len(named) > 1:
        raise UserError(f"augment: an image is sampled once, with one padding_mode; got {' and '.join(sorted(named))}")
    return next(iter(named), None)
