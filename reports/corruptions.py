"""Corruptions of images, in five severities: noise, blur, weather and digital loss, in the style of ImageNet-C.

The fifteen kinds are those of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations" (arXiv 1903.12261), written anew; `saturation` is ours. Their strengths are near those of ImageNet-C
for images of 224 pixels and near those of CIFAR-10-C for small ones, but the pixels are not theirs: results compare
with each other, not with published ones. No torch.
"""

import io
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

from images.keyed_random import integer_seed
from images.read import Pixels
from reports import textures
from utils import UserError, positional, select

Array = np.ndarray[Any, Any]
Random = np.random.Generator

WHITE: Final = 255.0
REFERENCE: Final = 224  # short side in pixels for which the levels are given
SEVERITIES: Final = (1, 2, 3, 4, 5)
HALVES: Final = tuple(step / 2 for step in range(1, 11))  # of kinds with a level at severity 0
FROST_COLOUR: Final = (0.90, 0.96, 1.0)


def scale_of(image: Pixels) -> float:
    """How large an image is against what the levels are given for: its short side in units of REFERENCE."""
    height, width, _ = image.shape
    short: int = min(height, width)
    return short / REFERENCE


# --- how levels follow the size of the image --------------------------------------------------------------------------


def same(level: float, scale: float) -> float:
    """A level that means the same at every size."""
    return level


def length(level: float, scale: float) -> float:
    """A length in pixels, which grows with the image."""
    return level * scale


def strength(level: float, scale: float) -> float:
    """What disturbs single pixels: less in smaller images, which have fewer pixels for the same thing.

    The exponent lies between ImageNet-C's levels at 224 pixels and CIFAR-10-C's at 32, for noise of all severities.
    """
    return level * float(min(1.0, scale) ** 0.6)


def photons(level: float, scale: float) -> float:
    """A number of photons, whose noise is one over its root."""
    return level / strength(1, scale) ** 2


def block(level: float, scale: float) -> float:
    """Side of a block in pixels, of which one is no block."""
    return 1 + strength(level - 1, scale)


def quality(level: float, scale: float) -> float:
    """A JPEG quality, by its steps of quantisation (libjpeg: 5000 / q below 50, else 200 - 2 q percent)."""
    steps = strength(5000 / level if level < 50 else 200 - 2 * level, scale)
    return min(100.0, 5000 / steps if steps > 100 else 100 - steps / 2)


# --- the kinds: pixels (H, W, C) uint8, a level, a generator -> values in 0 … 255, not yet rounded and clipped --------


def gaussian_noise(image: Pixels, level: float, random: Random) -> Array:
    """Noise of a sensor in little light; the level is its standard deviation, white being 1."""
    return image + WHITE * level * random.standard_normal(image.shape, dtype=np.float32)


def shot_noise(image: Pixels, level: float, random: Random) -> Array:
    """Poisson noise of single photons; the level is how many of them make white."""
    return np.asarray(random.poisson(image.astype(np.float32) * (level / WHITE)) * (WHITE / level))


def impulse_noise(image: Pixels, level: float, random: Random) -> Array:
    """Salt and pepper in each channel, from broken bits; the level is the share of the values that are hit."""
    hit = random.random(image.shape, dtype=np.float32)
    return np.where(hit < level, np.where(hit < level / 2, 0, 255), image)


def defocus_blur(image: Pixels, level: float, random: Random) -> Array:
    """A lens out of focus; the level is the radius of its disc in pixels."""
    return textures.convolve(image.astype(np.float32), textures.disc(level))


def glass_blur(image: Pixels, level: float, random: Random) -> Array:
    """Frosted glass, which sends each pixel astray; the level is how far, in pixels."""
    from scipy.ndimage import gaussian_filter

    sigma = (level / 4, level / 4, 0)
    down, right = random.uniform(-level, level, (2, *image.shape[:2])).astype(np.float32)
    return np.asarray(
        gaussian_filter(textures.moved(gaussian_filter(image.astype(np.float32), sigma), down, right), sigma)
    )


def motion_blur(image: Pixels, level: float, random: Random) -> Array:
    """A camera that moves, within 45 degrees of sideways; the level is how far, in pixels."""
    angle = random.uniform(-math.pi / 4, math.pi / 4)
    return textures.convolve(image.astype(np.float32), textures.line(level, angle))


def zoom_blur(image: Pixels, level: float, random: Random) -> Array:
    """A camera that comes closer; the level is how much larger the image is at last, in shares of it."""
    height, width = image.shape[:2]
    steps = max(3, min(16, math.ceil(max(height, width) / 2 * level) + 1))
    total, picture = np.zeros(image.shape, np.float32), _picture(image)
    for zoom in np.linspace(1, 1 + level, steps):
        margins = (width - width / zoom) / 2, (height - height / zoom) / 2
        box = (margins[0], margins[1], width - margins[0], height - margins[1])
        total += _pixels(picture.resize((width, height), Image.Resampling.BILINEAR, box))
    return np.asarray(total / steps)


