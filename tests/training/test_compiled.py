"""A compiled net: learns what the other learns, goes on where it was stopped, and says what it needs."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from config.schema import Params
from tests.training.runs import experiment, history, outcome
from tests.training.test_run import run
from training.compiled import compile_net
from utils import UserError

IMAGES = torch.randn(3, 8)


@pytest.mark.slow
def test_a_compiled_net_learns_the_same_and_goes_on_the_same(tiny_data, tmp_path):
    changes = {"arch": "shallow", "ps": 0.0, "num_epochs": 2, "batch_size": 9}  # batches of 9, 9 and 6
    plain, whole, in_two = (tmp_path / name for name in ("plain", "whole", "in_two"))
    assert run(experiment(plain, **changes), tiny_data) == 0
    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert run(experiment(whole, **changes, compile=1), tiny_data) == 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= before + 2  # training on 9 images, and on 6
    for expected, found in zip(history(plain)["epochs"], history(whole)["epochs"], strict=True):
        for split in ("train", "valid"):
            assert found[split]["loss"] == pytest.approx(expected[split]["loss"], rel=1e-4)
    experiment(in_two, **changes, compile=1)
    (in_two / "stop.json").write_text('{"epoch": 1}')
    assert run(in_two, tiny_data) == 0
    assert len(history(in_two)["epochs"]) == 1
    (in_two / "stop.json").unlink()
    assert run(in_two, tiny_data) == 0
    assert outcome(in_two) == outcome(whole)


def test_names_weights_and_copies_stay():
    net = nn.Sequential(nn.Linear(8, 2))
    names, expected = list(net.state_dict()), net(IMAGES)
    compile_net(net)
    assert list(net.state_dict()) == names
    assert torch.equal(copy.deepcopy(net)(IMAGES), expected)


def test_without_a_compiler_it_is_one_line(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"compile: 1 needs a C[+][+] compiler, and there is no no-such-compiler"):
        compile_net(nn.Linear(8, 2))


@pytest.mark.parametrize("monitor", [1, {"what": ["histograms"]}, {"what": ["updates", "activations"]}])
def test_what_looks_into_the_net_is_refused(monitor):
    with pytest.raises(ValidationError, match="cannot be looked into"):
        Params.model_validate({"arch": "conv", "monitor": monitor, "compile": 1})
    Params.model_validate({"arch": "conv", "monitor": {"what": ["updates"]}, "compile": 1})
    Params.model_validate({"arch": "conv", "monitor": monitor, "compile": 0})
