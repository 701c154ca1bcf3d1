"""Trains one experiment: a data folder in, an experiment folder out.

python train.py --data_dir data/digits --model_dir experiments/digits
python train.py experiments/digits/params.json --data_dir data/digits --set learning_rate=0.01
python train.py --data_dir data/digits --model_dir experiments/digits --lr_find

The same command continues an unfinished run. Behind torchrun --nproc_per_node N it trains with N processes.
"""

import argparse
from pathlib import Path

import include
from config.load import load_params
from training.processes import join
from training.threads import Watch
from utils import UserError, reports_errors


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("params", nargs="?", type=Path, help="PATH/params.json: the same as --model_dir PATH")
    parser.add_argument("--data_dir", type=Path, required=True, help="data/<name> with train/ and valid/")
    parser.add_argument("--model_dir", type=Path, help="the experiment folder, with its params.json")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="override a parameter, e.g. --set early_stopping.patience=3; may be repeated")  # fmt: skip
    parser.add_argument("--overfit", type=int, metavar="N",
                        help="debugging: train on N images without augmentation; must reach 100%%")  # fmt: skip
    parser.add_argument("--lr_find", action="store_true", help="suggest a learning_rate instead of training")
    parser.add_argument("--overwrite", action="store_true", help="train anew; earlier results are moved aside")
    parser.add_argument("--exact", action="store_true",
                        help="refuse to continue a run where this machine would compute other bits")  # fmt: skip
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Trains and returns the exit code: 0 done, 2 bad input, 3 busy or finished, 4 fault, 130/138/143 by a signal."""
    options, watch = parse(argv), Watch()
    if (options.params is None) == (options.model_dir is None):
        raise UserError("name the experiment once: --model_dir experiments/x, or experiments/x/params.json")
    if options.lr_find and (options.overwrite or options.exact):
        raise UserError("--lr_find trains nothing that is kept: leave out --overwrite and --exact")
    overrides = options.overrides + ([] if options.overfit is None else [f"overfit={options.overfit}"])

    with join() as processes:
        folder = processes.folder(options.model_dir or options.params)
        folder.lock()  # before torch starts, which takes seconds: a second process leaves at once
        try:
            from images.read_ahead import reading_ahead

            with reading_ahead(options.data_dir) as reading:
                from training.catalogues import catalogues
                from training.lr_find import find
                from training.run import run

                params = load_params(folder.params, overrides, catalogues())
                if options.lr_find:
                    find(folder, reading, params, processes)
                else:
                    overwrite = options.overwrite and not processes.restarted
                    run(folder, reading, params, processes, watch, exact=options.exact, overwrite=overwrite)
        finally:
            folder.unlock()
    return include.DONE


if __name__ == "__main__":
    raise SystemExit(main())
