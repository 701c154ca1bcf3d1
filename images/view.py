"""What of an image is kept after decoding: the evaluation image itself, or what training takes its crops from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from config.schema import Params

Pixels = NDArray[np.uint8]


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Antialiased bilinear resizing of decoded uint8, the only one here; as torchvision's Resize(antialias=True).

    Args:
        image: (H, W, C) uint8.
        height: rows of the result.
        width: columns of the result.

    Returns:
        (height, width, C) uint8.
    """
    if image.shape[:2] == (height, width):
        return image
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]  # (1, C, H, W), channels last in memory
    resized: Pixels = functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0].numpy()
    return np.ascontiguousarray(resized.transpose(1, 2, 0))


def _centre(image: Pixels, height: int, width: int) -> Pixels:
    top, left = (round((have - want) / 2) for have, want in zip(image.shape, (height, width), strict=False))
    return image[top : top + height, left : left + width]


@dataclass(frozen=True)
class View:
    """How a decoded image of any size is brought to the size that is kept.

    With training off the result is the (im_sz, im_sz) evaluation image: `crop` resizes the short side to
    im_sz / crop_fraction and takes the centre, `letterbox` fits the whole image in and fills up with the background,
    `squash` ignores the proportions. With training on it is the part that augmentations cut from, larger by
    1 / crop_fraction; but for `squash` it is never enlarged. Of a strip longer than twice its width only the middle is
    looked at.
    """

    im_sz: int
    resize: str
    crop_fraction: float
    channels: int
    background: tuple[int, int, int]
    training: bool

    @classmethod
    def of(cls, params: Params, training: bool) -> "View":
        """The view that an experiment's params describe."""
        return cls(
            im_sz=params.im_sz,
            resize=params.resize,
            crop_fraction=params.crop_fraction,
            channels=params.channels,
            background=(params.background[0], params.background[1], params.background[2]),
            training=training,
        )

    @property
    def enlarged(self) -> int:
        """im_sz and the margin that a centre crop takes off, in pixels."""
        return round(self.im_sz / self.crop_fraction)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that `apply` makes of an image of this size."""
        return self._resized(*self._strip(height, width)) if self.training else (self.im_sz, self.im_sz)

    def apply(self, image: Pixels, size: Sequence[int] | None = None) -> Pixels:
        """The part and size of an image that is kept.

        Args:
            image: (H, W, C) uint8, upright.
            size: what `size` says of the whole image, where this one is smaller; with training on.

        Returns:
            uint8, (*size(H, W), C), contiguous.
        """
        image = _centre(image, *self._strip(*image.shape[:2]))
        height, width = size or self._resized(*image.shape[:2])
        image = resize(np.require(image, requirements=["C", "W"]), height, width)
        if self.training or self.resize == "squash":
            return image
        if self.resize == "crop":
            return np.ascontiguousarray(_centre(image, self.im_sz, self.im_sz))
        height, width = image.shape[:2]
        boxed = np.empty((self.im_sz, self.im_sz, self.channels), np.uint8)
        boxed[:] = self.background if self.channels == 3 else self._grey_background()
        top, left = (self.im_sz - height) // 2, (self.im_sz - width) // 2
        boxed[top : top + height, left : left + width] = image
        return boxed

    def _strip(self, height: int, width: int) -> tuple[int, int]:
        """The middle of a long strip, for `crop`; it bounds what enlarging a 1 x 10,000 image would cost."""
        limit = 2 * min(height, width)
        return (min(height, limit), min(width, limit)) if self.resize == "crop" else (height, width)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """The size to resize to, before any cutting or filling."""
        short, long = min(height, width), max(height, width)
        if self.resize == "squash":
            side = min(self.enlarged, long) if self.training else self.im_sz
            return side, side
        if self.resize == "crop":  # truncated, as torchvision does
            side = min(self.enlarged, short) if self.training else self.enlarged
            return int(side * height / short), int(side * width / short)
        side = min(self.enlarged, long) if self.training else self.im_sz
        return max(1, round(side * height / long)), max(1, round(side * width / long))

    def _grey_background(self) -> int:
        red, green, blue = self.background
        return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16  # ITU-R 601-2 luma, as Pillow rounds it
