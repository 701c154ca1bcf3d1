"""prepare_data.py as a person uses it: what it prints, its exit codes, and what is left when it is stopped."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import include
import prepare_data
from images import sources
from images.sources import SCRATCH, SOURCES
from tests.conftest import write_image


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two classes with ten images each, in the present folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "sync", lambda: None)
    random = np.random.default_rng(0)
    for label in ("ant", "bee"):
        for index in range(10):
            write_image(tmp_path / "photos" / label / f"{index}.png", random.integers(0, 256, (8, 8, 3), np.uint8))
    return tmp_path / "photos"


@pytest.fixture
def run(capsys):
    """Runs the program in process; gives the exit code, and the lines on stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        code = prepare_data.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert all(line.isprintable() for line in (out + err).splitlines())
        return code, out.splitlines(), err.splitlines()

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


FROM_PHOTOS = ("--source", "folder", "--images_dir", "photos", "--out")


# --- making ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("photos")
def test_a_folder_is_made_and_checked(tmp_path, run):
    assert run(*FROM_PHOTOS, "data/d") == (
        0,
        [
            "data/d: train 14, valid 2, test 4 images",
            "python prepare_data.py --check data/d  looks for unreadable, doubled and leaking images",
        ],
        [],
    )
    assert names(tmp_path / "data") == ["d"]
    assert names(tmp_path / "data/d") == ["source.json", "test", "train", "valid"]
    code, out, _ = run("--check", "data/d", "--strict")
    assert (code, out[-1]) == (0, "findings: none")


@pytest.mark.usefixtures("photos")
def test_options_reach_the_division(tmp_path, run):
    options = ("--valid_fraction", "0.3", "--test_fraction", "0")
    assert run(*FROM_PHOTOS, "a", *options, "--seed", "0")[1][0] == "a: train 14, valid 6 images"
    run(*FROM_PHOTOS, "b", *options)
    run(*FROM_PHOTOS, "c", *options, "--seed", "1")
    a, b, c = ([names(tmp_path / out / "valid" / label) for label in ("ant", "bee")] for out in "abc")
    assert a == b != c


def test_options_reach_the_table(tmp_path, photos, run):
    rows = "".join(f"{label}/{n}.png;{label} {n % 2}\n" for label in ("ant", "bee") for n in range(10))
    (tmp_path / "t.csv").write_text(f"file;kind\n{rows}gone.png;x\n")
    options = ("--image_column", "file", "--label_column", "kind", "--label_rule", "regex:[a-z]+")
    code, out, _ = run("--source", "csv", "--csv", "t.csv", "--images_dir", photos, "--out", "d", *options)
    assert code == 0
    assert out[:2] == [
        "t.csv: left out 1 row with no image of that name: gone.png (line 22)",
        "d: train 14, valid 2, test 4 images",
    ]
    assert names(tmp_path / "d/train") == ["ant", "bee"]


@pytest.mark.usefixtures("photos")
def test_an_existing_folder(tmp_path, run):
    assert run(*FROM_PHOTOS, "d")[0] == 0
    before = (tmp_path / "d/source.json").stat()
    message = "d: exists already; choose another --out, or pass --overwrite to move it aside"
    assert run(*FROM_PHOTOS, "d") == (2, [], [message])
    assert (tmp_path / "d/source.json").stat() == before
    code, out, _ = run(*FROM_PHOTOS, "d", "--overwrite")
    assert code == 0
    aside = out[0].removeprefix("d moved to ")
    assert (tmp_path / aside / "source.json").stat() == before
    assert names(tmp_path) == sorted(["d", aside, "photos"])


def test_hostile_names(tmp_path, photos, run):
    for name in ("a\nb.png", "\x1b[2J.png", "<img onerror=x>.png", "--out.png", "\udcff.png", "$(reboot).png"):
        write_image(photos / "bee" / name, (len(name), 0, 0))
    (photos / "ant").rename(photos / "a\n\x1b[2Jnt")
    code, out, _ = run(*FROM_PHOTOS, "d\n\x1b")
    assert (code, out[0]) == (0, "d\\n\\x1b: train 18, valid 3, test 5 images")
    made = {path.name for path in (tmp_path / "d\n\x1b").rglob("*.png")}
    assert made == {path.name for path in photos.rglob("*.png")}
    (tmp_path / "d\n\x1b/train/bee/bad\n.png").touch()
    code, out, _ = run("--check", "d\n\x1b")
    assert code == 0
    assert "  unreadable: train/bee/bad\\n.png: is empty" in out
    assert run(*FROM_PHOTOS, "d\n\x1b")[2][0].startswith("d\\n\\x1b: exists already")


