"""Draws how fast each loop is beside ours, from what --json of bench.peers wrote.

python -m bench.peers.picture build/peers/224.jsonl build/peers/64.jsonl --out docs/performance.png
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.peers.loops import LOOPS, OURS
from bench.peers.table import Line, pairs

OF_US, OF_OTHERS, OF_LIMIT = "#d1603d", "#4878a8", "#b0b0b0"  # told apart by the colour-blind and in grey


def shares(lines: Sequence[Line]) -> dict[str, list[float]]:
    """Training images per second of each loop, as shares of those of the nearest measurement of ours."""
    found = {name: pairs(lines, name) for name in LOOPS if name != OURS}
    return {
        name: [other["images_per_second"] / ours["images_per_second"] for ours, other in paired]
        for name, paired in found.items() if paired
    }  # fmt: skip


def draw(panel: Axes, lines: Sequence[Line]) -> None:
    """A bar for each loop: the median of its shares, and a line over their range."""
    found = shares(lines)
    settings: dict[str, Any] = lines[0]["settings"]
    for place, (name, values) in enumerate(found.items()):
        middle = statistics.median(values)
        panel.barh(place, middle, color=OF_LIMIT if name == "limit" else OF_OTHERS, height=0.7)
        panel.plot([min(values), max(values)], [place, place], color="black", linewidth=1.2)
        panel.text(0.02, place, f"{middle:.2f}", va="center", color="white", weight="bold")
    panel.set_yticks(range(len(found)), list(found))
    panel.invert_yaxis()
    panel.axvline(1, color=OF_US, linewidth=2)
    panel.text(1, -0.75, OURS, color=OF_US, ha="center", va="bottom")
    panel.set_xlim(0, max(1.05, *map(max, found.values())) + 0.05)
    panel.set_title(f"{settings['arch']}, {settings['im_sz']} pixels", loc="left", pad=18)
    panel.set_xlabel("training images per second, beside dossier's")
    panel.spines[["top", "right"]].set_visible(False)


def main(argv: list[str] | None = None) -> int:
    """Draws a panel for each file of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, nargs="+", help="of one setting each")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    figure = Figure(figsize=(5.6 * len(options.lines), 3.4), layout="constrained")
    panels = figure.subplots(1, len(options.lines), squeeze=False)[0]
    for panel, path in zip(panels, options.lines, strict=True):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if len({str(line["settings"]) for line in lines}) != 1:
            parser.error(f"{path} must hold measurements of one setting")
        draw(panel, lines)
    figure.savefig(options.out, dpi=110, metadata={"Software": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
