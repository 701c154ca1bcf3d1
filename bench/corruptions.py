"""What each kind of corruption costs for one image, in milliseconds of one processor core.

python -m bench.corruptions [--side 224] [--images 8]

The images are fractals of all colours, `side` pixels square; every severity counts alike. Processor time is measured,
so that other programs matter little.
"""

import argparse
import time

import numpy as np
from tabulate import tabulate

from reports import textures
from reports.corruptions import CORRUPTIONS, SEVERITIES, corrupt


def pictures(count: int, side: int) -> list[np.ndarray]:
    """Fractals (side, side, 3) uint8."""
    random = np.random.default_rng(0)
    power = 1 << (side - 1).bit_length()
    planes = ([textures.plasma(power, 1.6, random)[:side, :side] for _ in range(3)] for _ in range(count))
    return [np.asarray(255 * np.stack(three, axis=-1), np.uint8) for three in planes]


def milliseconds(kind: str, images: list[np.ndarray]) -> float:
    """Processor time for an image, over the images and the severities."""
    start = time.process_time()
    for number, image in enumerate(images):
        for severity in SEVERITIES:
            corrupt(image, kind, severity, 0, str(number))
    return 1000 * (time.process_time() - start) / (len(images) * len(SEVERITIES))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=224, help="pixels a side; default 224")
    parser.add_argument("--images", type=int, default=8, help="default 8")
    options = parser.parse_args()
    for number in range(textures.ICE_TEXTURES):
        textures.ice(number)  # made once in a program
    images = pictures(options.images, options.side)
    for kind in CORRUPTIONS:  # what is imported at first use is not counted
        corrupt(images[0], kind, 1, 0, "")
    rows = {kind: milliseconds(kind, images) for kind in CORRUPTIONS}
    mean = sum(rows.values()) / len(rows)
    print(tabulate([*rows.items(), ("mean", mean)], ["kind", "ms"], floatfmt=".1f"))  # noqa: T201
    print(f"{1000 / mean:.0f} images/s on one core")  # noqa: T201


if __name__ == "__main__":
    main()
