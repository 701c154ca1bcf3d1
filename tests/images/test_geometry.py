import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from images import geometry
from images.geometry import random_box
from images.operation import Draw
from images.sampling import sample
from tests.images.pictures import as_chw, picture, sizes_of

BILINEAR = v2.InterpolationMode.BILINEAR
SIZE = (96, 144)
SQUARE = 64


def draw_for(count, epoch=0):
    return Draw(0, epoch, np.arange(count), "0 test")


def seen(one, matrices):
    """A picture through a matrix, as a square; float32 (C, SQUARE, SQUARE)."""
    return sample(one[None], sizes_of(one.shape[:2]), matrices, SQUARE, "fill", torch.full((3,), -1000.0))[0]


def unchanged(images):
    """A reference's picture as a square, by the same sampling."""
    return seen(images.permute(1, 2, 0), np.eye(3)[None])


def agree(operation, reference_image, draw=None):
    """Whether the operation shows what the reference does, wherever both look inside the picture."""
    one = picture(*SIZE)
    got = seen(one, operation.matrices(draw or draw_for(1), sizes_of(SIZE)))
    inside = unchanged(reference_image(torch.full((3, *SIZE), 255, dtype=torch.uint8)))[0] > 254
    inside &= got[0] > -500
    assert inside.float().mean() > 0.3
    wanted = unchanged(reference_image(one.permute(2, 0, 1)))
    assert (got - wanted).abs()[:, inside].max() < 3


def test_flips_are_exact():
    one = picture(64, 64)
    left_right = seen(one, geometry.HorizontalFlip(p=1).matrices(draw_for(1), sizes_of((64, 64))))
    assert torch.allclose(left_right, as_chw(one).flip(-1), atol=0.02)
    top_bottom = seen(one, geometry.VerticalFlip(p=1).matrices(draw_for(1), sizes_of((64, 64))))
    assert torch.allclose(top_bottom, as_chw(one).flip(-2), atol=0.02)


@pytest.mark.parametrize("degrees", [30, -77, 180])
def test_rotation_as_torchvision(degrees):
    agree(
        geometry.Rotation(degrees=(degrees, degrees)),
        lambda image: reference.rotate(image, degrees, interpolation=BILINEAR),
    )


@pytest.mark.parametrize(
    ("degrees", "scale", "shear"),
    [(25, 1, (0, 0)), (0, 1.3, (0, 0)), (0, 1, (12, 0)), (0, 1, (0, -9)), (-15, 0.8, (10, 5))],
)
def test_affine_as_torchvision(degrees, scale, shear):
    operation = geometry.Affine(
        degrees=(degrees, degrees), scale=(scale, scale), shear=(shear[0], shear[0], shear[1], shear[1])
    )
    agree(
        operation,
        lambda image: reference.affine(image, degrees, [0, 0], scale, [*shear], interpolation=BILINEAR),
    )


def test_affine_shifts_to_every_side_within_its_range():
    matrices = geometry.Affine(degrees=0, translate=(0.1, 0.3)).matrices(
        draw_for(2000), np.tile(sizes_of(SIZE), (2000, 1))
    )
    share = -matrices[:, :2, 2] / 2
    for axis, most in ((0, 0.1), (1, 0.3)):
        assert np.abs(share[:, axis]).max() <= most
        assert np.allclose(np.quantile(share[:, axis], [0.25, 0.5, 0.75]), [-most / 2, 0, most / 2], atol=0.1 * most)


@pytest.mark.parametrize("index", range(3))
def test_perspective_as_torchvision(index):
    draw = Draw(0, 0, np.array([index]), "0 test")
    operation = geometry.Perspective(distortion_scale=0.5)
    matrix = operation.matrices(draw, sizes_of(SIZE))[0]
    points = np.array([(-0.3, -0.3, 1), (0.3, -0.3, 1), (0.3, 0.3, 1), (-0.3, 0.3, 1)])  # well inside the output
    sources = points @ matrix.T
    start, end = (
        ((places[:, :2] / places[:, 2:] + 1) * (SIZE[1] / 2, SIZE[0] / 2)).tolist() for places in (sources, points)
    )
    agree(operation, lambda image: reference.perspective(image, start, end, interpolation=BILINEAR), draw)


