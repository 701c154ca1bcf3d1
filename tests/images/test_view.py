import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from config.schema import Params
from images.view import View, resize

RANDOM = np.random.default_rng(0)
SIZES = [(24, 20), (20, 24), (64, 64), (100, 37), (37, 100), (7, 300), (300, 7), (1, 1), (1, 40), (224, 224)]


def picture(height, width, channels=3):
    """Smooth shapes and some noise, uint8."""
    rough = Image.fromarray(RANDOM.integers(0, 256, (6, 8, channels), dtype=np.uint8).squeeze())
    smooth = np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, channels)
    return np.clip(smooth + RANDOM.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)


def view(training=False, im_sz=32, resize="crop", channels=3, crop_fraction=0.875, background=(250, 10, 40)):
    return View(im_sz, resize, crop_fraction, channels, background, training)


@pytest.mark.parametrize(("height", "width"), [(256, 341), (60, 80), (33, 500), (400, 90)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_is_torch_and_nearly_pillow(height, width, channels):
    image = picture(375, 500, channels)
    resized = resize(image, height, width)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    torch_says = functional.interpolate(planes, (height, width), mode="bilinear", antialias=True)[0]
    assert np.array_equal(resized, torch_says.permute(1, 2, 0).numpy())
    exact = functional.interpolate(planes.double(), (height, width), mode="bilinear", antialias=True)[0]
    assert (torch.from_numpy(resized).permute(2, 0, 1) - exact).abs().max() <= 1.01
    bilinear = Image.fromarray(image.squeeze()).resize((width, height), Image.Resampling.BILINEAR)
    pillow_says = np.asarray(bilinear).reshape(height, width, channels)
    assert np.abs(resized.astype(int) - pillow_says).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (40, 60), (333, 334)])
def test_evaluation_crop_is_torchvisions_preprocessing(height, width):
    from torchvision.transforms import v2

    image = picture(height, width)
    expected = v2.Compose([v2.Resize(37, antialias=True), v2.CenterCrop(32)])(torch.from_numpy(image).permute(2, 0, 1))
    assert np.array_equal(view().apply(image), expected.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("how", ["crop", "letterbox", "squash"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sizes_are_known_before_decoding(how, training, channels):
    for height, width in SIZES:
        for other in (view(training, resize=how, channels=channels), view(training, 8, how, channels, 1.0)):
            kept = other.apply(picture(height, width, channels))
            assert kept.shape == (*other.size(height, width), channels)
            assert kept.dtype == np.uint8
            assert kept.flags.c_contiguous
            if not training:
                assert kept.shape[:2] == (other.im_sz, other.im_sz)


@pytest.mark.parametrize("how", ["crop", "letterbox", "squash"])
def test_training_keeps_a_margin_and_never_enlarges(how):
    for height, width in SIZES:
        kept = view(True, resize=how).size(height, width)
        assert max(kept) <= max(height, width)
        assert max(kept) <= {"crop": 2 * 37, "letterbox": 37, "squash": 37}[how]
    assert view(True, resize=how).size(400, 300) == {"crop": (49, 37), "letterbox": (37, 28), "squash": (37, 37)}[how]
    assert view(True, resize=how).size(20, 16) == {"crop": (20, 16), "letterbox": (20, 16), "squash": (20, 20)}[how]
    assert view(True, resize="crop").size(20, 4000) == (20, 40)


def test_a_long_strip_shows_its_middle_and_costs_little():
    image = np.zeros((4, 100_000, 3), np.uint8)
    image[:, 50_000:] = 255
    kept = view(im_sz=64).apply(image)
    assert (kept[:, :20] == 0).all()
    assert (kept[:, -20:] == 255).all()


def test_letterbox_fills_up_with_the_background():
    image = np.full((10, 40, 3), 7, np.uint8)
    kept = view(resize="letterbox").apply(image)
    assert (kept[12:20] == 7).all()
    assert (kept[:12] == (250, 10, 40)).all()
    assert (kept[20:] == (250, 10, 40)).all()
    grey = view(resize="letterbox", channels=1).apply(image[:, :, :1])
    as_pillow_converts = Image.new("RGB", (1, 1), (250, 10, 40)).convert("L").getpixel((0, 0))
    assert (grey[0] == as_pillow_converts).all()


def test_a_view_comes_from_params():
    params = Params(arch="conv", im_sz=48, resize="squash", channels=1, background=[1, 2, 3])
    assert View.of(params, training=True) == View(48, "squash", 0.875, 1, (1, 2, 3), True)


def test_read_only_and_strided_pixels_are_taken():
    image = picture(60, 60)
    fixed = image.copy()
    fixed.flags.writeable = False
    for how, training in itertools.product(["crop", "letterbox", "squash"], [False, True]):
        expected = view(training, resize=how).apply(image)
        assert np.array_equal(view(training, resize=how).apply(fixed), expected)
        assert np.array_equal(view(training, resize=how).apply(np.asfortranarray(image)), expected)
