"""Draws the experiments below a folder: learning curves, what each parameter does, cost, time line.

python plot_results.py --parent_dir experiments/learning_rate
"""

import argparse
import sys
from pathlib import Path

import include
from search.plots import write_plots
from utils import printable, reports_errors


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parent_dir", type=Path, required=True, help="a folder with experiments below it, at any depth"
    )
    parser.add_argument("--metric", help="what makes a run better (default: what the search or most runs were kept by)")
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Writes the pictures, names them and returns the exit code: 0 done, 2 bad input."""
    options = parse(argv)
    for path in write_plots(options.parent_dir, options.metric):
        sys.stdout.write(f"{printable(str(path))}\n")
    return include.DONE


if __name__ == "__main__":
    raise SystemExit(main())