@pytest.mark.usefixtures("photos")
def test_a_full_disk(tmp_path, run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "d/train/ant/1.png")

    monkeypatch.setattr("shutil.copyfile", full)
    code, out, err = run(*FROM_PHOTOS, "d")
    assert (code, out) == (4, [])
    assert len(err) == 1
    assert err[0].startswith("d: not prepared: d/train/ant/1.png: No space left on device; ")
    assert err[0].endswith(" MB free")
    assert names(tmp_path) == ["photos"]


# --- checking --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("photos")
def test_findings_and_strictness(tmp_path, run):
    run(*FROM_PHOTOS, "d")
    (tmp_path / "d/train/ant/broken.png").write_bytes(b"x")
    code, out, err = run("--check", "d")
    assert (code, err) == (0, [])
    assert out[-2] == "findings: 1"
    assert out[-1].startswith("  unreadable: train/ant/broken.png: is not an image of a known format")
    assert run("--check", "d", "--strict") == (2, out, [])
    assert run("--check", "gone") == (2, [], ["gone: no such folder"])


# --- the command line ------------------------------------------------------------------------------------------------

GIVE = "give --source NAME --out FOLDER to make a data folder, or --check FOLDER to check one"
CHECK = ("--check", "photos")
NO_FRACTIONS = "--valid_fraction and --test_fraction are fractions that leave something"
NO_ARCHIVE = "--sha256 is the hash of an archive: give --archive FILE"
MISUSED = {
    "nothing": ((), GIVE),
    "no place": (("--source", "digits"), GIVE),
    "no source": (("--out", "d"), GIVE),
    "no folder to check": (("--strict",), GIVE),
    "unknown source": (("--source", "minst", "--out", "d"), '"minst" is not a known source; choose from '),
    "misspelt source": (("--source", "Digit", "--out", "d"), '"Digit" is not a known source; did you mean "digits"?'),
    "strict making": ((*FROM_PHOTOS, "d", "--strict"), "--strict cannot be used without --check"),
    "check and make": ((*CHECK, *FROM_PHOTOS, "d"), "--images_dir cannot be used with --check"),
    "check and source": ((*CHECK, "--source", "digits"), "--source cannot be used with --check"),
    "check and out": ((*CHECK, "--out", "d"), "--out cannot be used with --check"),
    "check and seed 0": ((*CHECK, "--seed", "0"), "--seed cannot be used with --check"),
    "check and fraction 0": ((*CHECK, "--test_fraction", "0"), "--test_fraction cannot be used with --check"),
    "check and overwrite": ((*CHECK, "--overwrite"), "--overwrite cannot be used with --check"),
    "option of another source": (
        (*FROM_PHOTOS, "d", "--label_rule", "as_is"), "--label_rule is not an option of --source folder",
    ),
    "fractions": ((*FROM_PHOTOS, "d", "--valid_fraction", "1"), NO_FRACTIONS),
    "negative": ((*FROM_PHOTOS, "d", "--test_fraction", "-1"), NO_FRACTIONS),
    "hash of nothing": ((*FROM_PHOTOS, "d", "--sha256", "00"), NO_ARCHIVE),
}  # fmt: skip


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("what", MISUSED)
def test_misuse(tmp_path, run, what):
    arguments, message = MISUSED[what]
    code, out, err = run(*arguments)
    assert (code, out) == (2, [])
    assert len(err) == 1
    assert err[0].startswith(message)
    assert names(tmp_path) == ["photos"]


@pytest.mark.parametrize("arguments", [("--seed", "x"), ("--valid_fraction", "a"), ("--what",), ("--out",)])
def test_argparse_errors_have_the_same_exit_code(arguments):
    with pytest.raises(SystemExit) as caught:
        prepare_data.main(list(arguments))
    assert caught.value.code == 2


