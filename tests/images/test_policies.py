import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from images.operation import Draw
from images.policies import COLOUR, SIGNED, RandAugment, TrivialAugment
from images.sampling import sample
from tests.images.pictures import as_chw, picture, sizes_of

TORCHVISION_NAMES = {"Color": "colour", "AutoContrast": "autocontrast"}


def draw_for(count):
    return Draw(0, 0, np.arange(count), "0 policy")


def in_torchvision(transform, size):
    """name -> (amount at the least strength, at the greatest, signed), in this project's names and units."""
    spaces = {}
    for name, (magnitudes, signed) in transform._AUGMENTATION_SPACE.items():
        values = magnitudes(31, size, size)
        low, high = (0.0, 0.0) if values is None else (float(values[0]), float(values[-1]))
        name = TORCHVISION_NAMES.get(name, "".join("_" * c.isupper() + c.lower() for c in name).strip("_"))
        if name.startswith("translate"):
            low, high = low / size, high / size
        elif name in COLOUR and signed:
            low, high = 1 + low, 1 + high
        elif name == "solarize":
            low, high = 255 * low, 255 * high
        spaces[name] = (low, high, signed)
    return spaces


@pytest.mark.parametrize(("ours", "theirs"), [(RandAugment, v2.RandAugment), (TrivialAugment, v2.TrivialAugmentWide)])
def test_operations_and_their_strengths_are_torchvisions(ours, theirs):
    wanted = in_torchvision(theirs(), 224)
    assert set(ours.space) == set(wanted)
    for name, (low, high, signed) in wanted.items():
        assert ours.space[name] == pytest.approx((low, high)), name
        assert (name in SIGNED) == signed, name


@pytest.mark.parametrize("policy", [RandAugment(magnitude=15), TrivialAugment()], ids=["rand", "trivial"])
def test_every_operation_is_as_likely_and_goes_both_ways(policy):
    rounds = list(policy._rounds(draw_for(14_000)))
    assert len(rounds) == (2 if isinstance(policy, RandAugment) else 1)
    for which, amounts in rounds:
        assert np.bincount(which, minlength=14).min() > 880
        for place, (name, (low, high)) in enumerate(policy.space.items()):
            strength = (amounts[which == place] - low) / ((high - low) or 1)
            assert abs(strength).max() <= 1
            if name in SIGNED:
                assert 0.4 < (strength < 0).mean() < 0.6
            if isinstance(policy, RandAugment) and high != low:
                assert np.allclose(abs(strength), 0.5)
    if isinstance(policy, RandAugment):
        assert abs(np.corrcoef(rounds[0][0], rounds[1][0])[0, 1]) < 0.03


def always(monkeypatch, name, amount):
    """A RandAugment that does this and nothing else."""
    place = list(RandAugment.space).index(name)
    monkeypatch.setattr(
        RandAugment, "_rounds", lambda _, draw: [(np.full(len(draw), place), np.full(len(draw), float(amount)))]
    )
    return RandAugment()


@pytest.mark.parametrize(
    ("name", "amount", "settings"),
    [
        ("shear_x", 0.2, {"shear": [np.degrees(np.arctan(0.2)), 0.0], "center": [0, 0]}),
        ("shear_y", -0.2, {"shear": [0.0, np.degrees(np.arctan(-0.2))], "center": [0, 0]}),
        ("translate_x", 0.125, {"translate": [8, 0]}),
        ("translate_y", -0.25, {"translate": [0, -16]}),
        ("rotate", 20, {"angle": -20}),
    ],
)
def test_geometric_operations_as_torchvision(monkeypatch, name, amount, settings):
    one, frame = picture(64, 64), sizes_of((64, 64))
    matrices = always(monkeypatch, name, amount).matrices(draw_for(1), frame)
    got = sample(one[None], frame, matrices, 64, "fill", torch.full((3,), -1000.0))[0]
    everything = {"angle": 0, "translate": [0, 0], "scale": 1, "shear": [0, 0]} | settings
    pair = torch.stack([as_chw(one), torch.full((3, 64, 64), 255.0)])
    wanted, there = reference.affine(pair, interpolation=v2.InterpolationMode.BILINEAR, **everything)
    inside = (got > -500) & (there > 254)
    assert inside.float().mean() > 0.5
    assert (got - wanted).abs()[inside].max() < 2


@pytest.mark.parametrize("name", COLOUR)
def test_colour_operations_change_only_their_own_images(monkeypatch, name):
    images = torch.stack([as_chw(picture(24, 24, seed=seed)) for seed in range(6)])
    amount = {"posterize": 3, "solarize": 100}.get(name, 1.5)
    place = list(RandAugment.space).index(name)
    which = np.where(np.arange(6) % 2, place, 0)
    monkeypatch.setattr(RandAugment, "_rounds", lambda *_: [(which, np.full(6, float(amount)))])
    got = RandAugment().change(images.clone(), draw_for(6))
    wanted = COLOUR[name](images.clone(), torch.full((6, 1, 1, 1), float(amount)))
    assert torch.equal(got[::2], images[::2])
    assert torch.allclose(got[1::2], wanted[1::2], atol=0.01)
    assert not torch.equal(got[1::2], images[1::2])


def test_no_operations_change_nothing():
    policy, images = RandAugment(num_ops=0), torch.rand(2, 3, 8, 8)
    assert np.array_equal(policy.matrices(draw_for(2), sizes_of((8, 8), (8, 9))), np.tile(np.eye(3), (2, 1, 1)))
    assert torch.equal(policy.change(images.clone(), draw_for(2)), images)
