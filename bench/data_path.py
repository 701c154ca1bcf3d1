"""What an image costs on its way to the net, in processor time of one core, beside torchvision's folder and loader.

python -m bench.data_path --data_dir data/imagenette160_small --im_sz 224 64 --megapixels 0 12

One thread, no workers. Of the training images, random resized crop and flip: one epoch of torchvision's ImageFolder and
DataLoader; ours while the images are decoded for the first time; ours from then on, from the images in memory. They
take turns, and the medians of the rounds count, with their range. --megapixels: the images as they are (0), or the
first --few of each class enlarged to this size, with noise as a sensor's, so that a file is about as long as a
telephone's.
"""

import argparse
import itertools
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

from bench.part import part
from bench.peers.job import Job
from bench.peers.measure import ROOT
from bench.peers.ours import params_of
from bench.peers.table import spread
from bench.peers.torchvision_loop import loaders
from config.schema import Params
from model.data_loader import Loader, fetch_dataloader
from utils import reports_errors

OUT = ROOT / "build" / "data_path"
NOISE = 4.0  # standard deviation, of 255


def cpu_ms(batches: Callable[[], Iterable[object]], images: int) -> float:
    """Processor time of an image, in ms: looking through the folder, and all batches."""
    start = time.process_time()
    for _ in batches():
        pass
    return 1000 * (time.process_time() - start) / images


def ours(job: Job) -> Loader:
    """A loader that has decoded nothing yet."""
    params = Params.model_validate(params_of(job) | {"cache": "memory"})
    return fetch_dataloader(["train"], job.data_dir, params)["train"]


def enlarged(source: Path, megapixels: float, few: int) -> Path:
    """A folder with some of the training images in another size, made once."""
    target = OUT / f"{source.resolve().name}-{megapixels:g}-{few}"
    if not target.is_dir():
        unfinished = target.with_name(f"{target.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        classes = len(list(source.glob("train/*")))
        part(source, unfinished, {"train": few * classes, "valid": classes})
        for path in unfinished.glob("train/*/*"):
            with Image.open(path) as image:
                factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
                size = (round(image.width * factor), round(image.height * factor))
                pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), np.float32)
            noisy = pixels + np.random.default_rng(0).normal(0, NOISE, pixels.shape).astype(np.float32)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=90)
        unfinished.rename(target)
    return target


def round_of(job: Job) -> dict[str, float]:
    """Each way once."""
    opened: list[Loader] = []

    def first() -> Iterable[object]:
        opened.append(ours(job))
        return opened[0].batches(0)

    ways: dict[str, Callable[[], Iterable[object]]] = {
        "torchvision": lambda: loaders(job)[0],
        "ours, first epoch": first,
        "ours, later epochs": lambda: opened[0].batches(1),
    }
    return {way: cpu_ms(batches, job.images) for way, batches in ways.items()}


@reports_errors
def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--im_sz", type=int, nargs="+", default=[224, 64])
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0])
    parser.add_argument("--few", type=int, default=5, help="enlarged images of each class")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for megapixels, im_sz in itertools.product(options.megapixels, options.im_sz):
        data = enlarged(options.data_dir, megapixels, options.few) if megapixels else options.data_dir
        job = Job(
            data_dir=str(data), scratch="", arch="resnet18", classes=1, im_sz=im_sz, batch_size=options.batch_size,
            images=len(list(data.glob("train/*/*"))), epochs=1, workers=0,
        )  # fmt: skip
        rounds = [round_of(job) for _ in range(options.rounds)]
        for way in rounds[0]:
            costs = [found[way] for found in rounds]
            times = spread([found[way] / found["torchvision"] for found in rounds])
            rows.append([f"{megapixels:g}" if megapixels else "as they are", im_sz, way,
                         f"{statistics.median(costs):.2f}", times])  # fmt: skip
    header = ["megapixels", "im_sz", "", "CPU ms an image", "times torchvision's"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
