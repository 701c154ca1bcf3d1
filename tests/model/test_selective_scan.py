"""The selective scan: every way to compute it against a plain loop in float64, values and gradients."""

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model import selective_scan as module
from model.selective_scan import selective_scan

SHAPES = [(2, 196, 3, 8), (3, 49, 5, 8), (2, 2, 3, 2), (1, 7, 4, 1)]  # batch, tokens, channels, states


def inputs(shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Tensor]:
    """u, delta, A, B, C, D as a trained mixer has them: steps from 0.001 on, rates from -20 to -0.1."""
    batch, tokens, channels, states = shape
    random = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=random, dtype=torch.float64)

    values = [
        normal(batch, tokens, channels),
        functional.softplus(normal(batch, tokens, channels) - 3),
        -normal(channels, states).exp(),
        normal(batch, tokens, states),
        normal(batch, tokens, states),
        normal(channels),
    ]
    return [value.to(device, dtype).requires_grad_() for value in values]


def loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The definition: one channel and one token at a time."""
    channels = []
    for d in range(u.shape[2]):
        state, rows = u.new_zeros(len(u), A.shape[1]), []
        for token in range(u.shape[1]):
            step, entering = delta[:, token, d, None], u[:, token, d, None]
            state = torch.exp(step * A[d]) * state + step * B[:, token] * entering
            rows.append((C[:, token] * state).sum(1) + D[d] * u[:, token, d])
        channels.append(torch.stack(rows, 1))
    return torch.stack(channels, 2)


def with_gradients(scan: Any, values: list[Tensor]) -> list[Tensor]:
    y = scan(*values)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y)
    return [y, *torch.autograd.grad((y * weights).sum(), values)]


def check(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one.double().cpu() - other).abs().max() <= tolerance * max(1.0, other.abs().max().item())


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_a_loop_in_float64(shape: tuple[int, int, int, int], traced: bool) -> None:
    expected = with_gradients(loop, inputs(shape))
    with mock.patch("torch.compiler.is_compiling", return_value=traced):
        found = with_gradients(selective_scan, inputs(shape, torch.float32))
        exact = with_gradients(selective_scan, inputs(shape))
    assert found[0].dtype == torch.float32
    check(found, expected, 1e-5)
    check(exact, expected, 1e-12)


def test_one_token() -> None:
    values = inputs((2, 1, 3, 2))
    check(with_gradients(selective_scan, values), with_gradients(loop, values), 1e-12)


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(selective_scan, inputs((2, 5, 3, 2)))


def test_gradients_only_where_they_are_asked_for() -> None:
    values = inputs((2, 5, 3, 2))
    expected = with_gradients(selective_scan, values)[3]
    fixed = [value if index == 2 else value.detach() for index, value in enumerate(values)]
    found = with_gradients(lambda A: selective_scan(fixed[0], fixed[1], A, *fixed[3:]), [values[2]])[1]
    assert torch.equal(found, expected)


def test_float32_under_autocast() -> None:
    values = inputs((2, 49, 6, 8), torch.bfloat16)
    wide = [value.detach().float().requires_grad_() for value in values]
    expected = with_gradients(selective_scan, wide)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = with_gradients(selective_scan, values)
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], expected[0])
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert one.dtype == torch.bfloat16
        assert torch.equal(one, other.to(torch.bfloat16))


def test_runs_without_data() -> None:
    values = [value.detach().to("meta") for value in inputs((2, 49, 6, 8))]
    assert selective_scan(*values).shape == (2, 49, 6)


# --- mamba-ssm --------------------------------------------------------------------------------------------------------


def test_mamba_ssm_gets_tensors_as_it_wants_them() -> None:
    shape = (2, 9, 3, 4)

    def kernel(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        """In the layout that mamba-ssm documents: u, delta (b, d, L), B, C (b, n, L), contiguous in L."""
        assert [tuple(tensor.shape) for tensor in (u, delta, B, C)] == [(2, 3, 9), (2, 3, 9), (2, 4, 9), (2, 4, 9)]
        assert all(tensor.is_contiguous() for tensor in (u, delta, B, C))
        return loop(u.mT, delta.mT, A, B.mT, C.mT, D).mT

    values = inputs(shape)
    found = with_gradients(lambda *v: module._by_kernel(kernel, *v), values)
    check(found, with_gradients(loop, values), 1e-12)


@pytest.mark.parametrize("error", [ImportError("no such module"), OSError("libcudart.so: cannot open")])
def test_mamba_ssm_that_cannot_be_loaded_is_not_used(error: Exception) -> None:
    module._mamba_ssm.cache_clear()
    with mock.patch("importlib.import_module", side_effect=error):
        assert module._mamba_ssm() is None
    module._mamba_ssm.cache_clear()


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_on_a_gpu(shape: tuple[int, int, int, int]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    with mock.patch.object(module, "_mamba_ssm", return_value=None):
        found = with_gradients(selective_scan, inputs(shape, torch.float32, "cuda"))
    check(found, with_gradients(loop, inputs(shape)), 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_the_kernel_of_mamba_ssm(shape: tuple[int, int, int, int]) -> None:
    if not torch.cuda.is_available() or module._mamba_ssm() is None:
        pytest.skip("no GPU, or mamba-ssm is not installed")
    found = with_gradients(selective_scan, inputs(shape, torch.float32, "cuda"))
    check(found, with_gradients(loop, inputs(shape)), 1e-3)
