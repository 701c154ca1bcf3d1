"""Lines on a terminal that are drawn anew in their place."""

import shutil
import sys
from collections.abc import Sequence


class Redrawn:
    """So many lines at the end of the terminal, of which each drawing replaces the one before."""

    def __init__(self) -> None:
        self._shown = 0

    def draw(self, lines: Sequence[str]) -> None:
        """Shows these lines instead of those shown, as far as the terminal is wide and high."""
        columns, rows = shutil.get_terminal_size()
        self.clear()
        sys.stdout.write("".join(f"{line[: columns - 1]}\n" for line in lines[: rows - 1]))
        sys.stdout.flush()
        self._shown = min(len(lines), rows - 1)

    def clear(self) -> None:
        """Takes the lines away, so that something else can be written in their place."""
        if self._shown:
            sys.stdout.write(f"\x1b[{self._shown}A\x1b[J")
            self._shown = 0
