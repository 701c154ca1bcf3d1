"""Draws how near each loop comes to the limit, from what --json of bench.peers wrote.

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
from bench.peers.table import Line

OF_US, OF_OTHERS = "#d1603d", "#4878a8"  # told apart by the colour-blind and in grey


def shares(lines: Sequence[Line]) -> dict[str, list[float]]:
    """Training images per second of each loop as shares of the limit of the same round."""
    counted = [line for line in lines if not line["void"]]
    limits = {line["round"]: line["images_per_second"] for line in counted if line["what"] == "limit"}
    found: dict[str, list[float]] = {}
    for name in LOOPS:
        of_name = [line for line in counted if line["what"] == name and line["round"] in limits]
        if name != "limit" and of_name:
            found[name] = [line["images_per_second"] / limits[line["round"]] for line in of_name]
    return found


def draw(panel: Axes, lines: Sequence[Line]) -> None:
    """A bar for each loop: the median of its shares, and a line over their range."""
    found = shares(lines)
    settings: dict[str, Any] = lines[0]["settings"]
    for place, (name, values) in enumerate(found.items()):
        middle = statistics.median(values)
        panel.barh(place, middle, color=OF_US if name == OURS else OF_OTHERS, height=0.7)
        panel.plot([min(values), max(values)], [place, place], color="black", linewidth=1.2)
        panel.text(max(values) + 0.015, place, f"{middle:.2f}", va="center")
    panel.set_yticks(range(len(found)), list(found))
    panel.invert_yaxis()
    panel.axvline(1, color="#7a7a7a", linestyle="--", linewidth=1)
    panel.set_xlim(0, max(1.05, *map(max, found.values())) + 0.13)
    panel.set_title(f"{settings['arch']}, {settings['im_sz']} pixels", loc="left")
    panel.set_xlabel("training images per second, as a share of the limit")
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
