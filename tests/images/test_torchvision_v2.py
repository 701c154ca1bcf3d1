import pytest
import torch
from torchvision.transforms import v2

from images.augment import Augment
from images.keyed_random import integer_seed
from tests.images.pictures import as_chw, canvas_of, picture
from utils import UserError

SIDE = 32


def run(spec, count=4, epoch=0, channels=3):
    canvas, sizes = canvas_of([picture(SIDE, SIDE, channels, seed) for seed in range(count)])
    augment = Augment(spec, SIDE, (0.0,) * channels, (1.0,) * channels, resize="squash")
    return augment(canvas, sizes, 0, epoch, torch.arange(count) + 5) * 255


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "v2.ColorJitter", "brightness": 0.5, "hue": 0.2},
        {"name": "v2.RandomInvert"},
        {"name": "v2.GaussianBlur", "kernel_size": [3, 5]},
        {"name": "v2.AutoAugment"},
        {"name": "v2.AugMix"},
        {"name": "v2.ElasticTransform", "alpha": 30.0},
        {"name": "v2.RandomPhotometricDistort"},
        {"name": "v2.RandomResizedCrop", "size": SIDE},
    ],
    ids=lambda spec: spec["name"],
)
def test_transforms_are_keyed_by_seed_epoch_and_index(spec):
    state = torch.get_rng_state()
    images = run([spec])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(run([spec]), images)
    assert any(not torch.equal(run([spec], epoch=epoch), images) for epoch in range(1, 4))
    assert images.shape == (4, 3, SIDE, SIDE)
    for place in range(4):
        transform = getattr(v2, spec["name"][3:])(**{key: value for key, value in spec.items() if key != "name"})
        with torch.random.fork_rng():
            torch.manual_seed(integer_seed(0, 0, place + 5, f"0 {spec['name']}"))
            wanted = transform(as_chw(picture(SIDE, SIDE, seed=place)).to(torch.uint8))
        assert torch.allclose(images[place], wanted.float(), atol=0.01)


def test_transforms_take_their_turn_among_the_others():
    first, second = {"name": "colour_jitter", "brightness": [2, 2]}, {"name": "v2.RandomInvert", "p": 1.0}
    images = as_chw(torch.stack([picture(SIDE, SIDE, seed=seed) for seed in range(4)]))
    quiet = {"contrast": 0, "saturation": 0}
    bright_first = run([first | quiet, second])
    assert torch.allclose(bright_first, 255 - (images * 2).clamp(max=255), atol=0.6)
    invert_first = run([second, first | quiet])
    assert torch.allclose(invert_first, ((255 - images) * 2).clamp(max=255), atol=0.1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("v2.RandomInvrt", '"v2.RandomInvrt" is not in torchvision.transforms.v2; did you mean "v2.RandomInvert"'),
        ({"name": "v2.RandomInvert", "q": 1}, '"v2.RandomInvert": .*unexpected keyword argument'),
        ({"name": "v2.GaussianBlur", "kernel_size": 4}, '"v2.GaussianBlur": Kernel size'),
        ({"name": "v2.Normalize", "mean": [0.5], "std": [0.5]}, '"v2.Normalize" cannot transform an image'),
        ({"name": "v2.ToDtype", "dtype": "float32"}, '"v2.ToDtype"'),
        ("v2.ConvertImageDtype", '"v2.ConvertImageDtype" makes float32 .*it must keep both'),
        ("v2.ToPILImage", '"v2.ToPILImage" makes Image of an image'),
        ({"name": "v2.CenterCrop", "size": 8}, r'"v2.CenterCrop" makes uint8 \(3, 8, 8\)'),
        ({"name": "v2.FiveCrop", "size": 8}, '"v2.FiveCrop" makes tuple'),
        ({"name": "v2.MixUp", "num_classes": 3}, '"v2.MixUp" cannot transform'),
        ({"name": "v2.Compose", "transforms": []}, '"v2.Compose"'),
    ],
    ids=str,
)
def test_what_cannot_stand_here_is_refused_at_once(spec, message):
    with pytest.raises(UserError, match=message) as error:
        Augment([spec], SIDE, (0.5,) * 3, (0.5,) * 3)
    assert "\n" not in str(error.value)


def test_grey_images_too():
    assert run([{"name": "v2.RandomInvert", "p": 1.0}], channels=1).shape == (4, 1, SIDE, SIDE)
