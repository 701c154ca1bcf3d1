import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import include
from images.augment import AUGMENTATIONS, Augment, catalogue, describe, from_description, normalise
from images.geometry import Warp
from images.view import View
from tests.images.pictures import as_chw, canvas_of, picture
from utils import UserError

SIDE = 32
SIZES = [(37, 37), (37, 50), (64, 37), (20, 31), (37, 74), (37, 40), (5, 4), (90, 60)]
MEAN, STD = (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)
NO_COLOUR = {"greyscale"}  # nothing to see on grey images


def make(operations, channels=3, **settings):
    return Augment(operations, SIDE, MEAN[:channels], STD[:channels], **settings)


def batch(channels=3, count=8, poison=0):
    pictures = [picture(*SIZES[place % len(SIZES)], channels, seed=place) for place in range(count)]
    return *canvas_of(pictures, poison), torch.arange(count) * 7


def run(augment, inputs, epoch=0, seed=0):
    canvas, sizes, indices = inputs
    return augment(canvas, sizes, seed, epoch, indices)


def in_values(images, channels=3):
    """Normalised images as values in 0 … 255."""
    mean, std = (torch.tensor(numbers[:channels]).view(-1, 1, 1) for numbers in (MEAN, STD))
    return (images * std + mean) * 255


# --- the contract of every augmentation --------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_keeps_the_contract(name, channels):
    augment, inputs = make([name], channels), batch(channels)
    before = inputs[0].clone()
    images = run(augment, inputs)
    assert images.shape == (len(SIZES), channels, SIDE, SIDE)
    assert images.dtype == torch.float32
    assert torch.isfinite(images).all()
    values = in_values(images, channels)
    assert -0.1 <= values.min() <= values.max() <= 255.1
    assert torch.equal(run(augment, inputs), images)
    assert torch.equal(inputs[0], before)
    if channels == 3 or name not in NO_COLOUR:
        plain = run(make([], channels), inputs)
        epochs = [run(augment, inputs, epoch) for epoch in range(4)]
        assert any(not torch.equal(one, plain) for one in epochs)
        assert any(not torch.equal(one, epochs[0]) for one in epochs)
        assert any(not torch.equal(run(augment, inputs, epoch, seed=1), epochs[epoch]) for epoch in range(4))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_image_is_augmented_alike_in_any_batch(name):
    augment = make([name, "random_erasing"])
    canvas, sizes, indices = batch(poison=255)
    together = augment(canvas, sizes, 0, 1, indices)
    for place in (3, 0, 7):
        height, width = sizes[place]
        alone = augment(canvas[[place], :height, :width], sizes[[place]], 0, 1, indices[[place]])[0]
        assert ((alone - together[place]).abs() > 1e-3).float().mean() < 0.005
    order = torch.randperm(len(SIZES), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(augment(canvas[order], sizes[order], 0, 1, indices[order]), together[order], atol=1e-4)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_all_work_is_done_on_the_device_of_the_canvas(name):
    """The meta device refuses tensors of any other beside its own."""
    canvas, sizes, indices = batch()
    for resize in ("crop", "letterbox"):
        assert make([name], resize=resize)(canvas.to("meta"), sizes, 0, 0, indices).device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", [*AUGMENTATIONS, "v2.RandomInvert"])
def test_a_gpu_gives_what_the_cpu_gives(name):
    canvas, sizes, indices = batch()
    on_gpu = make([name])(canvas.cuda(), sizes, 0, 0, indices)
    assert on_gpu.device.type == "cuda"
    assert ((on_gpu.cpu() - run(make([name]), (canvas, sizes, indices))).abs() > 1e-2).float().mean() < 0.005


@pytest.mark.parametrize("resize", ["crop", "letterbox", "squash"])
def test_nothing_but_the_images_own_pixels_is_seen(resize):
    augment = make(["rotation", {"name": "zoom", "scale": [0.5, 0.6]}, "rand_augment", "gaussian_blur"], resize=resize)
    assert torch.equal(run(augment, batch(poison=0)), run(augment, batch(poison=255)))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_probability_zero_touches_nothing(name):
    assert torch.equal(run(make([{"name": name, "p": 0}]), batch()), run(make([]), batch()))


@pytest.mark.parametrize("name", sorted(set(AUGMENTATIONS) - {"alternating_flip", "random_erasing"}))
def test_the_probability_is_the_share_of_images_touched(name):
    strong = {
        "colour_jitter": {"brightness": [0.5, 0.6]},
        "trivial_augment": {},
        "rand_augment": {"num_ops": 8, "magnitude": 20},
    }
    augment = make([{"name": name, "p": 0.3, **strong.get(name, {})}])
    inputs = batch(count=600)
    touched = (run(augment, inputs) - run(make([]), inputs)).abs().amax((1, 2, 3)) > 0.02
    assert 0.2 < touched.float().mean() < 0.37


# --- how operations come together ----------------------------------------------------------------------------------


def test_without_operations_it_is_the_evaluation_image():
    stored, wanted = (
        [View(SIDE, "crop", 0.875, 3, (255, 255, 255), training).apply(picture(*size).numpy()) for size in SIZES[:3]]
        for training in (True, False)
    )
    canvas, sizes = canvas_of([torch.from_numpy(one) for one in stored])
    images = make([])(canvas, sizes, 0, 0, torch.arange(3))
    evaluation = normalise(as_chw(torch.from_numpy(np.stack(wanted))), MEAN, STD)
    assert torch.allclose(images, evaluation, atol=1e-3)


def test_normalise_as_torchvision():
    from torchvision.transforms.v2 import functional as reference

    images = as_chw(torch.stack([picture(9, 8), picture(9, 8, seed=1)]))
    wanted = reference.normalize(images / 255, list(MEAN), list(STD))
    assert torch.allclose(normalise(images.to(torch.uint8), MEAN, STD), wanted, atol=1e-5)
    assert images.max() > 100  # left as they were


def test_flip_is_torch_flip():
    for name, axis in (("horizontal_flip", -1), ("vertical_flip", -2)):
        flipped = run(make([{"name": name, "p": 1}], crop_fraction=1.0), batch())
        assert torch.allclose(flipped, run(make([], crop_fraction=1.0), batch()).flip(axis), atol=2e-3)


def test_geometric_operations_act_in_the_order_named():
    right_angle = {"name": "rotation", "degrees": [90, 90]}
    flip = {"name": "horizontal_flip", "p": 1}
    plain = run(make([], resize="squash"), batch())
    turned_then_flipped = run(make([right_angle, flip], resize="squash"), batch())
    assert torch.allclose(turned_then_flipped, plain.rot90(1, (2, 3)).flip(3), atol=0.01)
    flipped_then_turned = run(make([flip, right_angle], resize="squash"), batch())
    assert torch.allclose(flipped_then_turned, plain.flip(3).rot90(1, (2, 3)), atol=0.01)


def test_a_crop_takes_the_place_of_the_plain_view():
    whole = {"name": "random_resized_crop", "scale": [1, 1], "ratio": [1, 1]}
    canvas, sizes = canvas_of([picture(64, 64)])
    images = make([whole])(canvas, sizes, 0, 0, torch.arange(1))
    squashed = make([], resize="squash")(canvas, sizes, 0, 0, torch.arange(1))
    assert torch.allclose(images, squashed, atol=1e-4)
    # rotation sees the pixels that the plain view cuts off, and a crop of the turned image is a crop of its own shape
    assert not torch.allclose(images, make([])(canvas, sizes, 0, 0, torch.arange(1)), atol=0.05)


def test_two_equal_operations_draw_their_own_numbers():
    once, twice = (
        run(make([{"name": "rotation", "degrees": 40}] * count, resize="squash"), batch()) for count in (1, 2)
    )
    doubled = run(make([{"name": "rotation", "degrees": 80}], resize="squash"), batch())
    assert not torch.allclose(once, twice, atol=0.1)
    assert not torch.allclose(doubled, twice, atol=0.1)


@pytest.mark.parametrize(("resize", "seen"), [("letterbox", (10, 200, 30)), ("squash", None)])
def test_letterbox_fills_and_others_reflect(resize, seen):
    augment = make([{"name": "zoom", "scale": [0.5, 0.5]}], resize=resize, background=(10, 200, 30))
    corner = in_values(run(augment, batch()))[:, :, 0, 0]
    matches = torch.isclose(corner, torch.tensor([10.0, 200.0, 30.0]), atol=0.5).all(1)
    assert matches.all() if seen else not matches.any()
    grey = make([{"name": "zoom", "scale": [0.5, 0.5]}], 1, resize="letterbox", background=(10, 200, 30))
    corner = in_values(run(grey, batch(1)), 1)[:, 0, 0, 0]
    assert torch.allclose(corner, torch.tensor(0.2989 * 10 + 0.587 * 200 + 0.114 * 30), atol=0.5)


def test_erased_is_the_mean_whatever_comes_after_it():
    images = run(make([{"name": "random_erasing", "p": 1}, "colour_jitter"]), batch())
    assert ((images == 0).all(1).float().mean((1, 2)) > 0.01).all()


# --- progressive resizing --------------------------------------------------------------------------------------------


def test_sides_grow_in_equal_steps_to_the_full_one():
    augment = Augment([], 224, MEAN, STD, progressive=(128, 4))
    assert [augment.side(epoch) for epoch in range(6)] == [128, 152, 176, 200, 224, 224]
    assert [Augment([], 64, MEAN, STD, progressive=(60, 3)).side(epoch) for epoch in range(4)] == [60, 60, 60, 64]
    assert make([]).side(0) == SIDE


def test_small_images_are_the_same_pictures_smaller():
    spec, inputs = ["random_resized_crop", "horizontal_flip"], batch()
    growing, full = make(spec, progressive=(16, 2)), make(spec)
    for epoch, side in enumerate((16, 24, SIDE)):
        small, large = in_values(run(growing, inputs, epoch)), in_values(run(full, inputs, epoch))
        assert small.shape == (len(SIZES), 3, side, side)
        expected = torch.nn.functional.interpolate(large, (side, side), mode="area")
        assert (small - expected).abs().mean() < 6
    assert torch.equal(small, large)


# --- names, arguments, description ----------------------------------------------------------------------------------


def test_descriptions_are_json_and_restore_the_augmentation():
    spec = [*AUGMENTATIONS, {"name": "affine", "shear": [-5, 5, -3, 3], "translate": [0.1, 0.2]}]
    spec += [{"name": "colour_jitter", "brightness": 0.5, "hue": [-0.1, 0.2]}, {"name": "v2.RandomInvert", "p": 0.9}]
    augment = make(spec, resize="squash", crop_fraction=0.9, background=[0, 0, 0], progressive=(16, 3))
    description = json.loads(json.dumps(describe(augment)))
    assert description["operations"][0] == {
        "name": "random_resized_crop", "p": 1.0, "scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]
    }  # fmt: skip
    assert description["operations"][-1] == {"name": "v2.RandomInvert", "p": 0.9}
    restored = from_description(description)
    assert describe(restored) == describe(augment)
    assert torch.equal(run(restored, batch()), run(augment, batch()))


def test_it_can_be_pickled():
    augment = make(["random_resized_crop", "rand_augment", {"name": "v2.ColorJitter", "brightness": 0.5}])
    copy = pickle.loads(pickle.dumps(augment))  # noqa: S301 (its own bytes)
    assert torch.equal(run(copy, batch()), run(augment, batch()))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (["rotatoin"], '"rotatoin" is not a known augmentation; did you mean "rotation"'),
        ([{"name": "rotation", "degres": 3}], '"rotation": "degres" is not an argument; did you mean "degrees"'),
        ([{"name": "rotation", "degrees": -3}], 'rotation": degrees: Input should be a number ≥ 0, or .*; got -3'),
        ([{"name": "rotation", "degrees": [5, -5]}], 'rotation": degrees: .*low number before the high'),
        ([{"name": "rotation", "degrees": "10"}], 'rotation": degrees: .*; got \'10\''),
        ([{"name": "rotation", "degrees": float("nan")}], 'rotation": degrees: .*; got'),
        ([{"name": "rotation", "padding_mode": "wrap"}], "padding_mode: Input should be 'reflection', 'border' or 'fi"),
        ([{"name": "random_resized_crop", "scale": [0, 1]}], r"scale: Input should be greater than 0; got \[0, 1\]"),
        ([{"name": "random_resized_crop", "scale": 0.5}], "scale: Input should be a valid tuple; got 0.5"),
        ([{"name": "horizontal_flip", "p": 1.5}], "p: Input should be less than or equal to 1; got 1.5"),
        ([{"name": "horizontal_flip", "p": True}], "p: Input should be a valid number; got True"),
        ([{"name": "random_crop", "padding": 1.5}], "padding: Input should be a valid integer; got 1.5"),
        ([{"name": "colour_jitter", "hue": 0.7}], "hue: Input should be .* -0.5; got 0.7"),
        ([{"name": "gaussian_blur", "kernel_size": 4}], "kernel_size: Input should be odd; got 4"),
        ([{"name": "rand_augment", "num_ops": True}], "num_ops: Input should be a valid integer; got True"),
        ([{"p": 1}], 'each entry is a name, or an object with "name"'),
        (
            [{"name": "zoom", "padding_mode": "fill"}, "affine", {"name": "rotation", "padding_mode": "border"}],
            "one padding_mode; got border and fill",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(spec, message):
    with pytest.raises(UserError, match=message) as error:
        make(spec)
    assert "\n" not in str(error.value)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(UserError) as error:
        make(["rotatoin", {"name": "zoom", "scale": [1, 1000], "q": 1}, {"name": "v2.Nothing"}, "horizontal_flip"])
    assert len(str(error.value).splitlines()) == 4


def test_the_catalogue_names_every_augmentation_and_its_arguments():
    names = catalogue()
    assert set(names) == set(AUGMENTATIONS)
    assert names["rotation"] == {"p", "degrees", "padding_mode"}
    assert "v2.Nothing" not in names
    assert names["v2.ColorJitter"] == {"brightness", "contrast", "saturation", "hue"}
    assert "v2.RandomInvert" in list(names)  # for the nearest-name hint


def test_torchvision_is_imported_only_for_its_own_transforms():
    code = (
        "import sys; from images.augment import AUGMENTATIONS, Augment, catalogue;"
        "Augment(list(AUGMENTATIONS), 8, (0.5,), (0.5,)); 'rotatoin' in catalogue();"
        "assert 'torchvision' not in sys.modules; 'v2.JPEG' in catalogue(); assert 'torchvision' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=include.ROOT)


def test_every_operation_documents_its_arguments():
    for name, operation in AUGMENTATIONS.items():
        shared = set(Warp.model_fields)  # documented once
        for argument in set(operation.model_fields) - shared:
            assert f"\n        {argument}: " in str(operation.__doc__), f"{name}: {argument}"
