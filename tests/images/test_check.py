"""The report on a data folder: every kind of finding, in the order of its gravity, and nothing that is in order."""

import dataclasses
import os
import shutil

import numpy as np
import pytest

from images import check as check_module
from images import duplicates
from images.check import MEMBERS, NAMED, check, report
from images.folder import scan
from tests.conftest import write_image
from utils import UserError


def noise(seed, side=24):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


@pytest.fixture
def data(tmp_path):
    """Two classes, three images in each split, all different."""
    seed = 0
    for split in ("train", "valid", "test"):
        for label in ("ant", "bee"):
            for index in range(3):
                write_image(tmp_path / "d" / split / label / f"{index}.png", noise(seed))
                seed += 1
    return tmp_path / "d"


@pytest.fixture
def multi_label(tiny_multi_label, tmp_path):
    return shutil.copytree(tiny_multi_label, tmp_path / "m", ignore=shutil.ignore_patterns(".cache"))


def findings(folder):
    """What is found, as lines; and the report can be printed."""
    found = check(folder)
    text = report(found)
    assert all(line.isprintable() for line in text.splitlines())
    lines = [f"{kind}: {line}" for kind, several in found.findings().items() for line in several]
    assert f"findings: {len(lines) or 'none'}" in text.splitlines()
    return lines


# --- nothing to find -------------------------------------------------------------------------------------------------


def test_a_folder_in_order(data):
    assert findings(data) == []


def test_the_example_sets(tiny_data, tiny_multi_label):
    assert findings(tiny_data) == []
    assert [line for line in findings(tiny_multi_label) if "look nearly" not in line] == []


def test_a_folder_without_test(data):
    shutil.rmtree(data / "test")
    assert findings(data) == []


def test_nothing_is_changed(data):
    before = sorted((p, p.stat().st_mtime_ns) for p in data.rglob("*"))
    check(data)
    assert sorted((p, p.stat().st_mtime_ns) for p in data.rglob("*")) == before


# --- images ----------------------------------------------------------------------------------------------------------


def copy(data, source, target):
    (data / target).parent.mkdir(exist_ok=True)
    shutil.copy(data / source, data / target)


@pytest.mark.parametrize(("target", "kind"), [
    ("test/ant/9.png", "across splits, are identical: train/ant/0.png, test/ant/9.png"),
    ("valid/bee/9.png", "across splits, are identical: train/ant/0.png, valid/bee/9.png"),
    ("train/bee/9.png", "within a split, of different classes, are identical: train/ant/0.png, train/bee/9.png"),
    ("train/ant/9.png", "within a split, are identical: train/ant/0.png, train/ant/9.png"),
])  # fmt: skip
def test_identical_images(data, target, kind):
    copy(data, "train/ant/0.png", target)
    assert findings(data) == [kind]


def test_identical_means_the_pixels_as_they_are_read(data):
    write_image(data / "train/ant/0.png", np.ascontiguousarray(np.rot90(noise(0))), orientation=6)
    write_image(data / "test/ant/9.bmp", noise(0))
    assert findings(data) == ["across splits, are identical: train/ant/0.png, test/ant/9.bmp"]


WITHIN = "within a split"


@pytest.mark.parametrize(("target", "kind"), [
    ("valid/ant/9.jpg", "across splits, look nearly identical: train/ant/0.png, valid/ant/9.jpg"),
    ("train/bee/9.jpg", f"{WITHIN}, of different classes, look nearly identical: train/ant/0.png, train/bee/9.jpg"),
    ("train/ant/9.jpg", f"{WITHIN}, look nearly identical: train/ant/0.png, train/ant/9.jpg"),
])  # fmt: skip
def test_nearly_identical_images(data, target, kind):
    write_image(data / "train/ant/0.png", picture := np.kron(noise(0, 8), np.ones((12, 12, 1), np.uint8)))
    write_image(data / target, picture, quality=80)
    assert findings(data) == [kind]


def test_mirrored_images(data):
    picture = np.kron(noise(0, 8), np.ones((12, 12, 1), np.uint8))
    write_image(data / "train/ant/0.png", picture)
    write_image(data / "test/bee/9.jpg", np.ascontiguousarray(picture[:, ::-1]), quality=80)
    assert findings(data) == ["across splits, are mirrored: train/ant/0.png, test/bee/9.jpg"]


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "is empty"),
    (b"<html>", "is a web page, not an image"),
    (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer, not the image; fetch it with git lfs pull"),
])  # fmt: skip
def test_unreadable_images(data, content, reason):
    (data / "valid/bee/1\n.png").write_bytes(content)
    assert findings(data) == [f"unreadable: valid/bee/1\\n.png: {reason}"]


