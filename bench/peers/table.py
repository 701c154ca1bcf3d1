"""From lines of measurements to the table: medians, and ratios of measurements that followed each other."""

import statistics
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from bench.peers.loops import LOOPS, OURS

Line = dict[str, Any]


def sequence(peers: Sequence[str], backwards: bool) -> list[str]:
    """The order of a round: every peer is next to a measurement of ours, before it or after it."""
    order: list[str] = []
    for first in range(0, len(peers), 2):
        order += [peers[first], OURS, *peers[first + 1 : first + 2]]
    return order[::-1] if backwards else order


def void(others: float | None, limit: float) -> bool:
    """Whether other programs kept so many cores busy that a measurement does not count; unknown: it does."""
    return others is not None and others > limit


def pairs(lines: Sequence[Line], name: str) -> list[tuple[Line, Line]]:
    """Each measurement of a loop that counts, with the nearest of ours in the same round."""
    counted = [line for line in lines if not line["void"]]
    found = []
    for line in counted:
        ours = [other for other in counted if other["what"] == OURS and other["round"] == line["round"]]
        if line["what"] == name and ours:
            found.append((min(ours, key=lambda other: abs(other["place"] - line["place"])), line))
    return found


def ratio(paired: Sequence[tuple[Line, Line]], key: str) -> str:
    """Median of the pairs' ratios, ours to the other's, with their range."""
    return spread([ours[key] / other[key] for ours, other in paired])


def spread(values: Sequence[float | None]) -> str:
    """Median and range of the values that there are; one value has no range."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return "".join(f"{value:.2f}" for value in known)
    return f"{statistics.median(known):.2f} ({min(known):.2f} to {max(known):.2f})"


def heading(lines: Sequence[Line]) -> str:
    """What was trained, on what, and how many measurements do not count."""
    if not lines:
        return "nothing was measured"
    about, voids = lines[0]["settings"], sum(line["void"] for line in lines)
    devices = ", ".join(sorted({f"{line['device']}, torch {line['versions']['torch']}" for line in lines}))
    return (
        f"{about['arch']} at {about['im_sz']} pixels, batch size {about['batch_size']}, {about['images']} images, "
        f"{about['epochs']} epochs; {devices}; {len(lines)} measurements, of which {voids} are void"
    )


def table(lines: Sequence[Line]) -> str:
    """A row for each loop."""
    rows = []
    for name in LOOPS:
        counted = [line for line in lines if line["what"] == name and not line["void"]]
        if not counted:
            continue

        def median(key: str, digits: int, counted: Sequence[Line] = counted) -> str:
            values = [line[key] for line in counted if line[key] is not None]
            return f"{statistics.median(values):.{digits}f}" if values else ""

        paired = [] if name == OURS else pairs(lines, name)
        rows.append([
            name,
            median("images_per_second", 1), ratio(paired, "images_per_second"),
            median("valid_images_per_second", 0), ratio(paired, "valid_images_per_second"),
            median("first_step_s", 1), median("first_epoch_s", 1), median("cpu_ms_per_image", 1), median("peak_mb", 0),
            spread([line["accuracy"] for line in counted]), len(paired) or len(counted),
        ])  # fmt: skip
    header = ["", "train images/s", "ours to it", "valid images/s", "ours to it", "first step, s", "first epoch, s",
              "CPU ms an image", "peak MB", "accuracy", "n"]  # fmt: skip
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)
