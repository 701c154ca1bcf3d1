"""The page's helpers: nothing that comes from a file system can become markup, and nothing is asked of a network."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.page import LONGEST_NAME, Html, Section, data_uri, details, escaped, join, link, page, short, table, tag

HOSTILE = "<script>alert(1)</script>\"'&\n\x00\x1b[31m\u202e"


class Reader(HTMLParser):
    """Elements, attributes and text of a page; complains when tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in ("img", "meta", "link", "br"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text.append(data)


@given(st.text(), st.text())
def test_no_text_becomes_markup(text, value):
    read = Reader(tag("p", text, title=value))
    assert [name for name, _ in read.elements] == ["p"]
    assert list(read.elements[0][1]) == ["title"]
    assert all(c.isprintable() for c in "".join(read.text))


def test_hostile_names_are_shown_as_they_are():
    read = Reader(
        join(tag("b", HOSTILE), link("#x", HOSTILE), details(HOSTILE), table([HOSTILE], [[HOSTILE]], label=HOSTILE))
    )
    assert "script" not in [name for name, _ in read.elements]
    assert "".join(read.text).count("<script>alert(1)</script>\"'&\\n\\x00\\x1b[31m\\u202e") == 5


def test_markup_stays_markup_and_only_once():
    assert join("a<b", Html("<br>")) == "a&lt;b<br>"
    assert escaped(escaped("<")) == "&lt;"
    assert tag("th", "x", class_="text", aria_label="l", id_=None) == '<th class="text" aria-label="l">x</th>'
    assert tag("img", alt="") == '<img alt="">'


@given(st.text(max_size=5000))
def test_no_name_is_too_long_to_show(name):
    assert len(short(name)) <= LONGEST_NAME + 1
    assert short(name).isprintable()


def test_a_name_is_told_by_both_ends():
    assert short("a" * 10_000 + "b") == "a" * 30 + "…" + "a" * 29 + "b"
    assert short("short") == "short"


def test_columns_of_numbers_are_told_from_text():
    made = table(["name", "images", "share"], [["x", 1234, "12 %"], ["y", 2, "undefined"]], label="l", ids=["a", "b"])
    assert '<th class="text" scope="row">x</th>' in made or '<th scope="row" class="text">x</th>' in made
    assert "<td>1,234</td><td>12 %</td>" in made
    assert '<tr id="a">' in made


def test_images_are_held_in_the_page():
    assert data_uri(b"\x89PNG\r\n").startswith("data:image/png;base64,")
    assert data_uri(b"\xff\xd8\xff").startswith("data:image/jpeg;base64,")


@pytest.fixture
def made():
    sections = [
        Section("one", "One & only", tag("p", HOSTILE), {"one.csv": b""}, also=("there.png",)),
        Section("two", "Two", tag("p", "text")),
    ]
    return page(HOSTILE, "subtitle", sections, "below/").decode()


def test_the_page_is_whole(made):
    read = Reader(made)
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert ids == ["one", "two"]
    links = [attributes["href"] for name, attributes in read.elements if name == "a"]
    assert links == ["#one", "#two", "below/one.csv", "below/there.png"]
    assert ("html", {"lang": "en"}) in read.elements


def test_the_page_forbids_every_request(made):
    read = Reader(made)
    (policy,) = (a["content"] for _, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert len(re.findall("'sha256-[A-Za-z0-9+/]{43}='", policy)) == 2
    assert not [a for _, a in read.elements if "style" in a or any(name.startswith("on") for name in a)]