def snow(image: Pixels, level: float, random: Random) -> Array:
    """Flakes that fall, and the grey light they give; the level is the share of the image that they cover."""
    height, width = image.shape[:2]
    scale = scale_of(image)
    noise = textures.smooth(height, width, max(1.0, 2.5 * scale), random)
    bar = np.quantile(noise, 1 - level)
    flakes = np.clip((noise - bar) / 0.4, 0, 1)[..., None]
    angle = random.uniform(math.pi / 4, 3 * math.pi / 4)
    flakes = textures.convolve(flakes, textures.line(max(1.0, 9 * scale), angle))
    whitened = np.maximum(image, _grey(image) * 1.5 + 0.5 * WHITE)
    share = 0.1 + 0.9 * level
    return np.asarray((1 - share) * image + share * whitened + 1.3 * WHITE * flakes)


def frost(image: Pixels, level: float, random: Random) -> Array:
    """Ice on a window: part of one of five synthesised textures, turned at random; the level is its weight."""
    texture = textures.ice(int(random.integers(textures.ICE_TEXTURES)))
    texture = np.rot90(texture, int(random.integers(4)))[:, :: int(random.choice([-1, 1]))]
    height, width = image.shape[:2]
    window = textures.ICE_SIDE * random.uniform(0.55, 0.95) / max(height, width)  # texture pixels to one of the image
    left, top = (random.uniform(0, textures.ICE_SIDE - side * window) for side in (width, height))
    box = (left, top, left + width * window, top + height * window)
    ice = Image.fromarray(np.ascontiguousarray(texture)).resize((width, height), Image.Resampling.BILINEAR, box)
    colour = np.array(FROST_COLOUR if image.shape[2] == 3 else [np.mean(FROST_COLOUR)], np.float32)
    return np.asarray((1 - 0.5 * level) * image + WHITE * level * np.asarray(ice)[..., None] * colour)


def fog(image: Pixels, level: float, random: Random) -> Array:
    """A plasma fractal as fog; the level is its thickness."""
    height, width = image.shape[:2]
    field = (
        0.35 + 0.65 * textures.plasma(1 << (max(height, width, 2) - 1).bit_length(), 1.8, random)[:height, :width, None]
    )
    brightest = max(float(image.max()), 1.0) / WHITE
    return np.asarray((image + WHITE * level * field) * (brightest / (brightest + level)))


def brightness(image: Pixels, level: float, random: Random) -> Array:
    """More light: the level is added to the value of HSV, white being 1; hue and saturation stay."""
    value = image.max(axis=2, keepdims=True).astype(np.float32)
    brighter = np.minimum(value + WHITE * level, WHITE)
    return np.asarray(np.where(value > 0, image * (brighter / np.maximum(value, 1)), brighter))


def contrast(image: Pixels, level: float, random: Random) -> Array:
    """Less contrast: the level is the share of each pixel's distance to the channel's mean that is left."""
    mean = image.mean(axis=(0, 1), keepdims=True, dtype=np.float32)
    return np.asarray(mean + level * (image - mean))


def elastic_transform(image: Pixels, level: float, random: Random) -> Array:
    """A bent image (Simard et al. 2003); the level is the standard deviation of the shift, in pixels."""
    cell = max(1.0, 14 * scale_of(image))
    height, width, _ = image.shape
    down, right = (level * textures.smooth(height, width, cell, random) for _ in range(2))
    return textures.moved(image.astype(np.float32), down, right)


def pixelate(image: Pixels, level: float, random: Random) -> Array:
    """Fewer pixels, enlarged again; the level is the side of a block."""
    height, width = image.shape[:2]
    small = max(1, round(width / level)), max(1, round(height / level))
    coarse = _picture(image).resize(small, Image.Resampling.BOX)
    return _pixels(coarse.resize((width, height), Image.Resampling.NEAREST))


def jpeg_compression(image: Pixels, level: float, random: Random) -> Array:
    """Loss of JPEG, which codes colour at half the resolution; the level is Pillow's quality."""
    buffer = io.BytesIO()
    _picture(image).save(buffer, format="JPEG", quality=round(level))
    return _pixels(Image.open(buffer))


def saturation(image: Pixels, level: float, random: Random) -> Array:
    """Less colour, the luminance kept; the level is the share of the colour that is lost."""
    return np.asarray(image + level * (_grey(image) - image))


def _grey(image: Pixels) -> Array:
    """Luminance (H, W, 1) float32 (ITU-R 601)."""
    if image.shape[2] == 1:
        return image.astype(np.float32)
    return np.asarray(image @ np.array([[0.299], [0.587], [0.114]], np.float32))


def _picture(image: Pixels) -> Image.Image:
    return Image.fromarray(image if image.shape[2] == 3 else image[..., 0])


def _pixels(picture: Image.Image) -> Pixels:
    pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]


# --- the table --------------------------------------------------------------------------------------------------------