def test_perspective_moves_corners_inwards_within_its_range():
    matrices = geometry.Perspective(distortion_scale=0.6).matrices(draw_for(500), np.tile(sizes_of(SIZE), (500, 1)))
    for corner in [(-1, -1), (1, -1), (1, 1), (-1, 1)]:
        x, y, depth = (np.linalg.inv(matrices) @ np.array([*corner, 1.0])).T
        moved = 1 - np.stack([x, y]) / depth * np.array(corner)[:, None]
        assert moved.min() >= -1e-9
        assert 0.55 < moved.max() < 0.6
        assert abs(moved.mean() - 0.3) < 0.03


def test_zoom_shows_the_middle_magnified():
    one = picture(96, 96)
    got = seen(one, geometry.Zoom(scale=(1.5, 1.5)).matrices(draw_for(1), sizes_of((96, 96))))
    assert torch.allclose(got, as_chw(one[16:80, 16:80]), atol=0.02)


def test_random_crop_shifts_by_whole_pixels_each_as_likely():
    matrices = geometry.RandomCrop(padding=2).matrices(draw_for(5000), np.tile(sizes_of((32, 32)), (5000, 1)))
    shifts = matrices[:, :2, 2] * 16
    assert np.allclose(shifts, np.rint(shifts))
    for axis in range(2):
        values, counts = np.unique(np.rint(shifts[:, axis]), return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2]
        assert counts.min() > 900
    both = np.rint(shifts) @ [5, 1]
    assert len(np.unique(both)) == 25


def boxes(count, scale, ratio, size):
    frame = np.tile(sizes_of(size), (count, 1))
    matrices = geometry.RandomResizedCrop(scale=scale, ratio=ratio).matrices(draw_for(count), frame)
    width, height = matrices[:, 0, 0] * size[1], matrices[:, 1, 1] * size[0]
    left, top = ((matrices[:, axis, 2] + 1 - matrices[:, axis, axis]) / 2 for axis in range(2))
    return height, width, top * size[0], left * size[1]


def is_uniform(values, low=0.0, high=1.0):
    """Kolmogorov-Smirnov at p = 0.001."""
    ranks = (np.arange(len(values)) + 0.5) / len(values)
    return np.abs(np.sort((values - low) / (high - low)) - ranks).max() < 1.95 / np.sqrt(len(values))


def test_random_resized_crop_draws_area_ratio_and_place_evenly():
    height, width, top, left = boxes(20_000, (0.2, 0.7), (3 / 4, 4 / 3), (100, 100))  # every box fits
    assert is_uniform(height * width / 100**2, 0.2, 0.7)
    assert is_uniform(np.log(width / height), np.log(3 / 4), np.log(4 / 3))
    assert is_uniform(top / (100 - height))
    assert is_uniform(left / (100 - width))
    assert abs(np.corrcoef(top / (100 - height), left / (100 - width))[0, 1]) < 0.03


@pytest.mark.parametrize("size", [(100, 100), (100, 160), (200, 90)], ids=str)
def test_random_resized_crop_draws_as_torchvision_does(size):
    """With torchvision's defaults, where many boxes do not fit."""
    height, width, top, left = boxes(4000, (0.08, 1.0), (3 / 4, 4 / 3), size)
    assert min(top.min(), left.min()) >= -1e-9
    assert (top + height).max() <= size[0] + 1e-9
    assert (left + width).max() <= size[1] + 1e-9
    crop, image = v2.RandomResizedCrop(8), torch.empty(1, *size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [crop.make_params([image]) for _ in range(4000)]
    for name, values in (("height", height), ("width", width), ("top", top), ("left", left)):
        wanted = np.quantile([one[name] for one in drawn], [0.1, 0.3, 0.5, 0.7, 0.9])
        assert np.allclose(np.quantile(values, [0.1, 0.3, 0.5, 0.7, 0.9]), wanted, atol=0.035 * max(size))


def test_a_strip_that_no_box_fits_gives_its_middle():
    height, width, top, left = boxes(4, (1.0, 1.0), (3 / 4, 4 / 3), (10, 200))
    assert np.allclose(np.stack([height, width * 3 / 4, top, left + width / 2]), np.array([10, 10, 0, 100])[:, None])


def test_a_random_box_tells_when_none_fits():
    _, _, found = random_box(draw_for(3), sizes_of((10, 200), (100, 100), (200, 10)), (0.9, 0.9), (1.0, 1.0))
    assert found.tolist() == [False, True, False]


def test_alternating_flip_shows_each_side_every_other_epoch():
    operation = geometry.AlternatingFlip()
    first, second, third = (operation.chosen(draw_for(1000, epoch)) for epoch in range(3))
    assert (first != second).all()
    assert (first == third).all()
    assert 400 < first.sum() < 600
