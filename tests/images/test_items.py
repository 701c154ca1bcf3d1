"""Images on their way into a data folder: what is found in class folders, and how the missing splits are made."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from images.items import FRACTIONS, NAMED, Division, Item, class_folders, divide
from utils import UserError


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def found(root):
    return [(item.split, item.label, item.name) for item in class_folders(root)]


# --- class folders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["", "data/", "a/b/c/"])
def test_class_folders_below_what_only_wraps_them(tmp_path, wrapper):
    touch(tmp_path / "d", *(f"{wrapper}{name}" for name in ("ant/1.jpg", "ant/deep/er/2.PNG", "bee/1.jpg")))
    items = list(class_folders(tmp_path / "d"))
    assert [item[:3] for item in items] == [(None, "ant", "1.jpg"), (None, "ant", "deep/er/2.PNG"),
                                            (None, "bee", "1.jpg")]  # fmt: skip
    assert [item.content for item in items] == [tmp_path / "d" / wrapper / i.label / i.name for i in items]


@pytest.mark.parametrize(("folders", "splits"), [
    ("train test", ["train", "test"]),
    ("TRAINING Val Testing", ["train", "valid", "test"]),
    ("train validation", ["train", "valid"]),
])  # fmt: skip
def test_split_folders_by_their_usual_names(tmp_path, folders, splits):
    touch(tmp_path, *(f"wrapped/{folder}/{label}/1.jpg" for folder in folders.split() for label in ("ant", "bee")))
    assert found(tmp_path) == [(split, label, "1.jpg") for split in splits for label in ("ant", "bee")]


def test_one_class_is_not_taken_for_a_wrapper(tmp_path):
    assert found(touch(tmp_path, "ant/1.jpg")) == [(None, "ant", "1.jpg")]


def test_the_present_folder_has_a_name(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(touch(tmp_path / "here", "ant/1.jpg", "bee/2.jpg", "loose.jpg"))
    with caplog.at_level("INFO", "dossier"):
        assert found(Path()) == [(None, "ant", "1.jpg"), (None, "bee", "2.jpg")]
    assert caplog.messages == ["here: ignored 1 files outside the class folders"]


def test_what_is_passed_over_is_counted(tmp_path, caplog):
    touch(tmp_path / "d", "ant/1.jpg", "bee/1.jpg", "ant/notes.txt", "ant/.DS_Store", "ant/._1.jpg", "@eaDir/1.jpg",
          "__MACOSX/ant/1.jpg", "read.me")  # fmt: skip
    with caplog.at_level("INFO", "dossier"):
        assert found(tmp_path / "d") == [(None, "ant", "1.jpg"), (None, "bee", "1.jpg")]
    assert caplog.messages == [
        "d: ignored 1 files outside the class folders",
        "d: ignored 1 files that are not images by their name",
        "d: ignored 4 hidden files and folders",
    ]


def test_links_are_followed_as_in_a_data_folder(tmp_path):
    touch(tmp_path, "elsewhere/3.jpg", "d/ant/1.jpg", "d/bee/2.jpg")
    (tmp_path / "d/ant/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d/bee/round").symlink_to("..")
    assert found(tmp_path / "d") == [(None, "ant", "1.jpg"), (None, "ant", "more/3.jpg"), (None, "bee", "2.jpg")]


REFUSED = {
    "nothing": ([], r"^d: no images found in \[train/\]<class>/ \(\.jpg "),
    "only loose images": (["1.jpg"], "^d: no images found"),
    "no images by their name": (["ant/1.txt", "bee/1"], "^d: no images found"),
    "no train": (["valid/ant/1.jpg", "test/ant/1.jpg"], "^d: has the folders test, valid; expected train, and one per"),
    "two valid": (["train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"], "^d: has the folders train, val, valid; expected"),
    "a class called train": (
        ["bus/1.jpg", "car/1.jpg", "train/1.jpg"],
        "^d: has train and, with images too, bus, car; move out what is no split, or rename what is a class$",
    ),
    "many beside the splits": (
        ["train/a/1.jpg", *(f"c{n:02}/1.jpg" for n in range(NAMED + 2))],
        "too, c00, .*, c09 and 2 more; move out",
    ),
    "multi-label": (
        ["train/labels.csv", "train/1.jpg", "train/a/1.jpg"],
        "train: is multi-label data .labels.csv.: us",
    ),
    "multi-label without splits": (["labels.csv", "a/1.jpg", "b/1.jpg"], "d: is multi-label data"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_folders_that_are_refused(tmp_path, what):
    paths, message = REFUSED[what]
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match=message):
        list(class_folders(touch(tmp_path / "d", *paths)))


def test_other_folders_without_images_may_lie_beside_the_splits(tmp_path):
    touch(tmp_path, "train/ant/1.jpg", "train/bee/1.jpg", "docs/read.me")
    assert len(found(tmp_path)) == 2


def test_what_is_called_an_image_but_is_no_file(tmp_path):
    touch(tmp_path, "ant/1.jpg", "bee/1.jpg")
    (tmp_path / "ant/gone.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "bee/pipe\n.jpg")
    with pytest.raises(UserError) as caught:
        list(class_folders(tmp_path))
    ending = "is no file, or a link to none; mend or remove it"
    name = tmp_path.name
    assert str(caught.value).splitlines() == [f"{name}/ant/gone.jpg: {ending}", f"{name}/bee/pipe\\n.jpg: {ending}"]


def test_many_problems_are_counted(tmp_path):
    touch(tmp_path, "ant/1.jpg", "bee/1.jpg")
    for number in range(NAMED + 3):
        (tmp_path / f"ant/{number:02}.png").symlink_to("nowhere")
    with pytest.raises(UserError) as caught:
        list(class_folders(tmp_path))
    assert len(str(caught.value).splitlines()) == NAMED + 1
    assert str(caught.value).endswith("… and 3 more like it")


def test_one_folder_of_two_classes(tmp_path):
    touch(tmp_path, "ant/1.jpg")
    (tmp_path / "bee").symlink_to("ant")
    with pytest.raises(UserError, match=r"bee: is the same folder as .*/ant, of another class"):
        list(class_folders(tmp_path))


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    touch(tmp_path, "ant/deep/1.jpg", "bee/1.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        list(class_folders(tmp_path))


# --- splits ----------------------------------------------------------------------------------------------------------


def items_of(*counts, split=None):
    pixels = np.zeros((1, 1), np.uint8)
    return [Item(split, f"class {k}", f"{n}.png", pixels) for k, count in enumerate(counts) for n in range(count)]


def shares(items):
    return Counter((item.label, item.split) for item in items)


def places(items):
    return {(item.label, item.name): item.split for item in items}


def test_the_fractions_are_of_each_class():
    items, fractions = divide(items_of(100, 10, 40), Division())
    assert fractions == FRACTIONS == {"valid": 0.1, "test": 0.2}
    for label, (train, valid, test) in {"class 0": (70, 10, 20), "class 1": (7, 1, 2), "class 2": (28, 4, 8)}.items():
        assert shares(items)[label, "train"] == train
        assert shares(items)[label, "valid"] == valid
        assert shares(items)[label, "test"] == test


COUNTS = st.lists(st.integers(1, 60), min_size=2, max_size=4).filter(lambda counts: max(counts) > 2)
DIVISIONS = st.builds(
    Division, st.sampled_from([0.01, 0.1, 0.45]), st.sampled_from([0.01, 0.2, 0.5]), st.none() | st.integers()
)


@given(counts=COUNTS, division=DIVISIONS, random=st.randoms())
@settings(max_examples=60)
def test_the_choice_depends_on_nothing_but_seed_class_and_name(counts, division, random):
    items = items_of(*counts)
    whole = places(divide(items, division)[0])
    random.shuffle(items)
    assert places(divide(items, division)[0]) == whole
    largest = max(range(len(counts)), key=counts.__getitem__)
    alone = [item for item in items if item.label == f"class {largest}"]
    assert places(divide(alone, division)[0]).items() <= whole.items()


@given(counts=COUNTS, division=DIVISIONS)
@settings(max_examples=60)
def test_every_image_stays_once_and_train_keeps_every_class(counts, division):
    items = items_of(*counts)
    divided, fractions = divide(items, division)
    assert [item[1:3] for item in divided] == [item[1:3] for item in items]
    for k, count in enumerate(counts):
        label, made = f"class {k}", shares(divided)
        assert made[label, "train"] >= 1
        for split, fraction in fractions.items():
            assert made[label, split] <= max(1, round(fraction * count))


def test_another_seed_chooses_others_and_none_is_0():
    items = items_of(50, 50)
    first, second, none = (places(divide(items, Division(seed=seed))[0]) for seed in (0, 1, None))
    assert first == none != second


def test_the_choice_of_this_release_stays():
    chosen = [name for (_, name), split in places(divide(items_of(20, 0), Division())[0]).items() if split == "valid"]
    assert chosen == ["6.png", "10.png"]


def test_own_splits_are_kept():
    items = items_of(10, 10, split="train") + items_of(5, 5, split="test")
    divided, fractions = divide(items, Division())
    assert fractions == {"valid": 0.1}
    assert Counter(item.split for item in divided) == {"train": 18, "valid": 2, "test": 10}
    assert all(item.split == "test" for item in divided[20:])


def test_a_fraction_of_0_makes_no_split():
    divided, fractions = divide(items_of(10, 10), Division(0.3, 0))
    assert fractions == {"valid": 0.3}
    assert Counter(item.split for item in divided) == {"train": 14, "valid": 6}


def test_names_that_are_no_text():
    divided, _ = divide(
        [Item(None, "a\udcff", f"\udcfe{n}.png", np.zeros((1, 1), np.uint8)) for n in range(9)], Division()
    )
    assert Counter(item.split for item in divided) == {"train": 6, "valid": 1, "test": 2}


OWN = items_of(5, 5, split="train") + items_of(5, 5, split="valid") + items_of(5, 5, split="test")
THAT_LEAVE_NOTHING = "fractions that leave something: 0 or more, together below 1"


@pytest.mark.parametrize(("items", "division", "message"), [
    (items_of(9), Division(-0.1, 0.2), THAT_LEAVE_NOTHING),
    (items_of(9), Division(0.1, 1), THAT_LEAVE_NOTHING),
    (items_of(9), Division(0.5, 0.5), THAT_LEAVE_NOTHING),
    (items_of(9), Division(float("nan"), 0.5), THAT_LEAVE_NOTHING),
    (OWN, Division(valid_fraction=0.1), "--valid_fraction: the source has a valid split of its own"),
    (OWN, Division(test_fraction=0.1), "--test_fraction: the source has a test split of its own"),
    (OWN, Division(seed=0), "--seed: the source has splits of its own, and nothing is left to choose"),
    (items_of(1, 1), Division(), "no class has an image to spare for valid; pass --valid_fraction 0 to go without"),
    (items_of(2, 2), Division(), "no class has an image to spare for test; pass --test_fraction 0 to go without"),
])  # fmt: skip
def test_divisions_that_are_refused(items, division, message):
    with pytest.raises(UserError, match=message):
        divide(items, division)
