"""Data folders: what is found in them, what is refused, and the fingerprint that tells one from another."""

import hashlib
import json
import os
import shutil
import subprocess
import threading
import time

import numpy as np
import pytest

from images import folder as folder_module
from images import memory as memory_module
from images.cache import subset
from images.folder import CHUNK, NAMED, check_headers, fingerprint, in_threads, scan
from images.read import read_header
from tests.conftest import TINY_CLASSES, TINY_COUNTS, write_image
from utils import UserError, read_json


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


@pytest.fixture
def root(tmp_path):
    """Two classes with one image in each split; the images are empty files."""
    paths = [f"{split}/{name}/1.jpg" for split in ("train", "valid") for name in ("ant", "bee")]
    return touch(tmp_path / "d", *paths)


@pytest.fixture
def data(tiny_data, tmp_path):
    return shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns(".cache"))


@pytest.fixture
def multi_label(tiny_multi_label, tmp_path):
    return shutil.copytree(tiny_multi_label, tmp_path / "data", ignore=shutil.ignore_patterns(".cache"))


def refused(action, *arguments):
    with pytest.raises(UserError) as caught:
        action(*arguments)
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    return str(caught.value).splitlines()


# --- class folders ---------------------------------------------------------------------------------------------------


def test_what_is_there_is_found(tiny_data):
    found = scan(tiny_data, ("train", "valid", "test"))
    assert found.root == tiny_data
    assert found.classes == TINY_CLASSES
    assert not found.multi_label
    assert found.notes == ()
    for name, split in found.splits.items():
        count = TINY_COUNTS[name]
        assert split.name == name
        assert split.targets.dtype == np.int64
        assert split.targets.tolist() == [0] * count + [1] * count + [2] * count
        labels = [path.split("/")[1] for path in split.paths]
        assert labels == [found.classes[target] for target in split.targets]
        assert all((tiny_data / path).is_file() for path in split.paths)


@pytest.mark.parametrize("name", [".", "./", "d", "d/", "../{here}/d", "{absolute}/d"])
def test_however_the_folder_is_named(root, monkeypatch, name):
    monkeypatch.chdir(root if name.startswith("./") or name == "." else root.parent)
    found = scan(name.format(here=root.parent.name, absolute=root.parent))
    assert found.splits["train"].paths == ("train/ant/1.jpg", "train/bee/1.jpg")
    assert (found.root / "train/ant/1.jpg").is_file()


def test_images_lie_at_any_depth_and_in_any_case(root):
    touch(root, "train/ant/a/b/2.JPEG", "train/ant/0.Png", "train/bee/x.jpg/3.webp")
    found = scan(root).splits["train"]
    assert found.paths == ("train/ant/0.Png", "train/ant/1.jpg", "train/ant/a/b/2.JPEG", "train/bee/1.jpg",
                           "train/bee/x.jpg/3.webp")  # fmt: skip
    assert found.targets.tolist() == [0, 0, 0, 1, 1]


def test_a_very_deep_folder(root):
    deep = "/".join("d" * 1200)  # deeper than Python recurses
    subprocess.run(["mkdir", "-p", root / "train/ant" / deep], check=True)
    (root / "train/ant" / deep / "2.jpg").touch()
    assert scan(root).splits["train"].paths == ("train/ant/1.jpg", f"train/ant/{deep}/2.jpg", "train/bee/1.jpg")
    subprocess.run(["rm", "-r", root / "train/ant/d"], check=True)  # pytest would recurse


def test_what_is_not_an_image_is_counted(root):
    junk = ("train/ant/.DS_Store", "train/ant/._1.jpg", "train/ant/Thumbs.db", "train/.ipynb_checkpoints/1.jpg",
            "train/__MACOSX/1.jpg", "train/bee/.hidden/1.jpg")  # fmt: skip
    touch(root, *junk, "train/ant/notes.txt", "train/ant/1.avif", "train/loose.jpg", "valid/README")
    found = scan(root)
    assert found.splits["train"].paths == ("train/ant/1.jpg", "train/bee/1.jpg")
    assert found.classes == ("ant", "bee")
    assert found.notes == (
        "train: ignored 1 files outside the class folders",
        "train: ignored 2 files that are not images by their name",
        "train: ignored 6 hidden files and folders",
        "valid: ignored 1 files outside the class folders",
    )


