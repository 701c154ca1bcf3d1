"""Pictures of maps: colour is heat, images keep their proportions, and anything can be a caption."""

import io

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from reports.overlay import COLOURS, TILE, contact_sheet, overlay, strip


@pytest.mark.parametrize("channels", [1, 3])
def test_heat_is_colour(channels: int) -> None:
    image = np.full((4, 4, channels), 120, np.uint8)
    heat = np.zeros((4, 4))
    heat[0, 0] = 1
    shown = overlay(image, heat)
    assert shown.shape == (4, 4, 3)
    assert shown.dtype == np.uint8
    for place, value in (((0, 0), 1.0), ((3, 3), 0.0)):
        weight = 0.3 + 0.35 * value
        expected = (1 - weight) * 120 + weight * 255 * np.array(colormaps[COLOURS](value)[:3])
        np.testing.assert_allclose(shown[place], expected, atol=1)


def test_colours_differ_in_lightness_alone_too() -> None:
    lightness = colormaps[COLOURS](np.linspace(0, 1, 20))[:, :3] @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(lightness) > 0).all()


@pytest.mark.parametrize(
    ("proportion", "height", "width"),
    [(1.0, TILE, TILE), (2.0, TILE // 2, TILE), (0.5, TILE, TILE // 2), (1e4, 1, TILE)],
)
def test_a_strip_has_the_image_and_its_maps_in_its_proportions(proportion: float, height: int, width: int) -> None:
    image = np.arange(28 * 28 * 3).reshape(28, 28, 3).astype(np.uint8)
    heats = [np.zeros((28, 28)), np.ones((28, 28))]
    pixels = strip(image, heats, proportion)
    assert pixels.shape == (height, 3 * width + 8, 3)
    expected = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
    assert np.array_equal(pixels[:, :width], np.asarray(expected))  # undistorted in its colours


def test_a_contact_sheet_takes_any_caption() -> None:
    strips = [strip(np.zeros((28, 28, 1), np.uint8), [np.zeros((28, 28))] * count) for count in (1, 2, 1, 1)]
    with Image.open(io.BytesIO(contact_sheet(strips, ["$x_{", "a\nb", "<b>", ""], "a $ <b>"))) as picture:
        picture.load()
        assert picture.width > 1000
