import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from images import colour
from images.operation import Draw
from tests.images.pictures import as_chw, picture

COUNT = 5
KINDS = [1, 3]


def batch(channels=3):
    """(COUNT, C, 40, 40) float32: smooth pictures, one of noise, one of a single colour."""
    pictures = [as_chw(picture(40, 40, channels, seed)) for seed in range(COUNT - 2)]
    noise = torch.randint(0, 256, (channels, 40, 40), generator=torch.Generator().manual_seed(0)).float()
    return torch.stack([*pictures, noise, torch.full((channels, 40, 40), 90.0)])


def amounts(*values):
    return torch.tensor(values).view(-1, 1, 1, 1)


@pytest.mark.parametrize("channels", KINDS)
@pytest.mark.parametrize(
    ("function", "wanted", "values"),
    [
        (colour.brightness, reference.adjust_brightness, (0.0, 0.4, 1.0, 1.7, 3.0)),
        (colour.contrast, reference.adjust_contrast, (0.0, 0.4, 1.0, 1.7, 3.0)),
        (colour.saturation, reference.adjust_saturation, (0.0, 0.4, 1.0, 1.7, 3.0)),
        (colour.hue, reference.adjust_hue, (-0.5, -0.2, 0.0, 0.13, 0.4)),
        (colour.sharpness, reference.adjust_sharpness, (0.0, 0.4, 1.0, 1.7, 3.0)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_float_functions_as_torchvision(function, wanted, values, channels):
    images = batch(channels)
    got = function(images.clone(), amounts(*values))
    for place, value in enumerate(values):
        assert torch.allclose(got[place], wanted(images[place] / 255, value) * 255, atol=0.02), value


@pytest.mark.parametrize("channels", KINDS)
@pytest.mark.parametrize(
    ("function", "wanted", "values"),
    [
        (colour.posterize, lambda image, bits: reference.posterize(image, int(bits)), (8.0, 6.0, 4.0, 2.0, 1.0)),
        (colour.solarize, reference.solarize, (0.0, 60.0, 128.0, 200.0, 255.0)),
        (colour.autocontrast, lambda image, _: reference.autocontrast(image), (0.0,) * 5),
        (colour.equalize, lambda image, _: reference.equalize(image), (0.0,) * 5),
    ],
    ids=["posterize", "solarize", "autocontrast", "equalize"],
)
def test_uint8_functions_as_torchvision(function, wanted, values, channels):
    images = batch(channels)
    got = function(images.clone(), amounts(*values))
    for place, value in enumerate(values):
        assert (got[place] - wanted(images[place].to(torch.uint8), value)).abs().max() <= 1, value  # it truncates


@pytest.mark.parametrize("channels", KINDS)
def test_blur_as_torchvision(channels):
    images, sigmas = batch(channels), (0.1, 0.5, 1.0, 2.0, 3.0)
    got = colour.blur(images, amounts(*sigmas), kernel_size=9)
    for place, sigma in enumerate(sigmas):
        wanted = reference.gaussian_blur(images[place], [9, 9], [sigma, sigma])
        assert torch.allclose(got[place, :, 4:-4, 4:-4], wanted[:, 4:-4, 4:-4], atol=0.02)


def test_grey_as_torchvision():
    assert torch.allclose(colour.to_grey(batch()), reference.rgb_to_grayscale(batch()), atol=0.01)


def test_erased_boxes_have_area_and_ratio_in_range():
    images = torch.ones(3000, 1, 50, 50)
    draw = Draw(0, 0, torch.arange(3000).numpy(), "0 erase")
    gone = colour.RandomErasing(p=1).change(images, draw)[:, 0] == 0
    height, width = gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(gone.sum((1, 2)), height * width)  # one box each
    area = (height * width) / 2500
    assert area.min() > 0.015
    assert area.max() < 0.345
    assert abs(area.mean() - 0.175) < 0.01
    assert 0.25 < (width / height).min() < 0.4
    assert 2.5 < (width / height).max() < 4
    middle = gone.float().mean(0)
    assert torch.allclose(middle, middle.T, atol=0.03)
    assert torch.allclose(middle, middle.flip(0), atol=0.04)


def test_a_box_that_never_fits_erases_nothing():
    images = torch.ones(4, 3, 16, 16)
    operation = colour.RandomErasing(p=1, scale=(0.9, 0.9), ratio=(3.0, 3.0))
    assert torch.equal(operation.change(images, Draw(0, 0, torch.arange(4).numpy(), "0 erase")), images)
