"""The check of maps: it praises a true map, warns of a false one, and equals a loop by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reports.attribution import attribute
from reports.faithfulness import STEPS, Faithfulness, faithfulness
from tests.reports.test_attribution import Spot, spots
from tests.reports.test_feature_maps import assert_same, busy_net, images, state_of

STRIPED = torch.zeros(8, dtype=torch.int64)


class Stripes(nn.Module):
    """Class 0 is how many narrow stripes there are, which no blur leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 1, 4, 4, bias=False)
        with torch.no_grad():
            self.features.weight.copy_(torch.tensor([1.0, -1, 1, -1]).expand(1, 3, 4, 4) / 24)
        self.classifier = nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.tensor([[60.0], [0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.classifier(self.features(x).relu().mean((2, 3)))
        return answer


def batch() -> Tensor:
    """Eight grey images with a patch of stripes, each elsewhere."""
    image = torch.full((3, 64, 64), 0.5)
    image[:, 8:24, 8:24] = (torch.arange(16) % 2 == 0).float()
    return torch.stack([torch.roll(image, (4 * number, 12 * number % 40), (1, 2)) for number in range(8)])


def test_a_true_map_is_told_from_a_false_one() -> None:
    net = Stripes()
    found = attribute(net, batch(), STRIPED, "grad_cam")
    true = faithfulness(net, batch(), STRIPED, found.maps, found.cells, seed=0)
    false = faithfulness(net, batch(), STRIPED, 1 - found.maps, found.cells, seed=0)
    assert (true.deletion < true.random_deletion).all()
    assert (true.insertion > true.random_insertion).all()
    assert all(interval.low > 0 for _, interval in true.gains.values())
    assert (
        true.verdict
        == "On these 8 images the maps show what the net goes by better than random maps do, by both measures."
    )
    assert (false.deletion > true.deletion).all()
    assert false.verdict.endswith("do not trust them.")
    assert np.array_equal(true.random_deletion, false.random_deletion)


def test_one_of_two_measures() -> None:
    good, bad = np.full(5, 0.2) + np.arange(5) / 100, np.full(5, 0.6)
    half = Faithfulness(deletion=good, insertion=good, random_deletion=bad, random_insertion=bad)
    assert (
        half.verdict
        == "On these 5 images the maps are better than random ones by deletion alone: trust them with care."
    )
    assert half.gains["deletion"][0] == pytest.approx(0.38)
    assert half.gains["insertion"][0] == pytest.approx(-0.38)


def test_deletion_by_hand() -> None:
    net, image = Spot(), spots()[:1]
    heat = np.random.default_rng(0).permutation(64 * 64).reshape(1, 64, 64).astype(np.float32)  # no two alike
    chances = []
    for step in range(STEPS + 1):
        left = image.clone()
        left[:, :, torch.from_numpy(heat[0] > 64 * 64 - 1 - step * 64 * 64 / STEPS)] = 0
        chances.append(float(net(left).detach().softmax(1)[0, 0]))
    found = faithfulness(net, image, torch.tensor([0]), heat, 16, seed=0)
    assert found.deletion[0] == pytest.approx(np.trapezoid(chances, dx=1 / STEPS), abs=1e-6)
    several = faithfulness(net, image, torch.tensor([0]), heat, 16, seed=0, multi_label=True)
    assert several.deletion[0] != pytest.approx(found.deletion[0])


def test_a_map_without_differences_is_like_a_random_one_and_seeds_repeat() -> None:
    net = Stripes()
    flat = np.zeros((8, 64, 64), np.float32)
    first, again, other = (faithfulness(net, batch(), STRIPED, flat, 16, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.deletion, again.deletion)
    assert not np.array_equal(first.random_deletion, other.random_deletion)
    assert not first.verdict.startswith("On these 8 images the maps show")


def test_the_net_stays_as_it_was() -> None:
    net = busy_net()
    before = state_of(net)
    faithfulness(net, images(28), torch.tensor([1, 3]), np.random.default_rng(0).random((2, 28, 28)), 7, seed=0)
    assert_same(before, state_of(net))
