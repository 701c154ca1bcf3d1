"""The one way to open an image file: upright, 8 bits a channel, grey or RGB. No torch."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from utils import UserError, printable

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

TURNED: Final = (5, 6, 7, 8)  # EXIF orientations that swap width and height
WHITE: Final = (255, 255, 255)
_DEEP_GREY: Final = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_POINTER: Final = b"version https://git-lfs"
_HTML: Final = (b"<!doctype", b"<html", b"<?xml")


class ImageError(UserError):
    """A file that cannot be used as an image."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{printable(str(path))}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class Header:
    """What a file says of itself before it is decoded; width and height are those of the upright image."""

    width: int
    height: int
    mode: str
    format: str
    frames: int
    orientation: int


def read_header(path: Path, max_megapixels: float = 50) -> Header:
    """Reads the header alone.

    Raises:
        ImageError: not an image, or too many pixels.
    """
    with _opened(path, max_megapixels) as image:
        orientation = _orientation(image)
        width, height = image.size[::-1] if orientation in TURNED else image.size
        frames = int(getattr(image, "n_frames", 1))
        return Header(width, height, image.mode, image.format or "", frames, orientation)


def read_image(path: Path, channels: int = 3, background: Sequence[int] = WHITE, max_megapixels: float = 50) -> Pixels:
    """Decodes a file.

    EXIF orientation is applied; 16-bit values are scaled, not clipped; palettes, CMYK and YCbCr become RGB; what is
    transparent is laid over the background; of an animation the first frame counts.

    Args:
        path: the file.
        channels: 3 for RGB, 1 for luminance (ITU-R 601).
        background: red, green, blue in 0 … 255 under transparent pixels.
        max_megapixels: larger images are refused by their header.

    Returns:
        uint8 (H, W, channels).

    Raises:
        ImageError: naming the file and what is wrong with it.
    """
    with _opened(path, max_megapixels) as image:
        image.load()
        upright = ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
        flat = _eight_bits(_opaque(upright, tuple(background)))
        pixels = np.array(flat.convert("RGB" if channels == 3 else "L"))
    return pixels if channels == 3 else pixels[:, :, None]


@contextlib.contextmanager
def _opened(path: Path, max_megapixels: float) -> Iterator[Image.Image]:
    """The image with its header read and checked; whatever Pillow raises inside the block becomes an ImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit stands in for Pillow's; odd metadata does no harm
            with Image.open(path) as image:
                megapixels = image.size[0] * image.size[1] / 1e6
                if megapixels > max_megapixels:
                    raise ImageError(
                        path, f"has {megapixels:.1f} megapixels, more than max_megapixels {max_megapixels:g}"
                    )
                yield image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"has far more pixels than max_megapixels {max_megapixels:g}") from error
    except (UnidentifiedImageError, FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise ImageError(path, _why_unreadable(path, error)) from error
    except MemoryError as error:
        raise ImageError(path, "does not fit into memory") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(path, f"cannot be decoded ({printable(why)})") from error


def _why_unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be opened ({error.strerror})"
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as failure:
        return f"cannot be opened ({failure.strerror})"
    if not start:
        return "is empty"
    if start.startswith(_POINTER):
        return "is a Git LFS pointer, not the image; fetch it with git lfs pull"
    if start.lstrip().lower().startswith(_HTML):
        return "is a web page, not an image"
    return "is not an image of a known format"


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data says nothing
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _opaque(image: Image.Image, background: tuple[int, ...]) -> Image.Image:
    """The image without transparency."""
    if not (image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info):
        return image
    layers = image.convert("RGBA")
    canvas = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(canvas, layers).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with deep grey values scaled to 0 … 255: 16-bit ones by their range, others by what they hold."""
    if image.mode not in _DEEP_GREY:
        return image
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if image.mode != "F" and values.min() >= 0 and values.max() <= 65535:
        scaled = values / 257
    elif image.mode == "F" and values.min() >= 0 and values.max() <= 1:
        scaled = values * 255
    else:
        low, high = values.min(), values.max()
        scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))
