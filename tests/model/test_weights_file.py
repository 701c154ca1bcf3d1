"""Reading weights files, hostile and damaged ones too, and fitting them to a net."""

import io
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from model.weights_file import fit, load, read_state, unwrapped
from utils import UserError


def small_net(classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, classes))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return dict(small_net().state_dict())


# --- reading ----------------------------------------------------------------------------------------------------------


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_each_format_and_nesting(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "a.safetensors")
    files: dict[str, Any] = {
        "plain.pt": state,
        "nested.pth": {"epoch": 3, "state_dict": state},
        "model.pth": {"model": state, "optimizer": {"lr": 0.1}},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    for path in tmp_path.iterdir():
        assert same(read_state(path), state), path.name
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_are_taken_off(state: dict[str, torch.Tensor], wrapper: str) -> None:
    assert same(unwrapped({f"{wrapper}{name}": value for name, value in state.items()}), state)
    assert unwrapped({}) == {}
    half = {"module.a": state["0.bias"], "b": state["0.bias"]}
    assert same(unwrapped(half), half)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_become_float32(tmp_path: Path, state: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    torch.save({k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "a.pt")
    read = read_state(tmp_path / "a.pt")
    assert {name: value.dtype for name, value in read.items()} == {name: value.dtype for name, value in state.items()}
    assert torch.allclose(read["0.weight"], state["0.weight"], atol=1e-2)


class Trap:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_code_in_a_file_is_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    for name, content in {"whole.pt": small_net(), "trap.pt": {**state, "x": Trap(tmp_path / "mark")}}.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(UserError, match=rf"{name}: holds more than tensors.*torch\.save\(net\.state_dict"):
            read_state(tmp_path / name)
    assert not (tmp_path / "mark").exists()


def test_what_is_no_state_dict(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    contents: dict[str, tuple[Any, str]] = {
        "list.pt": ([1, 2], "it holds no state dict"),
        "empty.pt": ({}, "it holds no state dict"),
        "numbers.pt": ({"a": 1}, "a is not a tensor"),
        "keys.pt": ({1: torch.zeros(1)}, "1 is not a tensor"),
        "nan.pt": ({**state, "0.bias": torch.full((5,), float("nan"))}, "0.bias has values that are not finite"),
    }
    for name, (content, message) in contents.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(UserError, match=f"{name}: is not a readable weights file .{message}"):
            read_state(tmp_path / name)
    with pytest.raises(UserError, match=r"nowhere\.pt: no such file"):
        read_state(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damage_is_one_line(tmp_path: Path, state: dict[str, torch.Tensor], suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    buffer = io.BytesIO()
    torch.save(state, buffer)
    if suffix == ".safetensors":
        save_file(state, path)
    whole = path.read_bytes() if path.exists() else buffer.getvalue()
    chance = random.Random(0)
    damaged = [b"", b"text\n" * 99, bytes(len(whole)), *(whole[: chance.randrange(len(whole))] for _ in range(20))]
    damaged += [chance.randbytes(60) + whole[60:] for _ in range(20)]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"^{path}: [^\n]*$"):
            read_state(path)


# --- fitting ----------------------------------------------------------------------------------------------------------


def test_fitting_everything(state: dict[str, torch.Tensor]) -> None:
    net = small_net()
    assert fit(net, state, ("2",), "x.pt") is True
    assert same(dict(net.state_dict()), state)


def test_a_head_for_other_classes_stays_random(state: dict[str, torch.Tensor]) -> None:
    net = small_net(classes=7)
    before = net.get_parameter("2.weight").clone()
    assert fit(net, state, ("2",), "x.pt") is False
    assert torch.equal(net.get_parameter("2.weight"), before)
    assert torch.equal(net.get_parameter("0.weight"), state["0.weight"])
    del state["2.bias"]
    assert fit(small_net(), state, ("2",), "x.pt") is False


def test_old_batch_norm_without_a_counter(state: dict[str, torch.Tensor]) -> None:
    del state["1.num_batches_tracked"]
    assert fit(small_net(), state, ("2",), "x.pt") is True


def test_what_does_not_fit_is_listed(state: dict[str, torch.Tensor]) -> None:
    state["0.weight"] = torch.zeros(5, 6)
    state["extra"] = state.pop("0.bias")
    with pytest.raises(UserError) as caught:
        fit(small_net(), state, ("2",), "x.pt: no")
    message = "x.pt: no: 0.bias is missing; extra is unexpected; 0.weight has shape (5, 6) and should have (5, 4)"
    assert str(caught.value) == message


def test_a_long_list_is_cut(state: dict[str, torch.Tensor]) -> None:
    for index in range(20):
        state[f"layer\n{index}"] = torch.zeros(1)
    with pytest.raises(UserError, match=r"^x.pt: (layer\\n\d+ is unexpected(; )?){5} … \(20 in all\)$") as caught:
        fit(small_net(), state, ("2",), "x.pt")
    assert "\n" not in str(caught.value)


def test_a_plain_state_carries_no_versions_and_loads_all_the_same() -> None:
    """MNASNet asks for its version; without one torch's own way ends in a ValueError."""
    net, other = (models.mnasnet0_5(num_classes=3) for _ in range(2))
    state = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match="version"):
        net.load_state_dict(state)
    load(net, state)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        load(net, {name: value for name, value in state.items() if "classifier" not in name})
