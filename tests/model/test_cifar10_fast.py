"""The net of experiments/cifar10_fast: what its stem does, and how it begins."""

import math

import pytest
import torch
from torch.nn import functional

import include
from config.schema import Params
from model.net import build_net

PARAMS = {"arch": "net.py", "pretrain": 0, "im_sz": 32}


@pytest.fixture(params=[1, 3])
def net(request):
    torch.manual_seed(0)
    params = Params.model_validate(PARAMS | {"channels": request.param})
    return build_net(params, 10, include.ROOT / "experiments" / "cifar10_fast").net


def test_the_stem_whitens_what_looks_like_a_photograph(net):
    """Its filters on patches drawn from the covariance it assumes: variance 1 each, uncorrelated."""
    filters = net.stem.weight.flatten(1)
    half = filters[: len(filters) // 2]
    assert torch.equal(filters[len(half) :], -half)
    assert half.shape == (half.shape[1],) * 2
    channels = half.shape[1] // 4
    places = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    space = 0.95 ** torch.cdist(places, places)
    covariance = torch.kron(0.9 ** (1 - torch.eye(channels)), space)
    torch.testing.assert_close(half @ covariance @ half.T, torch.eye(len(half)), atol=1e-3, rtol=0)


def test_a_new_net_is_sure_of_nothing(net):
    images = torch.randn(16, net.stem.weight.shape[1], 32, 32)
    loss = functional.cross_entropy(net(images), torch.arange(16) % 10)
    assert loss.item() == pytest.approx(math.log(10), abs=0.3)


def test_convolutions_begin_as_the_identity(net):
    images = torch.randn(2, len(net.stem.bias), 8, 8)
    after = net.stage_1[0][0](images)
    torch.testing.assert_close(after[:, : images.shape[1]], images)
    assert net.stage_1[0][0](images).shape == (2, 64, 8, 8)


def test_it_learns(net):
    images, labels = torch.randn(16, net.stem.weight.shape[1], 32, 32), torch.arange(16) % 4
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert net.stem.weight.grad is None
