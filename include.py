"""Facts and names that every part of the project shares. Importing it does nothing."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent

SPLITS: Final = ("train", "valid", "test")
IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

# Channel statistics of the ImageNet training set, as published with torchvision's reference scripts
# (RGB, pixel values scaled to [0, 1]). Only a fallback: weights bring their own.
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)

# Exit codes of every program; 128 + the signal's number when one stopped it.
DONE: Final = 0
SOME_FAILED: Final = 1
BAD_INPUT: Final = 2
BUSY: Final = 3
FAULT: Final = 4
