"""The reports opened in chromium, on a desk and on a phone, in light and in dark: quiet, reachable, and no wider."""

import shutil
from contextlib import ExitStack

import pytest

from bench import browse
from images.check import check
from reports.data_report import write_data_report
from reports.evaluation import write_tables
from reports.report import write_report
from tests.reports.subjects import made_up

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with browse.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    subject = made_up(tmp_path_factory.mktemp("browser"), classes=4, images=30)
    write_tables(subject)
    write_report(subject)
    return subject.folder.file("report/index.html")


@pytest.fixture(scope="module")
def data_report(tiny_data, tmp_path_factory):
    data = shutil.copytree(tiny_data, tmp_path_factory.mktemp("browser") / "d <b> & c")
    shutil.copy(data / "train/bee/1.png", data / "test/apple/leak.png")
    (data / "valid/bee/broken.png").touch()
    write_data_report(check(data), data / "report.html")
    return data / "report.html"


@pytest.fixture
def visit(browser, report):
    """Opens a page, an experiment's unless told otherwise; fails when something was said, or asked of a network."""
    with ExitStack() as visits:
        everything = []

        def opened(screen="desk", scheme="light", path=report):
            page, said, asked = visits.enter_context(browse.visit(browser, path, screen, scheme))
            everything.extend((said, asked))
            return page

        yield opened
        assert not any(everything)


@pytest.mark.parametrize("scheme", browse.SCHEMES)
@pytest.mark.parametrize("screen", browse.SCREENS)
@pytest.mark.parametrize("of", ["report", "data_report"])
def test_everybody_can_read_it(visit, screen, scheme, of, request):
    pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = visit(screen, scheme, request.getfixturevalue(of))
    browse.unfold(page)
    assert browse.hindrances(page) == ""
    assert browse.excess(page, screen) == 0
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 31)"
    assert dark == (scheme == "dark")


def test_a_cell_leads_to_its_images_and_back(visit):
    page = visit()
    cell = page.locator("table.matrix a").first
    target = cell.get_attribute("href")
    assert not page.locator(target).is_visible()
    cell.click()
    page.locator(target).wait_for(state="visible")
    images = page.locator(f"{target} img")
    assert images.count() >= 1
    assert images.first.evaluate("image => image.complete && image.naturalWidth > 0")
    page.locator("#mistakes ul.sheet").first.locator("a").first.click()
    assert page.url.split("#")[1].startswith("cell-")


def test_a_press_on_a_column_sorts_by_it(visit):
    page = visit()
    table = page.locator("#metrics table")
    column = [
        float(text.replace("undefined", "nan")) for text in table.locator("tbody td:nth-child(2)").all_inner_texts()
    ]
    button = table.get_by_role("button", name="value")
    for expected in (sorted(column), sorted(column, reverse=True)):
        button.click()
        assert [float(text) for text in table.locator("tbody td:nth-child(2)").all_inner_texts()] == expected


def test_no_name_of_a_file_became_markup(visit):
    page = visit()
    assert page.locator("main script").count() == 0
    assert page.evaluate("document.querySelectorAll('img:not([src^=\"data:\"])').length") == 0
