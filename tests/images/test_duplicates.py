"""Images that are the same, or nearly: what counts as such at each size, and what the search leaves out says so."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from images import duplicates
from images.duplicates import compared, connected, fingerprint, identical, nearly_identical

COLOURS = [(0, 0, 0), (255, 255, 255), (200, 30, 30), (90, 91, 92)]


def scene(seed, side=96):
    """uint8 (side, side, 3): smooth, like a photo."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def muted(seed, side):
    """The same in faint colours, as photos have: JPEG keeps a quarter of the colours."""
    grey = np.asarray(Image.fromarray(scene(seed, side)).convert("L"), float)[..., None]
    return (0.85 * grey + 0.15 * scene(seed, side)).astype(np.uint8)


def drawing(seed, side=28):
    """uint8 (side, side, 3): a few strokes on black."""
    random, image = np.random.default_rng(seed), np.zeros((side, side, 3), np.uint8)
    for _ in range(4):
        row, column = random.integers(0, side - 4, 2)
        if random.random() < 0.5:
            image[row : row + 3, column:] = random.integers(120, 256)
        else:
            image[row:, column : column + 3] = random.integers(120, 256)
    return image


def changed(image, how):
    picture = Image.fromarray(image)
    if how.startswith("JPEG"):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=int(how.split()[1]))
        picture = Image.open(buffer)
    elif how == "smaller":
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
    elif how == "brighter":
        picture = ImageEnhance.Brightness(picture).enhance(1.04)
    elif how == "a corner drawn on":
        picture.paste((0, 0, 0), (0, 0, picture.width // 25, picture.height // 25))
    return np.asarray(picture)


def groups(images):
    return nearly_identical([fingerprint(image) for image in images]).groups


# --- the same pixels -------------------------------------------------------------------------------------------------


def test_identical_means_shape_and_pixels():
    images = [scene(0), scene(1), scene(0).copy(), scene(0).reshape(48, 192, 3), scene(1), scene(2), scene(0)]
    assert identical([fingerprint(image) for image in images]) == [[0, 2, 6], [1, 4]]


def test_one_level_of_one_pixel_is_a_difference():
    other = scene(0).copy()
    other[5, 5, 1] ^= 1
    assert identical([fingerprint(scene(0)), fingerprint(other)]) == []
    assert groups([scene(0), other]) == [[0, 1]]


# --- the same look ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["JPEG 75", "JPEG 90", "smaller", "brighter", "a corner drawn on"])
@pytest.mark.parametrize("side", [64, 200])
def test_changed_photos_are_found_among_others(how, side):
    others = [scene(seed, side) for seed in range(1, 40)]
    assert groups([scene(0, side), *others, changed(scene(0, side), how)]) == [[0, 40]]


@pytest.mark.parametrize("how", ["JPEG 75", "JPEG 95"])
def test_changed_drawings_are_found_among_others(how):
    others = [drawing(seed) for seed in range(1, 40)]
    assert groups([drawing(0), *others, changed(drawing(0), how)]) == [[0, 40]]


@pytest.mark.parametrize("make", [scene, drawing])
def test_different_images_are_not_taken_for_each_other(make):
    assert nearly_identical([fingerprint(make(seed)) for seed in range(300)]) == ([], [], [])


@pytest.mark.parametrize("make", [scene, drawing])
@pytest.mark.parametrize("how", ["as it is", "JPEG 75"])
def test_mirrored_images_are_a_kind_of_their_own(make, how):
    images = [make(seed) for seed in range(30)]
    images += [np.ascontiguousarray(changed(make(seed), how)[:, ::-1]) for seed in (3, 7)]
    assert nearly_identical([fingerprint(image) for image in images]) == ([], [[3, 30], [7, 31]], [])


def test_symmetric_images_that_look_alike_are_not_mirrored_too():
    symmetric = np.maximum(scene(0), scene(0)[:, ::-1])
    near = changed(symmetric, "JPEG 90")
    assert nearly_identical([fingerprint(symmetric), fingerprint(near)]) == ([[0, 1]], [], [])
    other = np.ascontiguousarray(changed(scene(1), "JPEG 90")[:, ::-1])
    search = nearly_identical([fingerprint(image) for image in (scene(1), changed(scene(1), "JPEG 80"), other)])
    assert search.groups == [[0, 1]]
    assert search.mirrored == [[0, 1, 2]]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "side"), [(scene, 160), (muted, 32), (drawing, 28)])
def test_all_planted_copies_and_nearly_all_jpegs_are_found(make, side):
    images = [make(seed, side) for seed in range(400)]
    copies = [image.copy() for image in images[:100]] + [changed(image, "JPEG 75") for image in images[100:200]]
    prints = [fingerprint(image) for image in (*images, *copies)]
    assert identical(prints)[:100] == [[k, 400 + k] for k in range(100)]
    found = {tuple(group) for group in nearly_identical(prints).groups} | set(map(tuple, identical(prints)))
    jpegs = {(100 + k, 500 + k) for k in range(100)}
    assert len(found & jpegs) >= 95
    assert all(b - a == 400 for a, b in found)


