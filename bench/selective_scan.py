"""How long the selective scan of a MambaVision-T mixer takes on one CPU thread, in the ways it can be computed.

python -m bench.selective_scan

For 8 images of 224 pixels: a mixer of the third stage (196 tokens, 160 channels), and one of the fourth (49 tokens,
320 channels), 8 states. Milliseconds of processor time, forward and backward, the best of several, the ways in turn.
"""

import sys
import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional

from model.selective_scan import _traced, selective_scan

ROUNDS = 6


def autograd_of_a_loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The same loop over tokens, its gradient left to autograd."""
    state = u.new_zeros(len(u), *A.shape)
    rows = []
    for token in range(u.shape[1]):
        entering = (delta[:, token] * u[:, token]).unsqueeze(-1) * B[:, token].unsqueeze(-2)
        state = torch.addcmul(entering, torch.exp(delta[:, token].unsqueeze(-1) * A), state)
        rows.append((state * C[:, token].unsqueeze(-2)).sum(-1))
    return torch.stack(rows, 1) + u * D


def doubling(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """All tokens at a time, as in a traced graph."""
    return _traced(u, delta, A, B, C) + u * D


WAYS: dict[str, Callable[..., Tensor]] = {
    "model.selective_scan": selective_scan,
    "autograd of a loop": autograd_of_a_loop,
    "doubling, as in a traced graph": doubling,
}


def measure(images: int, tokens: int, channels: int, states: int = 8) -> dict[str, tuple[float, float]]:
    """Milliseconds forward and backward of each way."""
    sizes = [(images, tokens, channels)] * 2 + [(channels, states)] + [(images, tokens, states)] * 2 + [(channels,)]
    u, delta, A, B, C, D = (torch.randn(*size) for size in sizes)
    values = [value.requires_grad_() for value in (u, functional.softplus(delta - 3), -A.exp(), B, C, D)]
    best = dict.fromkeys(WAYS, (float("inf"), float("inf")))
    for _ in range(ROUNDS):
        for name, scan in WAYS.items():
            start = time.process_time()
            y = scan(*values).sum()
            middle = time.process_time()
            torch.autograd.grad(y, values)
            end = time.process_time()
            found = (1000 * (middle - start), 1000 * (end - middle))
            best[name] = (min(best[name][0], found[0]), min(best[name][1], found[1]))
    return best


def main() -> int:
    """Prints the table."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    stages = [measure(8, 196, 160), measure(8, 49, 320)]
    lines = [[name, *(figure for stage in stages for figure in stage[name])] for name in WAYS]
    header = ["way", "196 tokens: forward", "backward", "49 tokens: forward", "backward"]
    sys.stdout.write(tabulate(lines, header, tablefmt="pipe", floatfmt=".0f") + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
