import csv
import io

import pytest

from reports.tables import csv_bytes


def read(data):
    return list(csv.reader(io.StringIO(data.decode())))


@pytest.mark.parametrize("cell", ["=HYPERLINK(1)", "+1", "-1+1", "@SUM(A1)"])
def test_a_formula_becomes_text(cell):
    assert read(csv_bytes(["a"], [[cell]]))[1] == [f"'{cell}"]


def test_a_row_is_a_line():
    assert csv_bytes(["a"], [["x\n=1\ty"]]) == b"a\nx\\n=1\\ty\n"


def test_numbers_and_names_stay():
    assert read(csv_bytes(["path", "p"], [["a,b.jpg", -0.5], ['q"uote', 1]])) == [
        ["path", "p"],
        ["a,b.jpg", "-0.5"],
        ['q"uote', "1"],
    ]


def test_an_undecodable_name_is_written():
    assert b"\\udcff" in csv_bytes(["path"], [["\udcff.jpg"]])
