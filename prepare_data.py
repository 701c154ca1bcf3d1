"""Makes a data folder, data/<name>/{train,valid,test}/<class>/<image>, from a named source; or checks one.

python prepare_data.py --source digits --out data/digits
python prepare_data.py --source fashion_mnist --out data/fashion_mnist --archive fashion_mnist_raw.tar
python prepare_data.py --source csv --csv shop.csv --images_dir Images --label_column category --out data/shop
python prepare_data.py --check data/shop --strict
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import include
from images.check import check, report
from images.items import Division
from images.sources import SOURCES, prepare
from images.table import LABEL_RULES
from utils import Interrupted, UserError, log, logging_to, reports_errors

SOURCE_OPTIONS = ("csv", "images_dir", "image_column", "label_column", "label_rule")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", metavar="NAME", help=f"one of {', '.join(SOURCES)}")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the data folder to make")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="the source's files, where there is no internet")
    parser.add_argument("--sha256", metavar="HASH", help="what the archive must hash to")
    parser.add_argument("--overwrite", action="store_true", help="move an existing --out aside")
    splits = parser.add_argument_group("splits that the source lacks; they are taken from its train images")
    splits.add_argument("--valid_fraction", type=float, default=Division.valid_fraction, help="default %(default)s")
    splits.add_argument("--test_fraction", type=float, default=Division.test_fraction, help="default %(default)s")
    splits.add_argument("--seed", type=int, default=Division.seed, help="default %(default)s")
    own = parser.add_argument_group("options of the sources csv and folder")
    own.add_argument("--csv", metavar="FILE", help="the table; in the archive, or anywhere")
    own.add_argument("--images_dir", metavar="FOLDER", help="where the images are; in the archive, or anywhere")
    own.add_argument("--image_column", metavar="NAME", help='default "image"')
    own.add_argument("--label_column", metavar="NAME", help='default "label"')
    own.add_argument("--label_rule", metavar="RULE", help=f"{', '.join(LABEL_RULES)} or regex:PATTERN; default as_is")
    checks = parser.add_argument_group("checking")
    checks.add_argument("--check", type=Path, metavar="FOLDER", help="print a report on a data folder")
    checks.add_argument("--strict", action="store_true", help="exit with 2 when --check finds anything")
    return parser


def _terminated(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum, "interrupted; nothing was left behind")


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prepares or checks; returns the exit code."""
    arguments = parser().parse_args(argv)
    if (arguments.check is None) == (arguments.source is None or arguments.out is None):
        raise UserError("give --source NAME --out FOLDER to make a data folder, or --check FOLDER to check one")
    with logging_to(None):
        if arguments.check is not None:
            found = check(arguments.check)
            log.info("%s", report(found))
            return include.BAD_INPUT if arguments.strict and found.findings() else include.DONE
        options = {name: value for name in SOURCE_OPTIONS if (value := getattr(arguments, name)) is not None}
        division = Division(arguments.valid_fraction, arguments.test_fraction, arguments.seed)
        archive = (arguments.archive, arguments.sha256)
        counts = prepare(arguments.source, arguments.out, division, *archive, arguments.overwrite, **options)
        log.info("%s: %s images", arguments.out, ", ".join(f"{split} {count:,}" for split, count in counts.items()))
        log.info("python prepare_data.py --check %s  looks for unreadable, doubled and leaking images", arguments.out)
    return include.DONE


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(main())
