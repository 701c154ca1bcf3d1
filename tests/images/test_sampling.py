import numpy as np
import pytest
import torch

from images.geometry import identity, linear, scaling
from images.sampling import sample, view_matrices
from images.view import View
from tests.images.pictures import as_chw, canvas_of, picture, sizes_of

GREEN = torch.tensor([10.0, 200.0, 30.0])
SIZES = [(96, 140), (140, 96), (73, 97), (90, 90), (73, 160), (300, 100), (75, 74)]


def turned(count: int, degrees: float, size: tuple[int, int], zoom: float = 1.0) -> np.ndarray:
    angle, frame = np.full(count, np.radians(degrees)), np.tile(sizes_of(size), (count, 1))
    return linear(zoom * np.cos(angle), -zoom * np.sin(angle), zoom * np.sin(angle), zoom * np.cos(angle), frame)


@pytest.mark.parametrize("resize", ["crop", "letterbox", "squash"])
@pytest.mark.parametrize("size", [*SIZES, (40, 30), (16, 16)], ids=str)
def test_without_augmentation_training_sees_what_evaluation_sees(resize, size):
    stored, wanted = (
        torch.from_numpy(View(64, resize, 0.875, 3, (10, 200, 30), training).apply(picture(*size).numpy()))
        for training in (True, False)
    )
    canvas, sizes = canvas_of([stored])
    sizes = sizes.numpy().astype(float)
    got = sample(canvas, sizes, view_matrices(sizes, 64, resize, 0.875), 64, "fill", GREEN)[0]
    difference = (got - as_chw(wanted)).abs()
    if resize == "crop" and min(size) >= 73:  # the store holds the very pixels
        assert difference.max() < 0.1
    assert difference.mean() < 2.5
    assert difference.median() < 1


@pytest.mark.parametrize("padding_mode", ["reflection", "border", "fill"])
def test_what_is_beside_an_image_on_the_canvas_is_never_seen(padding_mode):
    pictures = [picture(40, 50), picture(50, 31, seed=1), picture(1, 1, seed=2), picture(50, 50, seed=3)]
    for matrices in (identity(4), turned(4, 37, (40, 50), zoom=1.8), scaling(*np.full((2, 4), -1.3), 0.4, -0.2)):
        results = []
        for poison in (0, 255):
            canvas, sizes = canvas_of(pictures, poison, margin=3)
            results.append(sample(canvas, sizes.numpy().astype(float), matrices, 32, padding_mode, GREEN))
        assert torch.equal(*results)


def test_an_image_looks_the_same_on_any_canvas():
    pictures = [picture(40, 50), picture(64, 31, seed=1)]
    matrices = turned(2, 37, (40, 50), zoom=1.4)
    canvas, sizes = canvas_of(pictures)
    together = sample(canvas, sizes.numpy().astype(float), matrices, 48, "reflection", GREEN)
    for place, one in enumerate(pictures):
        alone = sample(one[None], sizes_of(one.shape[:2]), matrices[place : place + 1], 48, "reflection", GREEN)
        assert (alone[0] - together[place]).abs().max() < 0.02


@pytest.mark.parametrize(
    ("padding_mode", "numpy_mode"), [("reflection", "symmetric"), ("border", "edge"), ("fill", "constant")]
)
def test_outside_is_what_the_padding_mode_says(padding_mode, numpy_mode):
    one = picture(20, 20, channels=1)
    options = {"constant_values": 77} if padding_mode == "fill" else {}
    padded = np.pad(one.numpy(), ((3, 3), (3, 3), (0, 0)), mode=numpy_mode, **options)
    canvas, _ = canvas_of([one], poison=200, margin=5)
    matrices = scaling(np.ones(1), np.ones(1), np.array([2 * 3 / 20]), np.array([-2 * 3 / 20]))  # 3 right, 3 up
    got = sample(canvas, sizes_of((20, 20)), matrices, 20, padding_mode, torch.tensor([77.0]))
    assert (got[0] - as_chw(torch.from_numpy(padded[:20, 6:]))).abs().max() < 0.02


def test_reflection_goes_on_for_ever():
    got = sample(
        picture(8, 8)[None], sizes_of((8, 8)), scaling(np.full(1, 5.0), np.full(1, 5.0)), 40, "reflection", GREEN
    )
    assert torch.allclose(got[..., 0:8, 16:24], got[..., 16:24, 16:24], atol=0.02)
    assert torch.allclose(got[..., 8:16, 16:24].flip(-2), got[..., 16:24, 16:24], atol=0.02)


def test_beyond_the_horizon_values_stay_finite():
    matrices = identity(1)
    matrices[:, 2, 0] = 3.0  # depth 0 at x = -1/3
    for padding_mode in ("reflection", "border", "fill"):
        got = sample(picture(16, 16)[None], sizes_of((16, 16)), matrices, 64, padding_mode, GREEN)
        assert torch.isfinite(got).all()
        assert 0 <= got.min() <= got.max() <= 255.01
