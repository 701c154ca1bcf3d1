"""Opens pages in Chromium, on a desk and on a phone, in light and in dark: what they say, ask for, and hinder.

python -m bench.browse experiments/digits/report/test_best/index.html data/digits/report.html

One row for each: messages of the console and errors; requests that leave the file; whether axe finds what keeps people
from reading it; pixels by which it is wider than the screen; megabytes. Pictures of what was seen go to --pictures.
Exit code 1 where a page is not quiet, readable and narrow enough. Needs Chromium, playwright and axe-playwright-python.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tabulate import tabulate

from utils import UserError, reports_errors

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ARGUMENTS: Final = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                    "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip
SCREENS: Final = {"desk": (1280, 900), "phone": (390, 844)}
SCHEMES: Final = ("light", "dark")


@contextmanager
def chromium() -> Iterator["Browser"]:
    """The machine's own Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    if (program := shutil.which("chromium")) is None:
        raise UserError("chromium: no such program; install it (Debian's package chromium)")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def visit(browser: "Browser", path: Path, screen: str, scheme: str) -> Iterator[tuple["Page", list[str], list[str]]]:
    """A page that is open, what it says on the console, and the addresses beyond its own file that it asks for."""
    width, height = SCREENS[screen]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page, said, asked = context.new_page(), list[str](), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url) if request.url[:5] not in ("file:", "data:") else None)
    page.goto(path.resolve().as_uri())
    yield page, said, asked
    context.close()


def unfold(page: "Page") -> None:
    """Shows what is folded away."""
    for part in page.locator("details").all():
        part.evaluate("part => { part.open = true; }")


def hindrances(page: "Page") -> str:
    """What axe finds, in words; empty where it finds nothing."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page)
    return found.generate_report() if found.violations_count else ""


def excess(page: "Page", screen: str) -> int:
    """Pixels by which the page is wider than its screen."""
    return max(0, int(page.evaluate("document.documentElement.scrollWidth")) - SCREENS[screen][0])


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Prints the table and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="+", metavar="PAGE", help="a file, such as report/…/index.html")
    parser.add_argument("--pictures", type=Path, default=Path("build/browse"), help="folder of the pictures")
    options = parser.parse_args(argv)
    for path in options.pages:
        if not path.is_file():
            raise UserError(f"{path}: no such file; python evaluate.py --report writes one")
    options.pictures.mkdir(parents=True, exist_ok=True)
    rows, reports = [], []
    with chromium() as browser:
        for number, path in enumerate(options.pages, 1):
            for screen in SCREENS:
                for scheme in SCHEMES:
                    with visit(browser, path, screen, scheme) as (page, said, asked):
                        unfold(page)
                        found = hindrances(page)
                        row = [path, screen, scheme, said or 0, asked or 0, int(bool(found)), excess(page, screen)]
                        page.screenshot(path=options.pictures / f"{number}_{screen}_{scheme}.png", full_page=True)
                    rows.append([*row, path.stat().st_size / 1e6])
                    reports += [found] * bool(found)
    columns = ["page", "screen", "scheme", "said", "requests", "axe", "too wide", "MB"]
    print(tabulate(rows, columns, tablefmt="pipe", floatfmt=".2f"), *reports, sep="\n")  # noqa: T201
    print(f"pictures: {options.pictures}")  # noqa: T201
    return int(any(any(row[3:7]) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
