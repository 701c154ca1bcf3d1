"""Losses against torch, against hand loops in float64, and over the whole table."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from model import loss
from utils import UserError

COUNTS = [10, 30, 20, 40]


def _batch(seed=0, images=12, classes=4):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=generator) * 3
    return logits, torch.randint(classes, (images,), generator=generator)


def _make(name, counts=COUNTS, multi_label=False, **arguments):
    return loss.make_loss(name, arguments, counts, multi_label)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torch(smoothing):
    logits, labels = _batch()
    expected = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(_make("cross_entropy", label_smoothing=smoothing)(logits, labels), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_equal_torch_for_probabilities(smoothing):
    logits, labels = _batch(1)
    weights = [0.5, 2.0, 1.0, 3.0]
    targets = functional.one_hot(labels, 4).float()
    expected = functional.cross_entropy(logits, targets, torch.tensor(weights), label_smoothing=smoothing)
    ours = _make("cross_entropy", label_smoothing=smoothing, class_weights=weights)
    torch.testing.assert_close(ours(logits, targets), expected)
    torch.testing.assert_close(ours(logits, labels), expected)


def test_balanced_weights_give_each_class_the_same_total():
    logits = torch.zeros(sum(COUNTS), 4)
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))
    balanced = _make("cross_entropy", class_weights="balanced")
    totals = [float(balanced(logits[labels == c], labels[labels == c])) * n for c, n in enumerate(COUNTS)]
    assert totals == pytest.approx([totals[0]] * 4)
    assert float(balanced(logits, labels)) == pytest.approx(math.log(4))  # the scale of the whole loss stays


def test_focal_equals_the_formula():
    logits, labels = _batch(2)
    expected = 0.0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        p = math.exp(row[label]) / sum(map(math.exp, row))
        expected -= (1 - p) ** 1.5 * math.log(p) / len(labels)
    assert float(_make("focal", gamma=1.5)(logits, labels)) == pytest.approx(expected, rel=1e-5)


def test_focal_without_focus_is_cross_entropy():
    logits, labels = _batch(3)
    torch.testing.assert_close(_make("focal", gamma=0)(logits, labels), functional.cross_entropy(logits, labels))


@pytest.mark.parametrize("pos_weight", [1.0, 3, [1.0, 2.0, 0.5, 4.0]])
def test_bce_equals_torch(pos_weight):
    logits, _ = _batch(4)
    targets = (torch.rand(logits.shape, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    expected = functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=torch.tensor(pos_weight))
    torch.testing.assert_close(_make("bce", multi_label=True, pos_weight=pos_weight)(logits, targets), expected)
    smooth = functional.binary_cross_entropy_with_logits(logits, targets * 0.8 + 0.1)
    torch.testing.assert_close(_make("bce", multi_label=True, label_smoothing=0.2)(logits, targets), smooth)


# --- every loss ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, "balanced", [0.0, 1.0, 2.0, 0.5]])
@pytest.mark.parametrize("name", loss.LOSSES)
def test_contract(name, weights):
    """A finite scalar with finite gradients; indices as one-hot targets; arrays as tensors; the mean over images."""
    logits, labels = _batch(5)
    function = _make(name, **({"class_weights": weights} if weights else {}))
    logits.requires_grad_()
    value = function(logits, labels)
    value.backward()
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0
    logits = logits.detach()
    torch.testing.assert_close(function(logits, functional.one_hot(labels, 4).float()), value.detach())
    torch.testing.assert_close(function(logits.numpy(), labels.numpy()), value.detach())
    parts = torch.stack([function(logits[i : i + 1], labels[i : i + 1]) for i in range(len(labels))])
    torch.testing.assert_close(parts.mean(), value.detach())


@pytest.mark.parametrize("name", loss.LOSSES)
def test_mixed_targets_are_the_mixture_of_the_losses(name):
    logits, labels = _batch(6)
    one, other = (functional.one_hot(x, 4).float() for x in (labels, labels.flip(0)))
    function = _make(name, class_weights="balanced")
    mixture = 0.3 * function(logits, one) + 0.7 * function(logits, other)
    torch.testing.assert_close(function(logits, 0.3 * one + 0.7 * other), mixture)


@pytest.mark.parametrize("name", loss.LOSSES)
def test_extreme_logits_stay_finite(name):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0]], requires_grad=True)
    value = _make(name, counts=[1, 1])(logits, torch.tensor([0, 0, 1]))
    value.backward()
    assert math.isfinite(value.detach())
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", loss.LOSSES)
def test_half_precision_is_computed_in_single(name):
    logits, labels = _batch(7)
    half = logits.bfloat16()
    torch.testing.assert_close(_make(name)(half, labels), _make(name)(half.float(), labels), rtol=0, atol=0)


@pytest.mark.parametrize("name", loss.LOSSES)
def test_lower_for_the_right_class(name):
    labels = torch.arange(4)
    right, wrong = (_make(name)(x * 4, labels) for x in (torch.eye(4), torch.eye(4).roll(1, 0)))
    assert right < wrong


def test_catalogue_lists_what_make_loss_takes():
    expected = {
        "cross_entropy": {"label_smoothing", "class_weights"},
        "focal": {"gamma", "class_weights"},
        "bce": {"pos_weight", "label_smoothing", "class_weights"},
    }
    assert expected.items() <= loss.catalogue().items()
    assert loss.catalogue().keys() == loss.LOSSES.keys()


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("crossentropy", {}, 'not a known loss; did you mean "cross_entropy"'),
        ("focal", {"gama": 2}, 'loss "focal" has no argument "gama"; did you mean "gamma"'),
        ("focal", {"weights": [1, 1, 1, 1]}, 'has no argument "weights"; did you mean "class_weights"'),
        ("focal", {"gamma": -1}, "gamma must be one number from 0 to 100, got -1"),
        ("focal", {"gamma": True}, "gamma must be one number"),
        ("focal", {"gamma": [1.0, 1.0, 1.0, 1.0]}, "gamma must be one number"),
        ("cross_entropy", {"label_smoothing": 1}, "label_smoothing must be one number from 0 to 0.999, got 1"),
        ("cross_entropy", {"label_smoothing": math.nan}, "label_smoothing must be"),
        ("cross_entropy", {"class_weights": [1, 2]}, r"class_weights must be 4 numbers from 0 to 1e\+06, got \[1, 2\]"),
        ("cross_entropy", {"class_weights": "equal"}, "class_weights must be 4 numbers"),
        ("cross_entropy", {"class_weights": [1, 2, 3, "x"]}, "class_weights must be 4 numbers"),
        ("bce", {"pos_weight": 0}, "pos_weight must be one number or 4 numbers from 1e-06"),
    ],
)
def test_errors(name, arguments, match):
    with pytest.raises(UserError, match=match):
        loss.make_loss(name, arguments, COUNTS, False)


def test_balanced_needs_images_of_each_class():
    with pytest.raises(UserError, match="class number 1 has no training image"):
        _make("cross_entropy", counts=[3, 0, 2], class_weights="balanced")


def test_only_some_losses_take_several_labels():
    for name in loss.LOSSES:
        if name in loss.MULTI_LABEL:
            assert _make(name, multi_label=True)(np.zeros((2, 4)), np.ones((2, 4), np.float32)) > 0
        else:
            with pytest.raises(UserError, match='one class per image; this data has several: use "bce"'):
                _make(name, multi_label=True)
