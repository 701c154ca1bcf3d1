"""What another busy program costs a training on a CPU, with all threads and with those that Dossier chooses.

python -m bench.threads [--arch resnet18] [--im_sz 224] [--batch_size 32]

Every round measures, one after the other: all threads alone; all threads beside a program that keeps one core busy; the
threads that training/threads.py chooses beside it. Each is a process of its own, which trains a net on one batch in
memory for some seconds. The medians of the rounds' ratios count. Nothing else should run.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from tabulate import tabulate
from torch.nn.functional import cross_entropy

from training.machine import has_bf16_instructions
from training.threads import Watch

ROOT = Path(__file__).resolve().parent.parent
BUSY = "while True: pass"
WARM_UP = 2  # steps


def images_per_second(arch: str, im_sz: int, batch_size: int, seconds: float) -> float:
    """Trains on one batch, in the precision and memory format that train.py chooses here."""
    import torchvision

    half = has_bf16_instructions()
    layout = torch.channels_last if half else torch.contiguous_format
    net = torchvision.models.get_model(arch, num_classes=10).to(memory_format=layout)
    images = torch.randn(batch_size, 3, im_sz, im_sz).to(memory_format=layout)
    labels = torch.randint(10, (batch_size,))
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, fused=True)
    steps, start = -WARM_UP, 0.0
    while steps <= 0 or time.perf_counter() - start < seconds:
        if steps == 0:
            start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = net(images)
        torch.autograd.backward(cross_entropy(logits.float(), labels))
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    return steps * batch_size / (time.perf_counter() - start)


def measure(options: argparse.Namespace, *, busy: bool, chosen: bool) -> tuple[float, int]:
    """Images per second and threads of a process of its own."""
    other = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
    time.sleep(0.5)
    try:
        given = ["--arch", options.arch, "--im_sz", str(options.im_sz), "--batch_size", str(options.batch_size)]
        command = [
            sys.executable,
            "-m",
            "bench.threads",
            *given,
            "--seconds",
            str(options.seconds),
            "--one",
            *["--chosen"] * chosen,
        ]
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    finally:
        if other is not None:
            other.kill()
            other.wait()
    rate, threads = done.stdout.split()
    return float(rate), int(threads)


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--im_sz", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--chosen", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        if options.chosen:
            torch.set_num_threads(Watch().idle_threads()[0])
        rate = images_per_second(options.arch, options.im_sz, options.batch_size, options.seconds)
        print(rate, torch.get_num_threads())  # noqa: T201
        return 0
    kinds = {
        "alone, all threads": {"busy": False, "chosen": False},
        "beside a busy program, all threads": {"busy": True, "chosen": False},
        "beside a busy program, threads as chosen": {"busy": True, "chosen": True},
    }
    rounds = []
    for number in range(options.rounds):
        rounds.append({name: measure(options, **kind) for name, kind in kinds.items()})
        sys.stderr.write(f"round {number + 1} (load {os.getloadavg()[0]:.1f}): {list(rounds[-1].values())}\n")
    rows = []
    for name in kinds:
        ratios = [found[name][0] / found["alone, all threads"][0] for found in rounds]
        rate = statistics.median(found[name][0] for found in rounds)
        threads = "/".join(sorted({str(found[name][1]) for found in rounds}))
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append([name, threads, f"{rate:.1f}", f"{statistics.median(ratios):.2f}", spread])
    header = ["", "threads", "images/s", "to alone", "range"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
