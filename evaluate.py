"""Evaluates a trained experiment, on the test set unless told otherwise.

python evaluate.py --data_dir data/digits --model_dir experiments/digits

Choose a model on the validation split; open the test set once, when it is chosen.
"""

import argparse
from pathlib import Path

import include
from config.run_folder import LOG, WEIGHTS, RunFolder
from utils import log, logging_to, reports_errors


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="data/<name> with train/ and the split")
    parser.add_argument("--model_dir", type=Path, required=True, help="a trained experiment folder")
    parser.add_argument("--weights", choices=WEIGHTS, default="best", help="which of its weights (default: best)")
    parser.add_argument("--split", choices=include.SPLITS[1:], default="test", help="default: test")
    parser.add_argument("--tta", action="store_true", help="average over each image and its mirror image")
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Evaluates and returns the exit code: 0 done, 2 bad input, 3 the folder is being trained."""
    options = parse(argv)
    folder = RunFolder(options.model_dir)
    folder.lock()
    try:
        from reports.evaluation import Question, evaluate, log_opening  # torch starts here

        question = Question(options.weights, options.split, options.tta)
        with logging_to(folder.file(LOG)):
            evaluate(folder, options.data_dir, question)
            if options.split == "test":
                count = log_opening(folder, question)
                log.info("the test set has been opened %d time%s for this experiment", count, "s" if count > 1 else "")
            log.info("report: %s", folder.file(question.report))
    finally:
        folder.unlock()
    return include.DONE


if __name__ == "__main__":
    raise SystemExit(main())
