"""Training side by side: Dossier, the limit of the machine, and other programs, by default and with their switches on.

python -m bench.peers --data_dir data/imagenette160_small --im_sz 224 --json build/peers/224.jsonl
python -m bench.peers --data_dir data/digits --im_sz 64 --pairs 1

All train the same net (random weights) on the same images with the same augmentation and optimizer, each in a process
of its own, in turn, so that each is next to a run of ours. Rates are those of the second epoch on. Where other programs
keep more than --load cores busy, a measurement is void and repeated. --json keeps the lines; the table is of all lines
there of the same settings, so that the pairs can be measured in several sittings (--pairs 0: the table alone).
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.part import part
from bench.peers.job import Job
from bench.peers.loops import LOOPS, OURS
from bench.peers.measure import ROOT, measure
from bench.peers.table import heading, sequence, table, void
from utils import reports_errors

INSTALL = "pip install --group peers"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--peers", nargs="+", default=[name for name in LOOPS if name != OURS], choices=list(LOOPS))
    options = parser.parse_args(argv)
    needs_rates(parser, options)
    return options


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is trained, and how it is measured."""
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--im_sz", type=int, default=224)
    parser.add_argument("--arch", default="resnet18", help="a net of torchvision")
    parser.add_argument("--batch_size", type=int, help="default: 32 from 128 pixels on, else 64")
    parser.add_argument("--train", type=int, default=480, help="images to train on")
    parser.add_argument("--valid", type=int, default=160, help="images to validate on")
    parser.add_argument("--epochs", type=int, default=2, help="rates are of those after the first")
    parser.add_argument("--workers", type=int, default=2, help="that decode images")
    parser.add_argument("--scale", type=float, default=0.08, help="the least area of a random resized crop")
    parser.add_argument("--load", type=float, default=0.5, help="cores that others may keep busy")
    parser.add_argument("--tries", type=int, default=3, help="measurements, when others do")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the peers")
    parser.add_argument("--json", type=Path, help="a file to which the lines are added")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "peers", help="where images and runs are kept")


def needs_rates(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends with a line where nothing would be counted."""
    if options.epochs < 2:
        parser.error("--epochs: at least 2, as the first is not counted")


def installed(python: str, names: list[str]) -> list[str]:
    """The peers whose packages the interpreter finds; says which are left out."""
    packages = sorted({package for name in names for package in LOOPS[name].packages})
    code = "import importlib.util, sys; print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name)))"
    found = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True).stdout.split()
    for package in sorted(set(packages) - set(found)):
        sys.stderr.write(f"{package} is left out: it is not installed ({INSTALL})\n")
    return [name for name in names if set(LOOPS[name].packages) <= set(found)]


def job_of(options: argparse.Namespace) -> Job:
    """What is trained, on the first images of each class."""
    data = options.out.resolve() / f"{options.data_dir.resolve().name}-{options.train}-{options.valid}"
    data.parent.mkdir(parents=True, exist_ok=True)
    part(options.data_dir, data, {"train": options.train, "valid": options.valid})
    return Job(
        data_dir=str(data), scratch=str(options.out.resolve() / "run"), arch=options.arch,
        classes=len(list(data.glob("train/*"))), im_sz=options.im_sz,
        batch_size=options.batch_size or (32 if options.im_sz >= 128 else 64),
        images=len(list(data.glob("train/*/*"))), epochs=options.epochs, workers=options.workers,
        scale=options.scale,
    )  # fmt: skip


def settings_of(job: Job) -> dict[str, Any]:
    """What must be the same for measurements to stand in one table."""
    about = dataclasses.asdict(job)
    about |= {name: Path(about[name]).name for name in ("data_dir", "weights", "experiment")}
    for name in ("scratch", "tuned", "seed", "peak", "known"):
        del about[name]
    return about


def measured(name: str, job: Job, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A measurement; void ones before it, as often as it was tried."""
    for _ in range(options.tries):
        found = measure(name, job, options.python)
        yield found | {"seed": job.seed, "peak": job.peak, "void": void(found["others"], options.load)}
        if not void(found["others"], options.load):
            break


def rounds(options: argparse.Namespace, job: Job, before: int) -> Iterator[dict[str, Any]]:
    """All measurements, void ones too, after so many rounds that have been measured before."""
    names = installed(options.python, options.peers) if options.pairs else []
    for number in range(before, before + options.pairs):
        started = datetime.now(UTC).isoformat(timespec="seconds")
        for place, name in enumerate(sequence(names, backwards=number % 2 == 1)):
            for found in measured(name, dataclasses.replace(job, seed=number), options):
                yield found | {"round": started, "place": place}


class Lines(list[dict[str, Any]]):
    """Measurements of the same settings, those of earlier sittings first.

    Args:
        path: the file where they are kept, and others; None: nowhere.
        settings: theirs.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        kept = path.read_text().splitlines() if path and path.is_file() else []
        super().__init__(line for line in map(json.loads, kept) if line["settings"] == settings)
        self._path, self._settings = path, settings

    def add(self, line: dict[str, Any]) -> None:
        """Keeps and prints one more."""
        self.append(line | {"settings": self._settings})
        text = json.dumps(self[-1])
        print(text, flush=True)  # noqa: T201
        if self._path:
            with self._path.open("a") as file:
                file.write(text + "\n")


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Measures and prints the lines and the table."""
    options = parse(argv)
    job = job_of(options)
    lines = Lines(options.json, settings_of(job))
    for line in rounds(options, job, before=len({line["round"] for line in lines})):
        lines.add(line)
    print(f"\n{heading(lines)}\n\n{table(lines)}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
