"""A small picture of an image, for pages that hold hundreds."""

import io
from typing import Final

import numpy as np
from PIL import Image

from images.read import Pixels
from images.view import resize

SIDE: Final = 96  # pixels of its longer side, at most
QUALITY: Final = 80


def thumbnail(pixels: Pixels) -> bytes:
    """An image at most SIDE pixels wide and high, as PNG or JPEG, whichever is smaller.

    Args:
        pixels: uint8 (H, W, 3).
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    small = resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
    grey = (small == small[..., :1]).all()
    image = Image.fromarray(np.ascontiguousarray(small[..., 0] if grey else small))
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG", optimize=True)
    image.save(jpeg, "JPEG", quality=QUALITY)
    return min(png.getvalue(), jpeg.getvalue(), key=len)
