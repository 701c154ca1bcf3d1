"""The selective scan of state space models (S6; Gu & Dao 2023, arXiv:2312.00752), in PyTorch or by mamba-ssm's kernel.

Per channel d and state n, over the tokens l of a sequence, starting from zero:

    h[l] = exp(delta[l, d] A[d, n]) h[l-1] + delta[l, d] B[l, n] u[l, d]
    y[l, d] = sum over n of C[l, n] h[l] + D[d] u[l, d]
"""

import contextlib
import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Scans sequences; in float32 under autocast too, in float64 when all is.

    On CUDA mamba-ssm's kernel does it when that package is there. In a graph that is traced (torch.export, ONNX,
    torch.compile) it is a few operations on all tokens instead of one per token.

    Args:
        u: what goes in, (batch, tokens, channels).
        delta: step sizes, positive, (batch, tokens, channels).
        A: rates, negative, (channels, states).
        B: how the input enters each state, (batch, tokens, states).
        C: how the output reads each state, (batch, tokens, states).
        D: weight of the input itself in the output, (channels,).

    Returns:
        (batch, tokens, channels), in float32 or float64.
    """
    precision = torch.promote_types(u.dtype, torch.float32)
    u, delta, A, B, C, D = (tensor.to(precision) for tensor in (u, delta, A, B, C, D))
    if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
        return _traced(u, delta, A, B, C) + u * D
    if u.is_cuda and (kernel := _mamba_ssm()) is not None:
        return _by_kernel(kernel, u, delta, A, B, C, D)
    with _without_autocast(u.device.type):
        first: Tensor = _Scan.apply(*(tensor.transpose(0, 1).contiguous() for tensor in (u, delta, B, C)), A)
        return first.transpose(0, 1) + u * D


def _without_autocast(device: str) -> contextlib.AbstractContextManager[object]:
    available = torch.amp.is_autocast_available(device)  # not on the meta device
    return torch.autocast(device, enabled=False) if available else contextlib.nullcontext()


# --- token by token ---------------------------------------------------------------------------------------------------


class _Scan(torch.autograd.Function):
    """The scan without D, tokens first: u, delta (L, b, d), B and C (L, b, n), A (d, n) -> (L, b, d).

    One operation per token forward and one backward: autograd of the same loop would keep and add up a tensor for each.
    The states (L, b, d, n) are kept for backward, the decays are computed anew.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, A: Tensor) -> Tensor:
        decay = _decay(delta, A)
        states = (delta * u).unsqueeze(-1) * B.unsqueeze(-2)  # (L, b, d, n): first what enters
        for token in range(1, len(states)):
            states[token].addcmul_(decay[token], states[token - 1])
        ctx.save_for_backward(u, delta, B, C, A, states)
        return (states @ C.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, ...]:
        with _without_autocast(outer.device.type):
            return _gradients(outer, *ctx.saved_tensors)


def _gradients(
    outer: Tensor, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, A: Tensor, states: Tensor
) -> tuple[Tensor, ...]:
    """By u, delta, B, C and A, when outer (L, b, d) is the gradient by the output."""
    decay = _decay(delta, A)
    inner = outer.unsqueeze(-1) * C.unsqueeze(-2)  # (L, b, d, n): by the states, first only through y
    for token in range(len(inner) - 2, -1, -1):
        inner[token].addcmul_(decay[token + 1], inner[token + 1])
    entered = (inner @ B.unsqueeze(-1)).squeeze(-1)  # (L, b, d): by delta * u
    exponent = decay[1:].mul_(inner[1:]).mul_(states[:-1])  # by delta * A; before the first token nothing is there
    of_delta = entered * u
    of_delta[1:] += (exponent * A).sum(-1)
    of_b = ((delta * u).unsqueeze(-2) @ inner).squeeze(-2)
    of_c = (outer.unsqueeze(-2) @ states).squeeze(-2)
    return entered * delta, of_delta, of_b, of_c, (exponent * delta[1:].unsqueeze(-1)).sum((0, 1))


def _decay(delta: Tensor, A: Tensor) -> Tensor:
    return (delta.unsqueeze(-1) * A).exp_()


# --- all tokens at a time ---------------------------------------------------------------------------------------------


def _traced(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The scan without D by doubling (Hillis & Steele 1986): in step k each token takes in the one 2^k before it."""
    decay = torch.exp(delta.unsqueeze(-1) * A)  # (b, L, d, n)
    states = (delta * u).unsqueeze(-1) * B.unsqueeze(-2)
    tokens, reach = u.shape[1], 1
    while reach < tokens:
        later = states[:, reach:] + decay[:, reach:] * states[:, :-reach]
        states = torch.cat([states[:, :reach], later], 1)
        decay = torch.cat([decay[:, :reach], decay[:, reach:] * decay[:, :-reach]], 1)
        reach *= 2
    return (states * C.unsqueeze(-2)).sum(-1)


# --- mamba-ssm --------------------------------------------------------------------------------------------------------


@functools.cache
def _mamba_ssm() -> Callable[..., Tensor] | None:
    """Its selective_scan_fn; None where it is not installed, or cannot be loaded beside this torch."""
    try:
        return importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn  # type: ignore[no-any-return]
    except (ImportError, OSError, RuntimeError):
        return None


def _by_kernel(
    kernel: Callable[..., Tensor], u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
) -> Tensor:
    u, delta, B, C = (tensor.transpose(1, 2).contiguous() for tensor in (u, delta, B, C))  # (batch, …, tokens)
    return kernel(u, delta, A, B, C, D).transpose(1, 2)