def test_images_that_only_decoding_shows_to_be_bad(data):
    path = data / "train/ant/1.png"
    path.write_bytes(path.read_bytes()[:900])
    (line,) = findings(data)
    assert line.startswith("unreadable: train/ant/1.png: cannot be decoded (")
    write_image(path, size=(8000, 7000), mode="1", content=0)
    assert "unreadable: train/ant/1.png: has 56.0 megapixels, more than" in findings(data)[0]


def test_what_training_would_find_turned(data, monkeypatch):
    path, real = next(iter(sorted((data / "train").glob("*/*")))), check_module.read_header

    def lying(file, most):
        header = real(file, most)
        return dataclasses.replace(header, width=header.width + 1) if file == path else header

    monkeypatch.setattr(check_module, "read_header", lying)
    [line] = check(data).findings()["unreadable"]
    assert "its size is not what its header says; save it again" in line


def test_links_to_nowhere(data):
    (data / "train/ant/5.png").symlink_to("gone")
    assert findings(data) == ["unreadable: train/ant/5.png: is a link to a file that is not there"]


# --- folders ---------------------------------------------------------------------------------------------------------


def remove(*names):
    return lambda data: [shutil.rmtree(data / name) for name in names]


def make(*names):
    return lambda data: [(data / name).mkdir(parents=True) for name in names]


def add(name):
    return lambda data: write_image(data / name, noise(99))


STRUCTURE = {
    "no train": (remove("train"), ["{root}: has no train/; the layout is "]),
    "no valid": (remove("valid"), ["{root}: has no valid/; the layout is "]),
    "val for valid": (lambda data: (data / "valid").rename(data / "val"), ["{root}: has no valid/, but val/; the"]),
    "no valid, and an empty class": (lambda data: [remove("valid")(data), make("train/cat", "test/cat")(data)], [
        "{root}: has no valid/; the layout is ", "train/cat: has no image", "test/cat: has no image",
    ]),
    "a class that train lacks": (add("valid/be/1.png"), ['valid/be: train has no such class; did you mean "bee"?']),
    "a class that only train has": (add("train/cat/1.png"), ["valid/cat: is missing, while train has the class",
                                                             "test/cat: is missing, while train has the class"]),
    "a class without images": (make("train/cat", "valid/cat", "test/c\x1bt"), [
        "train/cat: has no image",
        "valid/cat: has no image",
        'test/c\\x1bt: train has no such class; did you mean "cat"?',
        "test/cat: is missing, while train has the class",
        "test/c\\x1bt: has no image",
    ]),
    "one class": (remove("train/bee", "valid/bee", "test/bee"), [
        "{root}/train: holds 1 class folder, and a classifier needs 2 or more; the layout is ",
    ]),
    "no class": (remove("train/ant", "train/bee", "valid", "test"), ["{root}: has no valid/; the layout is "]),
    "nothing in any split": (lambda data: [remove(f"{s}/ant", f"{s}/bee")(data) for s in ("train", "valid", "test")], [
        "{root}/train: holds 0 class folders, and a classifier needs 2 or more; the layout is ",
    ]),
    "one folder of two classes": (lambda data: (data / "train/cat").symlink_to("ant"), [
        "{root}/train/cat: is the same folder as train/ant, of another class",
        "train/cat: has no image",
        "valid/cat: is missing, while train has the class",
        "test/cat: is missing, while train has the class",
    ]),
}  # fmt: skip


@pytest.mark.parametrize("what", STRUCTURE)
def test_structure(data, what):
    change, expected = STRUCTURE[what]
    change(data)
    found = [line.removeprefix("structure: ") for line in findings(data)]
    assert len(found) == len(expected)
    for line, start in zip(sorted(found), sorted(e.format(root=data) for e in expected), strict=True):
        assert line.startswith(start)


LABELS = {
    "a row without its image": ("00.png,", "99.png,", "99.png: is in labels.csv, but is no image that is there"),
    "an image without its row": ("00.png,0,0,0\n", "", "00.png: has no row in labels.csv"),
    "a value": ("00.png,0", "00.png,2", "labels.csv:2: must hold a file and 3 times 0 or 1"),
    "other classes": ("file,apple", "file,pear", "its classes differ from train's: pear, bee, cloud instead of"),
}


@pytest.mark.parametrize("what", LABELS)
def test_tables_of_labels(multi_label, what):
    old, new, expected = LABELS[what]
    path = multi_label / "valid/labels.csv"
    text = path.read_text().replace("\r\n", "\n")
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert any(expected in line for line in findings(multi_label) if line.startswith("structure"))


