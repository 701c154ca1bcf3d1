"""What weather and lenses lay over an image: fractal fog, ice on a window, blurs, bent space. Numpy and scipy alone."""

import functools
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

ICE_SIDE: Final = 384  # pixels of an ice texture
ICE_TEXTURES: Final = 5  # as many as ImageNet-C has photographs of frost
_FERNS: Final = 90  # of a texture


def plasma(size: int, decay: float, random: np.random.Generator) -> Array:
    """A plasma fractal by the diamond-square algorithm (Fournier, Fussell, Carpenter 1982), float32 (size, size).

    Args:
        size: a power of two; the fractal goes on across its edges.
        decay: what the roughness is divided by from one scale to the next finer one.
        random: the generator.

    Returns:
        Values from 0 to 1, both of which occur.
    """
    field = np.zeros((size, size), np.float32)
    step, roughness = size, 1.0
    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        count = len(corners)

        def rough(count: int = count, roughness: float = roughness) -> Array:
            return random.uniform(-roughness, roughness, (count, count)).astype(np.float32)

        right, below = np.roll(corners, -1, 1), np.roll(corners, -1, 0)
        centres = (corners + right + below + np.roll(below, -1, 1)) / 4 + rough()
        field[half::step, half::step] = centres
        field[::step, half::step] = (corners + right + centres + np.roll(centres, 1, 0)) / 4 + rough()
        field[half::step, ::step] = (corners + below + centres + np.roll(centres, 1, 1)) / 4 + rough()
        step, roughness = half, roughness / decay
    field -= field.min()
    return np.asarray(field / max(float(field.max()), 1e-6))


@functools.cache
def ice(number: int) -> Array:
    """A texture of window frost, float32 (ICE_SIDE, ICE_SIDE) in 0 … 1; the same for the same number.

    Ferns of ice: stems in random directions, with branches at 60 degrees to them and again branches on these, in a haze
    that is thicker here than there.
    """
    from PIL import Image, ImageDraw
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(number)
    canvas = Image.new("L", (ICE_SIDE, ICE_SIDE))
    draw = ImageDraw.Draw(canvas)
    for x, y, size, angle in zip(
        *random.uniform(-20, ICE_SIDE + 20, (2, _FERNS)),
        random.uniform(50, 220, _FERNS),
        random.uniform(0, 2 * np.pi, _FERNS),
        strict=True,
    ):
        _fern(draw, (x, y), size, angle, random)
    crystals = np.asarray(canvas, np.float32) / 255
    depth = plasma(512, 1.7, random)[:ICE_SIDE, :ICE_SIDE]
    sharp, haze = gaussian_filter(crystals, 0.6), gaussian_filter(crystals, 8)
    grain = 0.8 + 0.2 * random.random((ICE_SIDE, ICE_SIDE), np.float32)
    return np.asarray(
        np.clip((0.75 * sharp + 0.5 * haze + 0.35 * depth) * (0.4 + 0.8 * depth) * grain, 0, 1), np.float32
    )


def _fern(draw: Any, start: tuple[float, float], size: float, angle: float, random: np.random.Generator) -> None:
    """Draws a stem of ice and, on both sides of it, ever shorter branches."""
    tip = start[0] + size * np.cos(angle), start[1] + size * np.sin(angle)
    draw.line([start, tip], fill=int(random.integers(90, 256)), width=2 if size > 90 else 1)
    if size < 9:
        return
    for share in np.arange(0.08, 0.95, 7 / size):
        root = start[0] + share * (tip[0] - start[0]), start[1] + share * (tip[1] - start[1])
        for side in (-1, 1):
            branch = size * (1 - share) * random.uniform(0.15, 0.4)
            _fern(draw, root, branch, angle + side * (np.pi / 3 + random.normal(0, 0.06)), random)


def smooth(height: int, width: int, cell: float, random: np.random.Generator) -> Array:
    """A smooth random field, float32 (height, width) of deviation about 1, that changes over `cell` pixels."""
    from PIL import Image

    shape = (max(2, round(height / cell) + 1), max(2, round(width / cell) + 1))
    coarse = random.standard_normal(shape, dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def kernel(rows: Array, columns: Array) -> Array:
    """The blur that lays copies of an image, shifted by (rows, columns) pixels, over each other; float32, odd, square.

    Shifts between pixels are shared out among their four neighbours, so that a blur of less than a pixel is one, too.
    """
    reach = int(np.ceil(max(float(np.abs(rows).max()), float(np.abs(columns).max())))) + 1
    weights = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = np.abs(1 - down - (rows - top)) * np.abs(1 - right - (columns - left))
        np.add.at(weights, (top + down + reach, left + right + reach), share)
    return np.asarray(weights / weights.sum())


def disc(radius: float) -> Array:
    """The kernel of a lens out of focus."""
    ticks = np.linspace(-radius, radius, 4 * int(np.ceil(radius)) + 5)
    rows, columns = (axis.ravel() for axis in np.meshgrid(ticks, ticks, indexing="ij"))
    inside = np.hypot(rows, columns) <= radius
    return kernel(rows[inside], columns[inside])


def line(length: float, angle: float) -> Array:
    """The kernel of a straight movement by `length` pixels; the angle is in radians, 0 along the rows."""
    steps = np.linspace(-length / 2, length / 2, 2 * int(np.ceil(length)) + 3)
    return kernel(steps * np.sin(angle), steps * np.cos(angle))


def convolve(image: Array, weights: Array) -> Array:
    """An image (H, W, C) float32 under a kernel, mirrored at its edges."""
    from scipy import fft

    reach = len(weights) // 2
    height, width = image.shape[:2]
    planes = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), "symmetric").transpose(2, 0, 1)  # (C, H', W')
    shape = [fft.next_fast_len(side, real=True) for side in planes.shape[1:]]
    spectrum = fft.rfft2(planes, shape) * fft.rfft2(weights, shape)
    blurred = fft.irfft2(spectrum, shape)[:, 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]
    return np.asarray(blurred.transpose(1, 2, 0))


def moved(image: Array, down: Array, right: Array) -> Array:
    """The image (H, W, C) float32 with each pixel taken from (down, right) (H, W) pixels away, bilinearly."""
    height, width, channels = image.shape
    rows = np.clip(np.arange(height, dtype=np.float32)[:, None] + down, 0, height - 1)
    columns = np.clip(np.arange(width, dtype=np.float32)[None] + right, 0, width - 1)
    top, left = rows.astype(np.int32), columns.astype(np.int32)
    lower, righter = (rows - top)[..., None], (columns - left)[..., None]
    below, beside = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    flat = image.reshape(-1, channels)
    upper = flat[top * width + left] * (1 - righter) + flat[top * width + beside] * righter
    under = flat[below * width + left] * (1 - righter) + flat[below * width + beside] * righter
    return np.asarray(upper * (1 - lower) + under * lower)
