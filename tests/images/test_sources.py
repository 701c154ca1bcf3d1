"""Data sources: the items of each from a small archive, and the folder that is made of them: whole, or not at all."""

import errno
import fcntl
import gzip
import hashlib
import http.client
import os
import pickle
import shutil
import socket
import struct
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from images.items import Division
from images.sources import FASHION_MNIST_CLASSES, IMAGENETTE_CLASSES, PROVENANCE, SCRATCH, SOURCES, prepare
from tests.conftest import write_image
from utils import TrainingFault, UserError, read_json

NONE = Division(0, 0)
PICTURES = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
DIGITS = (np.arange(40) % 10).astype(np.uint8)


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch):
    """What a test writes need not last, and other programs' writes are not waited for."""
    monkeypatch.setattr(os, "sync", lambda: None)


def tree(folder):
    """Paths of the files below a folder, but for what it says of itself."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != PROVENANCE)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def packed(folder, path, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        tar.add(folder, folder.name)
    return path


def pixels(path):
    return np.asarray(Image.open(path))


# --- Fashion-MNIST ---------------------------------------------------------------------------------------------------


def idx(values):
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def raw_files(folder, images=PICTURES, labels=DIGITS, name="{}-{}-ubyte.gz", content=None):
    """The four files of Fashion-MNIST; content, if given, replaces that of the train images."""
    for stem, part in (("train", slice(None)), ("t10k", slice(0, 20))):
        for kind, values in (("images-idx3", images[part]), ("labels-idx1", labels[part])):
            path = folder / name.format(stem, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            data = content if content is not None and (stem, kind) == ("train", "images-idx3") else idx(values)
            path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return folder


@pytest.mark.parametrize("name", [
    "{}-{}-ubyte.gz",
    "{}-{}-ubyte",
    "FashionMNIST/raw/{}-{}-ubyte.gz",
    "{0}-{1}-ubyte/{0}-{1}-ubyte",  # as one well-known copy has them
])  # fmt: skip
def test_fashion_mnist(tmp_path, name):
    given = packed(raw_files(tmp_path / "given", name=name), tmp_path / "given.tar.gz")
    assert prepare("fashion_mnist", tmp_path / "out", archive=given) == {"train": 30, "valid": 10, "test": 20}
    for index in range(20):
        path = tmp_path / "out/test" / FASHION_MNIST_CLASSES[DIGITS[index]] / f"{index:05d}.png"
        assert np.array_equal(pixels(path), PICTURES[index])
    trained_on = [p for split in ("train", "valid") for p in (tmp_path / "out" / split).rglob("*.png")]
    assert len(trained_on) == 40
    for path in trained_on:
        assert np.array_equal(pixels(path), PICTURES[int(path.stem)])
        assert path.parent.name == FASHION_MNIST_CLASSES[DIGITS[int(path.stem)]]


def cut_short(content):
    return content[:-7]


DAMAGED = {
    "no labels": (lambda d: (d / "train-labels-idx1-ubyte.gz").unlink(), "d: train-labels-idx1-ubyte or .* is missing"),
    "cut archive": (lambda d: alter(d, cut_short), "train-images-idx3-ubyte.gz: damaged .Compressed file ended"),
    "no gzip": (lambda d: alter(d, lambda _: b"<html>"), "train-images-idx3-ubyte.gz: damaged .Not a gzipped"),
    "flipped bits": (lambda d: alter(d, lambda b: b[:40] + b"\xff" * 40 + b[80:]), "ubyte.gz: damaged"),
    "bad deflate stream": (lambda d: alter(d, lambda b: b[:10] + b"\xff" + b[11:]), "damaged .Error -3 while decompre"),
    "cut values": (lambda d: raw_files(d, content=cut_short(idx(PICTURES))), "damaged: not an idx file of unsigned"),
    "other type": (lambda d: raw_files(d, content=b"\0\0\x09\1" + bytes(4)), "damaged: not an idx file of unsigned"),
    "no values": (lambda d: raw_files(d, content=b""), "damaged: not an idx file of unsigned bytes"),
    "shape cut": (lambda d: raw_files(d, content=b"\0\0\x08\xff" + bytes(40)), "damaged: not an idx file of unsigned"),
    "labels as images": (lambda d: raw_files(d, DIGITS), "d: the train images and labels are not those of Fashion-MN"),
    "images as labels": (lambda d: raw_files(d, labels=PICTURES), "the train images and labels are not those of Fash"),
    "unequal numbers": (lambda d: raw_files(d, labels=DIGITS[:30]), "the train images and labels are not those of Fa"),
    "an 11th class": (lambda d: raw_files(d, labels=DIGITS + 1), "the train images and labels are not those of Fashi"),
    "another size": (lambda d: raw_files(d, PICTURES[:, :20, :20]), "the train images and labels are not those of Fa"),
    "none at all": (lambda d: raw_files(d, PICTURES[:0], DIGITS[:0]), "the train images and labels are not those of"),
}  # fmt: skip


def alter(folder, change):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_idx_files(tmp_path, what):
    change, message = DAMAGED[what]
    change(raw_files(tmp_path / "d"))
    with pytest.raises(UserError, match=message):
        prepare("fashion_mnist", tmp_path / "out", archive=tmp_path / "d")
    assert names(tmp_path) == ["d"]


# --- CIFAR-10 --------------------------------------------------------------------------------------------------------


@pytest.fixture
def batches(tmp_path, monkeypatch):
    """A folder with batches of 12 train and 4 test images in the published form, whose md5 torchvision is told."""
    cifar, folder = torchvision.datasets.CIFAR10, tmp_path / "given" / torchvision.datasets.CIFAR10.base_folder
    folder.mkdir(parents=True)
    random, known = np.random.default_rng(0), {}
    for name in (*(f"data_batch_{k}" for k in (1, 2, 3)), "test_batch", "batches.meta"):
        content = {"data": random.integers(0, 256, (4, 3072), np.uint8), "labels": [0, 1, 2, 1]}
        content = {"label_names": ["airplane", "automobile", "bird"]} if "." in name else content
        (folder / name).write_bytes(pickle.dumps(content))
        known[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(cifar, "train_list", [[name, known[name]] for name in known if name.startswith("data")])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", known["test_batch"]]])
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": known["batches.meta"]})
    return folder


def test_cifar10(tmp_path, batches):
    archive = packed(batches, tmp_path / "cifar-10-python.tar.gz")
    assert prepare("cifar10", tmp_path / "out", Division(0), archive) == {"train": 12, "test": 4}
    assert tree(tmp_path / "out/test") == ["airplane/00000.png", "automobile/00001.png", "automobile/00003.png",
                                           "bird/00002.png"]  # fmt: skip
    stored = torchvision.datasets.CIFAR10(batches.parent, train=False).data
    assert np.array_equal(pixels(tmp_path / "out/test/bird/00002.png"), stored[2])


def test_cifar10_as_downloaded(tmp_path, batches, monkeypatch):
    def download(self):
        shutil.copytree(batches, Path(self.root) / batches.name)

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    assert prepare("cifar10", tmp_path / "out", Division(0)) == {"train": 12, "test": 4}
    assert names(tmp_path) == ["given", "out"]


def test_a_pickle_that_is_not_the_published_one_is_never_opened(tmp_path, batches):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    (batches / "data_batch_1").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match=r"^given: is not the published cifar-10-python\.tar\.gz$"):
        prepare("cifar10", tmp_path / "out", archive=tmp_path / "given")
    assert not (tmp_path / "sprung").exists()


# --- class folders ---------------------------------------------------------------------------------------------------


@pytest.fixture
def classes(tmp_path):
    """A folder of two classes with 10 images each, one of them in a folder of its own."""
    for label in ("ant", "bee"):
        for index in range(10):
            name = f"{index}.png" if index else "more/0.png"
            write_image(tmp_path / "photos" / label / name, (index, 0, 0), (9, 9))
    return tmp_path / "photos"


@pytest.mark.parametrize("source", ["digits", "fashion_mnist", "cifar10", "imagenette", "folder"])
@pytest.mark.parametrize("form", ["folder", "w", "w:xz"])
def test_class_folders_for_every_source(tmp_path, classes, source, form):
    archive = classes if form == "folder" else packed(classes, tmp_path / "photos.tar", form)
    assert prepare(source, tmp_path / "out", archive=archive) == {"train": 14, "valid": 2, "test": 4}
    names = Counter(path.split("/", 1)[1] for path in tree(tmp_path / "out"))
    assert names == Counter(f"{label}/{n or 'more_0'}.png" for label in ("ant", "bee") for n in range(10))
    assert len(tree(classes)) == 20  # the originals stay


def test_imagenette(tmp_path):
    for split in ("train", "val"):
        for code in ("n01440764", "n03888257", "n99999999"):
            for index in range(3):
                write_image(tmp_path / "imagenette2-160" / split / code / f"{index}.JPEG")
    (tmp_path / "imagenette2-160/noisy_imagenette.csv").touch()
    archive = packed(tmp_path / "imagenette2-160", tmp_path / "imagenette2-160.tgz")
    assert prepare("imagenette", tmp_path / "out", archive=archive) == {"train": 6, "valid": 3, "test": 9}
    assert names(tmp_path / "out/test") == ["n99999999", "parachute", "tench"]
    assert len(set(IMAGENETTE_CLASSES.values())) == 10


def test_imagenette_with_a_test_split_keeps_its_own(tmp_path):
    for split, label in ((s, c) for s in ("train", "valid", "test") for c in ("tench", "church")):
        write_image(tmp_path / "given" / split / label / f"{split}.png")
    counts = prepare("imagenette", tmp_path / "out", archive=tmp_path / "given")
    assert counts == {"train": 2, "valid": 2, "test": 2}
    assert {path.split("/")[0] for path in tree(tmp_path / "out") if path.endswith("valid.png")} == {"valid"}


def test_digits(tmp_path):
    from sklearn.datasets import load_digits

    assert prepare("digits", tmp_path / "out") == {"train": 1259, "valid": 179, "test": 359}
    data = load_digits()
    for path in list((tmp_path / "out").rglob("*.png"))[::50]:
        index = int(path.stem)
        assert path.parent.name == str(data.target[index])
        assert np.abs(pixels(path) - data.images[index] * 255 / 16).max() <= 0.5


def test_a_folder_needs_a_place(tmp_path):
    with pytest.raises(UserError, match="--source folder needs --images_dir FOLDER or --archive FILE"):
        prepare("folder", tmp_path / "out")


def test_a_folder_inside_an_archive(tmp_path, classes):
    (tmp_path / "whole").mkdir()
    shutil.move(classes, tmp_path / "whole/photos")
    write_image(tmp_path / "whole/other/1.png")
    archive = packed(tmp_path / "whole", tmp_path / "whole.tar")
    assert prepare("folder", tmp_path / "out", NONE, archive, images_dir="whole/photos") == {"train": 20}
    with pytest.raises(UserError, match=r"^whole/phot\\x1b: no such file or folder here or in the archive$"):
        prepare("folder", tmp_path / "out2", NONE, archive, images_dir="whole/phot\x1b")
    with pytest.raises(UserError, match=r"^nowhere: no such file or folder$"):
        prepare("folder", tmp_path / "out2", NONE, images_dir="nowhere")


# --- CSV -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path):
    """Twelve images and a table of them with a category tree, in one folder."""
    rows = ["image,tree\n"]
    for index in range(12):
        write_image(tmp_path / "shop/Images" / f"{index}.png", (index, 0, 0), (9, 9))
        rows.append(f'{index}.png,"[""{("Baby Care", "Home & Garden")[index % 2]} >> Toys {index}""]"\n')
    (tmp_path / "shop/shop.csv").write_text("".join(rows))
    return tmp_path / "shop"


TREE = {"label_column": "tree", "label_rule": "first_level"}
DIVIDED = {"train": 8, "valid": 2, "test": 2}


def test_a_table_in_an_archive(tmp_path, shop):
    archive = packed(shop, tmp_path / "shop.tar.gz")
    assert prepare("csv", tmp_path / "out", archive=archive, **TREE) == DIVIDED
    labels = {int(path.stem) % 2: path.parent.name for path in (tmp_path / "out").rglob("*.png")}
    assert labels == {0: "baby_care", 1: "home_and_garden"}
    assert prepare("csv", tmp_path / "out2", archive=archive, csv="shop/shop.csv", images_dir="shop", **TREE) == DIVIDED
    assert tree(tmp_path / "out2") != []


def test_a_table_elsewhere(tmp_path, shop):
    shutil.move(shop / "shop.csv", tmp_path / "elsewhere.csv")
    table, images = str(tmp_path / "elsewhere.csv"), str(shop / "Images")
    assert prepare("csv", tmp_path / "out", csv=table, images_dir=images, **TREE) == DIVIDED
    archive = packed(shop, tmp_path / "shop.tar")
    assert prepare("csv", tmp_path / "out2", archive=archive, csv=table, **TREE) == DIVIDED
    assert tree(tmp_path / "out") == tree(tmp_path / "out2")


def test_a_table_beside_its_images(tmp_path, shop):
    assert prepare("csv", tmp_path / "out", csv=str(shop / "shop.csv"), **TREE) == DIVIDED


@pytest.mark.parametrize(("tables", "message"), [
    ([], "--source csv needs --csv FILE; the archive holds 0"),
    (["a.csv", "deep/b.CSV"], "--source csv needs --csv FILE; the archive holds 2"),
])  # fmt: skip
def test_which_table(tmp_path, classes, tables, message):
    for name in (*tables, "._a.csv"):
        (classes / name).parent.mkdir(exist_ok=True)
        (classes / name).touch()
    with pytest.raises(UserError, match=message):
        prepare("csv", tmp_path / "out", archive=classes)


def test_no_table(tmp_path):
    with pytest.raises(UserError, match=r"--source csv needs --csv FILE$"):
        prepare("csv", tmp_path / "out")


# --- downloads -------------------------------------------------------------------------------------------------------

ELSEWHERE = "elsewhere and give that, packed or not, as --archive$"
PUBLIC = {
    "fashion_mnist": ("FashionMNIST", "Fashion-MNIST could not be downloaded .*get the four files train- and t10k-.*"),
    "cifar10": ("CIFAR10", r"CIFAR-10 could not be downloaded .*get cifar-10-python\.tar\.gz "),
    "imagenette": ("Imagenette", r"Imagenette could not be downloaded .*get imagenette2-160\.tgz "),
}


@pytest.mark.parametrize("source", PUBLIC)
def test_without_internet(tmp_path, monkeypatch, capsys, source):
    def refused(*_, **__):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with pytest.raises(UserError, match=PUBLIC[source][1] + ELSEWHERE) as caught:
        prepare(source, tmp_path / "out")
    assert str(caught.value).isprintable()
    assert capsys.readouterr().out == ""
    assert names(tmp_path) == []
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("error", [
    RuntimeError("File not found or\ncorrupted."), TimeoutError("timed out"), http.client.IncompleteRead(b""),
])  # fmt: skip
@pytest.mark.parametrize("source", PUBLIC)
def test_downloads_that_fail(tmp_path, monkeypatch, source, error):
    def fail(*_, **__):
        assert socket.getdefaulttimeout() is not None  # a stalled download ends
        raise error

    monkeypatch.setattr(
        torchvision.datasets, PUBLIC[source][0], type("Failing", (), {"filename": "", "__init__": fail})
    )
    with pytest.raises(
        UserError, match=r"could not be downloaded .* and give that, packed or not, as --archive"
    ) as caught:
        prepare(source, tmp_path / "out")
    assert str(caught.value).isprintable()
    assert names(tmp_path) == []


def test_a_disk_that_a_download_fills(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "x.tgz")

    monkeypatch.setattr(torchvision.datasets, "Imagenette", fail)
    with pytest.raises(TrainingFault, match=r"x\.tgz: No space left on device; [\d.]+ MB free$"):
        prepare("imagenette", tmp_path / "out")


@pytest.mark.parametrize(("source", "fill"), [
    ("fashion_mnist", lambda root: raw_files(root / "FashionMNIST/raw")),
    ("imagenette", lambda root: [write_image(root / "imagenette2-160" / split / code / "1.png")
                                 for split in ("train", "val") for code in IMAGENETTE_CLASSES]),
])  # fmt: skip
def test_what_is_downloaded_is_read(tmp_path, monkeypatch, source, fill):
    monkeypatch.setattr(torchvision.datasets, PUBLIC[source][0], lambda root, **_: fill(root))
    counts = prepare(source, tmp_path / "out", Division(0))
    assert counts["test"] == (20 if source == "fashion_mnist" else 10)
    assert names(tmp_path) == ["out"]


# --- the folder that is made -----------------------------------------------------------------------------------------


def test_what_it_was_made_from_is_written_down(tmp_path, shop):
    archive = packed(shop, tmp_path / "shop.tar")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    counts = prepare("csv", tmp_path / "out", Division(0.2, None, 5), archive, digest, **TREE)
    assert read_json(tmp_path / "out" / PROVENANCE) == {
        "source": "csv", "archive": "shop.tar", "sha256": digest, "options": TREE,
        "taken_from_train": {"valid": 0.2, "test": 0.2}, "seed": 5, "images": counts, "images_per_tar": None,
    }  # fmt: skip


def test_only_splits_that_were_taken_are_written_down(tmp_path):
    prepare("fashion_mnist", tmp_path / "out", archive=raw_files(tmp_path / "given"))
    assert read_json(tmp_path / "out" / PROVENANCE)["taken_from_train"] == {"valid": 0.1}


def test_the_same_folder_every_time(tmp_path, classes):
    archive = packed(classes, tmp_path / "photos.tar.gz")
    made = [prepare("folder", tmp_path / name, Division(seed=seed), archive) for name, seed in (("a", 3), ("c", 4))]
    prepare("folder", tmp_path / "b", Division(seed=3), images_dir=str(classes))
    assert made[0] == made[1]
    assert tree(tmp_path / "a") == tree(tmp_path / "b") != tree(tmp_path / "c")
    assert all((tmp_path / "a" / p).read_bytes() == (tmp_path / "b" / p).read_bytes() for p in tree(tmp_path / "a"))


def test_permissions_are_those_of_ordinary_files(tmp_path, classes):
    prepare("folder", tmp_path / "out", archive=packed(classes, tmp_path / "photos.tar"))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/file").touch()
    for path in ((tmp_path / "out"), *(tmp_path / "out").rglob("*")):
        like = tmp_path / "plain" / ("" if path.is_dir() else "file")
        assert path.stat().st_mode == like.stat().st_mode, path


def test_long_names_of_nested_folders_are_shortened(tmp_path, classes):
    for index in range(3):
        write_image(classes / "ant" / "/".join(f"{level}{'ж' * 60}" for level in range(5)) / f"{index}.png")
    assert prepare("folder", tmp_path / "out", NONE, images_dir=str(classes)) == {"train": 23}
    long = [p for p in (tmp_path / "out").rglob("*.png") if "ж" in p.name]
    assert sorted(p.name[-6:] for p in long) == ["_0.png", "_1.png", "_2.png"]


def test_two_images_of_one_name(tmp_path, classes):
    write_image(classes / "ant/more_0.png")
    with pytest.raises(UserError, match="two images of ant get this name; rename one"):
        prepare("folder", tmp_path / "out", NONE, images_dir=str(classes))
    assert names(tmp_path) == ["photos"]


@pytest.mark.parametrize(("arguments", "options", "message"), [
    (("digit",), {}, '"digit" is not a known source; did you mean "digits"?'),
    (("folder",), {"csv": "x"}, "--csv is not an option of --source folder"),
    (("digits",), {"images_dir": "x"}, "--images_dir is not an option of --source digits"),
    (("digits", None, None, "00ff"), {}, "--sha256 is the hash of an archive: give --archive FILE"),
    (("folder", None, "{photos}", "00ff"), {}, "--sha256 is the hash of an archive: give --archive FILE"),
    (("folder", None, "{tar}", "00ff"), {}, "photos.tar: sha256 is [0-9a-f]{64}, not 00ff; download it again"),
    (("folder", None, "{photos}.zip"), {}, "photos.zip: cannot be read .No such file"),
    (("folder", None, "{photos}/ant"), {}, "folder: all images are of the class more; a classifier needs 2 or more"),
    (("folder", Division(0.9, 0.9), "{photos}"), {}, "fractions that leave something"),
])  # fmt: skip
def test_what_is_refused_leaves_nothing(tmp_path, classes, arguments, options, message):
    packed(classes, tmp_path / "photos.tar")
    source, division, archive, sha256 = (*arguments, None, None, None)[:4]
    archive = archive and Path(archive.format(photos=classes, tar=f"{classes}.tar"))
    with pytest.raises(UserError, match=message) as caught:
        prepare(source, tmp_path / "out", division, archive, sha256, **options)
    assert str(caught.value).isprintable()
    assert names(tmp_path) == ["photos", "photos.tar"]


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_an_existing_folder_is_kept(tmp_path, classes, kind):
    out = tmp_path / "out"
    {"folder": out.mkdir, "file": out.touch, "dangling link": lambda: out.symlink_to("gone")}[kind]()
    with pytest.raises(
        UserError, match="out: exists already; choose another --out, or pass --overwrite to move it aside"
    ):
        prepare("folder", out, images_dir=str(classes))
    for _ in range(3):  # within one second, too
        prepare("folder", out, NONE, overwrite=True, images_dir=str(classes))
    aside = [name for name in names(tmp_path) if name.startswith("out-before-")]
    assert len(aside) == 3
    assert tree(out) == sorted(tree(out))
    assert len(tree(out)) == 20


def test_a_failure_with_overwrite_keeps_the_old_folder(tmp_path, classes):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(UserError):
        prepare("folder", tmp_path / "out", overwrite=True, images_dir=str(classes / "ant"))
    assert (tmp_path / "out/mine").is_file()
    assert names(tmp_path) == ["out", "photos"]


FAULTS = [
    (errno.ENOSPC, TrainingFault),
    (errno.EIO, TrainingFault),
    (errno.EROFS, TrainingFault),
    (errno.EACCES, UserError),
]


@pytest.mark.parametrize(("number", "kind"), FAULTS)
@pytest.mark.parametrize("call", ["shutil.copyfile", "os.sync", "pathlib.Path.rename", "tempfile.mkdtemp"])
def test_faults_of_the_disk(tmp_path, classes, monkeypatch, number, kind, call):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path / "at\nplace"))

    monkeypatch.setattr(call, fail)
    with pytest.raises(kind, match=r"/out: not prepared: .*/at\\nplace: ") as caught:
        prepare("folder", tmp_path / "out", images_dir=str(classes))
    assert ("MB free" in str(caught.value)) == (kind is TrainingFault)
    assert names(tmp_path) == ["photos"]


@pytest.mark.parametrize("out", ["photos/ant/1.png/x", "photos/ant/1.png/x/y", "o" * 300])
def test_a_place_where_no_folder_can_be(tmp_path, classes, out):
    with pytest.raises(UserError, match="not prepared"):
        prepare("folder", tmp_path / out, images_dir=str(classes))
    assert len(tree(tmp_path)) == 20


def test_a_class_of_too_long_a_name(tmp_path):
    for index in range(4):
        write_image(tmp_path / f"{index}.png")
    (tmp_path / "t.csv").write_text(f"image,label\n0.png,{'x' * 300}\n1.png,y\n2.png,y\n3.png,{'x' * 300}\n")
    with pytest.raises(UserError, match="File name too long"):
        prepare("csv", tmp_path / "out", NONE, csv=str(tmp_path / "t.csv"))


def test_what_a_killed_process_left_is_removed_and_what_runs_is_not(tmp_path, classes):
    left, running = (tmp_path / f"{SCRATCH}{name}" for name in ("left", "running"))
    for folder in (left, running):
        (folder / "data/train").mkdir(parents=True)
        (folder / "lock").touch()
    with (running / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        prepare("folder", tmp_path / "out", images_dir=str(classes))
    assert names(tmp_path) == [running.name, "out", "photos"]


def test_a_file_system_without_locks(tmp_path, classes, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / f"{SCRATCH}of_another" / "data").mkdir(parents=True)
    (tmp_path / f"{SCRATCH}of_another" / "lock").touch()
    monkeypatch.setattr(fcntl, "flock", unsupported)
    prepare("folder", tmp_path / "out", images_dir=str(classes))
    assert names(tmp_path) == [f"{SCRATCH}of_another", "out", "photos"]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_says_what_it_is(source):
    assert (SOURCES[source].__doc__ or "").strip().endswith(".")
