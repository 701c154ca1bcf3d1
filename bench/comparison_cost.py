"""How long a comparison of nets will take, from a few training steps of each on one thread.

python -m bench.comparison_cost experiments/compare/cifar10 45000

Forward, backward and the optimizer's step on random images, in the precision that training would choose here, in
processor time, the fastest of a few steps; decoding, augmentation, validation and writing come on top. The hours are
those of all epochs and seeds.
"""

import argparse
import sys
from pathlib import Path

import torch
from tabulate import tabulate

from bench.precision import training_step
from config.schema import Params
from model.net import build_net
from search.plan import make_plan
from training.machine import choose_machine
from utils import reports_errors

STEPS = 5
CLASSES = 10


def seconds_per_image(params: Params, folder: Path) -> float:
    """Of one training step with the batch size of params; a net.py is the folder's."""
    machine = choose_machine(params, None, exact=False)
    net = machine.take(build_net(params, CLASSES, folder).net)
    images = torch.randn(params.batch_size, params.channels, params.im_sz, params.im_sz, device=machine.device)
    step = training_step(machine, net, images)
    return min(step() for _ in range(STEPS))


@reports_errors
def main() -> int:
    """Prints a row for each net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parent_dir", type=Path, help="the folder with hyper_search in its params.json")
    parser.add_argument("images", type=int, help="how many training images there are")
    options = parser.parse_args()
    plan = make_plan(options.parent_dir)
    lines, total = [], 0.0
    for trial in plan.trials[: len(plan.trials) // plan.settings.seeds]:
        params = Params.model_validate(trial.params | {"pretrain": 0, "cuda": 0, "threads": 1})
        each = seconds_per_image(params, options.parent_dir)
        hours = each * options.images * params.num_epochs * plan.settings.seeds / 3600
        total += hours
        lines.append([params.arch, params.im_sz, params.batch_size, f"{1000 * each:.2f}", f"{hours:.1f}"])
    lines.append(["all", "", "", "", f"{total:.1f}"])
    header = ["arch", "im_sz", "batch_size", "ms of one core for a training image", "hours of one core"]
    sys.stdout.write(tabulate(lines, header, tablefmt="pipe", disable_numparse=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
