import numpy as np
import pytest
import torch

from images.mixing import cutmix, mix, mixup

COUNT, CLASSES = 6, 4


def batch(dtype=torch.float32):
    """Images of one value each, equal to their place, so that what was mixed can be read off."""
    images = torch.arange(COUNT, dtype=dtype).view(-1, 1, 1, 1).expand(COUNT, 3, 20, 30).clone()
    return images, torch.nn.functional.one_hot(torch.arange(COUNT) % CLASSES, CLASSES).to(dtype)


@pytest.mark.parametrize("function", [mixup, cutmix])
@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
def test_images_and_targets_are_mixed_alike(function, alpha):
    images, targets = batch(torch.float64)
    kept_images, kept_targets = images.clone(), targets.clone()
    for step in range(50):
        mixed, soft = function(images, targets, alpha, 0, 0, step)
        assert (mixed.shape, mixed.dtype, soft.shape, soft.dtype) == (
            images.shape,
            images.dtype,
            targets.shape,
            targets.dtype,
        )
        pasted = (mixed[1] - 1).mean() / (images[0, 0, 0, 0] - images[1, 0, 0, 0])  # the share of the neighbour
        assert torch.allclose(
            mixed.mean((1, 2, 3)), (1 - pasted) * torch.arange(COUNT) + pasted * torch.arange(COUNT).roll(1)
        )
        assert torch.allclose(soft, (1 - pasted) * targets + pasted * targets.roll(1, 0))
        assert torch.allclose(soft.sum(1), torch.ones(COUNT, dtype=torch.float64))
        assert 0 <= soft.min() <= soft.max() <= 1
    assert torch.equal(images, kept_images)
    assert torch.equal(targets, kept_targets)


@pytest.mark.parametrize("function", [mixup, cutmix])
def test_the_key_decides(function):
    first = function(*batch(), 1.0, 0, 0, 0)
    assert all(torch.equal(*pair) for pair in zip(first, function(*batch(), 1.0, 0, 0, 0), strict=True))
    for key in [(1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        assert not torch.equal(first[0], function(*batch(), 1.0, *key)[0])


def test_cutmix_pastes_one_box_and_weighs_its_true_area():
    images, targets = batch(torch.float64)
    shares = []
    for step in range(300):
        mixed, soft = cutmix(images, targets, 1.0, 0, 0, step)
        foreign = mixed[2, 0] != 2
        assert torch.equal((mixed != images).any(1), foreign.expand(COUNT, -1, -1))
        rows, columns = foreign.any(1).sum(), foreign.any(0).sum()
        assert foreign.sum() == rows * columns
        assert soft[2, 1] == pytest.approx(foreign.double().mean().item(), abs=1e-12)
        shares.append(foreign.double().mean().item())
    assert 0.2 < np.mean(shares) < 0.45  # a half, less what is cut off at the borders
    assert max(shares) > 0.8


def test_mixup_draws_from_its_beta_distribution():
    kept = [1 - mixup(*batch(), 0.4, 0, 0, step)[1][1, 0].item() for step in range(3000)]
    wanted = np.random.default_rng(0).beta(0.4, 0.4, 20_000)
    assert np.allclose(np.quantile(kept, np.arange(1, 10) / 10), np.quantile(wanted, np.arange(1, 10) / 10), atol=0.05)


def test_zero_switches_a_kind_off_and_both_take_turns_at_equal_odds():
    images, targets = batch()
    assert mix(images, targets, 0, 0, 0, 0, 0) == (images, targets)
    kinds = []
    for step in range(400):
        mixed, _ = mix(images, targets, 1.0, 1.0, 0, 0, step)
        ours, theirs = mixup(images, targets, 1.0, 0, 0, step)[0], cutmix(images, targets, 1.0, 0, 0, step)[0]
        assert torch.equal(mix(images, targets, 1.0, 0, 0, 0, step)[0], ours)
        assert torch.equal(mix(images, targets, 0, 1.0, 0, 0, step)[0], theirs)
        kinds.append(torch.equal(mixed, ours))
        assert torch.equal(mixed, ours if kinds[-1] else theirs)
    assert 160 < sum(kinds) < 240


def test_a_single_image_is_mixed_with_itself():
    images, targets = torch.rand(1, 3, 8, 8), torch.tensor([[0.0, 1.0]])
    for function in (mixup, cutmix):
        mixed, soft = function(images, targets, 1.0, 0, 0, 0)
        assert torch.allclose(mixed, images)
        assert torch.allclose(soft, targets)
