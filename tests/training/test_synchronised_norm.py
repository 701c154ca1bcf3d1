import copy

import pytest
import torch
from torch import nn

from training import synchronised_norm
from training.synchronised_norm import SynchronisedBatchNorm, synchronise


@pytest.fixture(autouse=True)
def _one_process(monkeypatch):
    monkeypatch.setattr(synchronised_norm.dist, "all_reduce", lambda values: None)


def timm_layer():
    return pytest.importorskip("timm.layers").BatchNormAct2d(4, act_layer=nn.SiLU)


LAYERS = {
    "1d": (lambda: nn.BatchNorm1d(4), (6, 4)),
    "2d": (lambda: nn.BatchNorm2d(4), (6, 4, 3, 5)),
    "3d": (lambda: nn.BatchNorm3d(4, momentum=None), (6, 4, 2, 3, 2)),
    "plain": (lambda: nn.BatchNorm2d(4, affine=False), (6, 4, 3, 3)),
    "untracked": (lambda: nn.BatchNorm2d(4, track_running_stats=False), (6, 4, 3, 3)),
    "timm": (timm_layer, (6, 4, 3, 3)),
}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_alone_it_is_the_layer_it_was(name, whole):
    """Outputs, gradients and statistics, over two steps in training and one in evaluation."""
    make, shape = LAYERS[name]
    layer = make()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    other = copy.deepcopy(layer)
    names = [name for name, _ in other.named_parameters()]
    assert synchronise(nn.Sequential(other)) == []
    assert isinstance(other, SynchronisedBatchNorm)
    assert [name for name, _ in other.named_parameters()] == names
    other.whole = whole
    for training in (True, True, False):
        results = []
        for each in (layer, other):
            images = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(7)) + 5).requires_grad_()
            outputs = each.train(training)(images)
            (outputs**3).sum().backward()
            results.append([outputs, images.grad, *(p.grad for p in each.parameters()), *each.buffers()])
        for ours, theirs in zip(*reversed(results), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)


def test_half_precision_stays_so():
    other = nn.BatchNorm2d(4)
    synchronise(nn.Sequential(other))
    assert other(torch.randn(6, 4, 3, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_layers_of_another_kind_are_named():
    class Own(nn.BatchNorm2d):
        pass

    net = nn.Sequential(nn.BatchNorm2d(4), Own(4), nn.InstanceNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True))
    assert synchronise(net) == ["1", "3"]
