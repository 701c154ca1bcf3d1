"""Archives: what is unpacked, and what is refused whole."""

import errno
import gzip
import hashlib
import io
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from images.archive import Limits, extract
from utils import TrainingFault, UserError

SMALL = Limits(size=10_000_000, members=50, ratio=50, ratio_from=100_000)


# --- building archives -----------------------------------------------------------------------------------------------


def tar_of(path, *members, mode="w:gz", tail=b""):
    """A tar of (TarInfo or name, data) pairs."""
    with tarfile.open(path, mode) as tar:
        for info, data in members:
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    if tail:
        path.write_bytes(path.read_bytes() + tail)
    return path


def entry(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


def zip_of(path, *members):
    """A zip of (ZipInfo or name, data) pairs, names taken as they are."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for info, data in members:
            file.writestr(info, data)
    return path


def zip_entry(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def rewritten(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


def header_with(path, name, size_field=None, kind=b"0"):
    """A plain tar of one hand-made header, with its checksum right."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size_field or block[124:136]
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path.write_bytes(bytes(block) + b"x" * 512 + b"\0" * 10240)
    return path


GOOD = ("good/a.png", b"before the hostile one")
MEMBERS_ABOVE_THE_CAP = [(f"many/{k}", b"") for k in range(51)]

HOSTILE = {
    "tar: parent": (lambda p: tar_of(p, GOOD, ("../evil.txt", b"x")), "evil.txt.*outside the target"),
    "tar: parent inside": (lambda p: tar_of(p, GOOD, ("a/b/../../../evil.txt", b"x")), "evil.txt.*outside the target"),
    "tar: absolute": (lambda p: tar_of(p, GOOD, ("/tmp/dossier-evil.txt", b"x")), "outside the target"),
    "tar: drive letter": (lambda p: tar_of(p, GOOD, ("C:/evil.txt", b"x")), "outside the target"),
    "tar: backslashes": (lambda p: tar_of(p, GOOD, ("..\\evil.txt", b"x")), "backslash"),
    "tar: control character": (lambda p: tar_of(p, GOOD, ("a\x1b[2Jb.png", b"x")), "control characters"),
    "tar: line break": (lambda p: tar_of(p, GOOD, ("a\nb.png", b"x")), "control characters"),
    "tar: not UTF-8": (lambda p: tar_of(p, GOOD, ("\udce4.png", b"x")), "not UTF-8"),
    "tar: nameless file": (lambda p: tar_of(p, GOOD, (".", b"x")), "no name"),
    "tar: long name": (lambda p: tar_of(p, GOOD, ("n" * 300, b"x")), "cannot be written"),
    "tar: twice": (lambda p: tar_of(p, GOOD, GOOD), "is there twice"),
    "tar: file as folder": (lambda p: tar_of(p, ("a", b"x"), ("a/b", b"x")), "cannot be written .File exists"),
    "tar: folder as file": (lambda p: tar_of(p, ("a/b", b"x"), ("a", b"x")), "is there twice"),
    "tar: symbolic link out": (lambda p: tar_of(p, GOOD, entry("l", tarfile.SYMTYPE, "/etc/passwd")), "links outside"),
    "tar: relative link out": (lambda p: tar_of(p, GOOD, entry("a/l", tarfile.SYMTYPE, "../../x")), "links outside"),
    "tar: write through a link": (
        lambda p: tar_of(p, GOOD, entry("d", tarfile.SYMTYPE, "/tmp"), ("d/dossier-evil.txt", b"x")),
        "links outside",
    ),
    "tar: hard link out": (lambda p: tar_of(p, GOOD, entry("l", tarfile.LNKTYPE, "../../etc/passwd")), "links outside"),
    "tar: link to itself": (lambda p: tar_of(p, GOOD, entry("l", tarfile.SYMTYPE, "l")), "no file of the archive"),
    "tar: link to a folder": (lambda p: tar_of(p, GOOD, entry("l", tarfile.SYMTYPE, "good")), "no file of the archive"),
    "tar: character device": (lambda p: tar_of(p, GOOD, entry("null", tarfile.CHRTYPE)), "device"),
    "tar: block device": (lambda p: tar_of(p, GOOD, entry("sda", tarfile.BLKTYPE)), "device"),
    "tar: pipe": (lambda p: tar_of(p, GOOD, entry("pipe", tarfile.FIFOTYPE)), "device or pipe"),
    "tar: unknown type": (lambda p: tar_of(p, GOOD, entry("odd", b"Z")), "unknown type"),
    "tar: sparse": (lambda p: header_with(p, "hole", kind=tarfile.GNUTYPE_SPARSE), "hole.*sparse"),
    "tar: too many members": (lambda p: tar_of(p, *MEMBERS_ABOVE_THE_CAP), "many/50.*50 members allowed"),
    "tar: too many bytes": (lambda p: tar_of(p, GOOD, ("big", random.Random(0).randbytes(10_000_001))), "are allowed"),
    "tar: bomb": (lambda p: tar_of(p, GOOD, ("bomb", bytes(9_000_000))), "more than 50 times"),
    "tar: bomb behind the end": (
        lambda p: tar_of(p, GOOD, tail=gzip.compress(bytes(9_000_000))),
        "more than 50 times",
    ),
    "tar: bomb by links": (
        lambda p: tar_of(p, ("a", bytes(90_000)), *(entry(f"l{k}", tarfile.LNKTYPE, "a") for k in range(9))),
        "more than 50 times",
    ),
    "tar: huge size declared": (lambda p: header_with(p, "huge", b"77777777777\0"), "are allowed"),
    "tar: negative size": (lambda p: header_with(p, "minus", b"\xff" * 11 + b"\x80"), "minus.*are allowed"),
    "tar: huge extended header": (lambda p: header_with(p, "pax", b"00777777777\0", b"x"), "damaged"),
    "tar: negative extended header": (lambda p: header_with(p, "pax", b"\xff" * 11 + b"\x80", b"x"), "damaged"),
    "tar: endless extended headers": (
        lambda p: p.write_bytes((header_with(p, "pax", kind=b"x").read_bytes()[:512]) * 5000) and p,
        "damaged",
    ),
    "zip: parent": (lambda p: zip_of(p, GOOD, ("../evil.txt", b"x")), "outside the target"),
    "zip: absolute": (lambda p: zip_of(p, GOOD, ("/tmp/dossier-evil.txt", b"x")), "outside the target"),
    "zip: backslashes": (
        lambda p: rewritten(zip_of(p, GOOD, ("..!evil.txt", b"x")), b"..!evil", b"..\\evil"),
        "backslash",
    ),
    "zip: zero byte": (lambda p: rewritten(zip_of(p, GOOD, ("a!.png", b"x")), b"a!.png", b"a\0.png"), "control"),
    "zip: link out": (lambda p: zip_of(p, GOOD, (zip_entry("l", 0o120777), b"../../etc/passwd")), "links outside"),
    "zip: long link": (lambda p: zip_of(p, GOOD, (zip_entry("l", 0o120777), b"x/" * 2100)), "more than 4096 bytes"),
    "zip: device": (lambda p: zip_of(p, GOOD, (zip_entry("null", 0o020666), b"")), "device"),
    "zip: bomb": (lambda p: zip_of(p, GOOD, ("bomb", bytes(9_000_000))), "more than 50 times"),
    "zip: too many members": (lambda p: zip_of(p, *MEMBERS_ABOVE_THE_CAP), "50 members allowed"),
    "zip: names disagree": (
        lambda p: (
            p.write_bytes(zip_of(p, GOOD, ("xyz.png", b"x")).read_bytes().replace(b"xyz.png", b"abc.png", 1)) and p
        ),
        "damaged",
    ),
    "zip: encrypted": (
        lambda p: rewritten(zip_of(p, ("secret.png", b"x")), b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0"),
        "encrypted",
    ),
    "zip: size understated": (
        lambda p: rewritten(zip_of(p, ("a.png", bytes(5000))), struct.pack("<I", 5000), struct.pack("<I", 10)),
        "damaged",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused_whole(tmp_path, name):
    build, message = HOSTILE[name]
    archive = build(tmp_path / "a.archive")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        extract(archive, tmp_path / "new" / "target", limits=SMALL)
    assert "\n" not in str(caught.value)
    assert "a.archive" in str(caught.value)
    (tmp_path / "new").rmdir()  # empty: the target is gone
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/dossier-evil.txt").exists()


def test_enough_hostile_archives():
    assert len(HOSTILE) >= 40


# --- what is accepted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar(tmp_path, mode):
    hard, soft = entry("hard.txt", tarfile.LNKTYPE, "d/x.txt"), entry("e/soft.txt", tarfile.SYMTYPE, "../d/x.txt")
    archive = tar_of(
        tmp_path / "a",
        entry("./d", tarfile.DIRTYPE),
        soft,
        ("./d/x.txt", b"x" * 700),
        hard,
        ("ü/\xa0 y.png", b""),
        mode=mode,
    )
    extract(archive, tmp_path / "t")
    found = {str(p.relative_to(tmp_path / "t")): p for p in (tmp_path / "t").rglob("*") if p.is_file()}
    assert set(found) == {"d/x.txt", "hard.txt", "e/soft.txt", "ü/\xa0 y.png"}
    assert found["e/soft.txt"].read_bytes() == found["hard.txt"].read_bytes() == b"x" * 700
    assert not any(p.is_symlink() for p in found.values())


def test_zip(tmp_path):
    link = zip_entry("l.txt", 0o120777), b"d/x.txt"
    extract(zip_of(tmp_path / "a", ("d/", b""), ("d/x.txt", b"data"), link), tmp_path / "t")
    assert (tmp_path / "t/d/x.txt").read_bytes() == (tmp_path / "t/l.txt").read_bytes() == b"data"


def test_set_user_id_is_not_kept(tmp_path):
    info = tarfile.TarInfo("tool")
    info.mode, info.size = 0o6777, 1
    extract(tar_of(tmp_path / "a", (info, b"x")), tmp_path / "t")
    assert (tmp_path / "t/tool").stat().st_mode & 0o7111 == 0


def test_sha256(tmp_path):
    archive = tar_of(tmp_path / "a", GOOD)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    extract(archive, tmp_path / "t", digest.upper())
    with pytest.raises(UserError, match=f"sha256 is {digest}, not 00ff"):
        extract(archive, tmp_path / "u", "00ff")
    assert not (tmp_path / "u").exists()


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"PK\3\4 not really", b"\x1f\x8b no", b"BZh9 no", b"\xfd7zXZ\0 no", b"<html>" * 200]
)
def test_not_an_archive(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(UserError, match="not a tar or zip archive"):
        extract(tmp_path / "a", tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_missing_archive_and_existing_target(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        extract(tmp_path / "none", tmp_path / "t")
    with pytest.raises(UserError, match="cannot be unpacked"):
        extract(tar_of(tmp_path / "a", GOOD), tmp_path)
    assert (tmp_path / "a").exists()


def test_damaged_header_is_not_taken_for_the_end(tmp_path):
    archive = tar_of(tmp_path / "a", GOOD, ("second.png", b"x"), mode="w")
    data = bytearray(archive.read_bytes())
    data[1024 + 100] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(UserError, match="ends early"):
        extract(archive, tmp_path / "t")


def test_every_truncation_is_noticed(tmp_path):
    data = random.Random(1).randbytes(600)
    for mode in ("w:gz", "w:xz", "w:bz2", "w"):
        whole = tar_of(tmp_path / "a", ("a", data), ("b", data), mode=mode).read_bytes()
        end = len(whole) if mode != "w" else 3072 + 512  # zeros, behind a plain tar's end, carry nothing
        for length in range(0, end, 97):
            (tmp_path / "a").write_bytes(whole[:length])
            with pytest.raises(UserError):
                extract(tmp_path / "a", tmp_path / "t")


def test_every_changed_byte_is_noticed_or_harmless(tmp_path):
    """300 changed bytes: one line or the same files, never another exception, never other files (checksums)."""
    random_numbers, data, noticed = random.Random(2), random.Random(3).randbytes(600), 0
    for build, mode in ((tar_of, "w:gz"), (tar_of, "w:xz"), (zip_of, None)):
        whole = build(tmp_path / "a", ("a", data), ("b", data), **({"mode": mode} if mode else {})).read_bytes()
        for k in range(100):
            changed = bytearray(whole)
            changed[random_numbers.randrange(len(whole))] ^= 1 << random_numbers.randrange(8)
            (tmp_path / "a").write_bytes(changed)
            target = tmp_path / f"t{mode}{k}"
            try:
                extract(tmp_path / "a", target)
            except UserError:
                noticed += 1
            else:
                contents = [p.read_bytes() for p in sorted(target.rglob("*")) if p.is_file()]
                assert contents == [data, data]
    assert noticed >= 200


@pytest.mark.parametrize("build", [tar_of, zip_of])
def test_an_archive_of_nothing(tmp_path, build):
    with pytest.raises(UserError, match="it is empty"):
        extract(build(tmp_path / "a"), tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_full_disk_is_no_damage(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = tar_of(tmp_path / "a", GOOD)
    monkeypatch.setattr("images.archive.shutil.copyfileobj", full)
    with pytest.raises(
        TrainingFault, match=r'"good/a\.png" cannot be written \(No space left on device\); nothing was'
    ):
        extract(archive, tmp_path / "t")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(("made", "target", "sha256"), [(False, "t", None), (True, "t", "0"), (True, "", None)])
def test_a_hostile_name_of_the_archive(tmp_path, made, target, sha256):
    archive = tmp_path / "a\n\x1b"
    if made:
        tar_of(archive, GOOD)
    with pytest.raises(UserError) as caught:
        extract(archive, tmp_path / target, sha256)
    assert str(caught.value).isprintable()


def test_interrupted_unpacking_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    archive = tar_of(tmp_path / "a", GOOD)
    monkeypatch.setattr("images.archive.shutil.copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract(archive, tmp_path / "t")
    assert not (tmp_path / "t").exists()
