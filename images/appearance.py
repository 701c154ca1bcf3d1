"""How an image looks at first glance: how bright, how much contrast, how much detail; and which files look odd."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from images.read import Header, Pixels

LARGEST: Final = 256  # pixels of the longer side, about, on which it is looked at; training sees no more
BLANK: Final = 4.0  # levels of contrast, below which there is nothing to see
# Pixels of the shorter side, below which detail says nothing. Of 300 photos each of Imagenette and Flipkart at most 1
# has less than a quarter of the median detail; of the same photos blurred by a Gaussian of 2 pixels 98% and 76% have.
SHARP_SIDE: Final = 64


class Appearance(NamedTuple):
    """Of the grey values: their mean and standard deviation, in levels, and how much of the latter is fine detail."""

    brightness: float
    contrast: float
    detail: float  # standard deviation of the Laplacian over that of the grey values; 0 where there is none


def appearance(pixels: Pixels) -> Appearance:
    """How an image looks: uint8 (H, W, 3)."""
    image = Image.fromarray(pixels).convert("L").reduce(max(1, round(max(pixels.shape[:2]) / LARGEST)))
    grey = np.asarray(image, np.float32)
    contrast = float(grey.std())
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    detail = float(around.std()) / contrast if around.size and contrast > 0 else 0.0
    return Appearance(float(grey.mean()), contrast, detail)


def odd(headers: Mapping[str, Header], looks: Mapping[str, Appearance]) -> dict[str, list[str]]:
    """Paths of files that a person should look at, by what is odd about them, the oddest first.

    Most of it is told from the other images: a data set of drawings has no dark images, one of stars has no others.

    Args:
        headers: of the readable images, by path.
        looks: the same images'.
    """
    if not headers:
        return {}
    paths = list(headers)
    sides = np.array([sorted((headers[path].width, headers[path].height)) for path in paths], float)  # (N, 2)
    brightness, contrast, detail = np.array([looks[path] for path in paths], float).T
    aspect, darkness = sides[:, 1] / sides[:, 0], 255 - brightness
    turned = np.array([headers[path].orientation != 1 for path in paths])

    def few(values: np.ndarray, share: float, most: float = np.inf) -> np.ndarray:
        """Values below a share of the median, and below what is little anywhere."""
        return values < min(share * float(np.median(values)), most)

    flat = contrast < BLANK
    kinds = {
        "blank": (flat, contrast),
        "blurred": (few(detail, 0.25) & ~flat & (sides[:, 0] >= SHARP_SIDE), detail),
        "dark": (few(brightness, 0.4, 25) & ~flat, brightness),
        "bright": (few(darkness, 0.4, 25) & ~flat, darkness),
        "tiny beside the others": (few(sides[:, 0], 1 / 3), sides[:, 0]),
        "long and narrow": (aspect > max(3.0, 2 * float(np.median(aspect))), -aspect),
        "turned by EXIF": (turned, np.zeros(len(paths))),
    }
    found = {}
    for kind, (which, rank) in kinds.items():
        order = np.argsort(rank, kind="stable")
        found[kind] = [paths[i] for i in order[which[order]]]
    return {kind: chosen for kind, chosen in found.items() if chosen}
