"""The page of a data folder: it shows what is there, for any data, never as markup, and the same each time."""

import shutil

import numpy as np
import pytest

import prepare_data
from images.check import check
from reports import data_report as module
from reports.data_report import data_report
from tests.conftest import write_image
from tests.reports.test_page import Reader
from tests.reports.test_report import check_page

LARGEST = 3 * 2**20  # bytes


def noise(seed, side=24):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


@pytest.fixture
def data(tiny_data, tmp_path):
    return shutil.copytree(tiny_data, tmp_path / "tiny")


def texts(page):
    read = Reader(page.decode())
    return read, " ".join(read.text)


def headings(read):
    return [attributes["id"] for name, attributes in read.elements if name == "section"]


def pictures(read):
    return [attributes for name, attributes in read.elements if name == "img"]


def test_every_part_is_there(data):
    read, text = texts(data_report(check(data)))
    assert headings(read) == ["summary", "classes", "sizes", "looks", "doubles", "samples", "odd"]
    assert "48 images of 3 classes" in text
    for name in ("apple", "bee", "cloud"):
        assert name in text
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in pictures(read))


def test_the_same_folder_gives_the_same_bytes(data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAMPLES", 2)
    again = shutil.copytree(data, tmp_path / "other" / "tiny")
    found = check(data)
    assert data_report(found) == data_report(check(again))
    assert data_report(found, seed=1) != data_report(found)


def test_what_is_there_twice_is_shown_side_by_side(data):
    shutil.copy(data / "train/bee/1.png", data / "test/apple/leak.png")
    write_image(data / "train/cloud/m.png", np.ascontiguousarray(noise(1)))
    write_image(data / "valid/cloud/m.png", np.ascontiguousarray(noise(1)[:, ::-1]))
    read, text = texts(data_report(check(data)))
    assert "Across splits, are identical: 1 group " in text
    assert "Across splits, are mirrored: 1 group " in text
    shown = [image["alt"] for image in pictures(read)]
    assert {"train/bee/1.png", "test/apple/leak.png", "train/cloud/m.png", "valid/cloud/m.png"} <= set(shown)
    assert shown.index("train/bee/1.png") + 1 == shown.index("test/apple/leak.png")


def test_findings_and_odd_files_are_named(data):
    (data / "valid/bee/broken.png").write_bytes(b"nothing")
    write_image(data / "train/bee/blank.png", (250, 250, 250))
    _, text = texts(data_report(check(data)))
    assert "Unreadable: 1" in text
    assert "valid/bee/broken.png: is not an image" in text
    assert "Blank: 1" in text
    assert "train/bee/blank.png" in text
    assert "Turned by EXIF: 1" in text


def test_hostile_names_are_text(tmp_path):
    name = "<img src=x onerror=alert(1)>&\"'$x_1$\n\x1b"
    for split in ("train", "valid"):
        for other in (name, "b" * 200):
            for seed in range(2):
                write_image(
                    tmp_path / split / other / f"{name}{seed}.png", noise(seed + 2 * len(other) + 9 * len(split))
                )
    shutil.copy(tmp_path / f"train/{name}/{name}0.png", tmp_path / f"valid/{name}/{name}9.png")
    read, text = texts(data_report(check(tmp_path)))
    assert all("onerror" not in attributes for _, attributes in read.elements)
    assert "<img src=x onerror" in text
    assert "\x1b" not in data_report(check(tmp_path)).decode()


@pytest.mark.parametrize("multi", [False, True])
def test_one_image_of_a_class(tmp_path, multi, tiny_multi_label):
    if multi:
        root = shutil.copytree(tiny_multi_label, tmp_path / "d")
        _, text = texts(data_report(check(root)))
        assert "An image may be of several classes" in text
        assert text.count("cloud") >= 2
        return
    for split in ("train", "valid"):
        for name in ("a", "b"):
            write_image(tmp_path / "d" / split / name / "0.png", noise(ord(name) + len(split))[..., 0])
    read, _ = texts(data_report(check(tmp_path / "d")))
    assert headings(read)[0] == "summary"


def test_what_training_would_refuse_still_makes_a_page(data, tmp_path):
    shutil.rmtree(data / "train")
    (data / "train").mkdir()
    texts(data_report(check(data)))
    for path in (data / "valid").rglob("*.*g"):
        path.write_bytes(b"")
    shutil.rmtree(data / "test")
    read, text = texts(data_report(check(data)))
    assert "looks" not in headings(read)
    assert "0 images of 3 classes" in text


def test_multi_label_that_cannot_be_told(tmp_path, tiny_multi_label):
    root = shutil.copytree(tiny_multi_label, tmp_path / "d")
    (root / "train/labels.csv").write_text("nonsense\n")
    _, text = texts(data_report(check(root)))
    assert "No class could be told" in text


@pytest.mark.slow
def test_a_thousand_classes_fit(tmp_path):
    random = np.random.default_rng(0)
    for number in range(1000):
        for split in ("train", "valid"):
            write_image(
                tmp_path / split / f"class {number:04}" / "0.jpg", random.integers(0, 256, (60, 60, 3), np.uint8)
            )
    page = data_report(check(tmp_path))
    assert len(page) <= LARGEST
    read, text = texts(page)
    assert "class 0999" in text
    assert len(pictures(read)) > 300


def test_a_budget_is_kept_by_naming_images_only(data, monkeypatch):
    whole = len(pictures(texts(data_report(check(data)))[0]))
    monkeypatch.setattr(module, "BYTES", 3000)
    read, text = texts(data_report(check(data)))
    assert len(pictures(read)) < whole
    assert "train/cloud/7.png" in text


def test_as_a_program(data, tmp_path, capsys):
    assert prepare_data.main(["--check", str(data), "--html"]) == 0
    assert f"page: {data}/report.html" in capsys.readouterr().out
    check_page(data / "report.html")
    target = tmp_path / "x.html"
    assert prepare_data.main(["--check", str(data), "--strict", "--html", str(target)]) == 0
    assert target.read_bytes() == (data / "report.html").read_bytes()
    assert prepare_data.main(["--source", "digits", "--out", str(tmp_path / "d"), "--html"]) == 2
    assert "--html cannot be used without --check" in capsys.readouterr().err
    assert prepare_data.main(["--check", str(data), "--html", str(tmp_path / "no/x.html")]) == 4
    assert "x.html: cannot be written" in capsys.readouterr().err


def test_strict_is_for_findings_alone(data, capsys):
    write_image(data / "train/bee/blank.png", (250, 250, 250))
    assert prepare_data.main(["--check", str(data), "--strict", "--html"]) == 0
    (data / "train/bee/bad.png").touch()
    assert prepare_data.main(["--check", str(data), "--strict", "--html"]) == 2
    assert (data / "report.html").is_file()
