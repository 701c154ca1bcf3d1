"""HTML that is safe by construction, and the one page that a report is.

How a part gets into the report:

1. Write a function in a module of its own, `section(subject: Subject) -> Section | None`. A Subject
   (reports/subject.py) holds all that is known: folder, params, classes, paths, logits, labels, losses, the net,
   pixels, history, options. Return None where the part was not asked for; where it has no meaning, a section whose
   body says why in a sentence.
2. Make its markup with `tag` and the helpers below. Text is escaped by them, wherever it comes from; only what they
   returned (`Html`) is markup. Names of files and classes go through `short`, for they may be thousands of characters.
   There are no style attributes: the page's own policy forbids them, as it forbids every request. Classes that there
   are stand in page.css.
3. Give the files to be written beside the page in `files`; the page links to them.
4. Add a row to PARTS in reports/report.py. The tests of the page run over all rows.
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from utils import printable

VOID: Final = ("img", "meta", "link", "br")
LONGEST_NAME: Final = 60  # characters that are shown of a name; the CSV files have all of them
STYLE: Final = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
SCRIPT: Final = Path(__file__).with_name("page.js").read_text(encoding="utf-8")


class Html(str):
    """Markup. Any other str is text, and is escaped where it meets markup."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Text as markup that shows it: control characters as escapes; what is markup already stays."""
    return text if isinstance(text, Html) else Html(html.escape(printable(text)))


def join(*parts: str) -> Html:
    """Pieces of text and markup one after another."""
    return Html("".join(map(escaped, parts)))


def tag(name: str, /, *children: str, **attributes: str | int | None) -> Html:
    """An element.

    Args:
        name: of the element.
        children: text, which is escaped, or markup.
        attributes: a trailing underscore is left out of their names, other underscores become hyphens; None leaves one
            out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(printable(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>" if name in VOID else f"<{name}{given}>{join(*children)}</{name}>")


def short(name: str, longest: int = LONGEST_NAME) -> str:
    """A name of any length as it can be shown: its beginning and its end, control characters as escapes."""
    half = longest // 2
    shown = printable(name if len(name) <= 2 * longest else name[:longest] + name[-longest:])
    return shown if len(shown) <= longest else f"{shown[:half]}…{shown[-half:]}"


def paragraph(*children: str) -> Html:
    """A paragraph."""
    return tag("p", *children)


def link(target: str, *children: str) -> Html:
    """A link to a place in the page ("#id") or to a file beside it."""
    return tag("a", *children, href=target)


def details(title: str, *children: str, id_: str | None = None) -> Html:
    """What is only seen when its title is pressed."""
    return tag("details", tag("summary", title), *children, id_=id_)


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str | int]],
    *,
    label: str,
    ids: Sequence[str | None] | None = None,
    sortable: bool = True,
) -> Html:
    """A table that scrolls sideways where it is wider than the screen. The first cell of a row is its heading.

    Args:
        header: the columns' names.
        rows: cells: text, markup or whole numbers.
        label: what the table holds, for those who do not see it.
        ids: of the rows, to link to.
        sortable: whether a press on a column's name sorts the rows by it.
    """
    rows = list(rows)
    kinds = [_kind([row[column] for row in rows]) for column in range(len(header))]
    lines = [
        tag(
            "tr",
            *(_cell(cell, kind, i == 0) for i, (cell, kind) in enumerate(zip(row, kinds, strict=True))),
            id_=row_id,
        )
        for row, row_id in zip(rows, ids or (None,) * len(rows), strict=True)
    ]
    names = (tag("th", name, scope="col", class_=kind) for name, kind in zip(header, kinds, strict=True))
    content = join(tag("thead", tag("tr", *names)), tag("tbody", *lines))
    return scrolled(tag("table", content, class_="sortable" if sortable and len(lines) > 1 else None), label)


def _kind(column: Sequence[str | int]) -> str | None:
    """Whether a column is to be read from the left, as text, or from the right, as numbers."""
    numbers = all(isinstance(cell, int) or cell[:1] in "-+0123456789" or cell == "undefined" for cell in column)
    return None if numbers else "text"


def _cell(value: str | int, kind: str | None, first: bool) -> Html:
    shown = value if isinstance(value, str) else f"{value:,}"
    return tag("th", shown, scope="row", class_=kind) if first else tag("td", shown, class_=kind)


def scrolled(body: Html, label: str) -> Html:
    """What may be wider than the screen, in a frame of its own that keys scroll too."""
    return tag("div", body, class_="scroll", role="group", aria_label=label, tabindex=0)


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Names and what they stand for."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs))


def data_uri(image: bytes) -> str:
    """A PNG or JPEG as an address that holds it."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def picture(image: bytes, alt: str, wide: bool = False) -> Html:
    """A figure, on white as it was drawn for.

    Args:
        image: PNG or JPEG.
        alt: what it shows, for those who do not see it.
        wide: it scrolls sideways on a small screen, as it could not be read when shrunk to its width.
    """
    if wide:
        return scrolled(tag("img", src=data_uri(image), alt=alt, class_="figure wide"), alt)
    return tag("img", src=data_uri(image), alt=alt, class_="figure")


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Args:
        id: where links find it; also the beginning of the ids in it.
        title: its heading.
        body: its markup; its own headings are h3.
        files: what is written beside the page, by name.
        also: files that are there already and belong to this part.
    """

    id: str
    title: str
    body: Html
    files: Mapping[str, bytes] = field(default_factory=dict)
    also: tuple[str, ...] = ()


def page(title: str, subtitle: str, sections: Sequence[Section], beside: str = "") -> bytes:
    """The page: one HTML file that asks for nothing else, and whose policy forbids it to.

    Args:
        title: its heading.
        subtitle: the line below.
        sections: its parts, in their order.
        beside: the folder of the sections' files, as seen from the page; "" when they lie beside it.
    """
    policy = f"default-src 'none'; img-src data:; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; "
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=f"{policy}base-uri 'none'; form-action 'none'"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title}: {subtitle}"),
        Html(f"<style>{STYLE}</style>"),
    )
    contents = tag("ul", *(tag("li", link(f"#{section.id}", section.title)) for section in sections))
    body = tag(
        "body",
        tag("header", tag("h1", title), paragraph(subtitle)),
        tag("nav", contents, aria_label="Contents"),
        tag("main", *(_section(section, beside) for section in sections)),
        Html(f"<script>{SCRIPT}</script>"),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n".encode()


def _section(section: Section, beside: str) -> Html:
    names = [tag("li", link(f"{beside}{name}", name)) for name in (*section.files, *section.also)]
    files = tag("ul", *names, class_="files", aria_label="Files of this part") if names else Html()
    return tag("section", tag("h2", section.title), section.body, files, id_=section.id)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