class Corruption(NamedTuple):
    """A kind of corruption.

    Args:
        change: pixels (H, W, C) uint8, a level and a generator -> values in 0 … 255, still to be rounded and clipped.
        levels: of the severities 1 … 5, for an image whose short side has REFERENCE pixels.
        parameter: what the level is.
        scaling: (level, scale) -> the level for an image of another size.
        clean: the level that changes nothing, where there are severities between the whole ones.
        colour: whether it changes nothing but colours.
    """

    change: Callable[[Pixels, float, Random], Array]
    levels: tuple[float, float, float, float, float]
    parameter: str
    scaling: Callable[[float, float], float] = same
    clean: float | None = None
    colour: bool = False

    @property
    def severities(self) -> tuple[float, ...]:
        """Those at which its curve is drawn."""
        return SEVERITIES if self.clean is None else HALVES


# To add a kind: a function above, a row here, and its name in OURS.
CORRUPTIONS: Final[dict[str, Corruption]] = {
    "gaussian_noise": Corruption(
        gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38), "standard deviation", strength, clean=0
    ),
    "shot_noise": Corruption(shot_noise, (60, 25, 12, 5, 3), "photons of white", photons),
    "impulse_noise": Corruption(impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27), "share of values", strength),
    "defocus_blur": Corruption(defocus_blur, (3, 4, 6, 8, 10), "radius in pixels", length),
    "glass_blur": Corruption(glass_blur, (1.5, 2.25, 3, 4, 5.5), "shift in pixels", length),
    "motion_blur": Corruption(motion_blur, (6, 10, 15, 20, 27), "length in pixels", length),
    "zoom_blur": Corruption(zoom_blur, (0.1, 0.15, 0.2, 0.25, 0.31), "share of enlargement"),
    "snow": Corruption(snow, (0.03, 0.06, 0.1, 0.14, 0.19), "share covered"),
    "frost": Corruption(frost, (0.4, 0.5, 0.6, 0.75, 0.9), "weight of the ice"),
    "fog": Corruption(fog, (1.0, 1.5, 2.0, 2.6, 3.3), "thickness"),
    "brightness": Corruption(brightness, (0.1, 0.2, 0.3, 0.4, 0.5), "added value"),
    "contrast": Corruption(contrast, (0.4, 0.3, 0.2, 0.1, 0.05), "share left"),
    "elastic_transform": Corruption(elastic_transform, (1, 1.75, 2.5, 3.5, 4.5), "shift in pixels", length),
    "pixelate": Corruption(pixelate, (1.7, 2, 2.5, 3.3, 4), "block in pixels", block),
    "jpeg_compression": Corruption(jpeg_compression, (25, 18, 15, 10, 7), "quality", quality, clean=100),
    "saturation": Corruption(saturation, (0.2, 0.4, 0.6, 0.8, 1.0), "share of colour lost", clean=0, colour=True),
}
OURS: Final = ("saturation",)  # measured, and not averaged with the fifteen
COMMON: Final = tuple(kind for kind in CORRUPTIONS if kind not in OURS)


def level(kind: str, severity: float, scale: float = 1.0) -> float:
    """The level of a kind at a severity, for images of a scale (1: a short side of REFERENCE pixels).

    Raises:
        UserError: the kind or the severity is not known.
    """
    corruption = select(kind, CORRUPTIONS, "corruption")
    whole = severity in SEVERITIES
    if not whole and (corruption.clean is None or not 0 < severity <= SEVERITIES[-1]):
        among = "from 0 to 5" if corruption.clean is not None else "1, 2, 3, 4 or 5"
        raise UserError(f"{name(kind, severity)}: the severity must be {among}")
    clean = corruption.levels[0] if corruption.clean is None else corruption.clean
    nominal = float(np.interp(severity, (0, *SEVERITIES), (clean, *corruption.levels)))
    return corruption.scaling(nominal, scale)


def name(kind: str, severity: float) -> str:
    """What a corruption is called: kind@severity."""
    return f"{kind}@{positional(severity)}"


def corrupt(image: Pixels, kind: str, severity: float, seed: int, key: str) -> Pixels:
    """A corrupted copy of an image; what is random in it follows from seed, key, kind and severity alone.

    Args:
        image: (H, W, C) uint8, upright, of one or three channels.
        kind: a key of CORRUPTIONS.
        severity: 1 … 5; of kinds with a clean level anything above 0 and up to 5.
        seed: of the experiment.
        key: what tells this image from others, such as its path.

    Returns:
        uint8 of the same shape.

    Raises:
        UserError: the kind or the severity is not known.
    """
    amount = level(kind, severity, scale_of(image))
    random = np.random.default_rng(integer_seed(seed, key, name(kind, severity)))
    changed = CORRUPTIONS[kind].change(image, amount, random)
    whole = changed if changed.dtype == np.uint8 else np.clip(np.rint(changed), 0, WHITE)
    return np.ascontiguousarray(whole, np.uint8)