def test_help_names_every_source(capsys):
    with pytest.raises(SystemExit):
        prepare_data.main(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in SOURCES)
    assert "default 0.1" in shown


# --- stopped, and started again --------------------------------------------------------------------------------------

WAITING = """
import pathlib, runpy, shutil, sys, time
copyfile = shutil.copyfile
def waiting(*arguments):
    print("copying", flush=True)
    while not pathlib.Path("photos/go").exists():
        time.sleep(0.01)
    return copyfile(*arguments)
shutil.copyfile = waiting
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("prepare_data", run_name="__main__")
"""


def started(*arguments):
    """The program in a process of its own, which waits in the middle of its work for the file photos/go."""
    command = [sys.executable, "-c", WAITING, str(include.ROOT), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "copying\n"
    return process


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize(("number", "code", "said"), [
    (signal.SIGTERM, 143, "interrupted; nothing was left behind\n"),
    (signal.SIGINT, 130, ""),
])  # fmt: skip
def test_a_signal_leaves_nothing_behind(tmp_path, run, number, code, said):
    process = started(*FROM_PHOTOS, "d")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, said)
    assert names(tmp_path) == ["photos"]
    assert run(*FROM_PHOTOS, "d")[0] == 0


@pytest.mark.usefixtures("photos")
def test_the_same_command_clears_up_after_a_kill(tmp_path, run):
    process = started(*FROM_PHOTOS, "d")
    process.kill()
    process.communicate(timeout=60)
    (left,) = (name for name in names(tmp_path) if name != "photos")
    assert left.startswith(SCRATCH)
    assert run(*FROM_PHOTOS, "d")[1][0] == "d: train 14, valid 2, test 4 images"
    assert names(tmp_path) == ["d", "photos"]


@pytest.mark.usefixtures("photos")
def test_two_at_once_make_one_whole_folder(tmp_path, run):
    process = started(*FROM_PHOTOS, "d")
    assert run(*FROM_PHOTOS, "d")[0] == 0  # does not take the other's scratch folder for a dead one's
    whole = sorted(path.relative_to(tmp_path) for path in (tmp_path / "d").rglob("*"))
    (tmp_path / "photos/go").touch()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("d: not prepared: ")
    assert sorted(path.relative_to(tmp_path) for path in (tmp_path / "d").rglob("*")) == whole
    assert names(tmp_path) == ["d", "photos"]


@pytest.mark.usefixtures("photos")
def test_a_check_can_be_interrupted(run):
    run(*FROM_PHOTOS, "d")
    code = "import images.check, time, sys; look = images.check.read_header\n"
    code += "def slowly(*a):\n    print('reading', flush=True); time.sleep(0.05); return look(*a)\n"
    code += "images.check.read_header = slowly; import prepare_data; sys.exit(prepare_data.main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--check", "d"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(include.ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "")
    assert "findings" not in out


@pytest.mark.usefixtures("photos")
def test_larger_images_than_by_default_can_be_checked(tmp_path, run):
    assert run(*FROM_PHOTOS, "data/d")[0] == 0
    write_image(tmp_path / "data/d/train/ant/large.png", size=(7100, 7100))
    code, out, _ = run("--check", "data/d", "--strict")
    assert code == 2
    assert any("max_megapixels" in line for line in out)
    code, out, _ = run("--check", "data/d", "--strict", "--max_megapixels", "60")
    assert (code, out[-1]) == (0, "findings: none")
    assert run("--source", "digits", "--out", "data/e", "--max_megapixels", "60")[0] == 2


@pytest.mark.usefixtures("photos")
def test_what_was_unpacked_is_moved_and_not_copied(tmp_path, run, monkeypatch):
    subprocess.run(["tar", "-cf", "photos.tar", "photos"], cwd=tmp_path, check=True)
    monkeypatch.setattr(sources.shutil, "copyfile", lambda *_: pytest.fail("it was copied"))
    assert run("--source", "folder", "--archive", "photos.tar", "--out", "data/d")[0] == 0
