"""Images that are the same by their decoded pixels, or nearly by a 64-bit perceptual hash that the pixels confirm."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from utils import progress

SIDE: Final = 32  # of the thumbnails
HASH_DISTANCE: Final = 8  # bits of 64; a wide net, since the pixels decide
# Root mean square difference of two thumbnails in units of their contrast. Measured on 400 images each of digits,
# Fashion-MNIST, Quick Draw, Imagenette, Flipkart and CIFAR-10: a JPEG of quality 75 is at most 0.12 from its source;
# different photos are 0.25 apart or more, but different digits and shirts of 28 pixels only 0.13.
SMALL_DISTANCE, PHOTO_DISTANCE, PHOTO_SIDE = 0.12, 0.25, 64
FLAT: Final = 4.0  # grey levels of contrast below which a perceptual hash says nothing
MOST_IMAGES: Final = 200_000  # that the search for near duplicates looks at: a minute's work, 600 MB
MOST_CANDIDATES: Final = 20_000_000
_CELLS: Final = 2**20  # hash comparisons at a time

_LUMINANCE: Final = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green, blue (ITU-R 601)
_COSINES: Final = np.cos(np.pi / SIDE * np.outer(np.arange(8), np.arange(SIDE) + 0.5)).astype(np.float32)  # (8, 32)


class Print(NamedTuple):
    """What is kept of an image."""

    digest: bytes  # sha256 of shape and decoded pixels
    thumbnail: np.ndarray | None  # uint8 (32, 32, 3); None where it is not to be compared by its look
    side: int  # the shorter, in pixels


class Search(NamedTuple):
    """Groups of indices, and what was not looked at."""

    groups: list[list[int]]
    limits: list[str]


def fingerprint(image: np.ndarray, by_look: bool = True) -> Print:
    """What identifies an image: uint8 (H, W, 3)."""
    digest, side = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest(), min(image.shape[:2])
    if not by_look:
        return Print(digest, None, side)
    way = Image.Resampling.BOX if side >= SIDE else Image.Resampling.BILINEAR
    return Print(digest, np.asarray(Image.fromarray(image).resize((SIDE, SIDE), way)), side)


def compared(count: int) -> range:
    """The places of the images whose looks are compared, among so many: all, or evenly spread ones."""
    return range(0, count, max(1, -(-count // MOST_IMAGES)))


def identical(prints: Sequence[Print]) -> list[list[int]]:
    """Groups of two and more images with the same pixels."""
    same: defaultdict[bytes, list[int]] = defaultdict(list)
    for index, one in enumerate(prints):
        same[one.digest].append(index)
    return [group for group in same.values() if len(group) > 1]


def nearly_identical(prints: Sequence[Print]) -> Search:
    """Groups of images that look alike; of identical ones only the first is looked at."""
    first = list({one.digest: index for index, one in reversed(list(enumerate(prints)))}.values())
    looked_at = [index for index in sorted(first) if prints[index].thumbnail is not None]
    limits = []
    if len(looked_at) < len(first):
        limits.append(f"near-duplicates were searched among {len(looked_at):,} of {len(first):,} images")
    thumbnails = np.array([prints[index].thumbnail for index in looked_at], np.uint8).reshape(-1, SIDE, SIDE, 3)
    hashes, contrasts = _hashes(thumbnails)
    telling = np.flatnonzero(contrasts >= FLAT)
    if flat := len(looked_at) - len(telling):
        limits.append(f"{flat:,} images of one flat colour were compared only for identity")
    allowed = np.array([SMALL_DISTANCE if prints[i].side < PHOTO_SIDE else PHOTO_DISTANCE for i in looked_at])
    pairs, complete = _pairs(telling, hashes[telling], lambda a, b: _alike(thumbnails, contrasts, allowed, a, b))
    if not complete:
        limits.append(f"the search for near-duplicates stopped after {MOST_CANDIDATES:,} pairs of equal outline")
    return Search(connected((looked_at[a], looked_at[b]) for a, b in pairs), limits)


def _hashes(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Perceptual hashes, uint64 (N,), and contrasts, float32 (N,): the grey values' standard deviation in levels."""
    hashes, contrasts = np.empty(len(thumbnails), np.uint64), np.empty(len(thumbnails), np.float32)
    for start in range(0, len(thumbnails), 1024):
        part = slice(start, start + 1024)
        grey = thumbnails[part].astype(np.float32) @ _LUMINANCE  # (n, 32, 32)
        low = (_COSINES @ grey @ _COSINES.T).reshape(-1, 64)  # the lowest frequencies of the cosine transform
        bits = np.packbits(low > np.median(low[:, 1:], axis=1, keepdims=True), axis=1)
        hashes[part] = bits.view(">u8")[:, 0]
        contrasts[part] = grey.std(axis=(1, 2))
    return hashes, contrasts


def _pairs(
    places: np.ndarray, hashes: np.ndarray, alike: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[list[tuple[int, int]], bool]:
    """Pairs of places with near hashes that are alike, and whether all were found."""
    block, candidates = max(1, _CELLS // max(1, len(hashes))), 0
    found: list[tuple[int, int]] = []
    for start in progress(range(0, len(hashes), block), "comparing", unit=" blocks"):
        near = np.bitwise_count(hashes[start : start + block, None] ^ hashes[None, start:]) <= HASH_DISTANCE
        a, b = np.nonzero(near)
        a, b = places[a[a < b] + start], places[b[a < b] + start]
        kept = alike(a, b)
        found += zip(a[kept].tolist(), b[kept].tolist(), strict=True)
        candidates += len(a)
        if candidates > MOST_CANDIDATES:
            return found, False
    return found, True


def _alike(
    thumbnails: np.ndarray, contrasts: np.ndarray, allowed: np.ndarray, a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """Of each pair: whether the root mean square difference over the contrast is within what is allowed for both."""
    squares = np.empty(len(a), np.float32)
    for start in range(0, len(a), 1024):
        part = slice(start, start + 1024)
        difference = thumbnails[a[part]].astype(np.int16) - thumbnails[b[part]]
        squares[part] = np.square(difference, dtype=np.float32).mean((1, 2, 3))
    distances = np.sqrt(squares / (0.5 * (contrasts[a] ** 2 + contrasts[b] ** 2)))
    kept: np.ndarray = distances <= np.minimum(allowed[a], allowed[b])
    return kept


def connected(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The groups that pairs tie together, each sorted, in the order of their first members."""
    parent: dict[int, int] = {}

    def root(index: int) -> int:
        while parent.setdefault(index, index) != index:
            parent[index] = index = parent[parent[index]]
        return index

    for a, b in pairs:
        parent[max(root(a), root(b))] = min(root(a), root(b))
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index in sorted(parent):
        groups[root(index)].append(index)
    return sorted(groups.values())
