"""Pictures with captions in rows and columns, as a figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from utils import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD, FOOT, CAPTION, GAP = 0.4, 0.1, 0.4, 0.1  # inches: the title, the lower edge, two lines above a picture


def tiles(
    pictures: Sequence[np.ndarray[Any, Any]],
    captions: Sequence[str],
    title: str,
    columns: int,
    size: tuple[float, float],
    foot: float = FOOT,
) -> "Figure":
    """Draws them on one page of inches: a hundred panels with a layout take ten times as long.

    Args:
        pictures: (h, w, 3) uint8, of any sizes.
        captions: of one or two lines each.
        title: above all.
        columns: pictures in a row.
        size: width and height that a picture may take, in inches.
        foot: inches to leave free below.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(1, -(-len(pictures) // columns))
    width, height = columns * (size[0] + GAP) + GAP, HEAD + rows * (CAPTION + size[1]) + foot
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    page = figure.add_axes((0, 0, 1, 1))
    page.set_axis_off()
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(number, columns)
        left, top = GAP + column * (size[0] + GAP), height - HEAD - row * (CAPTION + size[1]) - CAPTION
        scale = min(size[0] / picture.shape[1], size[1] / picture.shape[0])
        right, bottom = left + scale * picture.shape[1], top - scale * picture.shape[0]
        page.imshow(picture, extent=(left, right, bottom, top), aspect="auto")
        page.text(left, top + GAP / 2, caption, fontsize=8, va="bottom", parse_math=False)
    page.set_xlim(0, width)
    page.set_ylim(0, height)
    figure.suptitle(printable(title), y=1 - GAP / height, va="top", parse_math=False)
    return figure
