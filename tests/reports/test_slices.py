"""Slices: their numbers against a loop, their bins, and tables of the person's own."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.intervals import wilson
from reports.slices import BINS, FEWEST, Slice, by_column, by_number, by_text, read_columns, slices_csv, slices_figure
from utils import UserError

RIGHT = np.random.default_rng(0).random(300) < 0.7
IMAGES = ("test/ant/1.jpg", "test/ant/2.jpg", "test/bee/1.jpg", "test/bee/three.png")


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=300))
def test_every_image_with_a_number_is_in_one_bin(values):
    right = RIGHT[: len(values)]
    known = np.isfinite(values)
    slicing = by_number("number", right, np.array(values))
    assert sum(part.images for part in slicing.slices) == known.sum()
    assert sum(part.right for part in slicing.slices) == right[known].sum()
    assert bool(slicing.note) == (not known.all())


def test_bins_have_equally_many_images():
    slicing = by_number("number", RIGHT, np.random.default_rng(1).normal(size=300))
    assert [part.images for part in slicing.slices] == [300 // BINS] * BINS


def test_few_numbers_are_slices_of_their_own():
    slicing = by_number("stars", RIGHT, np.arange(300) % 3 + 0.5)
    assert [(part.name, part.images) for part in slicing.slices] == [("0.5", 100), ("1.5", 100), ("2.5", 100)]


def test_texts_come_by_frequency_and_rare_ones_are_left_out_aloud():
    slicing = by_text("brand", RIGHT, ["a"] * 100 + ["b"] * 120 + [""] * 80)
    assert [(part.name, part.images, part.right) for part in slicing.slices] == [
        ("b", 120, RIGHT[100:220].sum()),
        ("a", 100, RIGHT[:100].sum()),
    ]
    assert slicing.note == "80 images have no text here."
    assert "Of 150 different texts the 50" in by_text("brand", RIGHT, [str(i // 2) for i in range(300)]).note


def test_a_column_is_numbers_only_when_all_of_it_is():
    assert len(by_column("price", RIGHT, [str(i) for i in range(300)]).slices) == BINS
    assert [p.name for p in by_column("kind", RIGHT, ["1", "2", "x"] * 100).slices] == ["1", "2", "x"]
    assert not by_column("id", RIGHT, [f"item {i}" for i in range(300)]).slices
    assert not by_column("empty", RIGHT, [""] * 300).slices


def test_accuracy_has_wilsons_interval_and_needs_images():
    part = Slice("x", 40, 30)
    assert (part.accuracy, part.interval) == (0.75, wilson(30, 40))
    assert part.enough
    assert not Slice("x", FEWEST - 1, 1).enough


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("names", [IMAGES, ("ant/1.jpg", "ant/2.jpg", "bee/1.jpg", "three")])
def test_images_are_found_by_their_names(tmp_path, names):
    rows = "\n".join(f"{i};{name};n{i}" for i, name in enumerate(names))
    columns = read_columns(write(tmp_path / "t.csv", f"price;file;note\n{rows}\nx;test/other.png;y\n"), IMAGES)
    assert columns == {"price": ["0", "1", "2", "3"], "note": ["n0", "n1", "n2", "n3"]}


def test_a_name_that_several_images_share_stands_for_none(tmp_path):
    columns = read_columns(write(tmp_path / "t.csv", "file,x\n1.jpg,a\n2.jpg,b\nthree.png\n"), IMAGES)
    assert columns == {"x": ["", "b", "", ""]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("file,x\nnone.png,1\n", r"no column names the images .* such as test/ant/1\.jpg"),
        ("x,file,x\n1,three,2\n", 'two columns "x"'),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, text, problem):
    with pytest.raises(UserError, match=problem):
        read_columns(write(tmp_path / "t.csv", text), IMAGES)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_columns(tmp_path / "none.csv", IMAGES)
    (tmp_path / "t.csv").write_bytes(b"file\n\xff\xfe\n")
    with pytest.raises(UserError, match="UTF-8"):
        read_columns(tmp_path / "t.csv", IMAGES)


def test_csv_and_figure():
    slicings = [by_text("<b>$", RIGHT, ["a", "b", "c"] * 100), by_number("number", RIGHT, np.arange(300.0))]
    rows = list(csv.DictReader(io.StringIO(slices_csv(slicings).decode())))
    assert len(rows) == 3 + BINS
    assert float(rows[0]["accuracy"]) == RIGHT[::3].mean()
    drawn = {slicing.by: slicing.slices for slicing in slicings}
    assert slices_figure(drawn, 0.7) == slices_figure(drawn, 0.7)
