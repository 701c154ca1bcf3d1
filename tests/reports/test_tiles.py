"""Pictures of any shape keep it, none lies on another, and the title's markup is only text."""

import io

import numpy as np
import pytest
from PIL import Image

from reports.tiles import tiles
from training.curves import png_bytes

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255))
SHAPES = ((10, 10), (10, 40), (40, 10), (3, 3))


def test_each_picture_is_there_in_its_shape():
    pictures = [np.full((*shape, 3), colour, np.uint8) for shape, colour in zip(SHAPES, COLOURS, strict=True)]
    figure = tiles(pictures, ["two\nlines"] * 4, "a $title\x01", 3, (1.5, 1.0))
    drawn = np.asarray(Image.open(io.BytesIO(png_bytes(figure))).convert("RGB"))
    places = []
    for (height, width), colour in zip(SHAPES, COLOURS, strict=True):
        rows, columns = (drawn == colour).all(axis=2).nonzero()
        assert len(rows) == np.ptp(rows) * np.ptp(columns) + np.ptp(rows) + np.ptp(columns) + 1  # whole, and alone
        assert (np.ptp(columns) + 1) / (np.ptp(rows) + 1) == pytest.approx(width / height, rel=0.06)
        places.append((rows.min(), columns.min()))
    assert places[0][1] < places[1][1] < places[2][1]
    assert places[3][0] > places[0][0]
    assert places[3][1] == places[0][1]


def test_no_picture():
    assert png_bytes(tiles([], [], "none", 3, (1, 1))).startswith(b"\x89PNG")
