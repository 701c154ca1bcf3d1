"""Images that are the same by their decoded pixels; or nearly, or mirrored, by a perceptual hash the pixels confirm."""

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
# In units of the contrast, what a coefficient exceeds the median by to count: of symmetric images half of them are 0.
UNSURE: Final = 1.0
FLAT: Final = 4.0  # grey levels of contrast below which a perceptual hash says nothing
MOST_IMAGES: Final = 200_000  # that the search for near duplicates looks at: minutes of work, 800 MB
MOST_CANDIDATES: Final = 20_000_000
_CELLS: Final = 2**18  # hash comparisons at a time

_LUMINANCE: Final = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green, blue (ITU-R 601)
_COSINES: Final = np.cos(np.pi / SIDE * np.outer(np.arange(8), np.arange(SIDE) + 0.5)).astype(np.float32)  # (8, 32)


class Print(NamedTuple):
    """What is kept of an image."""

    digest: bytes  # sha256 of shape and decoded pixels
    thumbnail: np.ndarray | None  # uint8 (32, 32, 3); None where it is not to be compared by its look
    side: int  # the shorter, in pixels


class Look(NamedTuple):
    """What images are compared by."""

    thumbnails: np.ndarray  # uint8 (N, 32, 32, 3)
    coarse: np.ndarray  # float32 (N, 8, 8, 3): means of 4 x 4 pixels
    hashes: np.ndarray  # uint64 (N,)


class Search(NamedTuple):
    """Groups of indices that look alike, groups in which some are mirrored, and what was not looked at."""

    groups: list[list[int]]
    mirrored: list[list[int]]
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
    """Groups of images that look alike, as they are or mirrored; of identical ones only the first is looked at."""
    first = list({one.digest: index for index, one in reversed(list(enumerate(prints)))}.values())
    looked_at = [index for index in sorted(first) if prints[index].thumbnail is not None]
    limits = []
    if len(looked_at) < len(first):
        limits.append(f"near-duplicates were searched among {len(looked_at):,} of {len(first):,} images")
    look = _look(np.array([prints[index].thumbnail for index in looked_at], np.uint8).reshape(-1, SIDE, SIDE, 3))
    contrasts = _contrasts(look.thumbnails)
    telling = np.flatnonzero(contrasts >= FLAT)
    if flat := len(looked_at) - len(telling):
        limits.append(f"{flat:,} images of one flat colour were compared only for identity")
    sides = np.array([prints[index].side for index in looked_at])
    reach = np.where(sides < PHOTO_SIDE, SMALL_DISTANCE, PHOTO_DISTANCE)
    pairs, complete = _pairs(telling, look, look, contrasts, reach)
    mirrored, complete_too = _pairs(telling, look, _look(look.thumbnails[:, :, ::-1]), contrasts, reach)
    if not (complete and complete_too):
        limits.append(f"the search for near-duplicates stopped after {MOST_CANDIDATES:,} pairs of equal outline")
    groups = connected((looked_at[a], looked_at[b]) for a, b in pairs)
    known = {index: number for number, group in enumerate(groups) for index in group}
    mirrored = [(looked_at[a], looked_at[b]) for a, b in mirrored]
    return Search(groups, connected(p for p in mirrored if known.get(p[0], -1) != known.get(p[1], -2)), limits)


def _look(thumbnails: np.ndarray) -> Look:
    """The perceptual hashes of thumbnails, and smaller ones still."""
    hashes, coarse = np.empty(len(thumbnails), np.uint64), np.empty((len(thumbnails), 8, 8, 3), np.float32)
    for start in range(0, len(thumbnails), 1024):
        part = slice(start, start + 1024)
        grey = _grey(thumbnails[part])
        low = (_COSINES @ grey @ _COSINES.T).reshape(-1, 64)  # the lowest frequencies of the cosine transform
        noise = UNSURE * grey.std(axis=(1, 2))[:, None]
        bits = np.packbits(low > np.median(low[:, 1:], axis=1, keepdims=True) + noise, axis=1)
        hashes[part] = bits.view(">u8")[:, 0]
        coarse[part] = thumbnails[part].reshape(-1, 8, 4, 8, 4, 3).mean((2, 4), dtype=np.float32)
    return Look(thumbnails, coarse, hashes)


def _grey(thumbnails: np.ndarray) -> np.ndarray:
    """float32 (n, 32, 32)."""
    grey: np.ndarray = thumbnails.astype(np.float32) @ _LUMINANCE
    return grey


def _contrasts(thumbnails: np.ndarray) -> np.ndarray:
    """float32 (N,): the standard deviation of the grey values, in levels."""
    parts = [_grey(thumbnails[k : k + 1024]).std(axis=(1, 2)) for k in range(0, len(thumbnails), 1024)]
    return np.concatenate([np.empty(0, np.float32), *parts])


def _pairs(
    places: np.ndarray, look: Look, other: Look, contrasts: np.ndarray, reach: np.ndarray
) -> tuple[list[tuple[int, int]], bool]:
    """Pairs (a, b), a < b, of which a looks like b of the others, and whether all were found.

    Args:
        places: the images that are compared.
        look: of all N images.
        other: of the same images, seen otherwise.
        contrasts: (N,).
        reach: (N,) the distance in units of the contrast within which two images are alike; the smaller of both counts.
    """
    hashes, others = look.hashes[places], other.hashes[places]
    block, candidates = max(1, _CELLS // max(1, len(hashes))), 0
    found: list[tuple[int, int]] = []
    for start in progress(range(0, len(hashes), block), "comparing", unit=" blocks"):
        near = np.bitwise_count(hashes[start : start + block, None] ^ others[None, start:]) <= HASH_DISTANCE
        a, b = np.nonzero(near)
        a, b = places[a[a < b] + start], places[b[a < b] + start]
        candidates += len(a)
        limit = np.minimum(reach[a], reach[b]) ** 2 * 0.5 * (contrasts[a] ** 2 + contrasts[b] ** 2)
        for one, two in ((look.coarse, other.coarse), (look.thumbnails, other.thumbnails)):
            kept = _squares(one, two, a, b) <= limit  # of the coarse ones it is never larger, and sooner computed
            a, b, limit = a[kept], b[kept], limit[kept]
        found += zip(a.tolist(), b.tolist(), strict=True)
        if candidates > MOST_CANDIDATES:
            return found, False
    return found, True


def _squares(one: np.ndarray, two: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean square difference of image a of the one and image b of the other, for each pair."""
    squares = np.empty(len(a), np.float32)
    for start in range(0, len(a), 1024):
        part = slice(start, start + 1024)
        squares[part] = np.square(one[a[part]].astype(np.float32) - two[b[part]]).mean((1, 2, 3))
    return squares


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
