"""Contact sheets: small pictures of images with what was predicted for them, as markup and as a PNG."""

import io
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from PIL import Image

from reports.page import Html, data_uri, join, short, tag
from reports.subject import Subject
from reports.thumbnail import SIDE
from reports.tiles import tiles
from training.curves import png_bytes

BYTES: Final = 150_000  # of markup that a sheet may take; images beyond it are named only
COLUMNS: Final = 6  # of a sheet as a PNG


def image_tag(subject: Subject, index: int, alt: str) -> Html:
    """The thumbnail of an image of the split."""
    size = subject.loader.split.sizes
    tiny = size is not None and int(size[index].max()) <= SIDE // 2
    return tag("img", src=data_uri(subject.thumbnail(index)), alt=alt, class_="tiny" if tiny else None)


def described(subject: Subject, index: int) -> str:
    """What an image is and what it was taken for."""
    true, predicted = (short(subject.named(values[index]), 30) for values in (subject.labels, subject.predicted))
    return f"{true}, rightly" if subject.right[index] else f"{true}, taken for {predicted}"


def sheet(
    subject: Subject,
    indices: Sequence[int],
    place: str,
    more: Callable[[int], Html] = lambda _: Html(),
    budget: int = BYTES,
) -> Html:
    """Cards of images: the picture, what it is and was taken for, how sure the net was, and links.

    Args:
        subject: the report's.
        indices: of images of the split, in the order in which they are shown.
        place: what the cards' ids begin with: that of image 5 is place-5.
        more: further markup at the end of an image's card, such as links to the same image elsewhere.
        budget: bytes of markup; when they are used up, further cards have no picture.
    """
    cards, used = [], 0
    for index in map(int, indices):
        name, what = short(subject.paths[index]), described(subject, index)
        shown = image_tag(subject, index, f"{name}: {what}") if used < budget else Html()
        sure = tag("span", f"{subject.confidence[index]:.1%} sure, loss {subject.losses[index]:.3g}", class_="note")
        text = join(tag("span", what), sure, tag("span", name, class_="note"))
        card = tag("li", shown, text, more(index), id_=f"{place}-{index}")
        used += len(card)
        cards.append(card)
    return tag("ul", *cards, class_="sheet")


def sheet_figure(subject: Subject, indices: Sequence[int], title: str) -> bytes:
    """The same as a PNG: rows of pictures with captions."""
    pictures, captions = [], []
    for index in map(int, indices):
        with Image.open(io.BytesIO(subject.thumbnail(index))) as image:
            pictures.append(np.asarray(image.convert("RGB")))
        true, predicted = (short(subject.named(row[index]), 20) for row in (subject.labels, subject.predicted))
        captions.append(f"{true}\nas {predicted}, {subject.confidence[index]:.0%}")
    return png_bytes(tiles(pictures, captions, title, COLUMNS, (1.8, 1.8)))