def test_small_images_are_compared_more_strictly():
    apart = (duplicates.SMALL_DISTANCE + duplicates.PHOTO_DISTANCE) / 2
    for side, found in ((duplicates.PHOTO_SIDE - 1, []), (duplicates.PHOTO_SIDE, [[0, 1]])):
        first = scene(0, side).astype(float)
        noise = np.sign(scene(0, side)[::-1].astype(float) - 128)  # of low frequency, so that thumbnails show it
        contrast = np.asarray(Image.fromarray(scene(0, side)).convert("L"), float).std()
        second = np.clip(first + apart * contrast * noise, 0, 255).astype(np.uint8)
        assert groups([scene(0, side), second]) == found


def test_of_identical_images_only_the_first_is_looked_at():
    near = changed(scene(0), "JPEG 90")
    assert groups([scene(1), scene(0), scene(0), near, near]) == [[1, 3]]


def test_images_of_one_colour_say_nothing_by_their_look():
    search = nearly_identical([fingerprint(np.full((9, 9, 3), colour, np.uint8)) for colour in (*COLOURS, COLOURS[0])])
    assert search.groups == []
    assert search.limits == ["4 images of one flat colour were compared only for identity"]


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one(count):
    assert nearly_identical([fingerprint(scene(0))] * count) == ([], [], [])


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 900, 3), (2000, 3, 3), (31, 33, 3)])
def test_any_shape(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert identical([fingerprint(image), fingerprint(image.copy())]) == [[0, 1]]
    assert groups([image, np.clip(image, 1, 255)]) in ([[0, 1]], [])


# --- scale -----------------------------------------------------------------------------------------------------------


def test_blocks_agree_with_the_whole(monkeypatch):
    images = [changed(scene(k % 60), f"JPEG {70 + k}") for k in range(25)] + [scene(seed) for seed in range(60)]
    whole = groups(images)
    assert whole == [[k, 25 + k] for k in range(25)]
    monkeypatch.setattr(duplicates, "_CELLS", 200)
    assert groups(images) == whole


def test_hashes_are_those_of_single_images():
    thumbnails = np.stack([fingerprint(scene(seed)).thumbnail for seed in range(1500)])
    hashes, contrasts = duplicates._look(thumbnails).hashes, duplicates._contrasts(thumbnails)
    for index in (0, 1023, 1024, 1499):
        grey = np.asarray(Image.fromarray(thumbnails[index]), float) @ [0.299, 0.587, 0.114]
        grid = np.arange(duplicates.SIDE) + 0.5
        low = [(grey * np.outer(np.cos(np.pi / 32 * v * grid), np.cos(np.pi / 32 * u * grid))).sum()
               for v in range(8) for u in range(8)]  # fmt: skip
        bits = "".join("1" if value > np.median(low[1:]) + duplicates.UNSURE * grey.std() else "0" for value in low)
        assert int(hashes[index]) == int(bits, 2)
        assert contrasts[index] == pytest.approx(grey.std(), rel=1e-5)


def test_of_too_many_images_evenly_spread_ones_are_compared(monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_IMAGES", 10)
    assert list(compared(10)) == list(range(10))
    assert list(compared(11)) == [0, 2, 4, 6, 8, 10]
    assert list(compared(0)) == []
    images = [scene(0), *(scene(seed) for seed in range(1, 23)), changed(scene(0), "JPEG 90")]
    chosen = compared(len(images))
    assert len(chosen) <= 10
    search = nearly_identical([fingerprint(image, place in chosen) for place, image in enumerate(images)])
    assert search.groups == []  # the last is not among those
    assert search.limits == ["near-duplicates were searched among 8 of 24 images"]
    assert identical([fingerprint(image, by_look=False) for image in (images[0], images[0])]) == [[0, 1]]


def test_a_search_that_would_not_end_stops_and_says_so(monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_CANDIDATES", 30)
    monkeypatch.setattr(duplicates, "_CELLS", 40)
    search = nearly_identical([fingerprint(changed(scene(0), f"JPEG {quality}")) for quality in range(60, 100)])
    assert search.limits == ["the search for near-duplicates stopped after 30 pairs of equal outline"]
    assert len(search.groups) == 1


# --- groups ----------------------------------------------------------------------------------------------------------


def test_pairs_are_tied_together():
    assert connected([(5, 6), (1, 2), (2, 3), (6, 9), (8, 9), (3, 1)]) == [[1, 2, 3], [5, 6, 8, 9]]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).filter(lambda pair: pair[0] != pair[1])))
def test_groups_are_the_reachable_ones(pairs):
    found = connected(pairs)
    reached = {index: {index} for pair in pairs for index in pair}
    for _ in reached:
        for a, b in pairs:
            reached[a] = reached[b] = reached[a] | reached[b]
    assert found == sorted({tuple(sorted(group)): sorted(group) for group in reached.values()}.values())
    assert all(len(group) > 1 for group in found)
