"""strict_json: what a text says, on which lines, and what is wrong with it."""

import io
import math
from pathlib import Path

import pytest

from config.strict_json import DEEPEST, MOST_BYTES, Document, JsonError, parse, read


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "is empty; write { } with the parameters in it"),
        (" \n\n ", 3, "is empty; write { } with the parameters in it"),
        ('{"a": 1,}', 1, "has a comma after the last item"),
        ('{"a": 1 , }', 1, "has a comma after the last item"),
        ('{"a": [1, 2,]}', 1, "has a comma after the last item"),
        ("[1] // a", 1, 'holds a comment, which JSON does not know; notes go under the key "about"'),
        ("[1] # a", 1, 'holds a comment, which JSON does not know; notes go under the key "about"'),
        ("/* a */ [1]", 1, 'holds a comment, which JSON does not know; notes go under the key "about"'),
        ("['a']", 1, "has single quotes; JSON takes double quotes"),
        ("{'a': 1}", 1, "has single quotes; JSON takes double quotes"),
        ('{"a":\nTrue}', 2, "has True, False or None; JSON spells them true, false, null"),
        ("False", 1, "has True, False or None; JSON spells them true, false, null"),
        ("[1, None]", 1, "has True, False or None; JSON spells them true, false, null"),
        ("[Trueish]", 1, "is not JSON: Expecting value at column 2"),
        ("[1] 2", 1, "goes on after its end; remove what follows, or a closing bracket too many"),
        ("{}\n}", 2, "goes on after its end; remove what follows, or a closing bracket too many"),
        ("[1 2]", 1, "lacks a comma or a closing bracket before column 4"),
        ('{"a": 1', 1, "lacks a comma or a closing bracket before column 8"),
        ("[1,\n 2\n 3]", 3, "lacks a comma or a closing bracket before column 2"),
        ('{"a" 1}', 1, "is not JSON: Expecting ':' delimiter at column 6"),
        ("[.5]", 1, "is not JSON: Expecting value at column 2"),
    ],
)
def test_mistakes(text: str, line: int, message: str) -> None:
    with pytest.raises(JsonError) as caught:
        parse(text)
    assert (str(caught.value), caught.value.line) == (message, line)


def test_places_and_their_lines() -> None:
    text = '{"a":\n[1, {"b": "x\\"]\\n"},\n[]], "c": {},\n\n"d,": null}'
    assert parse(text) == Document(
        value={"a": [1, {"b": 'x"]\n'}, []], "c": {}, "d,": None},
        lines={(): 1, ("a",): 1, ("a", 0): 2, ("a", 1): 2, ("a", 1, "b"): 2, ("a", 2): 3, ("c",): 3, ("d,",): 5},
        twice=[],
    )


def test_scalars_have_a_place() -> None:
    assert parse('\n"a"') == Document("a", {(): 2}, [])
    assert parse("[]") == Document([], {(): 1}, [])


def test_keys_given_twice_or_thrice() -> None:
    document = parse('{"a": 1, "b": {"a": 1,\n"a": 2},\n"a": 3,\n"a": 4}')
    assert document.value == {"a": 4, "b": {"a": 2}}
    assert document.twice == [
        (("b", "a"), "is given twice, on lines 1 and 2"),
        (("a",), "is given twice, on lines 1 and 3"),
        (("a",), "is given twice, on lines 3 and 4"),
    ]
    assert document.lines[("a",)] == 4


def test_numbers_that_are_not_finite_are_left_to_the_caller() -> None:
    values = parse(f"[NaN, Infinity, -Infinity, 1e999, {'9' * 300}, {'9' * 301}, -{'9' * 299}, -{'9' * 300}]").value
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, math.inf, 10**300 - 1, math.inf, 1 - 10**299, math.inf]


@pytest.mark.parametrize("pair", ["[]", ("{", "}")])
def test_depth(pair: str | tuple[str, str]) -> None:
    left, right = ("[", "]") if pair == "[]" else ('{"a":\n', "}")
    assert parse(left * DEEPEST + "1" + right * DEEPEST).twice == []
    with pytest.raises(JsonError) as caught:
        parse(left * (DEEPEST + 1) + "1" + right * (DEEPEST + 1))
    assert str(caught.value) == "is nested deeper than 32 levels"
    assert caught.value.line == (1 if pair == "[]" else DEEPEST + 1)
    with pytest.raises(JsonError, match=r"^is nested deeper than 32 levels$") as caught:
        parse("[" * 100_000)
    assert caught.value.line is None


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (b"\xff\xfe[\0]\0", 1, "is UTF-16 or not text at all; save it as UTF-8"),
        (b"\xfe\xff\0[\0]", 1, "is UTF-16 or not text at all; save it as UTF-8"),
        (b"\xfe\xff", 1, "is UTF-16 or not text at all; save it as UTF-8"),
        (b"\xff\xfe", 1, "is UTF-16 or not text at all; save it as UTF-8"),
        (b"[1]\0", 1, "is UTF-16 or not text at all; save it as UTF-8"),
        (b'["a",\n"\xdc"]', 2, "is not UTF-8 (byte 0xdc); save it as UTF-8"),
        (b'\n\n["\xc3"]\n', 3, "is not UTF-8 (byte 0xc3); save it as UTF-8"),
        (b"\x80", 1, "is not UTF-8 (byte 0x80); save it as UTF-8"),
        (b" " * (MOST_BYTES + 1), None, "is larger than 1 MB; that is no parameter file"),
        (b"[1", 1, "lacks a comma or a closing bracket before column 3"),
    ],
)
def test_files_that_are_not_json(tmp_path: Path, data: bytes, line: int | None, message: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(JsonError) as caught:
        read(path)
    assert (str(caught.value), caught.value.line) == (message, line)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes("\ufeff[1,\n1]".encode())
    assert read(path) == Document([1, 1], {(): 1, (0,): 1, (1,): 2}, [])
    path.write_bytes(b"[1]" + b" " * (MOST_BYTES - 3))
    assert read(path).value == [1]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "a\0b", "embedded null byte")):
        with pytest.raises(JsonError) as caught:
            read(path)
        assert (str(caught.value), caught.value.line) == (f"cannot be read ({why})", None)


def test_no_more_of_a_file_is_read_than_it_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Endless(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            sizes.append(size)
            return b"[1]"

    monkeypatch.setattr(Path, "open", lambda path, mode: Endless())
    assert read(Path("endless")).value == [1]
    assert sizes == [MOST_BYTES + 1]
