"""Images in tar files: found, told apart by class, read from their places, and as good as files in every other way."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

import prepare_data
from images import shards
from images.cache import open_store
from images.check import check
from images.folder import check_headers, fingerprint, scan
from images.read import ImageError, read_header, read_image
from images.shards import locate, pack, walk
from images.view import View
from images.walk import Walk
from tests.images.test_cache import make_params
from tests.images.test_folder import refused
from utils import UserError


def make_tar(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def images(tiny_data):
    """Bytes of some images, by class and name."""
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(tiny_data.glob("train/*/*"))}


@pytest.fixture
def packed(tiny_data, tmp_path):
    """The tiny data folder, its splits in tar files of five images."""
    root = shutil.copytree(tiny_data, tmp_path / "packed", ignore=shutil.ignore_patterns(".cache"))
    for split in ("train", "valid", "test"):
        pack(root / split, 5)
    return root


def pixels(root, name, **params):
    """Every image of a split by class and name, as a store gives them."""
    folder, _ = check_headers(scan(root), 50, skip_bad=False)
    part = folder.splits[name]
    chosen = make_params(**params)
    store = open_store(folder, name, View.of(chosen, training=True), chosen, fingerprint(folder))
    found = {}
    for index, path in enumerate(part.paths):
        canvas, sizes = store.gather(np.array([index]))
        height, width = sizes[0].tolist()
        image = Path(path)
        found[folder.classes[part.targets[index]], image.name] = canvas[0, :height, :width].numpy().tobytes()
    return found


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_tars_give_what_folders_give(tiny_data, packed, cache):
    assert {entry.name for entry in (packed / "train").iterdir()} == {f"{n}.tar" for n in range(5)}
    for split in ("train", "valid"):
        expected = pixels(tiny_data, split, cache="memory")
        assert pixels(packed, split, cache=cache, num_workers=2) == expected
        assert len(expected) == len(scan(tiny_data).splits[split].paths)


def test_the_order_is_that_of_the_classes(tiny_data, packed):
    before, after = scan(tiny_data), scan(packed)
    assert after.classes == before.classes
    assert np.bincount(after.splits["train"].targets).tolist() == np.bincount(before.splits["train"].targets).tolist()
    assert (np.diff(after.splits["train"].targets) >= 0).all()


def test_packing_is_the_same_each_time_and_mixes_the_classes(tiny_data, packed, tmp_path):
    again = shutil.copytree(tiny_data / "train", tmp_path / "train")
    pack(again, 5)
    for tar in sorted(again.iterdir()):
        assert tar.read_bytes() == (packed / "train" / tar.name).read_bytes()
    first = walk(packed, "train").images("train")
    assert len({path.split("/")[2] for path in first if "/0.tar/" in path}) > 1


def test_classes_of_webdataset(tmp_path, images):
    one, two, *_ = images.values()
    members = {"a.b.png": one, "a.cls": b"10\n", "c.png": two, "c.cls": b"2", "c.json": b"{}", "./d/e.png": one}
    make_tar(tmp_path / "train" / "x-000.tar", {**members, "d/e.cls": b"2"})
    make_tar(tmp_path / "valid" / "y.tar", {"2/a.png": one, "10/b.png": two})
    found = scan(tmp_path)
    assert found.classes == ("2", "10")
    assert found.splits["train"].paths == (
        "train/x-000.tar/c.png",
        "train/x-000.tar/d/e.png",
        "train/x-000.tar/a.b.png",
    )
    assert found.splits["train"].targets.tolist() == [0, 0, 1]
    assert found.splits["valid"].targets.tolist() == [0, 1]
    assert found.notes == ("train: ignored 1 files that are not images by their name",)
    assert (
        read_image(tmp_path / "train/x-000.tar/d/e.png").tobytes()
        == read_image(tmp_path / "valid/y.tar/2/a.png").tobytes()
    )


def test_one_split_in_tars_and_another_in_folders(tiny_data, packed):
    shutil.rmtree(packed / "valid")
    shutil.copytree(tiny_data / "valid", packed / "valid")
    assert scan(packed).splits["valid"].paths == scan(tiny_data).splits["valid"].paths


def test_tars_and_a_table_of_labels(tiny_multi_label, tmp_path):
    root = shutil.copytree(tiny_multi_label, tmp_path / "d", ignore=shutil.ignore_patterns(".cache"))
    before = scan(root).splits["train"]
    for split in ("train", "valid"):
        names = [Path(path).name for path in scan(root).splits[split].paths]
        make_tar(root / split / "0.tar", {name: (root / split / name).read_bytes() for name in names})
        for name in names:
            (root / split / name).unlink()
        table = root / split / "labels.csv"
        head, *rows = table.read_text().splitlines()
        table.write_text("\n".join([head, *(f"0.tar/{row}" for row in rows)]) + "\n")
        if split == "train":
            after = root
    found = scan(after).splits["train"]
    assert found.paths == tuple(path.replace("train/", "train/0.tar/") for path in before.paths)
    assert found.targets.tolist() == before.targets.tolist()


@pytest.mark.parametrize(
    ("members", "line"),
    {
        "no class": ({"1.png": b""}, "train/0.tar/1.png: has no class: no folder, no .cls"),
        "a class that is a path": (
            {"1.png": b"", "1.cls": b"a/b"},
            "train/0.tar/1.png: 'a/b' cannot be the name of a class",
        ),
        "a class of bytes": ({"1.png": b"", "1.cls": b"\xff"}, "cannot be the name of a class"),
    }.values(),
)
def test_images_without_a_class_are_named(packed, members, line):
    (packed / "train" / "0.tar").unlink()
    make_tar(packed / "train" / "0.tar", members)
    [found] = refused(scan, packed)
    assert line in found


def test_what_is_no_plain_tar_is_named(packed, images):
    whole = (packed / "train" / "0.tar").read_bytes()
    (packed / "train" / "0.tar").write_bytes(whole[: len(whole) // 2])
    assert f"{packed}/train/0.tar: is damaged, or no tar" in refused(scan, packed)[0]
    (packed / "train" / "0.tar").write_bytes(b"nonsense")
    [line] = refused(scan, packed)
    assert f"{packed}/train/0.tar: is damaged, or no tar" in line
    (packed / "train" / "0.tar").write_bytes(whole)
    make_tar(packed / "train" / "5.tar.gz", images, "w:gz")
    assert refused(scan, packed) == [f"{packed}/train/5.tar.gz: is compressed; images are read from plain .tar files"]


@pytest.mark.parametrize("where", ["between two", "in a header"])
def test_a_tar_that_was_cut_anywhere_is_named(packed, where):
    tar = packed / "train" / "0.tar"
    with tarfile.open(tar) as file:
        last = file.getmembers()[-1].offset
    tar.write_bytes(tar.read_bytes()[: last + (where == "in a header") * 100])
    [line] = refused(scan, packed)
    assert f"{tar}: is damaged, or no tar (it ends early)" in line
    (packed / "train" / ".0.tar").write_bytes(b"hidden")
    assert len(refused(scan, packed)) == 1


def test_a_hidden_tar_does_not_make_folders_tars(tiny_data, tmp_path):
    root = shutil.copytree(tiny_data, tmp_path / "data")
    (root / "train" / "._0.tar").write_bytes(b"x")
    assert scan(root).splits["train"].paths == scan(tiny_data).splits["train"].paths


def test_links_in_a_tar_are_where_they_lead_to(packed, images):
    content = next(iter(images.values()))
    with tarfile.open(packed / "train" / "9.tar", "w") as tar:
        for name, kind, target in (
            ("bee/soft.png", tarfile.SYMTYPE, "../apple/real.png"), ("bee/chain.png", tarfile.SYMTYPE, "soft.png"),
            ("bee/out.png", tarfile.SYMTYPE, "/etc/passwd"), ("bee/loop.png", tarfile.SYMTYPE, "loop.png"),
            ("apple/real.png", tarfile.REGTYPE, ""), ("bee/hard.png", tarfile.LNKTYPE, "apple/real.png"),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 0 if target else len(content)
            tar.addfile(info, None if target else io.BytesIO(content))
    found = scan(packed)
    new = [path.removeprefix("train/9.tar/") for path in found.splits["train"].paths if "/9.tar/" in path]
    assert new == ["apple/real.png", "bee/chain.png", "bee/hard.png", "bee/soft.png"]
    pixels_of = {name: read_image(packed / "train/9.tar" / name).tobytes() for name in new}
    assert len(set(pixels_of.values())) == 1
    assert found.notes == ("train: ignored 2 members that are links to elsewhere, or no plain files",)


def test_labels_beside_the_images_are_part_of_the_fingerprint(tmp_path, images):
    one, two, *_ = images.values()
    make_tar(tmp_path / "valid" / "0.tar", {"2/a.png": one, "10/b.png": two})
    prints = []
    for label in (b"2", b"10"):
        make_tar(tmp_path / "train" / "0.tar", {"a.png": one, "a.cls": b"2", "b.png": two, "b.cls": b"10",
                                               "c.png": one, "c.cls": label})  # fmt: skip
        prints.append(fingerprint(check_headers(scan(tmp_path), 50, skip_bad=False)[0]))
    assert prints[0] != prints[1]


def test_folders_in_tars_are_sorted_as_folders_are(tiny_data, tmp_path):
    root = tmp_path / "data"
    for split in ("train", "valid"):
        for name in ("1", "2", "10"):
            shutil.copytree(tiny_data / split / "bee", root / split / name)
    before = scan(root).classes
    for split in ("train", "valid"):
        pack(root / split, 50)
    assert scan(root).classes == before == ("1", "10", "2")


def test_names_that_folders_may_have_tars_may_have(tiny_data, tmp_path):
    root = shutil.copytree(tiny_data, tmp_path / "data")
    for split in ("train", "valid"):
        (root / split / "bee").rename(root / split / "a\u200cb")
        pack(root / split, 50)
    assert "a\u200cb" in scan(root).classes


def test_folders_beside_tars_are_refused(tiny_data, packed):
    shutil.copytree(tiny_data / "train" / "bee", packed / "train" / "bee")
    assert refused(scan, packed) == [f"{packed}/train/bee: is a folder beside tar files; put all images into one kind"]


def test_a_folder_may_be_called_like_a_tar(tiny_data, tmp_path):
    root = shutil.copytree(tiny_data, tmp_path / "x.tar" / "d")
    assert locate(root / scan(root).splits["train"].paths[0]) is None
    assert type(walk(root, "train")) is Walk
    pack(root / "train", 50)
    member = locate(root / scan(root).splits["train"].paths[0])
    assert member is not None
    assert member.tar == str(root / "train" / "0.tar")


def test_an_image_that_is_not_there_or_damaged_is_named(packed, images):
    absent = packed / "train/0.tar/bee/absent.png"
    with pytest.raises(ImageError, match="No such file"):
        read_header(absent)
    with pytest.raises(FileNotFoundError):
        locate(absent)
    content = next(iter(images.values()))
    make_tar(
        packed / "train" / "9.tar", {"bee/empty.png": b"", "bee/page.png": b"<html>", "bee/half.png": content[:60]}
    )
    reasons = dict(check_headers(scan(packed), 50, skip_bad=True)[1])
    assert reasons["train/9.tar/bee/empty.png"] == "is empty"
    assert reasons["train/9.tar/bee/page.png"] == "is a web page, not an image"


def test_contents_are_remembered_until_the_tar_changes(packed, monkeypatch):
    reads = []
    read = shards.Member.read
    monkeypatch.setattr(shards.Member, "read", lambda member: reads.append(member.offset) or read(member))
    monkeypatch.setattr("images.memory.SETTLED", -1e9)
    first = fingerprint(check_headers(scan(packed), 50, skip_bad=False)[0])
    assert reads
    reads.clear()
    assert fingerprint(check_headers(scan(packed), 50, skip_bad=False)[0]) == first
    assert reads == []
    with tarfile.open(packed / "train" / "0.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("note.txt"))
    assert fingerprint(check_headers(scan(packed), 50, skip_bad=False)[0]) == first
    assert reads


def test_checking_knows_the_classes(packed, images):
    name, content = next(iter(images.items()))
    other = next(label for label in scan(packed).classes if label != name.partition("/")[0])
    make_tar(packed / "train" / "9.tar", {f"{other}/copy.png": content})
    found = check(packed).findings()
    assert list(found) == ["within a split, of different classes, are identical"]
    assert "train/9.tar" in found["within a split, of different classes, are identical"][0]


def test_checking_looks_at_the_other_tars_when_some_are_damaged(packed, images):
    for name in ("0.tar", "9.tar"):
        (packed / "train" / name).write_bytes(b"nonsense")
    first, content = next(iter(images.items()))
    make_tar(packed / "train" / "8.tar", {first: content, "bee/again.png": content})
    found = check(packed)
    damaged = [line for line in found.structure if "is damaged, or no tar" in line]
    assert [line.partition(": ")[0] for line in damaged] == [f"{packed}/train/0.tar", f"{packed}/train/9.tar"]
    assert any("again.png" in line for lines in found.findings().values() for line in lines)
    assert found.structure == damaged  # and not what follows from it


def test_a_multi_label_folder_with_a_damaged_tar_names_it_alone(tiny_multi_label, tmp_path):
    root = shutil.copytree(tiny_multi_label, tmp_path / "data")
    (root / "train" / "0.tar").write_bytes(b"nonsense")
    [line] = refused(scan, root)
    assert f"{root}/train/0.tar: is damaged, or no tar" in line


def test_prepare_data_packs(tiny_data, tmp_path, capsys):
    arguments = ["--source", "folder", "--images_dir", str(tiny_data), "--out", str(tmp_path / "out")]
    assert prepare_data.main([*arguments, "--images_per_tar", "0"]) == 2
    assert "--images_per_tar 0: must be 1 or more" in capsys.readouterr().err
    assert prepare_data.main([*arguments, "--images_per_tar", "10"]) == 0
    assert sorted(path.name for path in (tmp_path / "out/train").iterdir()) == ["0.tar", "1.tar", "2.tar"]
    assert json.loads((tmp_path / "out/source.json").read_text())["images_per_tar"] == 10
    assert pixels(tmp_path / "out", "train", cache="memory") == pixels(tiny_data, "train", cache="memory")


def test_a_damaged_tar_is_an_error_of_the_person_not_of_the_program(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"x" * 2000)
    with pytest.raises(UserError, match="is damaged, or no tar"):
        read_header(tmp_path / "0.tar" / "1.png")
