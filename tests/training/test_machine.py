"""What the machine decides: its reasons, and depthwise convolutions in float32 under bf16 on a CPU."""

import copy
import logging
from dataclasses import asdict

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from config.schema import Params
from training import machine as machine_module
from training.depthwise import Float32Conv2d
from training.machine import Machine, choose_machine, reasons
from utils import UserError

CPU = {"device": "cpu", "memory_format": "channels_last", "threads": 1, "version": ""}


def depthwise(net):
    return {name for name, module in net.named_modules() if isinstance(module, nn.Conv2d) and module.groups > 1}


def in_float32(net):
    return {name for name, module in net.named_modules() if isinstance(module, Float32Conv2d)}


@pytest.mark.parametrize(("precision", "all_of_them"), [("bf16", True), ("fp32", False)])
def test_depthwise_convolutions_of_a_bf16_net(precision, all_of_them):
    net = mobilenet_v2(num_classes=3)
    names, weights = depthwise(net), copy.deepcopy(net.state_dict())
    taken = Machine(precision=precision, **CPU).take(net)
    assert len(names) == 17
    assert in_float32(taken) == (names if all_of_them else set())
    assert in_float32(copy.deepcopy(taken)) == in_float32(taken)
    for name, tensor in taken.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_grouped_convolutions_that_mix_channels_stay_as_they_are():
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(1, 8, 3, groups=1))
    assert in_float32(Machine(precision="bf16", **CPU).take(net)) == {"1"}


def test_it_computes_in_float32_what_the_layer_computes():
    machine, images = Machine(precision="bf16", **CPU), torch.randn(2, 8, 6, 6)
    plain = nn.Conv2d(8, 8, 3, groups=8)
    layer = machine.take(nn.Sequential(copy.deepcopy(plain)))
    with machine.autocast():
        out = layer(images.bfloat16())
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, plain(images.bfloat16().float()))
    out.sum().backward()
    assert layer[0].weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("asked", "name", "reason"),
    [
        ({}, "precision", "bf16 instructions"),
        ({}, "memory_format", "faster"),
        ({}, "threads", "OMP_NUM_THREADS"),
        ({}, "device", "no GPU"),
        ({"cuda": 0}, "device", "as params.json asks"),
        ({"precision": "bf16"}, "precision", "as params.json asks"),
        ({"memory_format": "channels_last"}, "memory_format", "as params.json asks"),
        ({"threads": 1}, "threads", "as params.json asks"),
    ],
)
def test_reasons(asked, name, reason, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    params = Params.model_validate({"arch": "conv", **asked})
    assert reason in reasons(params, Machine(precision="bf16", **CPU))[name]


def test_another_processor_is_other_arithmetic(monkeypatch, caplog):
    params = Params(arch="conv", cuda=0, precision="fp32")
    before = asdict(choose_machine(params, None, exact=False))
    with caplog.at_level(logging.WARNING):
        assert asdict(choose_machine(params, before, exact=True)) == before
        older = {name: value for name, value in before.items() if name != "processor"}
        choose_machine(params, older, exact=True)
    assert not caplog.records
    monkeypatch.setattr(machine_module, "_processor", lambda device: "another")
    with pytest.raises(UserError, match=rf"--exact: .*processor {before['processor']} -> another"):
        choose_machine(params, before, exact=True)
