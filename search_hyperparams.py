"""Trains every combination that hyper_search in a folder's params.json asks for, each in a folder of its own.

python search_hyperparams.py --data_dir data/digits --parent_dir experiments/digits/learning_rate

The same command continues an interrupted search. Ctrl-C stops the trainings, which save what they have; once more ends
them at once.
"""

import argparse
import contextlib
from pathlib import Path

from config.parts import Search
from search.clusters import add_options, cluster_of
from search.launchers import Ahead, slots, threads_per_slot
from utils import reports_errors


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="data/<name> with train/ and valid/")
    parser.add_argument("--parent_dir", type=Path, required=True,
                        help="the folder whose params.json holds hyper_search; the trials go into it")  # fmt: skip
    parser.add_argument("--jobs", type=_positive, metavar="N",
                        help="trainings at the same time (as GPUs, else as cores up to 8; a cluster: all)")  # fmt: skip
    parser.add_argument("--gpus", metavar="auto|cpu|0,1", help="the GPUs to use (auto)")
    parser.add_argument("--jobs_per_gpu", type=_positive, metavar="N", help="trainings that share a GPU (1)")
    parser.add_argument("--spawn", action="store_true", help="start trainings as new programs, which takes longer")
    parser.add_argument("--extend", action="store_true", help="add new combinations to a search that has begun")
    parser.add_argument("--retry_failed", action="store_true", help="train the failed ones anew")
    parser.add_argument("--confirm", type=_positive, metavar="SEEDS",
                        help="train the best combination with so many seeds")  # fmt: skip
    add_options(parser, _positive)
    overrides = parser.add_argument_group("instead of what params.json says under search")
    for key, field in Search.model_fields.items():
        overrides.add_argument(f"--{key}", metavar="VALUE", dest=f"search.{key}", help=field.description)
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Searches and returns the exit code: 0 all finished, 1 some failed, 2 bad input, 130/143 by a signal."""
    options = parse(argv)
    given = vars(options)
    overrides = [f"{key}={value}" for key, value in given.items() if key.startswith("search.") and value is not None]
    cluster = cluster_of(options)
    places = [] if cluster else slots(options.jobs, options.gpus or "auto", options.jobs_per_gpu or 1)
    ahead = None if cluster else Ahead(threads_per_slot(len(places)), spawn=options.spawn)
    with ahead or contextlib.nullcontext():
        from search.run import Options, run  # while the server starts

        how = Options(places, options.spawn, options.extend, options.retry_failed, options.confirm, cluster, ahead)
        return run(options.parent_dir, options.data_dir, overrides, how)


if __name__ == "__main__":
    raise SystemExit(main())
