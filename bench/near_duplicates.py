"""How many changed copies of images prepare_data.py --check finds, and how many different images it takes for copies.

python -m bench.near_duplicates data/a data/b
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from tabulate import tabulate

from images.duplicates import fingerprint, identical, nearly_identical
from images.folder import scan
from images.read import Pixels, read_image


def jpeg(image: Pixels, quality: int = 75) -> Pixels:
    """The image as it comes back from a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def resized(image: Pixels, factor: float) -> Pixels:
    """The image in another size."""
    size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    return np.asarray(Image.fromarray(image).resize((size[0], size[1]), Image.Resampling.LANCZOS))


def cropped(image: Pixels) -> Pixels:
    """The image without a twentieth at each edge."""
    rows, columns = (max(1, side // 20) for side in image.shape[:2])
    return image[rows:-rows, columns:-columns]


CHANGES: Final[dict[str, Callable[[Pixels], Pixels]]] = {
    "copied": np.copy,
    "JPEG of quality 75": jpeg,
    "JPEG of quality 50": lambda image: jpeg(image, 50),
    "half the size": lambda image: resized(image, 0.5),
    "1.7 times the size": lambda image: resized(image, 1.7),
    "6% brighter": lambda image: np.clip(image * 1.06, 0, 255).astype(np.uint8),
    "cropped by 5%": cropped,
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
}


def measure(folder: Path, count: int) -> list[list[str]]:
    """A row for each change: the share found, and groups of images that are not copies of each other."""
    paths = [path for split in scan(folder, ("train",)).splits.values() for path in split.paths]
    chosen = np.random.default_rng(0).choice(len(paths), min(count, len(paths)), replace=False)
    images = [read_image(folder / paths[i], max_megapixels=200) for i in chosen]
    rows = []
    for name, change in CHANGES.items():
        prints = [fingerprint(image) for image in (*images, *map(change, images))]
        search = nearly_identical(prints)
        groups = [*identical(prints), *search.groups, *search.mirrored]
        found = sum(any({k, k + len(images)} <= set(group) for group in groups) for k in range(len(images)))
        others = sum(len({k % len(images) for k in group}) > 1 for group in groups)
        rows.append([str(folder), name, f"{found / len(images):.0%}", str(others)])
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="data folders")
    parser.add_argument("--images", type=int, default=150, help="taken from train; default 150")
    options = parser.parse_args()
    rows = [row for folder in options.folders for row in measure(folder, options.images)]
    print(tabulate(rows, ["data", "copies are", "found", "groups of different images"]))  # noqa: T201


if __name__ == "__main__":
    main()
