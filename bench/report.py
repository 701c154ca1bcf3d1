"""What the report of an experiment costs: seconds of each part, and the process's peak of memory.

python -m bench.report --data_dir data/fashion_mnist --model_dir experiments/fashion_mnist

The experiment is copied first: nothing is written into it, no metric is shown, and the test set counts as unopened.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from tabulate import tabulate

from bench.checkpoint_cost import Seconds, around, now
from config.run_folder import RunFolder
from reports import evaluation
from reports.page import page
from reports.report import PARTS
from reports.subject import Options, Question
from utils import peak_memory_mb, reports_errors

FORWARD = "forward pass over the split"
EVALUATION = "data, metrics, intervals, tables"
APART = (FORWARD, "robustness")  # not in the total: they depend on the net alone


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--model_dir", type=Path, required=True, help="a trained experiment folder")
    parser.add_argument("--split", default="test")
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Prints the table and returns the exit code."""
    options = parse(argv)
    clocked: dict[str, Seconds] = {}
    around(evaluation, "predict", lambda seconds: clocked.update({FORWARD: seconds}))
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / options.model_dir.resolve().name
        shutil.copytree(options.model_dir, copy)
        start = now()
        question = Question("best", options.split, tta=None)
        subject = evaluation.evaluate(RunFolder(copy), options.data_dir, question, Options())
        clocked[EVALUATION] = now() - start - clocked[FORWARD]
        sections = []
        for name, part in PARTS.items():
            start = now()
            sections.append(part(subject))
            clocked[name] = now() - start
        start = now()
        made = page("title", "subtitle", [section for section in sections if section is not None])
        clocked["the page"] = now() - start
    clocked["together, without the forward pass and robustness"] = np.sum(
        [seconds for name, seconds in clocked.items() if name not in APART], axis=0
    )
    rows = [(name, *seconds) for name, seconds in clocked.items()]
    print(tabulate(rows, ["part", "seconds", "of the processor"], floatfmt=".2f"))  # noqa: T201
    images, classes = subject.logits.shape
    size = f"{images:,} images of {classes:,} classes; page {len(made) / 2**20:.2f} MiB"
    print(f"{size}; peak of memory {peak_memory_mb():,.0f} MB")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
