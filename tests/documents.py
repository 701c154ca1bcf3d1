"""The documents as tests read them: their code blocks, the commands in these, and what agrees with an output shown.

A `console` block is run: lines that begin with `$ ` are commands, what follows is their output, `…` stands for what is
left out (alone on a line: for any number of lines), `^C` for a press of these keys at that point. A block after
`<!-- file: PATH -->` is written to that path first. `sh` blocks are not run: they need the internet, or files of the
reader's own.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import include

DOCUMENTS = sorted(path for pattern in ("*.md", "[!.]*/README.md", "docs/*.md") for path in include.ROOT.glob(pattern))
# Those whose commands are run, in this order, one after the other in one copy.
TUTORIAL = [
    include.ROOT / name for name in ("README.md", "docs/data.md", "docs/fine_tuning.md", "docs/experiment_folder.md")
]
SECONDS = 900  # that a command may take

_BLOCK = re.compile(
    r"(?:^<!-- file: (?P<file>\S+) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)

# What another machine may show otherwise, and the pattern for it.
_FREE = {
    "anything": ("…", ".*"),
    "time": (r"\d{8}-\d{6}", r"\d{8}-\d{6}"),
    "decimal": (r"\d+\.\d+", r"\d+\.\d+"),
    "whole": (r"\d+(?= images/s| threads)|(?<=in epoch )\d+|(?<=step )\d+", r"\d+"),
    "rule": ("-{3,}", "-+"),
    "space": (" +", " +"),
}
_ANY_FREE = re.compile("|".join(f"(?P<{name}>{shown})" for name, (shown, _) in _FREE.items()))
_RESULT = re.compile(r"^(?:accuracy +|.*best accuracy in epoch \d+: )(\d\.\d+)", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: its language, text and line, and the file that its text belongs in."""

    kind: str
    text: str
    line: int
    file: str | None


class Step(NamedTuple):
    """A command in a console block, and its output as shown."""

    command: str
    shown: str


def blocks(document: Path) -> Iterator[Block]:
    text = document.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        yield Block(match["kind"], match["text"], text.count("\n", 0, match.start("kind")) + 1, match["file"])


def steps(block: Block) -> Iterator[Step]:
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command = re.match(r"(?:.*\\\n)*.*\n", part)
        assert command is not None
        yield Step(command[0].rstrip("\n"), part[command.end() :])


def agree(shown: str, real: str) -> bool:
    """Whether the output is as shown, but for numbers that another machine may give."""
    results = [[float(number) for number in _RESULT.findall(text)] for text in (shown, real)]
    near = all(min(abs(one - other) for other in results[1]) < 0.03 for one in results[0]) if results[1] else True
    return near and _pattern(shown.replace("^C\n", "")).fullmatch(_plain(real)) is not None


def _pattern(shown: str) -> re.Pattern[str]:
    lines = []
    for line in _plain(shown).splitlines():
        if line.strip() == "…":
            lines.append(r"(?:.*\n)*?")
            continue
        parts, end, text = [], 0, line.strip()
        for free in _ANY_FREE.finditer(text):
            parts += [re.escape(text[end : free.start()]), _FREE[str(free.lastgroup)][1]]
            end = free.end()
        lines.append(f" *{''.join(parts)}{re.escape(text[end:])} *\n")
    return re.compile("".join(lines))


def _plain(output: str) -> str:
    """Without the marks of the best epochs, which another machine may set elsewhere."""
    return re.sub(r" +\*$", "", output, flags=re.MULTILINE)


def run(step: Step, folder: Path, previous: int) -> tuple[int, str]:
    """Runs the command in a shell; returns its exit code and all it printed.

    Args:
        folder: where.
        previous: the exit code of the command before, for `echo $?`.
    """
    hidden = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}  # of a `make test`: a person's make knows nothing of it
    kept = {name: value for name, value in os.environ.items() if name not in outer}
    path = {"PATH": f"{folder / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"}
    before, keys, _ = step.shown.partition("^C\n")
    with subprocess.Popen(
        ["bash", "-c", f"(exit {previous})\n{step.command}"], cwd=folder, env=kept | hidden | path,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        timer = threading.Timer(SECONDS, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        output = ""
        for line in process.stdout or ():
            output += line
            if keys and _pattern(before).fullmatch(_plain(output)):
                keys = ""
                os.killpg(process.pid, signal.SIGINT)
        timer.cancel()
    return process.returncode, output


def copy_tree(target: Path) -> None:
    """The files of the repository, as a fresh clone has them, with an environment that is this one."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=include.ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (source := include.ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(source.read_bytes())
    programs = target / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("python", "python3"):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (programs / name).chmod(0o755)
    (target / ".venv/stamp").touch()