def test_classes_are_those_of_train(root):
    touch(root, "train/cat/1.jpg")
    found = scan(root)
    assert found.classes == ("ant", "bee", "cat")
    assert found.splits["valid"].targets.tolist() == [0, 1]
    assert found.notes == (f"{root}/valid/cat: the class has no image",)
    assert scan(root, ("valid",)).classes == ("ant", "bee", "cat")
    assert list(scan(root, ("valid",)).splits) == ["valid"]


def test_labels_never_shift(root):
    touch(root, "train/cat/1.jpg", "valid/cat/1.jpg", "valid/dog/1.jpg")
    shutil.rmtree(root / "valid/ant")
    assert refused(scan, root) == [f"{root}/valid/dog: train has no such class; choose from ant, bee, cat"]
    shutil.rmtree(root / "valid/dog")
    assert scan(root).splits["valid"].targets.tolist() == [1, 2]


def test_a_misspelt_class_gets_the_nearest_name(root):
    touch(root, "valid/Bee/1.jpg")
    assert refused(scan, root) == [f'{root}/valid/Bee: train has no such class; did you mean "bee"?']


def test_many_unknown_classes_are_counted(root):
    touch(root, *(f"valid/class{number}/1.jpg" for number in range(NAMED + 5)))
    lines = refused(scan, root)
    assert len(lines) == NAMED + 1
    assert lines[-1] == "… and 5 more like it"


def test_a_class_of_train_without_images(root):
    (root / "train/cat").mkdir()
    touch(root, "train/dog/readme.txt")
    assert refused(scan, root) == [f"{root}/train/{name}: the class has no image" for name in ("cat", "dog")]


@pytest.mark.parametrize(("missing", "expected"), [
    ("", "d: no such folder; the layout is data/<name>/{train,valid,test}/<class>/<image>"),
    ("train", "d: has no train/; the layout is "),
    ("valid", "d: has no valid/, but val/; the layout is "),
    ("train/ant", "d/train: holds 1 class folder, and a classifier needs 2 or more; the layout is "),
])  # fmt: skip
def test_missing_folders(root, missing, expected):
    shutil.rmtree(root / missing)
    if missing == "valid":
        (root / "val").mkdir()
    (line,) = refused(scan, root)
    assert line.startswith(f"{root.parent}/{expected}")


def test_a_split_that_is_empty_or_a_file(root):
    (root / "test").mkdir()
    assert refused(scan, root, ("test",)) == [f"{root}/test: holds no image; the layout is {folder_module.LAYOUT}"]
    (root / "test").rmdir()
    touch(root, "test")
    assert "has no test/" in refused(scan, root, ("test",))[0]


