"""Bytes of image files that no library writes, and of files that are no images."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"
WEB_PAGE = b"\n<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) run\nshowpage\n"


def encoded(content: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """An image as the bytes of a file: kind is Pillow's name of the format."""
    buffer = io.BytesIO()
    image = content if isinstance(content, Image.Image) else Image.fromarray(content)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, depth: int, colours: int, rows: bytes, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG of any depth and colour type.

    Args:
        rows: each row as it is stored, without its filter byte.
        before: chunks before the pixels.
        after: chunks after them.
    """
    size = len(rows) // height
    filtered = b"".join(b"\0" + rows[start : start + size] for start in range(0, len(rows), size))
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    body = before + chunk(b"IDAT", zlib.compress(filtered)) + after
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def bomb(side: int = 12_000) -> bytes:
    """A whole PNG of one colour: side² pixels in a few kB."""
    rows = zlib.compressobj(9)
    row = b"\0" + bytes(side // 8)
    packed = b"".join(rows.compress(row) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, bits: int, photometric: int = 1, sample_format: int = 1) -> bytes:
    """A grey little-endian TIFF in one strip.

    Args:
        values: (H, W), of a type as wide as bits.
        photometric: 1: the lowest value is black; 0: it is white.
        sample_format: 1 unsigned, 2 signed, 3 floating point.
    """
    height, width = values.shape
    strip = values.astype(values.dtype.newbyteorder("<")).tobytes()
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8),
            (277, 3, 1), (278, 4, height), (279, 4, len(strip)), (339, 3, sample_format)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + directory


def animation(kind: str, first: tuple[int, int, int], others: int = 2) -> bytes:
    """An animated GIF, PNG or WEBP of 12 x 10 pixels, whose frames after the first are black."""
    frames = [Image.new("RGB", (12, 10), (0, 0, index)) for index in range(others)]
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(Image.new("RGB", (12, 10), first), kind, save_all=True, append_images=frames, duration=50, **options)
