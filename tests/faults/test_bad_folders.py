"""Bad data folders, each through train.py: their images found, what is passed over counted, or named on one line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import write_image
from tests.faults.dirty import Trainer, cut, small_data

BEFORE = "train/ant/0.png"  # the file that bad ones stand beside

exercised: set[str] = set()


@pytest.fixture
def data(tmp_path):
    return small_data(tmp_path / "data")


@pytest.fixture
def trained(tmp_path, monkeypatch, capsys):
    return Trainer(tmp_path / "run", monkeypatch, capsys)


# --- folders ---------------------------------------------------------------------------------------------------------


class Folder(NamedTuple):
    change: Callable[[Path], Any]
    code: int
    expected: str  # in the first line on stderr, or in the log
    images: int = 8  # left in train


def remove(*paths: str) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        for path in paths:
            for found in list(data.glob(path)):
                shutil.rmtree(found)

    return change


def add(path: str, content: bytes | None = None) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).write_bytes((data / BEFORE).read_bytes() if content is None else content)

    return change


def link(path: str, target: str) -> Callable[[Path], None]:
    return lambda data: (data / path).symlink_to(target)


def both(*changes: Callable[[Path], Any]) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        for one in changes:
            one(data)

    return change


def empty(path: str) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        for found in data.glob(path):
            found.write_bytes(b"")

    return change


LONG = "ж" * 119 + ".png"  # 242 bytes
FOLDERS = {
    "no such folder": Folder(lambda data: shutil.rmtree(data), 2, "data: no such folder; the layout is data/<name>/"),
    "a file": Folder(both(shutil.rmtree, lambda data: data.touch()), 2, "data: no such folder; the layout is"),
    "no train": Folder(remove("train"), 2, "data: has no train/; the layout is"),
    "no valid": Folder(remove("valid"), 2, "data: has no valid/; the layout is"),
    "val for valid": Folder(lambda data: (data / "valid").rename(data / "val"), 2, "has no valid/, but val/; the"),
    "one class": Folder(remove("*/bee"), 2, "data/train: holds 1 class folder, and a classifier needs 2 or more"),
    "no classes": Folder(remove("train/*"), 2, "data/train: holds 0 class folders, and a classifier needs 2 or more"),
    "empty class in train": Folder(lambda data: (data / "train/cat").mkdir(), 2, "train/cat: the class has no image"),
    "empty class in valid": Folder(remove("valid/bee"), 0, "data/valid/bee: the class has no image"),
    "empty valid": Folder(remove("valid/*"), 2, "data/valid: holds no image; the layout is"),
    "class train lacks": Folder(add("valid/dog/1.png"), 2, "valid/dog: train has no such class; choose from ant, bee"),
    "shifted classes": Folder(both(add("valid/cat/1.png"), remove("valid/ant")), 2, "valid/cat: train has no such"),
    "misspelt class": Folder(add("valid/Bee/1.png"), 2, 'train has no such class; did you mean "bee"?'),
    "all images empty": Folder(empty("*/*/*"), 2, "data/train/ant/0.png: is empty"),
    "not an image by its name": Folder(add("train/ant/notes.txt", b"x"), 0, "train: ignored 1 files that are not"),
    "image outside the classes": Folder(add("train/loose.png"), 0, "train: ignored 1 files outside the class folders"),
    "system files": Folder(
        both(add("train/ant/.DS_Store"), add("train/ant/Thumbs.db"), add("train/bee/._0.png"), add("train/.git/x.png")),
        0, "train: ignored 4 hidden files and folders",
    ),
    "hidden class": Folder(add("train/.ipynb_checkpoints/0.png"), 0, "train: ignored 1 hidden files and folders"),
    "loop of links": Folder(link("train/ant/loop", ".."), 0, "train: ignored 1 links to folders of the same split"),
    "link to the other class": Folder(link("train/ant/more", "../bee"), 0, "train: ignored 1 links to folders of"),
    "two names of one class": Folder(link("train/cat", "ant"), 2, "train/cat: is the same folder as train/ant, of"),
    "link to a folder elsewhere": Folder(
        both(add("../other/9.png"), link("train/ant/more", "../../../other")), 0, "train: 9 images, memory", 9
    ),
    "subfolders": Folder(add("train/ant/a/b/c/9.PNG"), 0, "train: 9 images, memory", 9),
    "folder called like an image": Folder(add("train/ant/x.jpg/9.png"), 0, "train: 9 images, memory", 9),
    "name of 242 bytes": Folder(add(f"train/ant/{LONG}"), 0, "train: 9 images, memory", 9),
    "bad file with a name of 242 bytes": Folder(add(f"train/ant/{LONG}", b""), 2, f"{LONG}: is empty"),
    "name that is no text": Folder(add("train/ant/\udcff\udcfe.png"), 0, "train: 9 images, memory", 9),
    "bad file whose name is no text": Folder(add("train/ant/\udcff.png", b""), 2, "ant/\\udcff.png: is empty"),
    "newline in a name": Folder(add("train/ant/a\nb.png"), 0, "train: 9 images, memory", 9),
    "bad file with a newline": Folder(add("train/ant/a\nb.png", b""), 2, "data/train/ant/a\\nb.png: is empty"),
    "bad file with markup": Folder(add("train/ant/<img onerror=x>.png", b""), 2, "ant/<img onerror=x>.png: is empty"),
    "bad file with an escape": Folder(add("train/ant/\x1b[2J.png", b""), 2, "ant/\\x1b[2J.png: is empty"),
    "class with a newline": Folder(both(add("train/c\nd/0.png"), add("valid/c\nd/0.png")), 0, "of 3 classes", 9),
    "unknown class with a newline": Folder(add("valid/c\nd/0.png"), 2, "data/valid/c\\nd: train has no such class"),
}  # fmt: skip


@pytest.mark.parametrize("what", FOLDERS)
def test_folders(data, trained, what):
    case = FOLDERS[what]
    case.change(data)
    ended = trained(data)
    assert ended.code == case.code, ended.err
    if case.code:
        assert case.expected in ended.err.splitlines()[0]
    else:
        assert case.expected in ended.out
        assert ended.about["images"]["train"] == case.images
        assert ended.err == ""
    exercised.add(what)


@pytest.mark.parametrize(("change", "expected"), [
    (empty("train/bee/*"), "data/train/bee: no image is left without the unreadable ones"),
    (empty("valid/*/*"), "data/valid: no image is left without the unreadable ones"),
])  # fmt: skip
def test_leaving_out_never_empties_a_class_of_train_or_a_split(data, trained, change, expected):
    change(data)
    ended = trained(data, skip_bad=1)
    assert ended.code == 2
    assert expected in ended.err
    assert len(ended.err.splitlines()) == 1
    exercised.add(expected)


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_leaving_out_what_cannot_be_decoded_never_empties_a_class(data, trained, cache):
    for path in sorted((data / "train/bee").iterdir()):
        path.write_bytes(cut("PNG", 0.5))
    ended = trained(data, skip_bad=1, cache=cache)
    assert ended.code == 2
    assert "no image of its class can be read; replace them, or leave out the class" in ended.err
    exercised.add(f"every image of a class cut, {cache}")


# --- labels.csv ------------------------------------------------------------------------------------------------------

TABLES = {
    "no table in valid": ("valid/labels.csv", None, "data/valid: has no labels.csv, while train has one"),
    "other classes": ("valid/labels.csv", "file,bee,ant\n", "differ from train's: bee, ant instead of ant, bee"),
    "missing value": ("train/labels.csv", "file,ant,bee\n0.png,1\n", "csv:2: must hold a file and 2 times 0 or 1"),
    "a third": ("train/labels.csv", "file,ant,bee\n0.png,1,2\n", "csv:2: must hold a file and 2 times 0 or 1"),
    "file that is not there": ("train/labels.csv", "file,ant,bee\n9.png,1,0\n", "is in labels.csv, but is no image"),
    "file without a row": ("train/labels.csv", "file,ant,bee\n", "train/0.png: has no row in labels.csv"),
    "way out": ("train/labels.csv", "file,ant,bee\n../valid/0.png,1,0\n", "../valid/0.png must be a path below train/"),
    "latin-1": ("train/labels.csv", "file,ant,b\udce9e\n", "train/labels.csv: cannot be read as CSV in UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("what", TABLES)
def test_tables(tmp_path, trained, what):
    path, content, expected = TABLES[what]
    data = tmp_path / "data"
    for split in ("train", "valid"):
        for index in range(4):
            write_image(data / split / f"{index}.png", (index, 0, 0))
        rows = "".join(f"{index}.png,{index % 2},{index // 2}\n" for index in range(4))
        (data / split / "labels.csv").write_text(f"file,ant,bee\n{rows}")
    if content is None:
        (data / path).unlink()
    else:
        (data / path).write_text(content, errors="surrogateescape")
    ended = trained(data, loss="bce", metrics=["accuracy"])
    assert ended.code == 2
    assert expected in ended.err
    exercised.add(what)


def test_enough_was_exercised(request, say):
    here = [item for item in request.session.items if item.path == request.path]
    if len(here) < 45:
        pytest.skip("only some of the cases were chosen")
    say(f"bad folders: {len(exercised)} cases")
    assert len(exercised) >= 45
