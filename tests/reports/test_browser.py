"""The reports opened in chromium, on a desk and on a phone, in light and in dark: quiet, reachable, and no wider."""

import shutil

import pytest

from images.check import check
from reports.data_report import write_data_report
from reports.evaluation import write_tables
from reports.report import write_report
from tests.reports.subjects import made_up

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync")  # fmt: skip
SCREENS = {"desk": (1280, 900), "phone": (390, 844)}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    subject = made_up(tmp_path_factory.mktemp("browser"), classes=4, images=30)
    write_tables(subject)
    write_report(subject)
    return subject.folder.file("report/index.html").resolve().as_uri()


@pytest.fixture(scope="module")
def data_address(tiny_data, tmp_path_factory):
    data = shutil.copytree(tiny_data, tmp_path_factory.mktemp("browser") / "d <b> & c")
    shutil.copy(data / "train/bee/1.png", data / "test/apple/leak.png")
    (data / "valid/bee/broken.png").touch()
    write_data_report(check(data), data / "report.html")
    return (data / "report.html").resolve().as_uri()


@pytest.fixture
def visit(browser, address):
    """Opens a page, an experiment's unless told otherwise; fails when something was said, or asked of a network."""
    contexts = []

    def opened(screen="desk", scheme="light", address=address):
        width, height = SCREENS[screen]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        page, said = context.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url[:5] not in ("file:", "data:") else 0)
        page.goto(address)
        contexts.append((context, said))
        return page

    yield opened
    for context, said in contexts:
        context.close()
        assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("of", ["address", "data_address"])
def test_everybody_can_read_it(visit, screen, scheme, of, request):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = visit(screen, scheme, request.getfixturevalue(of))
    for part in page.locator("details").all():
        part.evaluate("part => { part.open = true; }")
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= SCREENS[screen][0]
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
