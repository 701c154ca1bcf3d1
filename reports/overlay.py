"""Maps of attribution over images, as pictures."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from PIL import Image

from images.read import Pixels
from reports.tiles import tiles
from training.curves import png_bytes

Array = np.ndarray[Any, Any]

TILE: Final = 128  # pixels of the longer side of an image in a strip
GAP: Final = 4
COLOURS: Final = "viridis"  # told apart by the colour-blind, and in grey
_COLUMNS: Final = 3
_BAR: Final = 0.6  # inches of a contact sheet for the colours
_CRISP: Final = 64  # images up to so many pixels are shown with their pixels


def overlay(image: Pixels, heat: Array) -> Pixels:
    """Heat in colours over the image, which is grey there, so that all colour is heat.

    Args:
        image: (H, W, C) uint8.
        heat: (H, W) from 0 to 1.

    Returns:
        (H, W, 3) uint8.
    """
    from matplotlib import colormaps

    grey = image.mean(axis=2, keepdims=True)
    colour = 255 * colormaps[COLOURS](heat)[..., :3]
    weight = (0.3 + 0.35 * heat)[..., None]
    return np.asarray(np.rint((1 - weight) * grey + weight * colour), np.uint8)


def strip(image: Pixels, heats: Sequence[Array], proportion: float = 1.0) -> Pixels:
    """The image as it is, and beside it a copy under each map.

    Args:
        image: (S, S, C) uint8 as the net sees it.
        heats: maps (S, S) from 0 to 1.
        proportion: width to height of the image before it was squashed; 1 where it was not.

    Returns:
        (h, w, 3) uint8.
    """
    width, height = (
        (TILE, max(1, round(TILE / proportion))) if proportion > 1 else (round(TILE * proportion) or 1, TILE)
    )
    how = Image.Resampling.NEAREST if image.shape[0] <= _CRISP else Image.Resampling.LANCZOS
    tiles = [np.broadcast_to(image, (*image.shape[:2], 3)), *(overlay(image, heat) for heat in heats)]
    row: list[Array] = []
    for tile in tiles:
        resized = Image.fromarray(np.ascontiguousarray(tile)).resize((width, height), how)
        row += [np.asarray(resized), np.full((height, GAP, 3), 255, np.uint8)]
    return np.concatenate(row[:-1], axis=1)


def contact_sheet(strips: Sequence[Pixels], captions: Sequence[str], title: str) -> bytes:
    """Strips with a caption above each, and what the colours mean, as a PNG."""
    from matplotlib.cm import ScalarMappable

    figure = tiles(strips, captions, title, _COLUMNS, (4.2, 1.37), foot=_BAR)
    height = figure.get_figheight()
    bar = figure.colorbar(
        ScalarMappable(cmap=COLOURS), cax=figure.add_axes((0.35, 0.4 / height, 0.3, 0.1 / height)), location="bottom"
    )
    bar.set_ticks([0, 1], labels=["says nothing for the class", "says most"])
    return png_bytes(figure)
