"""What an optimizer's step takes in one fused kernel, as a share of what it takes in torch's default form.

python -m bench.fused_step [--arch resnet18] [--device cpu]

For each optimizer of torch that has a fused kernel for the device: both forms in turn, and the medians of the rounds'
ratios.
"""

import argparse
import statistics
import sys
import time

import torch
import torchvision
from tabulate import tabulate

from model.optim import OPTIMIZERS, make_optimizer
from utils import UserError


def seconds(optimizer: torch.optim.Optimizer, steps: int, device: str) -> float:
    """Of so many steps, after one to warm up."""
    optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    net = torchvision.models.get_model(options.arch).to(options.device)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    names = [name for name, _ in net.named_parameters()]
    rows = []
    for name in OPTIMIZERS:
        arguments = {"momentum": 0.9} if name == "SGD" else {}
        try:
            ours = make_optimizer(name, arguments, net, [names], [1e-6], 1e-4)
        except UserError:  # cannot train such a net
            continue
        if not ours.defaults.get("fused"):
            continue
        plain = make_optimizer(name, arguments | {"fused": False}, net, [names], [1e-6], 1e-4)
        pairs = [
            [seconds(kind, options.steps, options.device) for kind in (ours, plain)] for _ in range(options.rounds)
        ]
        ratios = [fused / default for fused, default in pairs]
        milliseconds = (1000 * statistics.median(times) / options.steps for times in zip(*pairs, strict=True))
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append([name, *(f"{value:.1f}" for value in milliseconds), f"{statistics.median(ratios):.2f}", spread])
    header = ["optimizer", "fused, ms", "default, ms", "share", "range"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
