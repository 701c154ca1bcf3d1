r"""Time to accuracy: an experiment of ours beside the best tuned peer, both from the start of a process to its end.

python -m bench.time_to_accuracy --experiment experiments/imagenette_mobilenet_v2 --weights FILE --arch mobilenet_v2 \
    --data_dir data/imagenette160_small --train 1000 --valid 400 --im_sz 160 --epochs 5 --scale 0.5

Each peer, its switches for speed on, is trained once with each of --peaks, the highest learning rates of one cycle; the
one that ends with the best accuracy on the validation images is the best tuned peer. Then it and ours take turns, with
other seeds. Ours is trained as its params.json says, whatever the peers are given. Seconds are those of the whole
process: imports, decoding, training, validation, what is written. Measurements are void and repeated as those of
bench/peers are, and kept in --json likewise.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from bench.interval import with_interval
from bench.peers.__main__ import Lines, add_options, installed, job_of, measured, settings_of
from bench.peers.job import Job
from bench.peers.loops import LOOPS, OURS
from bench.peers.measure import FailedError
from bench.peers.table import Line, spread
from utils import reports_errors

TUNED = [name for name, loop in LOOPS.items() if loop.tuned]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--experiment", type=Path, required=True, help="whose params.json Dossier trains")
    parser.add_argument("--params", default="{}", help="what differs from that params.json, as JSON")
    parser.add_argument("--weights", type=Path, help="of the net, pretrained; without it, it begins with random ones")
    parser.add_argument(
        "--peaks", nargs="+", type=float, default=[3e-4, 1e-3, 3e-3], help="learning rates for the peers"
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--peers", nargs="+", default=TUNED, choices=TUNED)
    return parser.parse_args(argv)


def job_from(options: argparse.Namespace) -> Job:
    """What is trained."""
    weights = str(options.weights.resolve()) if options.weights else ""
    experiment = str(options.experiment.resolve())
    return dataclasses.replace(job_of(options), weights=weights, experiment=experiment, params=options.params)


def tune(options: argparse.Namespace, job: Job, lines: Lines) -> None:
    """Trains the peers with the learning rates that are missing."""
    done = {(line["what"], line["peak"]) for line in lines if line["seed"] == 0 and not line["void"]}
    for name in installed(options.python, options.peers):
        for peak in options.peaks:
            if (name, peak) not in done:
                for line in measured(name, dataclasses.replace(job, peak=peak), options):
                    lines.add(line)


def race(options: argparse.Namespace, job: Job, lines: Lines, best: Line) -> None:
    """Trains the best peer and ours in turn, with seeds that have not been used."""
    used = max(line["seed"] for line in lines)
    for seed in range(used + 1, used + 1 + options.pairs):
        for name in (OURS, best["what"])[:: 1 if seed % 2 else -1]:
            for line in measured(name, dataclasses.replace(job, seed=seed, peak=best["peak"]), options):
                lines.add(line)


def best_tuned(lines: Sequence[Line]) -> Line:
    """Of the first seed.

    Raises:
        FailedError: none counts.
    """
    tuned = [line for line in lines if line["seed"] == 0 and not line["void"]]
    if not tuned:
        raise FailedError("no measurement of a peer counts: too much else ran on the machine, or none is installed")
    return max(tuned, key=lambda line: line["accuracy"])


def tables(lines: Sequence[Line], best: Line) -> str:
    """How the peers were tuned, and the race."""
    counted = [line for line in lines if not line["void"]]
    tuned = [
        [line["what"], f"{line['peak']:g}", f"{line['accuracy']:.4f}", f"{line['seconds']:.0f}"]
        for line in counted if line["seed"] == 0
    ]  # fmt: skip
    ours, other = (
        {line["seed"]: line for line in counted
         if line["what"] == what and line["seed"] > 0 and line["peak"] == best["peak"]}
        for what in (OURS, best["what"])
    )  # fmt: skip
    seeds = sorted(ours.keys() & other.keys())
    rows = [
        [
            what,
            with_interval([line[seed]["accuracy"] for seed in seeds]),
            spread([line[seed]["seconds"] for seed in seeds]),
        ]
        for what, line in ((OURS, ours), (f"{best['what']}, {best['peak']:g}", other))
    ]
    gain = with_interval([ours[seed]["accuracy"] - other[seed]["accuracy"] for seed in seeds])
    times = spread([ours[seed]["seconds"] / other[seed]["seconds"] for seed in seeds])
    rows.append(["ours less the other's; times the other's", gain, times])
    headed = {
        ("one seed", "highest learning rate", "accuracy", "s"): tuned,
        (f"{len(seeds)} seeds", "accuracy", "s"): rows,
    }
    return "\n\n".join(
        tabulate(body, header, tablefmt="github", disable_numparse=True) for header, body in headed.items()
    )


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Measures and prints the lines and the tables."""
    options = parse(argv)
    job = job_from(options)
    lines = Lines(options.json, settings_of(job))
    tune(options, job, lines)
    best = best_tuned(lines)
    race(options, job, lines, best)
    print(f"\n{tables(lines, best)}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
