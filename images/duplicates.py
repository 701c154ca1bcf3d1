"""Images that are the same by their decoded pixels, or nearly by a 64-bit perceptual hash that the pixels confirm."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
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

_COSINES: Final = np.cos(np.pi / SIDE * np.outer(np.arange(8), np.arange(SIDE) + 0.5)).astype(np.float32)  # (8, 32)


class Look(NamedTuple):
    """How an image looks."""

    hash: int  # 64 bits
    thumbnail: np.ndarray  # uint8 (32, 32, 3)
    contrast: float  # standard deviation of the grey thumbnail, in levels of 255
    side: int  # the shorter, in pixels


class Print(NamedTuple):
    """What is kept of an image."""

    digest: bytes  # sha256 of shape and decoded pixels
    look: Look | None  # None where it is not to be compared by its look


class Search(NamedTuple):
    """Groups of indices, and what was not looked at."""

    groups: list[list[int]]
    limits: list[str]


def fingerprint(image: np.ndarray, by_look: bool = True) -> Print:
    """What identifies an image: uint8 (H, W, 3)."""
    digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
    return Print(digest, _look(image) if by_look else None)


def _look(image: np.ndarray) -> Look:
    shrinks = min(image.shape[:2]) >= SIDE
    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR)
    grey = np.asarray(small.convert("L"), np.float32)
    low = (_COSINES @ grey @ _COSINES.T).ravel()  # (64,) lowest frequencies of the cosine transform
    bits = np.packbits(low > np.median(low[1:]))
    return Look(int.from_bytes(bits.tobytes()), np.asarray(small), float(grey.std()), min(image.shape[:2]))


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
    looks = {index: look for index in sorted(first) if (look := prints[index].look) is not None}
    looked_at = [index for index, look in looks.items() if look.contrast >= FLAT]
    limits = []
    if len(looks) < len(first):
        limits.append(f"near-duplicates were searched among {len(looks):,} of {len(first):,} images")
    if flat := len(looks) - len(looked_at):
        limits.append(f"{flat:,} images of one flat colour were compared only for identity")
    pairs, complete = _pairs([looks[index] for index in looked_at])
    if not complete:
        limits.append(f"the search for near-duplicates stopped after {MOST_CANDIDATES:,} pairs of equal outline")
    return Search(connected((looked_at[a], looked_at[b]) for a, b in pairs), limits)


def _pairs(looks: Sequence[Look]) -> tuple[list[tuple[int, int]], bool]:
    """Pairs of indices that look alike, and whether all were found."""
    if not looks:
        return [], True
    hashes = np.array([one.hash for one in looks], np.uint64)
    thumbnails = np.stack([one.thumbnail for one in looks])
    contrasts = np.array([one.contrast for one in looks], np.float32)
    allowed = np.where([one.side < PHOTO_SIDE for one in looks], SMALL_DISTANCE, PHOTO_DISTANCE)
    block, candidates = max(1, _CELLS // len(looks)), 0
    found: list[tuple[int, int]] = []
    for start in progress(range(0, len(looks), block), "comparing", unit=" blocks"):
        near = np.bitwise_count(hashes[start : start + block, None] ^ hashes[None, start:]) <= HASH_DISTANCE
        a, b = np.nonzero(near)
        a, b = a[a < b] + start, b[a < b] + start
        alike = _distances(thumbnails, contrasts, a, b) <= np.minimum(allowed[a], allowed[b])
        found += zip(a[alike].tolist(), b[alike].tolist(), strict=True)
        candidates += len(a)
        if candidates > MOST_CANDIDATES:
            return found, False
    return found, True


def _distances(thumbnails: np.ndarray, contrasts: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each pair: the root mean square difference over the contrast."""
    squares = np.empty(len(a), np.float32)
    for start in range(0, len(a), 1024):
        part = slice(start, start + 1024)
        difference = thumbnails[a[part]].astype(np.int16) - thumbnails[b[part]]
        squares[part] = np.square(difference, dtype=np.float32).mean((1, 2, 3))
    distances: np.ndarray = np.sqrt(squares / (0.5 * (contrasts[a] ** 2 + contrasts[b] ** 2)))
    return distances


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
