"""What "compile" is worth on this machine: training steps of nets with and without, and what compiling costs first.

python -m bench.compile [resnet18@64 ...]

Forward, backward and a fused AdamW step on random images, in the precision and memory format that "auto" chooses, on
one thread. The two take turns; a ratio is of two that followed each other, and the median of the rounds is shown with
its range. The last column is the number of training images after which compiling has paid back the time of its first
step, by the medians; it is empty where the compiled net is no faster.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from tabulate import tabulate

from bench.precision import machine, net_and_images, training_step
from training.compiled import compile_net
from training.machine import has_bf16_instructions

NETS = ("conv@32", "resnet18@64", "mobilenet_v2@64")


def step_of(arch: str, side: int, compiled: bool) -> tuple[Callable[[], float], float]:
    """A function that trains for a step and returns the seconds for an image; and the seconds of its first step."""
    here = machine("bf16" if has_bf16_instructions() else "fp32", "channels_last")
    net, images = net_and_images(arch, side)
    net = here.take(net)
    if compiled:
        compile_net(net)
    step = training_step(here, net, images.contiguous(memory_format=torch.channels_last))
    start = time.monotonic()
    step()
    return step, time.monotonic() - start


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=NETS, metavar="ARCH@PIXELS")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for net in options.nets:
        arch, side = net.split("@")
        (plain, first), (compiled, first_compiled) = (step_of(arch, int(side), flag) for flag in (False, True))
        rounds = [(plain(), compiled()) for _ in range(options.rounds)]
        ratios = [after / before for before, after in rounds]
        before, after = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
        pays = f"{(first_compiled - first) / (before - after):,.0f}" if after < before else ""
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append([arch, side, f"{1000 * before:.2f}", spread, f"{first:.1f}", f"{first_compiled:.1f}", pays])
    times = ("ms an image", "compiled, times that", "first step, s", "compiled, s", "images to pay back")
    header = ["arch", "im_sz", *times]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
