"""Makes a data folder, data/<name>/{train,valid,test}/<class>/<image>, from a named source; or checks one.

python prepare_data.py --source digits --out data/digits
python prepare_data.py --source csv --csv shop.csv --images_dir Images --label_column category --out data/shop
python prepare_data.py --check data/shop --strict --html
"""

import argparse
import signal
from pathlib import Path

import include
from images.check import check, report
from images.items import FRACTIONS, Division
from images.sources import SOURCES, prepare
from images.table import LABEL_RULES
from reports.data_report import write_data_report
from utils import Interrupted, UserError, log, logging_to, printable, reports_errors


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", metavar="NAME", help=f"one of {', '.join(SOURCES)}")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the data folder to make")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="the source's files, where there is no internet")
    parser.add_argument("--sha256", metavar="HASH", help="what the archive must hash to")
    parser.add_argument("--overwrite", action="store_true", help="move an existing --out aside")
    parser.add_argument("--images_per_tar", type=int, metavar="N", help="put the images into tar files of N each")
    splits = parser.add_argument_group("splits that the source lacks; they are taken from its train images")
    for split, fraction in FRACTIONS.items():
        splits.add_argument(f"--{split}_fraction", type=float, metavar="X", help=f"of each class; default {fraction}")
    splits.add_argument("--seed", type=int, metavar="N", help="of the choice; default 0")
    own = parser.add_argument_group("options of the sources csv and folder")
    own.add_argument("--csv", metavar="FILE", help="the table; in the archive, or anywhere")
    own.add_argument("--images_dir", metavar="FOLDER", help="where the images are; in the archive, or anywhere")
    own.add_argument("--image_column", metavar="NAME", help='default "image"')
    own.add_argument("--label_column", metavar="NAME", help='default "label"')
    own.add_argument("--label_rule", metavar="RULE", help=f"{', '.join(LABEL_RULES)} or regex:PATTERN; default as_is")
    checks = parser.add_argument_group("checking")
    checks.add_argument("--check", type=Path, metavar="FOLDER", help="print a report on a data folder")
    checks.add_argument("--strict", action="store_true", help="exit with 2 when --check finds anything")
    checks.add_argument("--max_megapixels", type=float, metavar="X", help="of an image, as in params.json; default 50")
    checks.add_argument("--html", nargs="?", type=Path, const=Path(), metavar="FILE", help="and as one page")
    return parser


def _terminated(signum: int, frame: object) -> None:
    raise Interrupted(signum, "interrupted; nothing was left behind")


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Prepares or checks; returns the exit code."""
    arguments = parser().parse_args(argv)
    given = {name for name, value in vars(arguments).items() if value is not None and value is not False}
    if not ("check" in given or {"source", "out"} <= given):
        raise UserError("give --source NAME --out FOLDER to make a data folder, or --check FOLDER to check one")
    checking = {"strict", "html", "max_megapixels"}
    if stray := sorted(given - {"check", *checking} if "check" in given else given & checking):
        raise UserError(f"--{stray[0]} cannot be used {'with' if 'check' in given else 'without'} --check")
    with logging_to(None):
        if arguments.check is not None:
            found = check(arguments.check, 50 if arguments.max_megapixels is None else arguments.max_megapixels)
            log.info("%s", report(found))
            if arguments.html is not None:
                log.info("page: %s", write_data_report(found, arguments.html))
            return include.BAD_INPUT if arguments.strict and found.findings() else include.DONE
        division = Division(arguments.valid_fraction, arguments.test_fraction, arguments.seed)
        options = {name: getattr(arguments, name) for name in given - {"source", "out", *vars(division)}}
        counts = prepare(arguments.source, arguments.out, division, **options)
        out = printable(str(arguments.out))
        log.info("%s: %s images", out, ", ".join(f"{split} {count:,}" for split, count in counts.items()))
        log.info("python prepare_data.py --check %s  looks for unreadable, doubled and leaking images", out)
    return include.DONE


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    raise SystemExit(main())
