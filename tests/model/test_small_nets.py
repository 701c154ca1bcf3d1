"""The small nets: every size and channel count, and that they learn."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from config.schema import Params
from model.net import ARCHS, build_net

pytestmark = pytest.mark.parametrize("arch", ARCHS)

SIZES = {"shallow": (2, 408_000), "deep": (4, 568_000), "conv": (1, 464_000)}  # linear layers, parameters


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("im_sz", [8, 31, 224])
def test_forward_backward_and_round_trip_at_any_size(arch: str, im_sz: int, channels: int) -> None:
    params = Params.model_validate({"arch": arch, "im_sz": im_sz, "channels": channels})
    built = build_net(params, num_classes=5)
    assert built.statistics is None
    assert built.weights is None
    images = torch.randn(4, channels, im_sz, im_sz)
    logits = built.net(images)
    assert logits.shape == (4, 5)
    logits.logsumexp(1).sum().backward()
    assert all(parameter.grad is not None for parameter in built.net.parameters())

    other = build_net(params, num_classes=5).net
    other.load_state_dict(built.net.state_dict())
    assert torch.equal(other.eval()(images), built.net.eval()(images))


def test_size(arch: str) -> None:
    if arch not in SIZES:
        pytest.skip("its size was not promised")
    net = build_net(Params(arch=arch, im_sz=28, channels=1), num_classes=10).net
    hidden = [module for module in net.modules() if isinstance(module, nn.Linear)]
    size = sum(parameter.numel() for parameter in net.parameters())
    assert (len(hidden), round(size, -3)) == SIZES[arch]


def test_ps_is_the_dropout(arch: str) -> None:
    images = torch.randn(4, 3, 16, 16)
    for ps in (0.0, 0.5):
        net = build_net(Params(arch=arch, im_sz=16, ps=ps), num_classes=3).net.eval()
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.train()
                assert module.p == ps
        assert torch.equal(net(images), net(images)) == (ps == 0)


def test_learns(arch: str) -> None:
    torch.manual_seed(0)
    labels = torch.arange(16) % 4
    images = torch.randn(16, 1, 12, 12) * 0.5
    images[torch.arange(16), 0, labels * 3] += 1  # a bright row tells the class
    net = build_net(Params(arch=arch, im_sz=12, channels=1, ps=0.1), num_classes=4).net
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    assert torch.equal(net.eval()(images).argmax(1), labels)
