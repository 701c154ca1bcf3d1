"""The corruptions: the same bytes for the same image, worse with each severity, at every size."""

import io

import numpy as np
import pytest
from PIL import Image

from reports import textures
from reports.corruptions import COMMON, CORRUPTIONS, OURS, REFERENCE, corrupt, level, name
from utils import UserError

EVERY_KIND = pytest.mark.parametrize("kind", CORRUPTIONS)
SHAPES = [(28, 28, 3), (33, 47, 1), (200, 300, 3), (1, 9, 3), (2, 2, 1)]


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Like a photo: large shapes and fine detail, some of it dark, all colours."""
    random = np.random.default_rng(seed)
    side = 1 << (max(height, width) - 1).bit_length()
    shared = textures.plasma(side, 1.6, random)
    planes = [0.6 * shared + 0.4 * textures.plasma(side, 1.6, random) for _ in range(channels)]
    values = np.stack(planes, axis=-1)[:height, :width]
    return np.asarray(255 * values, np.uint8)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.mean((one.astype(float) - other) ** 2)))


def test_the_fifteen_and_ours() -> None:
    assert len(COMMON) == 15
    assert set(CORRUPTIONS) - set(COMMON) == set(OURS)


@EVERY_KIND
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bytes_in_and_bytes_out_and_the_image_stays(kind: str, shape: tuple[int, int, int]) -> None:
    image = picture(*shape)
    before = image.copy()
    for severity in CORRUPTIONS[kind].severities:
        changed = corrupt(image, kind, severity, seed=0, key="a.png")
        assert changed.shape == shape
        assert changed.dtype == np.uint8
        assert changed.flags["C_CONTIGUOUS"]
    assert np.array_equal(image, before)
    assert CORRUPTIONS[kind].change.__doc__


@EVERY_KIND
def test_an_image_decides_its_own_corruption(kind: str) -> None:
    images = {f"{number}.png": picture(30, 40, seed=number) for number in range(3)}
    there = {key: corrupt(image, kind, 3, 5, key) for key, image in images.items()}
    np.random.default_rng().random()
    back = {key: corrupt(images[key].copy(), kind, 3, 5, key) for key in reversed(images)}
    assert all(np.array_equal(there[key], back[key]) for key in images)


@pytest.mark.parametrize("kind", ["gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow",
                                  "frost", "fog", "elastic_transform"])  # fmt: skip
def test_seed_key_and_severity_each_decide_what_is_random(kind: str) -> None:
    image = picture(40, 40)
    first = corrupt(image, kind, 2, 0, "a")
    assert not np.array_equal(first, corrupt(image, kind, 2, 1, "a"))
    assert not np.array_equal(first, corrupt(image, kind, 2, 0, "b"))
    noise = [corrupt(image, "gaussian_noise", severity, 0, "a") - image.astype(float) for severity in (1, 5)]
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1


@EVERY_KIND
@pytest.mark.parametrize("side", [28, 128])
def test_each_severity_is_farther_from_the_image(kind: str, side: int) -> None:
    images = [picture(side, side, seed=seed) for seed in range(16)]
    distances = [0.0] + [
        float(np.mean([distance(image, corrupt(image, kind, severity, 0, str(i))) for i, image in enumerate(images)]))
        for severity in CORRUPTIONS[kind].severities
    ]
    assert np.all(np.diff(distances) > 0), distances


@pytest.mark.parametrize("kind", ["gaussian_noise", "jpeg_compression", "saturation"])
def test_between_the_severities_levels_are_between(kind: str) -> None:
    corruption = CORRUPTIONS[kind]
    assert corruption.clean is not None
    levels = [corruption.clean, *(level(kind, severity) for severity in corruption.severities)]
    assert levels[2::2] == [pytest.approx(value) for value in corruption.levels]
    for before, between, after in zip(levels[:-2:2], levels[1::2], levels[2::2], strict=True):
        assert between == pytest.approx((before + after) / 2)


def test_unknown_names_and_severities() -> None:
    image = picture(8, 8)
    with pytest.raises(UserError, match='"fogg" is not a known corruption; did you mean "fog"'):
        corrupt(image, "fogg", 1, 0, "")
    for kind, severity in (("fog", 0), ("fog", 2.5), ("fog", 6), ("gaussian_noise", 0), ("gaussian_noise", 5.5)):
        with pytest.raises(UserError, match=rf"^{kind}@{severity}: the severity must be "):
            corrupt(image, kind, severity, 0, "")
    assert name("gaussian_noise", 2.5) == "gaussian_noise@2.5"
    assert name("fog", 3.0) == "fog@3"


# --- that each is what it says ----------------------------------------------------------------------------------------


def test_noise_has_its_strength() -> None:
    grey = np.full((REFERENCE, REFERENCE, 3), 128, np.uint8)
    for severity in (1, 2):
        noisy = corrupt(grey, "gaussian_noise", severity, 0, "a").astype(float) - 128
        assert noisy.std() / 255 == pytest.approx(CORRUPTIONS["gaussian_noise"].levels[severity - 1], rel=0.02)
        photons = CORRUPTIONS["shot_noise"].levels[severity - 1]
        shot = corrupt(grey, "shot_noise", severity, 0, "a").astype(float)
        assert shot.mean() == pytest.approx(128, rel=0.02)
        assert shot.std() / 255 == pytest.approx(np.sqrt(128 / 255 / photons), rel=0.06)
    hit = corrupt(grey, "impulse_noise", 4, 0, "a")
    assert (hit == 0).mean() == pytest.approx(0.17 / 2, rel=0.05)
    assert (hit == 255).mean() == pytest.approx(0.17 / 2, rel=0.05)


@pytest.mark.parametrize("kind", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform",
                                  "pixelate", "jpeg_compression", "saturation", "contrast"])  # fmt: skip
@pytest.mark.parametrize("channels", [1, 3])
def test_a_grey_wall_stays_a_grey_wall(kind: str, channels: int) -> None:
    wall = np.full((60, 80, channels), 90, np.uint8)
    assert distance(corrupt(wall, kind, 5, 0, "a"), wall) <= 2


def test_blurs_are_means_of_shifted_images() -> None:
    image = picture(40, 50).astype(np.float32)
    weights = textures.line(6, 0.4)
    assert weights.sum() == pytest.approx(1)
    reach = len(weights) // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), "symmetric")
    expected = sum(
        weights[-1 - row, -1 - column] * padded[row : row + 40, column : column + 50]
        for row in range(len(weights))
        for column in range(len(weights))
    )
    np.testing.assert_allclose(textures.convolve(image, weights), expected, atol=1e-3)
    rows, columns = np.indices(weights.shape) - reach
    assert float((weights * rows).sum()) == pytest.approx(0, abs=1e-6)
    assert float((weights * columns).sum()) == pytest.approx(0, abs=1e-6)
    disc = textures.disc(5)
    assert float((disc * (rows := np.indices(disc.shape)[0] - len(disc) // 2) ** 2).sum()) == pytest.approx(
        6.25, rel=0.1
    )
    assert disc[len(disc) // 2, -1] == 0


def test_moved_takes_pixels_from_where_it_says() -> None:
    image = picture(20, 30).astype(np.float32)
    zeros = np.zeros((20, 30), np.float32)
    assert np.array_equal(textures.moved(image, zeros, zeros), image)
    np.testing.assert_array_equal(textures.moved(image, zeros + 2, zeros - 1)[:-2, 1:], image[2:, :-1])
    half = textures.moved(image, zeros, zeros + 0.5)[:, :-1]
    np.testing.assert_allclose(half, (image[:, :-1] + image[:, 1:]) / 2, rtol=1e-6)


def test_jpeg_is_pillows() -> None:
    image = picture(REFERENCE, REFERENCE)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=25)
    assert np.array_equal(corrupt(image, "jpeg_compression", 1, 0, "a"), np.asarray(Image.open(buffer)))


def test_saturation_ends_in_grey_of_the_same_luminance() -> None:
    image = picture(50, 50)
    grey = corrupt(image, "saturation", 5, 0, "a")
    assert np.ptp(grey, axis=2).max() == 0
    assert np.abs(grey[..., 0] - np.asarray(Image.fromarray(image).convert("L")).astype(int)).max() <= 1


def test_brightness_keeps_the_hue() -> None:
    image = np.array([[[100, 50, 0], [0, 0, 0], [10, 20, 40]]], np.uint8)
    assert corrupt(image, "brightness", 1, 0, "a").tolist() == [[[126, 63, 0], [26, 26, 26], [16, 33, 66]]]


def test_plasma_goes_on_across_its_edges_and_fills_its_range() -> None:
    field = textures.plasma(64, 1.8, np.random.default_rng(0))
    assert (field.min(), field.max()) == (0, 1)
    inside = np.abs(np.diff(field, axis=1)).mean()
    assert np.abs(field[:, 0] - field[:, -1]).mean() < 2 * inside


def test_ice_is_the_same_each_time_and_never_the_same_twice() -> None:
    first = textures.ice(0)
    assert (first.min() >= 0) & (first.max() <= 1)
    textures.ice.cache_clear()
    assert np.array_equal(textures.ice(0), first)
    assert not np.array_equal(textures.ice(1), first)
