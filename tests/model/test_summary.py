"""The summary of a net: its totals against torchvision's published ones, and that the net is left alone."""

import pytest
import torch
from torch import nn
from torchvision import models

from config.schema import Params
from model.groups import layer_groups
from model.net import build_net
from model.summary import summarise


def test_small_net() -> None:
    net = build_net(Params(arch="conv", im_sz=28, channels=1), 10).net
    groups = layer_groups(net, 3, (1, 1, 28, 28), 10)
    for name in groups[0]:
        net.get_parameter(name).requires_grad_(False)
    text = summarise(net, (1, 1, 28, 28), groups)
    lines = [line.split() for line in text.splitlines()]
    assert ["stem.0", "Conv2d", "32", "x", "28", "x", "28", "288", "0"] in lines
    assert ["classifier", "Linear", "10", "1,290", "2"] in lines
    assert ["flatten", "Flatten", "128"] in lines
    assert ["0", "55,904", "0"] in lines
    assert ["2", "1,290", "1,290"] in lines
    last = text.splitlines()[-1]
    assert last.startswith(
        "463,594 parameters, 407,690 of them trainable; 36,353,792 multiply-adds for one image of 1 x"
    )
    assert "torch.utils.flop_counter" in last
    assert text.endswith("\n")


@pytest.mark.parametrize(
    "arch",
    ["shufflenet_v2_x0_5", *(pytest.param(a, marks=pytest.mark.slow) for a in ("resnet18", "vit_b_32", "swin_t"))],
)
def test_counts_are_those_torchvision_publishes(arch: str) -> None:
    net = build_net(Params(arch=arch, pretrain=False), 1000).net
    published = models.get_model_weights(arch).DEFAULT.meta
    last = summarise(net, (1, 3, 224, 224), [[name for name, _ in net.named_parameters()]]).splitlines()[-1]
    words = last.replace(",", "").split()
    assert int(words[0]) == published["num_params"]
    assert int(words[6]) / 1e9 == pytest.approx(published["_ops"], abs=5.1e-4)


def test_every_parameter_is_in_the_table_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2), nn.Linear(4, 2))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.inner = nn.Parameter(torch.ones(3)), net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.inner[0](x.mean(1))
            return self.inner[2](self.inner[1](x, x, x)[0][:, 0])  # type: ignore[no-any-return]

    whole = Net()
    rows = summarise(whole, (8, 3, 4, 4), [["scale"], [n for n, _ in net.named_parameters("inner")]]).split("\n\n")[0]
    names = [line.split()[0] for line in rows.splitlines()[2:]]
    assert names == ["(net)", "inner.0", "inner.1", "inner.1.out_proj", "inner.2"]
    numbers = [int(line.split()[-2]) for line in rows.splitlines()[2:]]
    assert sum(numbers) == sum(parameter.numel() for parameter in whole.parameters())


def test_the_net_is_left_as_it_was() -> None:
    net = build_net(Params(arch="conv", im_sz=12), 4).net
    net.get_submodule("stem").eval()
    modes = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random, fast_attention = torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    summarise(net, (1, 3, 12, 12), [[name for name, _ in net.named_parameters()]])
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.backends.mha.get_fastpath_enabled() == fast_attention
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    with pytest.raises(RuntimeError):
        summarise(net, (1, 1, 12, 12), [])
    assert [module.training for module in net.modules()] == modes


def test_a_net_without_parameters() -> None:
    text = summarise(nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), (1, 3, 4, 4), [])
    assert "0 parameters, 0 of them trainable; 0 multiply-adds for one image of 3 x 4 x 4" in text
