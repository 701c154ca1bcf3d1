"""What looks odd is told from the other images of a folder."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from images.appearance import Appearance, appearance, odd
from images.read import Header


def scene(seed, side=128):
    """uint8 (side, side, 3): smooth, with fine grain, like a photo."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(60, 200, (6, 6, 3), np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    return np.clip(np.asarray(coarse) + random.normal(0, 12, (side, side, 1)), 0, 255).astype(np.uint8)


def dark(image):
    return np.clip(image.astype(int) - 125, 0, 255).astype(np.uint8)


def test_brightness_and_contrast_are_those_of_the_grey_values():
    image = np.repeat(np.arange(200, dtype=np.uint8)[:, None, None], 3, 2).repeat(50, 1)
    found = appearance(image)
    assert found.brightness == pytest.approx(99.5)
    assert found.contrast == pytest.approx(np.arange(200).std(), rel=1e-6)
    assert found.detail == 0  # a ramp has none


def test_blur_takes_the_detail():
    image = Image.fromarray(scene(0))
    details = [appearance(np.asarray(image.filter(ImageFilter.GaussianBlur(radius)))).detail for radius in (0, 1, 2, 4)]
    assert details == sorted(details, reverse=True)
    assert details[2] < 0.25 * details[0]


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 900, 3), (2, 2, 3), (3000, 2, 3)])
def test_any_shape(shape):
    assert np.isfinite(appearance(np.random.default_rng(0).integers(0, 256, shape, np.uint8))).all()
    assert appearance(np.full(shape, 7, np.uint8)) == (7, 0, 0)


def told(images):
    headers = {f"{k:02}": Header(image.shape[1], image.shape[0], "RGB", "PNG", 1) for k, image in enumerate(images)}
    return odd(headers, {f"{k:02}": appearance(image) for k, image in enumerate(images)})


@pytest.mark.parametrize(("kind", "change"), [
    ("blank", lambda image: np.full_like(image, 90)),
    ("blurred", lambda image: np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(3)))),
    ("dark", dark),
    ("bright", lambda image: 255 - dark(image)),
    ("tiny beside the others", lambda image: image[40:80, 40:80]),
    ("long and narrow", lambda image: np.tile(image, (1, 4, 1))),
])  # fmt: skip
def test_each_kind_of_odd_image_is_told_from_the_others(kind, change):
    images = [scene(seed) for seed in range(20)]
    assert told(images) == {}
    images[7] = change(images[7])
    assert told(images).get(kind) == ["07"]


def test_what_is_common_is_not_odd():
    """Drawings, night skies, strips, icons: none is odd among its like."""
    for images in (
        [np.tile(scene(seed), (1, 5, 1)) for seed in range(9)],
        [dark(scene(seed)) for seed in range(9)],
        [255 - dark(scene(seed)) for seed in range(9)],
        [scene(seed, 8) for seed in range(9)],
    ):
        assert told(images) == {}


def test_the_oddest_come_first_and_turned_ones_are_named():
    headers = {name: Header(100, 100, "L", "JPEG", 6 if name == "b" else 1) for name in "abcdefg"}
    looks = {name: Appearance(120, 50, 0.5) for name in "abcdefg"} | {
        "c": Appearance(9, 50, 1),
        "a": Appearance(20, 50, 1),
    }
    assert odd(headers, looks) == {"dark": ["c", "a"], "turned by EXIF": ["b"]}
    assert odd({}, {}) == {}
