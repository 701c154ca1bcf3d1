"""Puts the experiments below a folder into one table: results.md and results.csv.

python synthesize_results.py --parent_dir experiments/learning_rate

With --watch it writes nothing, and shows what runs and what leads until nothing runs any more: for another terminal.
"""

import argparse
import sys
from pathlib import Path

import include
from search.table import write_results
from search.watch import watch
from utils import reports_errors


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parent_dir", type=Path, required=True, help="a folder with experiments below it, at any depth"
    )
    parser.add_argument("--metric", help="what to rank by (default: what the search or most runs were kept by)")
    parser.add_argument("--watch", action="store_true", help="show the state as it changes, and write nothing")
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Writes the table and prints it, or watches, and returns the exit code: 0 done, 2 bad input."""
    options = parse(argv)
    if options.watch:
        watch(options.parent_dir, options.metric)
        return include.DONE
    path = write_results(options.parent_dir, options.metric)
    sys.stdout.write(path.read_text(encoding="utf-8"))
    return include.DONE


if __name__ == "__main__":
    raise SystemExit(main())
