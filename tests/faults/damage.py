"""Ways in which a file goes bad on a disk."""

import random
from collections.abc import Callable, Iterator

Damage = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, draw: random.Random) -> bytes:
    """One bit."""
    changed = bytearray(data)
    changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def truncate(data: bytes, draw: random.Random) -> bytes:
    """The end is missing."""
    return data[: draw.randrange(len(data))]


def zero_tail(data: bytes, draw: random.Random) -> bytes:
    """What a power cut leaves of a file that was not flushed."""
    kept = draw.randrange(len(data))
    return data[:kept] + bytes(len(data) - kept)


def append(data: bytes, draw: random.Random) -> bytes:
    """Something is added; often what a reader might pass over."""
    return data + draw.choice(
        [b"\0", b"\n", b" ", b"\0" * 512, b"}", data[-7:], draw.randbytes(1 + draw.randrange(40))]
    )


KINDS: dict[str, Damage] = {"bit flip": flip, "truncation": truncate, "zeroed tail": zero_tail, "appended": append}


def damaged(data: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """So many damaged versions, kinds in turn; each differs from the original."""
    draw, kinds = random.Random(seed), list(KINDS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        bad = KINDS[kind](data, draw)
        while bad == data:
            bad = KINDS[kind](data, draw)
        yield kind, bad
