"""Changes of colour on a batch: functions of float images in 0 … 255 and one number per image, then the operations.

The functions give what those of the same name in torchvision.transforms.v2.functional give, on a whole batch.
"""

from typing import Annotated, ClassVar, Final

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn.functional import conv2d, pad
from typing_extensions import override

from images.geometry import random_box
from images.operation import Draw, Factors, Fraction, Pixelwise, Ratios, Shares, Turns, per_image

WHITE: Final = 255.0
LUMA: Final = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision rounds it


# --- functions: (B, C, S, S) float32 in 0 … 255, amounts (B, 1, 1, 1), to images of the same kind --------------------


def to_grey(images: Tensor) -> Tensor:
    """(B, C, S, S) to (B, 1, S, S)."""
    if images.shape[1] == 1:
        return images
    return (images * torch.tensor(LUMA, device=images.device).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """0 gives black, 1 the image itself."""
    return (images * factor).clamp_(0, WHITE)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """0 gives the image's mean grey, 1 the image itself."""
    return torch.lerp(to_grey(images).mean(dim=(1, 2, 3), keepdim=True), images, factor).clamp_(0, WHITE)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """0 gives the grey image, 1 the image itself; grey images stay."""
    return images if images.shape[1] == 1 else torch.lerp(to_grey(images), images, factor).clamp_(0, WHITE)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turns the colour circle by a share of it, -0.5 … 0.5; grey images stay."""
    if images.shape[1] == 1:
        return images
    low, high = images.aminmax(dim=1)  # (B, S, S)
    span = high - low
    red, green, blue = ((high[:, None] - images) / span.clamp(min=1e-6)[:, None]).unbind(dim=1)
    sixths = torch.where(images[:, 1] == high, 2 + red - blue, 4 + green - red)
    sixths = torch.where(images[:, 0] == high, blue - green, sixths) + 6 * turn[:, 0]
    # the inverse in closed form: channel n is high - span * max(0, min(k, 4 - k, 1)), k = (n + sixths) mod 6
    k = (sixths[:, None] + torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)).remainder(6)
    return high[:, None] - span[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """0 gives the smoothed image, 1 the image itself, 2 a sharpened one; the outermost pixels stay."""
    kernel = torch.ones(images.shape[1], 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5
    result = images.clone()
    smooth = conv2d(images, kernel / 13, groups=images.shape[1])
    result[..., 1:-1, 1:-1] = torch.lerp(smooth, images[..., 1:-1, 1:-1], factor)
    return result.clamp_(0, WHITE)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keeps the highest bits (1 … 8, rounded) of each value."""
    step = 2 ** (8 - bits.round())
    return (images.round() / step).floor() * step


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Inverts the values from the threshold (0 … 255) on."""
    return torch.where(images >= threshold, WHITE - images, images)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretches each channel's values over 0 … 255."""
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    return torch.where(high > low, (images - low) * (WHITE / (high - low).clamp(min=1e-6)), images).clamp_(0, WHITE)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Spreads each channel's values evenly over 0 … 255, as Pillow's ImageOps.equalize does."""
    values = images.round().long().flatten(2)  # (B, C, S * S)
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    up_to = counts.cumsum(2)  # (B, C, 256)
    last = counts.gather(2, values.amax(dim=2, keepdim=True))
    step = (values.shape[2] - last) // 255
    table = ((up_to - counts + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    return torch.where(step > 0, table.gather(2, values), values).view_as(images).to(images.dtype)


def blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Gaussian blur of standard deviation sigma pixels; the outermost pixels are repeated outside."""
    batch, channels, height, width = images.shape
    reach = kernel_size // 2
    places = torch.arange(-reach, reach + 1, device=images.device)
    weights = (-0.5 * (places / sigma.view(-1, 1)) ** 2).softmax(dim=1)  # (B, kernel_size)
    weights = weights.repeat_interleave(channels, dim=0)[:, None, None]  # (B * C, 1, 1, kernel_size)
    planes = pad(images, [reach] * 4, mode="replicate").view(1, batch * channels, height + 2 * reach, width + 2 * reach)
    planes = conv2d(planes, weights, groups=batch * channels)
    return conv2d(planes, weights.mT, groups=batch * channels).view_as(images)


# --- operations ------------------------------------------------------------------------------------------------------


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("Input should be odd")
    return value


class ColourJitter(Pixelwise):
    """Changes brightness, contrast, saturation and hue, in this order.

    Args:
        brightness: range of the factor; one number v means from max(0, 1 - v) to 1 + v.
        contrast: likewise.
        saturation: likewise; grey data stay as they are.
        hue: range of the turn of the colour circle, within -0.5 to 0.5; one number v means -v to v.
        p: probability that an image is touched at all.
    """

    brightness: Factors = (0.6, 1.4)
    contrast: Factors = (0.6, 1.4)
    saturation: Factors = (0.6, 1.4)
    hue: Turns = (0.0, 0.0)

    @override
    def change(self, images: Tensor, draw: Draw) -> Tensor:
        for function, (low, high), neutral in (
            (brightness, self.brightness, 1),
            (contrast, self.contrast, 1),
            (saturation, self.saturation, 1),
            (hue, self.hue, 0),
        ):
            if (low, high) != (neutral, neutral):
                images = function(images, per_image(draw.uniform(function.__name__, low, high), images))
        return images


class Greyscale(Pixelwise):
    """Takes the colour away, with probability p; the number of channels stays."""

    p: Fraction = 0.1

    @override
    def change(self, images: Tensor, draw: Draw) -> Tensor:
        return to_grey(images).expand_as(images).clone()


class GaussianBlur(Pixelwise):
    """Blurs the image.

    Args:
        kernel_size: odd number of pixels that the sum runs over.
        sigma: range of the standard deviation in pixels.
        p: probability that an image is touched at all.
    """

    kernel_size: Annotated[int, Field(strict=True, ge=1, le=127), AfterValidator(_odd)] = 9
    sigma: Ratios = (0.1, 2.0)

    @override
    def change(self, images: Tensor, draw: Draw) -> Tensor:
        return blur(images, per_image(draw.uniform("sigma", *self.sigma), images), self.kernel_size)


class RandomErasing(Pixelwise):
    """Covers a random box with the data's mean colour. Z. Zhong et al., "Random erasing data augmentation", 2017.

    Args:
        scale: range of the box's share of the image's area.
        ratio: range of the box's width / height.
        p: probability that an image is touched at all.
    """

    normalised: ClassVar[bool] = True  # where 0 is the mean colour
    p: Fraction = 0.5
    scale: Shares = (0.02, 0.33)
    ratio: Ratios = (0.3, 3.3)

    @override
    def change(self, images: Tensor, draw: Draw) -> Tensor:
        size, corner, found = random_box(draw, np.full((len(draw), 2), images.shape[-1], float), self.scale, self.ratio)
        bounds = np.stack([corner, corner + size]) * found[:, None]
        centres = torch.arange(images.shape[-1], device=images.device) + 0.5
        (top, left), (bottom, right) = torch.from_numpy(bounds).to(images.device, torch.float32).mT[..., None]
        rows = (centres > top) & (centres < bottom)  # (B, S)
        columns = (centres > left) & (centres < right)
        return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
