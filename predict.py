"""Tells the classes of images.

python predict.py --model experiments/digits photo.jpg folder/
python predict.py --model model.onnx --top 3 --format csv --out answers.csv folder/
find . -name '*.jpg' | python predict.py --model model.onnx -
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import include
from config.run_folder import WEIGHTS
from export.answers import FORMATS, find, write_lines
from export.choice import choose
from export.predictor import BATCH
from images.read import ImageError
from utils import UserError, logging_to, progress, reports_errors, write_atomic


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER|-", help="- reads a path from each line of stdin")
    parser.add_argument("--model", type=Path, required=True, help="an .onnx file of export_model.py, or an experiment")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="classes to tell of each image (default: 1)")
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    parser.add_argument("--batch_size", type=int, default=BATCH, metavar="N",
                        help=f"images of one size that are computed together, at most (default: {BATCH})")  # fmt: skip
    parser.add_argument("--weights", choices=WEIGHTS, help="of an experiment (default: best)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write, whole (default: standard output)")
    parser.add_argument("--trust_code", action="store_true", help="run the net.py that an experiment brings along")
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Predicts and returns the exit code: 0 done, 1 some files are no images, 2 bad input."""
    options = parse(argv)
    if min(options.top, options.batch_size) < 1:
        raise UserError("--top and --batch_size must be 1 or more")
    with logging_to(None, "stderr"):
        predictor = choose(options.model, options.trust_code, options.weights)
    contract, bad, unsure = predictor.contract, list[ImageError](), 0
    head, line = FORMATS[options.format](options.top, contract)

    def lines() -> Iterator[str]:
        nonlocal unsure
        answers = predictor.stream(find(options.images, sys.stdin), options.batch_size)
        yield head
        hidden = options.out or not sys.stdout.isatty()  # else the answers themselves show how far it is
        for path, answer in progress(answers, "predicting", unit="image") if hidden else answers:
            if isinstance(answer, ImageError):
                bad.append(answer)
            elif answer.sure is False:
                unsure += 1
            yield line(path, answer)

    if options.out:
        write_atomic(options.out, "".join(lines()).encode("utf-8", "backslashreplace"))
    else:
        write_lines(lines())
    if unsure:
        sys.stderr.write(f"{unsure} answers are unsure: below {contract.threshold:.4f}, the probability from "
                         f"which on {contract.accuracy_target:g} or more were right on valid\n")  # fmt: skip
    if bad:
        shown = "".join(f"{error}\n" for error in bad[:10]) if options.out else ""
        sys.stderr.write(f"{shown}{len(bad)} files could not be read as images\n")
    return include.SOME_FAILED if bad else include.DONE


if __name__ == "__main__":
    raise SystemExit(main())
