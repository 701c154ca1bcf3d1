"""Evaluates a trained experiment, on the test set unless told otherwise.

python evaluate.py --data_dir data/digits --model_dir experiments/digits

Choose a model on the validation split; open the test set once, when it is chosen.
"""

import argparse
from pathlib import Path

import include
from config.run_folder import LOG, REPORT_PAGE, TTA, WEIGHTS, RunFolder
from utils import UserError, log, logging_to, reports_errors

LIMITS = {"top_k": (1, 100), "robustness": (0, 100_000)}
OF_THE_REPORT = {"top_k": 24, "slices": None, "attribution": "auto", "robustness": 500, "against": None}
ATTRIBUTION = ("auto", "grad_cam", "eigen_cam", "occlusion", "off")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="data/<name> with train/ and the split")
    parser.add_argument("--model_dir", type=Path, required=True, help="a trained experiment folder")
    parser.add_argument("--weights", choices=WEIGHTS, default="best", help="which of its weights (default: best)")
    parser.add_argument("--split", choices=include.SPLITS[1:], default="test", help="default: test")
    views = "average over each image and its mirror image; over both shifted to either side too"
    parser.add_argument("--tta", nargs="?", choices=[*filter(None, TTA)], const="mirror", help=views)
    sure = parser.add_argument_group("confidence, fitted on the valid split")
    sure.add_argument("--calibrate", action="store_true", help="divide the logits by the temperature that suits valid")
    sure.add_argument("--accuracy_target", type=float, metavar="X", help="and find the confidence for accuracy X")
    report = parser.add_argument_group("the report")
    report.add_argument("--report", action="store_true", help="write report/index.html: one page with everything")
    report.add_argument("--top_k", type=int, metavar="N", help="images on each sheet; default 24")
    report.add_argument("--slices", type=Path, metavar="FILE.csv", help="more about the images: accuracy by column")
    report.add_argument("--attribution", choices=ATTRIBUTION, help="maps of where the net looks; default auto")
    report.add_argument("--robustness", type=int, metavar="N", help="corrupt so many images; default 500, 0: none")
    report.add_argument("--against", type=Path, metavar="FOLDER", help="another experiment, to compare image by image")
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Evaluates and returns the exit code: 0 done, 2 bad input, 3 the folder is being trained."""
    options = parse(argv)
    folder = RunFolder(options.model_dir)
    for name, default in OF_THE_REPORT.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
        elif not options.report:
            raise UserError(f"--{name} is for the report: add --report")
    if (target := options.accuracy_target) is not None and not 0 < target < 1:
        raise UserError(f"--accuracy_target {target:g}: must be above 0 and below 1")
    for name, (least, most) in LIMITS.items():
        if not least <= (value := getattr(options, name)) <= most:
            raise UserError(f"--{name} {value}: must be {least} to {most}")
    folder.lock()
    try:
        from reports.evaluation import evaluate  # torch starts here
        from reports.other import read_other
        from reports.report import write_report
        from reports.subject import Options, Question

        question = Question(options.weights, options.split, options.tta, options.calibrate or target is not None)
        against = read_other(RunFolder(options.against), question.report) if options.against else None
        asked = Options(options.top_k, options.slices, against, target, options.attribution, options.robustness)
        with logging_to(folder.file(LOG)):
            subject = evaluate(folder, options.data_dir, question, asked)
            if options.report:
                write_report(subject)
            log.info("report: %s", folder.file(question.report + f"/{REPORT_PAGE}" * options.report))
    finally:
        folder.unlock()
    return include.DONE


if __name__ == "__main__":
    raise SystemExit(main())