def test_a_folder_that_may_not_be_read(root, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert refused(scan, root) == [f"{root}/train: cannot be read (Permission denied)"]


# --- links -----------------------------------------------------------------------------------------------------------


def test_a_loop_of_links_is_entered_once(root):
    for name, target in (("here", "."), ("up", ".."), ("top", "../.."), ("other", "../bee"), ("itself", "itself")):
        (root / "train/ant" / name).symlink_to(target)
    found = scan(root)
    assert found.splits["train"].paths == ("train/ant/1.jpg", "train/bee/1.jpg")
    assert found.notes == (
        "train: ignored 1 files that are not images by their name",
        "train: ignored 4 links to folders of the same split",
    )


def test_links_to_other_places_are_followed_once(root, tmp_path):
    touch(tmp_path, "elsewhere/2.jpg", "elsewhere/more/3.jpg")
    (tmp_path / "elsewhere/back").symlink_to(root)
    for name in ("x", "y"):
        (root / "train/ant" / name).symlink_to(tmp_path / "elsewhere")
    found = scan(root)
    assert found.splits["train"].targets.tolist() == [0, 0, 0, 1]
    assert "train: ignored 1 links to folders that were visited before" in found.notes


def test_classes_and_splits_may_be_links(root, tmp_path):
    shutil.move(root / "train/ant", tmp_path / "ants")
    (root / "train/ant").symlink_to(tmp_path / "ants")
    shutil.move(root / "valid", tmp_path / "v")
    (root / "valid").symlink_to(tmp_path / "v")
    found = scan(root)
    assert found.splits["train"].paths == ("train/ant/1.jpg", "train/bee/1.jpg")
    assert found.splits["valid"].paths == ("valid/ant/1.jpg", "valid/bee/1.jpg")
    assert found.notes == ()


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("target", ["bee", "bee/sub", "{outside}"])
def test_one_folder_of_two_classes_is_refused(root, tmp_path, split, target):
    touch(tmp_path, "outside/1.jpg")
    touch(root, f"{split}/bee/sub/2.jpg", "train/cat/1.jpg", "valid/cat/1.jpg")
    shutil.rmtree(root / split / "ant")
    (root / split / "ant").symlink_to(target.format(outside=tmp_path / "outside"))
    if "outside" in target:
        (root / split / "bee/link").symlink_to(tmp_path / "outside")
    problem = refused(scan, root)[0]
    assert problem.startswith(f"{root}/{split}/bee")
    assert problem.endswith(f"is the same folder as {split}/ant, of another class")


# --- labels.csv ------------------------------------------------------------------------------------------------------


def test_multi_label(tiny_multi_label):
    found = scan(tiny_multi_label, ("train", "valid", "test"))
    assert found.multi_label
    assert found.classes == TINY_CLASSES
    train = found.splits["train"]
    assert train.targets.dtype == np.float32
    assert train.targets.shape == (24, 3)
    assert train.targets[:8].tolist() == [[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)]
    assert train.paths[:2] == ("train/00.png", "train/01.png")
    assert found.notes == ()


def test_a_table_may_name_subfolders_and_have_a_mark_and_empty_lines(multi_label):
    path = multi_label / "valid/labels.csv"
    (multi_label / "valid/more").mkdir()
    (multi_label / "valid/07.png").rename(multi_label / "valid/more/a,b.png")
    lines = path.read_text().replace("07.png", '"more/a,b.png"').replace("00.png,0,0,0", "00.png, 0 ,0,0\r\n")
    path.write_text(lines, encoding="utf-8-sig")
    found = scan(multi_label).splits["valid"]
    assert found.paths[-1] == "valid/more/a,b.png"
    assert found.targets[-1].tolist() == [1, 1, 1]


@pytest.mark.parametrize(("old", "new", "expected"), [
    ("00.png,0,0,0", "00.png,0,0", ":2: must hold a file and 3 times 0 or 1"),
    ("00.png,0,0,0", "00.png,0,0,2", ":2: must hold a file and 3 times 0 or 1"),
    ("00.png,0,0,0", "00.png,0,0,", ":2: must hold a file and 3 times 0 or 1"),
    ("01.png", "00.png", ":3: 00.png has a row before"),
    ("00.png", "../train/00.png", ":2: ../train/00.png must be a path below valid/"),
    ("00.png", "/etc/passwd", ":2: /etc/passwd must be a path below valid/"),
    ("00.png", "x\x1b.png", "x\\x1b.png: is in labels.csv, but is no image that is there"),
    ("00.png", "labels.csv", "labels.csv: is in labels.csv, but is no image that is there"),
    ("00.png,0,0,0\n", "", "00.png: has no row in labels.csv"),
    ("apple,bee,cloud", "apple,cloud,bee", ":1: its classes differ from train's: apple, cloud, bee instead of apple,"),
    ("file,apple,bee,cloud", "name,apple,bee,cloud", ":1: must be file,<class>,<class>,… with a different name"),
    ("file,apple,bee,cloud", "file,apple,bee,bee", ":1: must be file,<class>,<class>,… with a different name"),
    ("file,apple,bee,cloud", "file,apple,,bee", ":1: must be file,<class>,<class>,… with a different name"),
    ("file,apple,bee,cloud", "file", ":1: must be file,<class>,<class>,… with a different name"),
    ("file", '"' + "x" * 200_000 + '"', "cannot be read as CSV in UTF-8 (field larger than"),
    ("apple", "\udcff", "cannot be read as CSV in UTF-8 ('utf-8' codec"),
])  # fmt: skip
def test_what_a_table_may_not_hold(multi_label, old, new, expected):
    path = multi_label / "valid/labels.csv"
    text = path.read_text().replace("\r\n", "\n")
    assert old in text
    path.write_text(text.replace(old, new, 1), errors="surrogateescape")
    assert any(expected in line for line in refused(scan, multi_label))


def test_a_table_that_is_missing_or_empty(multi_label):
    (multi_label / "valid/labels.csv").unlink()
    assert refused(scan, multi_label) == [f"{multi_label}/valid: has no labels.csv, while train has one"]
    (multi_label / "train/labels.csv").write_text("")
    assert "labels.csv:1: must be file,<class>" in refused(scan, multi_label)[0]


# --- headers ---------------------------------------------------------------------------------------------------------


def test_good_images_pass(tiny_data):
    folder = scan(tiny_data)
    checked, bad = check_headers(folder, 50, skip_bad=False)
    for name, split in folder.splits.items():
        headers = [read_header(tiny_data / path) for path in split.paths]
        assert checked.splits[name].paths == split.paths
        assert (checked.splits[name].targets == split.targets).all()
        assert checked.splits[name].sizes.tolist() == [[header.height, header.width] for header in headers]
    assert bad == []


def spoil(data, *paths):
    for path in paths:
        (data / path).write_bytes(b"")


def test_bad_images_are_named_and_counted(data):
    touched = [f"train/apple/{n}.{'png' if n % 2 or not n else 'jpg'}" for n in range(8)]
    spoil(data, *touched, *(f"train/bee/{n}.jpg" for n in (0, 2, 4)))
    lines = refused(check_headers, scan(data), 50, False)
    assert lines[0] == f"{data}/train/apple/0.png: is empty"
    assert lines[NAMED] == "… and 1 more like it"
    assert lines[-1] == "11 of 36 images cannot be used; mend or remove them, or set skip_bad: 1"
    assert len(lines) == NAMED + 2


def test_bad_images_are_left_out_when_asked(data):
    spoil(data, "train/bee/0.jpg", "valid/cloud/1.png")
    (data / "train/apple/extra.jpg").symlink_to("gone.jpg")
    folder, bad = check_headers(scan(data), 50, skip_bad=True)
    assert bad == [
        ("train/apple/extra.jpg", "is a link to a file that is not there"),
        ("train/bee/0.jpg", "is empty"),
        ("valid/cloud/1.png", "is empty"),
    ]
    assert [len(split.paths) for split in folder.splits.values()] == [23, 11]
    for split in folder.splits.values():
        labels = [path.split("/")[1] for path in split.paths]
        assert labels == [folder.classes[target] for target in split.targets]
    assert fingerprint(folder) != fingerprint(scan(data, ("valid",)))


def test_multi_label_rows_go_with_their_images(multi_label):
    before = scan(multi_label).splits["train"]
    spoil(multi_label, "train/03.png", "train/07.png")
    after = check_headers(scan(multi_label), 50, skip_bad=True)[0].splits["train"]
    rows = dict(zip(before.paths, before.targets.tolist(), strict=True))
    assert [rows[path] for path in after.paths] == after.targets.tolist()
    assert len(after.paths) == 22


@pytest.mark.parametrize(("split", "label", "expected"), [
    ("train", "bee", "train/bee: no image is left without the unreadable ones"),
    ("valid", "*", "valid: no image is left without the unreadable ones"),
])  # fmt: skip
def test_no_class_of_train_and_no_split_may_vanish(data, split, label, expected):
    spoil(data, *(path.relative_to(data) for path in (data / split).glob(f"{label}/*")))
    assert refused(check_headers, scan(data), 50, True) == [f"{data}/{expected}"]


def test_a_class_of_valid_may_vanish(data):
    spoil(data, *(path.relative_to(data) for path in (data / "valid/bee").iterdir()))
    folder, bad = check_headers(scan(data), 50, skip_bad=True)
    assert len(bad) == 4
    assert set(folder.splits["valid"].targets.tolist()) == {0, 2}


def test_each_header_is_read_once(data, monkeypatch):
    seen, lock = [], threading.Lock()

    def watched(path, max_megapixels):
        with lock:
            seen.append(path)
        return read_header(path, max_megapixels)

    monkeypatch.setattr(folder_module, "read_header", watched)
    monkeypatch.setattr(folder_module, "CHUNK", 5)
    check_headers(scan(data), 50, skip_bad=False)
    assert len(seen) == len(set(seen)) == 36


def test_what_is_remembered_saves_reading(data, monkeypatch, hashed):
    first, _ = check_headers(scan(data), 50, skip_bad=False)
    assert hashed == [36]
    seen = []
    monkeypatch.setattr(folder_module, "read_header", lambda path, limit: seen.append(path) or read_header(path, limit))
    second, _ = check_headers(scan(data), 50, skip_bad=False)
    assert not seen
    assert hashed == [36]
    for name, split in first.splits.items():
        assert (split.sizes == second.splits[name].sizes).all()
        assert split.contents == second.splits[name].contents
    write_image(data / "train/apple/1.png", size=(7, 9))
    third, _ = check_headers(scan(data), 50, skip_bad=False)
    assert [path.name for path in seen] == ["1.png"]
    place = third.splits["train"].paths.index("train/apple/1.png")
    assert third.splits["train"].sizes[place].tolist() == [9, 7]
    assert fingerprint(third) != fingerprint(first) == fingerprint(second)
    assert hashed == [37]


@pytest.mark.usefixtures("hashed")
def test_what_was_remembered_of_a_larger_limit_is_refused(data):
    write_image(data / "train/apple/1.png", size=(500, 400))
    check_headers(scan(data), 50, skip_bad=False)
    _, bad = check_headers(scan(data), 0.1, skip_bad=True)
    assert bad == [("train/apple/1.png", "has 0.2 megapixels, more than max_megapixels 0.1")]


@pytest.mark.usefixtures("hashed")
def test_what_was_only_hashed_is_looked_at_as_an_image(data):
    (data / "train/apple/1.png").write_bytes(b"no image")
    fingerprint(scan(data))
    assert len(check_headers(scan(data), 50, skip_bad=True)[1]) == 1
    assert len(check_headers(scan(data), 50, skip_bad=True)[1]) == 1


@pytest.mark.usefixtures("hashed")
def test_another_pillow_reads_anew(data, monkeypatch):
    check_headers(scan(data), 50, skip_bad=False)
    seen = []
    monkeypatch.setattr(folder_module, "read_header", lambda path, limit: seen.append(path) or read_header(path, limit))
    monkeypatch.setattr(memory_module.PIL, "__version__", "0")
    check_headers(scan(data), 50, skip_bad=False)
    assert len(seen) == 36


def test_fewer_images_keep_their_contents(data):
    folder, _ = check_headers(scan(data), 50, skip_bad=False)
    few = subset(folder.splits["train"], np.array([5, 2]))
    assert few.paths == tuple(folder.splits["train"].paths[place] for place in (5, 2))
    assert few.contents == tuple(folder.splits["train"].contents[place] for place in (5, 2))


# --- fingerprint -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch):
    """How many files were read to be hashed, of a folder whose files are taken to be old."""
    count = [0]
    read_bytes = folder_module.Path.read_bytes

    def counted(path):
        count[0] += path.suffix != ".json"
        return read_bytes(path)

    monkeypatch.setattr(folder_module.Path, "read_bytes", counted)
    monkeypatch.setattr(memory_module, "SETTLED", -10.0)
    return count


def test_the_fingerprint_by_its_definition(tiny_data):
    folder = scan(tiny_data)
    lines = ""
    for path in sorted(path for split in folder.splits.values() for path in split.paths):
        content = (tiny_data / path).read_bytes()
        lines += f"{path}\0{len(content)}\0{hashlib.sha256(content).hexdigest()}\n"
    assert fingerprint(folder) == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("change", ["content", "name", "class", "removed", "added"])
def test_every_change_shows(data, change):
    before = fingerprint(scan(data))
    image = data / "train/apple/1.png"
    if change == "content":
        content = bytearray(image.read_bytes())
        content[-1] ^= 1
        image.write_bytes(content)
    elif change == "name":
        image.rename(image.with_name("one.png"))
    elif change == "class":
        image.rename(data / "train/bee/one.png")
    elif change == "removed":
        image.unlink()
    else:
        write_image(data / "train/apple/new.png")
    assert fingerprint(scan(data)) != before


def test_labels_belong_to_the_fingerprint(multi_label):
    before = fingerprint(scan(multi_label))
    path = multi_label / "train/labels.csv"
    path.write_text(path.read_text().replace("00.png,0,0,0", "00.png,0,0,1"))
    assert fingerprint(scan(multi_label)) != before


def test_contents_are_read_once(data, hashed):
    before = fingerprint(scan(data))
    assert hashed == [36]
    assert fingerprint(scan(data)) == before
    assert hashed == [36]
    write_image(data / "train/apple/1.png")
    assert fingerprint(scan(data)) != before
    assert hashed == [37]


def test_a_file_of_this_moment_is_not_remembered(data):
    fingerprint(scan(data))
    assert not (data / ".cache").exists()


@pytest.mark.parametrize("damage", ["digest of a file", "cut", "empty", "list", "old form"])
def test_a_damaged_memory_is_not_believed(data, hashed, damage):
    right = fingerprint(scan(data))
    path = data / ".cache/fingerprint.json"
    text = path.read_text()
    if damage == "digest of a file":
        first = next(iter(read_json(path)["files"].values()))[0]
        text = text.replace(first, first[::-1])
    text = {"cut": text[:-200], "empty": "", "list": "[1]", "old form": '{"train/apple/1.png": 5}'}.get(damage, text)
    path.write_text(text)
    assert fingerprint(scan(data)) == right
    assert hashed == [72]
    assert json.loads(path.read_text())["files"]


@pytest.mark.usefixtures("hashed")
def test_a_folder_that_cannot_be_written(data):
    (data / ".cache").write_text("in the way")
    assert fingerprint(scan(data)) == fingerprint(scan(data))


def test_a_file_that_vanishes(data):
    folder = scan(data)
    (data / "train/apple/1.png").unlink()
    assert refused(fingerprint, folder) == [f"{data}/train/apple/1.png: cannot be read (No such file or directory)"]


@pytest.mark.usefixtures("hashed")
def test_names_that_are_no_text(data):
    write_image(data / "train/apple/\udcff.png")
    first = fingerprint(scan(data))
    assert fingerprint(scan(data)) == first
    assert "train/apple/\udcff.png" in read_json(data / ".cache/fingerprint.json")["files"]


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_an_error_in_a_thread_leaves_the_rest_undone(error):
    done = []

    def work(path):
        if path == "5":
            raise error
        done.append(path)

    with pytest.raises(error):
        in_threads(work, [str(number) for number in range(200 * CHUNK)], "working")
    assert len(done) < 100 * CHUNK


def test_an_interrupt_between_results_leaves_the_rest_undone(monkeypatch):
    done = []

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, _):
            raise KeyboardInterrupt

    def work(path):
        time.sleep(0.0002)
        done.append(path)

    monkeypatch.setattr(folder_module, "progress", lambda *_, **__: Bar())
    with pytest.raises(KeyboardInterrupt):
        in_threads(work, [str(number) for number in range(100 * CHUNK)], "working")
    assert len(done) < 50 * CHUNK
