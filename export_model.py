"""Exports a trained experiment: ONNX with its own preprocessing, a torch.export program, or weights; and a model card.

python export_model.py --data_dir data/digits --model_dir experiments/digits
python export_model.py --data_dir data/digits --model_dir experiments/digits --int8

Every file is compared with PyTorch on valid images before it is written.
"""

import argparse
from pathlib import Path

import include
from config.run_folder import LOG, WEIGHTS, RunFolder
from export.contract import FORMATS
from utils import UserError, logging_to, printable, reports_errors


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="data/<name> with train/ and valid/")
    parser.add_argument("--model_dir", type=Path, required=True, help="a trained experiment folder")
    parser.add_argument("--format", choices=FORMATS, nargs="+", default=["onnx"], help="one or more (default: onnx)")
    parser.add_argument("--int8", action="store_true", help="try an 8-bit ONNX file too, and recommend one of the two")
    parser.add_argument("--weights", choices=WEIGHTS, default="best", help="which of its weights (default: best)")
    parser.add_argument("--images", type=int, default=1000, metavar="N",
                        help="valid images to check with, at most (default: 1000)")  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write (default: export/ in the experiment)"
    )
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Exports and returns the exit code: 0 done, 2 bad input, 3 the folder is in use, 4 not what PyTorch computes."""
    options = parse(argv)
    if options.images < 1:
        raise UserError(f"--images is {options.images}; it must be 1 or more")
    if options.int8 and "onnx" not in options.format:
        raise UserError("--int8 makes an ONNX file; leave it out, or add onnx to --format")
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out: {printable(str(options.out))} is a file, not a folder")
    folder = RunFolder(options.model_dir)
    folder.lock()
    try:
        from export.run import Request, export  # torch starts here

        request = Request(options.weights, tuple(options.format), options.int8, options.images, options.out)
        with logging_to(folder.file(LOG)):
            export(folder, options.data_dir, request)
    finally:
        folder.unlock()
    return include.DONE


if __name__ == "__main__":
    raise SystemExit(main())
