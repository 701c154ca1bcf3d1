"""Fine-tuning compared with itself: learning rates per layer group, BatchNorm modes, and training from scratch.

python -m bench.transfer --data_dir data/imagenette160_small --weights FILE

Every variant is trained with every seed through train.py, then its best epoch on the validation split is evaluated on
the test split. Finished runs are kept, so the same command goes on where it was stopped. The table it prints gives the
mean over the seeds with its 95% t-interval, and the paired difference to the first variant.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from bench.interval import with_interval

ROOT = Path(__file__).resolve().parent.parent

RECIPE = json.loads((ROOT / "experiments/imagenette_mobilenet_v2/params.json").read_text())
SCRATCH = {"pretrain": 0, "batch_norm": "train", "learning_rate": 0.003}
ABLATION = RECIPE | {"im_sz": 160, "num_epochs": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": RECIPE,
    "rates per group, BatchNorm held": ABLATION,
    "rates per group, BatchNorm trained": ABLATION | {"batch_norm": "train"},
    "one rate 1e-4, BatchNorm held": ABLATION | {"learning_rate": 0.0001},
    "one rate 1e-3, BatchNorm held": ABLATION | {"learning_rate": 0.001},
    "body frozen, BatchNorm held": ABLATION | {"freeze": "body", "batch_norm": "frozen_eval"},
    "body frozen, BatchNorm trained": ABLATION | {"freeze": "body", "batch_norm": "train"},
    "from scratch": ABLATION | SCRATCH,
}


def run(variant: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Trains and evaluates one variant with one seed; returns its accuracies and training seconds."""
    folder = options.out / variant.replace(" ", "_").replace(",", "").replace("'", "") / f"seed_{seed}"
    params = VARIANTS[variant] | {"seed": seed}
    if params["pretrain"]:
        params["pretrain"] = str(options.weights.resolve())
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "metrics_test_best_weights.json"
    if not result.is_file():
        (folder / "params.json").write_text(json.dumps(params, indent=2))
        environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // options.jobs))}
        for script in ("train.py", "evaluate.py"):
            command = [
                sys.executable,
                script,
                "--data_dir",
                str(options.data_dir.resolve()),
                "--model_dir",
                str(folder.resolve()),
            ]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            if done.returncode not in (0, 3):
                sys.exit(f"{' '.join(command)}: {done.stderr or done.stdout[-500:]}")
    test, valid = (json.loads((folder / f"metrics_{split}_best_weights.json").read_text()) for split in ("test", "val"))
    seconds = json.loads((folder / "status.json").read_text())["seconds"]
    sys.stderr.write(
        f"{variant}, seed {seed}: valid {valid['accuracy']:.4f}, test {test['accuracy']:.4f}, {seconds:.0f} s\n"
    )
    return {"valid": valid["accuracy"], "test": test["accuracy"], "seconds": seconds}


def main() -> int:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of mobilenet_v2")
    parser.add_argument("--out", type=Path, default=ROOT / "build/transfer")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time; they share the cores")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    options = parser.parse_args()
    seeds = range(options.seeds)
    with ThreadPoolExecutor(options.jobs) as pool:
        futures = {(v, s): pool.submit(run, v, s, options) for v, s in product(options.variants, seeds)}
        found = {key: future.result() for key, future in futures.items()}
    columns = {
        v: {k: np.array([found[v, s][k] for s in seeds]) for k in ("valid", "test", "seconds")}
        for v in options.variants
    }
    first = columns[options.variants[0]]["test"]
    rows = [
        [
            variant,
            with_interval(column["valid"]),
            with_interval(column["test"]),
            with_interval(column["test"] - first) if variant != options.variants[0] else "",
            f"{column['seconds'].mean():.0f}",
        ]
        for variant, column in columns.items()
    ]
    header = ["variant", "valid", "test", "test, difference to the first", "s per run"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
