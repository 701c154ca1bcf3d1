"""Which small changes to the modules that write files, keep checkpoints and read params.json no test notices.

make mutation

In a copy of the working tree mutmut changes one thing at a time in utils.py, config/ and training/checkpoint.py, and
runs the tests that reach it until one fails ([tool.mutmut] in pyproject.toml says which). Every change that no test
notices must stand in docs/mutants.md, with the reason. It fails where one does not, or where under 90% are noticed.

What was found stays in build/mutation: the same command tries functions that have changed since, and what no test had
noticed. To begin anew, remove that folder.
"""

import argparse
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "build/mutation"
PAGE = ROOT / "docs/mutants.md"
NOTICED = ("killed", "timeout", "segfault")
FLOOR = 0.9


def copy_the_tree() -> None:
    """Makes the copy hold what git tracks or would track, leaving alone what it holds already."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    files = {name for name in listed if (ROOT / name).is_file()}
    for folder in (COPY, COPY / "mutants"):
        for path in (folder / "tests").rglob("*.py"):
            if path.relative_to(folder).as_posix() not in files:
                path.unlink()
    for name in files:
        data, target = (ROOT / name).read_bytes(), COPY / name
        if not target.is_file() or target.read_bytes() != data:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def mutmut(*arguments: str, show: bool = False) -> str:
    """Runs mutmut in the copy; returns what it prints, unless it is shown."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=COPY, env=environment, stdout=None if show else subprocess.PIPE, check=True)
    return "" if show else done.stdout.decode()


def outcomes() -> dict[str, str]:
    """What became of each mutant: killed, survived, no tests, timeout, not checked …, by its name."""
    return dict(re.findall(r"^ *(\S+): (.+)$", mutmut("results", "--all", "true"), re.MULTILINE))


def unnoticed() -> list[str]:
    """The mutants that were tried in vain."""
    return [name for name, outcome in outcomes().items() if outcome not in (*NOTICED, "not checked")]


def place(mutant: str) -> tuple[str, str]:
    """config.run_folder and RunFolder.read, of config.run_folder.xǁRunFolderǁread__mutmut_3."""
    module, _, mangled = mutant.partition("__mutmut_")[0].rpartition(".")
    return module, mangled[2:].replace("ǁ", ".")


def change(mutant: str) -> str:
    """The first line that the mutant holds and the code does not."""
    lines = mutmut("show", mutant).splitlines()
    return next(line[1:].strip() for line in lines if re.match(r"\+(?!\+\+ )", line))


def main() -> int:
    """Tries the mutants and prints what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at the same time")
    jobs = str(parser.parse_args().jobs)
    copy_the_tree()
    again = unnoticed() if (COPY / "mutants").is_dir() else []
    (COPY / "mutants/mutmut-stats.json").unlink(missing_ok=True)  # which test reaches what: the tests may have changed
    mutmut("run", "--max-children", jobs, show=True)
    if again:
        mutmut("run", "--max-children", jobs, *again, show=True)
    found = outcomes()
    tried = Counter(place(name)[0] for name in found)
    noticed = Counter(place(name)[0] for name, outcome in found.items() if outcome in NOTICED)
    rows = [(module, tried[module], noticed[module]) for module in sorted(tried)]
    rows.append(("all", tried.total(), noticed.total()))
    table = [(*row, f"{row[2] / row[1]:.1%}") for row in rows]
    sys.stdout.write(f"\n{tabulate(table, headers=['module', 'mutants', 'noticed', 'share'], tablefmt='github')}\n\n")
    page, unexplained = PAGE.read_text(encoding="utf-8"), 0
    for name in unnoticed():
        line = f"{'.'.join(place(name))}: {change(name)}"
        if line not in page:
            unexplained += 1
            sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{unexplained} that no test notices are not in {PAGE.relative_to(ROOT)}\n")
    return int(unexplained > 0 or noticed.total() < FLOOR * tried.total())


if __name__ == "__main__":
    sys.exit(main())
