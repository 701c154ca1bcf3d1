"""The one way to open an image file: upright, 8 bits a channel, grey or RGB. No torch."""

import contextlib
import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL import TiffImagePlugin as _Tiff  # noqa: F401
from PIL import WebPImagePlugin as _WebP  # noqa: F401

from images.shards import opened
from utils import UserError, printable

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

WHITE: Final = (255, 255, 255)
# Of Pillow's formats those that need no other program and are common; what a file is called does not matter.
FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
DIFFERS: Final = "its size is not what its header says; save it again"  # turned by an EXIF tag behind the pixels
Image.preinit()  # with the two imports above these are there: else the first Image.open imports all that Pillow has
DEEP: Final = ("I;16", "I;16B", "I;16L", "I;16N")  # 16-bit grey
REDUCIBLE: Final = ("JPEG", "MPO")  # the second is what Pillow calls a JPEG with several pictures
MODES: Final = ("RGB", "L", "1", "LA", "P", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")  # 8 bits and less
TURNED: Final = (5, 6, 7, 8)  # EXIF orientations that swap width and height
UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EIGHT_BITS: Final = np.rint(np.arange(2**16) / 257).astype(np.uint8)  # of a 16-bit value: 65535 becomes 255
_POINTER: Final = b"version https://git-lfs"
_HTML: Final = (b"<!doctype", b"<html", b"<?xml")

Image.MAX_IMAGE_PIXELS = None  # our own limit stands in for Pillow's
warnings.filterwarnings("ignore", module=r"PIL\.")  # about odd metadata, without the file's name, once per thread


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
    orientation: int


def read_header(path: Path, max_megapixels: float = 50) -> Header:
    """Reads the header alone.

    Raises:
        ImageError: not an image, of a kind that is not understood, or with too many pixels.
    """
    with _opened(path, max_megapixels) as image:
        orientation = _orientation(image)
        tags = getattr(image, "tag_v2", None)  # of a TIFF, whose size Pillow tells before or after it is turned
        width, height = image.size if tags is None else (tags[256], tags[257])
        if orientation in TURNED:
            width, height = height, width
        return Header(width, height, image.mode, image.format or "", orientation)


def read_image(
    path: Path,
    channels: int = 3,
    background: Sequence[int] = WHITE,
    max_megapixels: float = 50,
    enough: Sequence[int] | None = None,
) -> Pixels:
    """Decodes a file.

    EXIF orientation is applied; 16-bit values are scaled, not clipped; palettes, CMYK and YCbCr become RGB; what is
    transparent is laid over the background; of an animation the first frame counts.

    Args:
        path: the file.
        channels: 3 for RGB, 1 for luminance (ITU-R 601).
        background: red, green, blue in 0 … 255 under transparent pixels.
        max_megapixels: larger images are refused by their header.
        enough: height and width that are enough: a JPEG whose 1/2, 1/4 or 1/8 is no smaller is decoded at that size,
            which saves most of the time (bench/data_path.py).

    Returns:
        uint8 (H, W, channels).

    Raises:
        ImageError: naming the file and what is wrong with it.
    """
    mode = "RGB" if channels == 3 else "L"
    with _opened(path, max_megapixels) as image:
        if enough is not None and image.format in REDUCIBLE:
            height, width = enough[::-1] if _orientation(image) in TURNED else enough
            image.draft(None, (width, height))
        image.load()
        turn = UPRIGHT.get(_orientation(image))
        if image.mode in DEEP or image.mode == "I":
            image = _eight_bits(image)
        if image.has_transparency_data:
            image = _over(image, background)
        if image.mode != mode:
            image = image.convert(mode)
        pixels = np.array(image if turn is None else image.transpose(turn))
    return pixels.reshape(*pixels.shape[:2], channels)


@contextlib.contextmanager
def _opened(path: Path, max_megapixels: float) -> Iterator[Image.Image]:
    """The image with its header read and checked; whatever Pillow raises inside the block becomes an ImageError."""
    try:
        source = opened(path)
        if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
            raise ImageError(path, "is not a regular file")  # reading a pipe would wait for ever
        with Image.open(source, formats=FORMATS) as image:
            if problem := _unusable(image, max_megapixels):
                raise ImageError(path, problem)
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(path, _what_it_is(path)) from error
    except MemoryError as error:
        raise ImageError(path, "does not fit into memory") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise ImageError(path, unreadable(path, error)) from error


def _unusable(image: Image.Image, max_megapixels: float) -> str | None:
    """What keeps an image from being decoded rightly, by its header."""
    megapixels = image.size[0] * image.size[1] / 1e6
    if megapixels > max_megapixels:
        return f"has {megapixels:.1f} megapixels, more than max_megapixels {max_megapixels:g}"
    if image.mode in MODES or (image.mode == "I" and image.format in ("PPM", "PNG")):
        return None
    tags = getattr(image, "tag_v2", {})  # of a TIFF: 258 is the number of bits, 262 is 0 where 0 means white
    if image.mode in DEEP and tags.get(258, (16,)) == (16,) and tags.get(262) != 0:
        return None
    return f"has pixels of mode {image.mode}, whose range is not known; convert it to 8 bits a channel"


def unreadable(path: Path, error: Exception) -> str:
    """Why a file cannot be read as an image, from what was raised."""
    if isinstance(error, OSError) and error.strerror:
        gone = isinstance(error, FileNotFoundError) and path.is_symlink()
        return "is a link to a file that is not there" if gone else f"cannot be read ({error.strerror})"
    lines = str(error).splitlines()
    return f"cannot be decoded ({printable(lines[0]) if lines else type(error).__name__})"


def _what_it_is(path: Path) -> str:
    """What a file is that is no image."""
    with contextlib.suppress(OSError):
        source = opened(path)
        with source.open("rb") if isinstance(source, Path) else source as file:
            start = file.read(64)
        if not start:
            return "is empty"
        if start.startswith(_POINTER):
            return "is a Git LFS pointer, not the image; fetch it with git lfs pull"
        if start.lstrip().lower().startswith(_HTML):
            return "is a web page, not an image"
    return f"is not an image of a known format ({', '.join(FORMATS)}), or its beginning is damaged"


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 … 8; of a PNG that is not loaded, as far as it stands before the pixels."""
    try:
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)  # PNG's own getexif decodes the pixels
    except Exception:  # damaged EXIF data says nothing
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit grey image with its values scaled by 1 / 257, and an alpha channel where one value is transparent."""
    values = np.asarray(image)
    grey = Image.fromarray(_EIGHT_BITS[values])
    if (clear := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _over(image: Image.Image, background: Sequence[int]) -> Image.Image:
    """The image laid over a colour; RGBA without transparency."""
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:  # of a 16-bit PNG, of whose colours Pillow keeps the upper 8 bits
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image.convert("RGBA"))
