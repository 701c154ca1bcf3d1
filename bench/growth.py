"""How start-up and memory grow with the number of images, and memory with the number of epochs.

python -m bench.growth images --data_dir data/cifar10 --images 1000 10000 45000
python -m bench.growth epochs --data_dir data/digits --epochs 50

images: a plain torchvision loop and ours, each in a new process, to the first training step and through two epochs of
a small net at 32 pixels: seconds from the start of the process to that step, for ours on a folder never seen before and
on the same once more, and the most memory held (PSS, workers included); median and range of the rounds. epochs: the
most memory that one training has held until the end of an epoch, from its history.json.
"""

import argparse
import dataclasses
import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench.part import part
from bench.peers.__main__ import measured
from bench.peers.job import Job
from bench.peers.loops import OURS
from bench.peers.measure import ROOT
from bench.peers.ours import params_of
from bench.peers.table import spread
from utils import reports_errors

OUT = ROOT / "build" / "growth"


def job_of(data: Path, epochs: int, **different: Any) -> Job:
    """A small net at 32 pixels."""
    return dataclasses.replace(
        Job(data_dir=str(data.resolve()), scratch=str(OUT / "run"), arch="shufflenet_v2_x0_5",
            classes=len(list(data.glob("train/*"))), im_sz=32, batch_size=256, images=len(list(data.glob("train/*/*"))),
            epochs=epochs, workers=2),
        **different,
    )  # fmt: skip


def with_images(options: argparse.Namespace) -> str:
    """The table of numbers of images."""
    rows = []
    for number in options.images:
        data = OUT / f"{options.data_dir.resolve().name}-{number}"
        data.parent.mkdir(parents=True, exist_ok=True)
        part(options.data_dir, data, {"train": number, "valid": min(number, 1000)})
        job = job_of(data, epochs=2)
        turns = [
            [("torchvision", "torchvision", job)],
            [(OURS, OURS, job), (f"{OURS}, once more", OURS, dataclasses.replace(job, known=True))],
        ]
        found: dict[str, list[dict[str, Any]]] = {}
        for turn in range(options.rounds):
            for name, loop, what in itertools.chain.from_iterable(turns[:: -1 if turn % 2 else 1]):
                found.setdefault(name, []).extend(line for line in measured(loop, what, options) if not line["void"])
        for name, lines in found.items():
            rows.append(
                [job.images, name, *(spread([line[key] for line in lines]) for key in ("first_step_s", "peak_mb"))]
            )
    return tabulate(rows, ["images", "", "first step, s", "peak MB"], tablefmt="github", disable_numparse=True)


def with_epochs(options: argparse.Namespace) -> str:
    """The table of epochs."""
    import train

    folder = OUT / "epochs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job = job_of(options.data_dir, options.epochs, arch="conv", im_sz=16, batch_size=32)
    (folder / "params.json").write_text(json.dumps(params_of(job)))
    if code := train.main(["--data_dir", job.data_dir, "--model_dir", str(folder)]):
        raise SystemExit(code)
    held = [row["memory_mb"] for row in json.loads((folder / "history.json").read_text())["epochs"]]
    early = max(1, options.epochs // 10)
    rows = [
        [epoch, f"{held[epoch - 1]:.0f}", f"{held[epoch - 1] / held[early - 1] - 1:+.1%}"]
        for epoch in sorted({early, *range(10, options.epochs + 1, 10)})
    ]  # fmt: skip
    return tabulate(rows, ["epochs", "peak MB", ""], tablefmt="github", disable_numparse=True)


@reports_errors
def main() -> int:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    images = kinds.add_parser("images")
    images.set_defaults(run=with_images)
    images.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 45_000])
    images.add_argument("--rounds", type=int, default=3)
    images.add_argument("--load", type=float, default=0.5, help="cores that others may keep busy")
    images.add_argument("--tries", type=int, default=3, help="measurements, when others do")
    images.add_argument("--python", default=sys.executable, help="the interpreter of torchvision's loop")
    epochs = kinds.add_parser("epochs")
    epochs.set_defaults(run=with_epochs)
    epochs.add_argument("--epochs", type=int, default=50)
    for kind in (images, epochs):
        kind.add_argument("--data_dir", type=Path, required=True)
    options = parser.parse_args()
    print(options.run(options))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
