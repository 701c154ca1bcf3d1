"""What "precision" and "memory_format" are worth on this machine: training steps of nets in each, as ratios.

python -m bench.precision [resnet18@224 mobilenet_v2@64 ...]

Forward, backward and a fused AdamW step on random images, in processor time of one thread. The ways take turns; a
ratio is of two that followed each other, and the median of the rounds is shown with its range. The last column is what
"auto" does on a CPU with bf16 instructions: depthwise convolutions stay in float32 (training/depthwise.py).
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import nn

from config.schema import Params
from model.net import build_net
from training.machine import Machine

NETS = ("conv@32", "resnet18@64", "resnet18@224", "mobilenet_v2@64", "mobilenet_v2@224", "efficientnet_b0@64",
        "mobilenet_v3_small@128", "convnext_tiny@64", "shufflenet_v2_x0_5@64")  # fmt: skip
PIXELS = 400_000  # of a batch


def machine(precision: str, memory_format: str) -> Machine:
    """One thread of the CPU."""
    return Machine("cpu", precision, memory_format, 1, str(torch.__version__))


def plainly_in_bf16(net: nn.Module) -> nn.Module:
    """All that autocast would have in bf16, depthwise convolutions too."""
    return net.to(memory_format=torch.channels_last)


WAYS: dict[str, tuple[Machine, Callable[[nn.Module], nn.Module]]] = {
    "fp32": (way := machine("fp32", "contiguous"), way.take),
    "fp32 channels_last": (way := machine("fp32", "channels_last"), way.take),
    "bf16 channels_last, all of it": (way := machine("bf16", "channels_last"), plainly_in_bf16),
    "bf16 channels_last": (way, way.take),
}


def training_step(machine: Machine, net: nn.Module, images: torch.Tensor) -> Callable[[], float]:
    """A function that trains for one step with a fused AdamW and returns the processor seconds for an image."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)

    def step() -> float:
        start = time.process_time()
        with machine.autocast():
            loss = net(images).float().logsumexp(1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return (time.process_time() - start) / len(images)

    return step


def net_and_images(arch: str, side: int) -> tuple[nn.Module, torch.Tensor]:
    """A net with random weights, and a batch for it."""
    params = Params.model_validate({"arch": arch, "im_sz": side, "pretrain": 0, "batch_size": 2, "learning_rate": 1e-5})
    return build_net(params, 10).net, torch.randn(max(8, min(128, PIXELS // side**2)), 3, side, side)


def step_of(arch: str, side: int, way: str) -> Callable[[], float]:
    """`training_step` of a net, warmed up."""
    here, take = WAYS[way]
    net, images = net_and_images(arch, side)
    if here.memory_format == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    step = training_step(here, take(net), images)
    step()
    return step


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=NETS, metavar="ARCH@PIXELS")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for net in options.nets:
        arch, side = net.split("@")
        steps = {way: step_of(arch, int(side), way) for way in WAYS}
        rounds = [{way: step() for way, step in steps.items()} for _ in range(options.rounds)]
        first = statistics.median(times["fp32"] for times in rounds)
        row = [arch, side, f"{1000 * first:.2f}"]
        for way in list(WAYS)[1:]:
            ratios = [times[way] / times["fp32"] for times in rounds]
            row.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        rows.append(row)
    header = ["arch", "im_sz", "fp32, ms an image", *(f"{way}, times that" for way in list(WAYS)[1:])]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