def test_a_split_without_its_table(multi_label):
    (multi_label / "test/labels.csv").unlink()
    assert f"structure: {multi_label}/test: has no labels.csv, while train has one" in findings(multi_label)


def test_doubles_of_multi_label_data_have_no_class(multi_label):
    (multi_label / "train/more").mkdir()
    shutil.copy(multi_label / "train/01.png", multi_label / "train/more/copy.png")
    assert "within a split, are identical: train/01.png, train/more/copy.png" in findings(multi_label)


@pytest.mark.parametrize("what", STRUCTURE)
def test_whatever_training_refuses_is_a_finding(data, what):
    STRUCTURE[what][0](data)
    try:
        scan(data)
    except UserError:
        assert findings(data) != []
    else:
        assert what in ("a class that only train has",)  # a remark there, a finding here


# --- what cannot be checked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "message"), [
    ("gone\n", r"/gone\\n: no such folder"),
    ("empty", "/empty: none of train, valid, test is in it"),
    ("file", "/file: no such folder"),
])  # fmt: skip
def test_no_data_folder(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        check(tmp_path / name)


def test_a_folder_that_may_not_be_read(data, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"/d/train: cannot be read \(Permission denied\)"):
        check(data)


# --- words -----------------------------------------------------------------------------------------------------------


REPORT = """\
class      train    valid    test
-------  -------  -------  ------
ant            3        3       3
bee            3        4       5
all            6        7       8

split    width                height               modes       formats        turned by EXIF
-------  -------------------  -------------------  ----------  -------------  ----------------
train    20 to 24, median 24  10 to 24, median 24  RGB 5, L 1  PNG 6          1
valid    24 to 40, median 24  24 to 40, median 24  RGB 7       PNG 6, JPEG 1  0
test     24                   24                   RGB 7       PNG 7          0

note: valid: ignored 1 files that are not images by their name

findings: 2
  across splits, are identical: train/bee/0.png, test/bee/9.png
  unreadable: test/bee/8.png: is empty"""


def test_the_report(data):
    write_image(data / "train/ant/1.png", noise(50)[:12, :, 0])
    write_image(data / "train/ant/2.png", noise(51)[:20, :10], orientation=6)
    write_image(data / "valid/bee/0.jpg", noise(52, 40))
    (data / "valid/bee/notes.txt").touch()
    copy(data, "train/bee/0.png", "test/bee/9.png")
    (data / "test/bee/8.png").touch()
    assert report(check(data)) == REPORT


def test_counts_are_whole_where_names_are_few(data):
    for number in range(NAMED + 15):
        (data / f"train/ant/bad{number:02}.png").touch()
    for number in range(9):
        copy(data, "train/ant/0.png", f"train/ant/copy{number}.png")
        copy(data, "train/ant/0.png", f"test/bee/copy{number}.png")
    lines = report(check(data)).splitlines()
    start = lines.index(f"findings: {NAMED + 16}")
    names = ", ".join(f"train/ant/{name}.png" for name in ("0", *(f"copy{k}" for k in range(MEMBERS - 1))))
    others = ", ".join(f"test/bee/copy{number}.png" for number in range(MEMBERS))
    assert lines[start + 1] == f"  across splits, are identical: {names}, 6 more in train, {others}, 5 more in test"
    assert len(lines) == start + 1 + 1 + NAMED + 1
    assert lines[-1] == "  … and 15 more like it"


def test_multi_label_counts(tiny_multi_label):
    table = report(check(tiny_multi_label)).splitlines()
    assert table[2].split("  ")[0] == "(several per image)"
    assert table[2].split()[-3:] == ["24", "8", "8"]


def test_class_names_stay_text(tmp_path):
    for seed, folder in enumerate(("train/007", "train/1e5", "valid/007", "valid/1e5")):
        write_image(tmp_path / folder / "0.png", noise(seed))
    text = report(check(tmp_path)).splitlines()
    assert [line.split()[0] for line in text[2:4]] == ["007", "1e5"]


def test_what_was_not_looked_at_is_noted(data, monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_IMAGES", 9)
    write_image(data / "train/ant/0.png", (9, 9, 9))
    notes = check(data).notes
    assert notes == [
        "near-duplicates were searched among 9 of 18 images",
        "1 images of one flat colour were compared only for identity",
    ]


def test_images_are_looked_at_in_threads_and_their_order_kept(data, monkeypatch):
    one = report(check(data))
    monkeypatch.setattr(check_module, "in_threads", lambda work, paths, _: [work(path) for path in paths])
    assert report(check(data)) == one
