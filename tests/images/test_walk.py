"""The way through a split: which files are images, what is passed over and counted, and links. More in test_folder."""

import os

import pytest

from images.walk import JUNK, Walk, is_hidden


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


@pytest.mark.parametrize("name", [".x", "._1.png", ".DS_Store", *JUNK, "Thumbs.db", "@eaDir", "__MACOSX"])
def test_hidden_names(name):
    assert is_hidden(name)


@pytest.mark.parametrize("name", ["x.png", "x.", "thumbs", "my.__macosx", "macosx"])
def test_ordinary_names(name):
    assert not is_hidden(name)


def test_classes_and_images_are_sorted_whatever_the_file_system_says(tmp_path, monkeypatch):
    touch(tmp_path, *(f"train/{label}/{name}" for label in "cab" for name in ("2.png", "10.png", "B.png", "a/9.png")))
    scandir = os.scandir

    class Backwards:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    walk = Walk(tmp_path, "train")
    assert walk.classes() == ["a", "b", "c"]
    assert walk.images("train/a") == ["train/a/10.png", "train/a/2.png", "train/a/B.png", "train/a/a/9.png"]
    assert walk.notes() == []


def test_notes_count_and_can_be_printed(tmp_path):
    touch(tmp_path, "spl\x1bit/a/1.png", "spl\x1bit/a/2.txt", "spl\x1bit/a/3", "spl\x1bit/4.png", "spl\x1bit/.5.png")
    walk = Walk(tmp_path, "spl\x1bit")
    assert [walk.images(f"spl\x1bit/{label}") for label in walk.classes()] == [["spl\x1bit/a/1.png"]]
    assert walk.notes() == [
        "spl\\x1bit: ignored 1 files outside the class folders",
        "spl\\x1bit: ignored 2 files that are not images by their name",
        "spl\\x1bit: ignored 1 hidden files and folders",
    ]


def test_links_that_lead_nowhere_and_to_themselves(tmp_path):
    touch(tmp_path, "train/a/1.png")
    for name, target in (("2.png", "gone"), ("3.png", "3.png"), ("up", ".."), ("loop", "loop")):
        (tmp_path / "train/a" / name).symlink_to(target)
    walk = Walk(tmp_path, "train")
    assert walk.images("train/a") == ["train/a/1.png", "train/a/2.png", "train/a/3.png"]
    assert walk.notes() == [
        "train: ignored 1 files that are not images by their name",
        "train: ignored 1 links to folders of the same split",
    ]
    assert walk.problems == []


def test_a_class_that_links_to_its_split_is_named(tmp_path):
    touch(tmp_path, "train/b/1.png")
    (tmp_path / "train/a").symlink_to(".")
    walk = Walk(tmp_path, "train")
    for label in walk.classes():
        walk.images(f"train/{label}")
    assert walk.problems == [f"{tmp_path}/train/b: is the same folder as train/a/b, of another class"]


def test_a_walk_below_nothing(tmp_path):
    (tmp_path / "train").mkdir()
    assert Walk(tmp_path, "train").images("train/absent") == []
