"""A folder that is read while torch is imported: what is found is what would be found without, and nothing waits."""

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import include
from images import folder as folder_module
from images import memory as memory_module
from images import read_ahead
from images.folder import check_headers, fingerprint, scan
from images.memory import Memory
from images.read import read_header
from images.read_ahead import reading_ahead, tell
from tests.conftest import write_image
from tests.training.runs import experiment
from utils import read_json

IMAGES = 36  # of tiny_data, in train and valid


@pytest.fixture
def data(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_module, "SETTLED", -10.0)
    return shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns(".cache"))


@pytest.fixture
def to_gain(monkeypatch):
    """A program that has yet to import torch, on two cores."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)


@pytest.fixture
def read_here(monkeypatch):
    """The images that are read by this process."""
    seen = []
    monkeypatch.setattr(folder_module, "read_header", lambda path, limit: seen.append(path) or read_header(path, limit))
    return seen


def paths_of(data):
    return [path for split in scan(data).splits.values() for path in split.paths]


def remembered(data):
    path = data / memory_module.CACHE / memory_module.FILE
    return read_json(path)["files"] if path.is_file() else {}


def told_by(work):
    """The lines that come out of a pipe."""
    ours, theirs = os.pipe()
    try:
        work(theirs)
    finally:
        os.close(theirs)
    with os.fdopen(ours) as out:
        return [json.loads(line) for line in out]


def checked(data):
    with reading_ahead(data) as reading:
        return check_headers(scan(data), 50, skip_bad=True, memory=reading.memory(IMAGES))


@pytest.mark.usefixtures("to_gain")
def test_nothing_is_read_again(data, read_here):
    bad = data / "train" / "apple" / "0.png"
    bad.write_bytes(b"no image")  # which is told by whoever needs it
    time.sleep(2.1)  # memory.SETTLED, in the readers
    ahead, left_out = checked(data)
    assert read_here == [bad]
    assert [path for path, _ in left_out] == ["train/apple/0.png"]
    files = remembered(data)
    assert set(files) == set(paths_of(data)) - {"train/apple/0.png"}

    shutil.rmtree(data / memory_module.CACHE)
    alone, left_out_alone = check_headers(scan(data), 50, skip_bad=True)
    assert left_out_alone == left_out
    assert remembered(data) == files
    assert fingerprint(alone) == fingerprint(ahead)
    for name, split in alone.splits.items():
        assert (split.sizes == ahead.splits[name].sizes).all()


@pytest.mark.usefixtures("to_gain")
def test_a_known_folder_is_neither_read_nor_remembered_anew(data, read_here, monkeypatch):
    before = check_headers(scan(data), 50, skip_bad=False)[0]
    stored = data / memory_module.CACHE / memory_module.FILE
    monkeypatch.setattr(read_ahead, "read_header", None)
    told = told_by(lambda pipe: tell(data, 1, pipe))
    assert sorted(path for path, _, _ in told) == sorted(paths_of(data))
    assert {remembered_by for _, _, remembered_by in told} == {None}

    read_here.clear()
    written = stored.stat().st_mtime_ns
    monkeypatch.setattr(memory_module, "_load", None)  # what is remembered is for the readers to look up
    after, _ = checked(data)
    assert not read_here
    assert fingerprint(after) == fingerprint(before)
    assert stored.stat().st_mtime_ns == written


@pytest.mark.usefixtures("to_gain")
def test_what_is_too_large_is_told_with_its_reason(data):
    write_image(data / "valid" / "bee" / "1.png", size=(500, 400))
    with reading_ahead(data) as reading:
        _, left_out = check_headers(scan(data), 0.1, skip_bad=True, memory=reading.memory(IMAGES))
    assert left_out == [("valid/bee/1.png", "has 0.2 megapixels, more than max_megapixels 0.1")]


@pytest.mark.parametrize("processes", [1, 3, 50])
def test_each_image_is_told_once(data, processes):
    command = [sys.executable, "-m", "images.read_ahead", str(data), str(processes)]
    done = subprocess.run(command, cwd=include.ROOT, capture_output=True, text=True, check=True)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(path for path, _, _ in told) == sorted(paths_of(data))


def test_no_more_is_written_at_once_than_stays_whole(data, monkeypatch):
    monkeypatch.setattr(select, "PIPE_BUF", 350)
    long = data / "train" / "apple" / f"{'n' * 250}.png"
    shutil.copy(data / "train" / "apple" / "1.png", long)
    written, write = [], os.write
    monkeypatch.setattr(os, "write", lambda pipe, block: written.append(block) or write(pipe, block))
    told = told_by(lambda pipe: tell(data, 1, pipe))
    assert len(written) > 10
    assert all(len(block) <= 350 and block[-1:] in (b"", b"\n") for block in written)
    assert sorted(path for path, _, _ in told) == sorted(set(paths_of(data)) - {f"train/apple/{long.name}"})


def test_what_is_to_be_remembered_is_taken_once(data):
    memory = Memory(data)
    memory.content("train/apple/0.png")
    assert list(memory.take()) == ["train/apple/0.png"]
    assert memory.take() == {}


def test_what_is_remembered_is_looked_up_once_for_all_threads(data, monkeypatch):
    check_headers(scan(data), 50, skip_bad=False)
    looked, load = [], memory_module._load

    def slow(path):
        looked.append(path)
        time.sleep(0.2)
        return load(path)

    monkeypatch.setattr(memory_module, "_load", slow)
    monkeypatch.setattr(folder_module, "CHUNK", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    check_headers(scan(data), 50, skip_bad=False)
    assert len(looked) == 1


def stand_in(program, monkeypatch):
    """Starts a program in place of the reader; returns those started."""
    started, popen = [], subprocess.Popen

    def start(command, **options):
        started.append(popen([sys.executable, "-c", program, *command[3:]], **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return started


DEAF = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.usefixtures("to_gain")
def test_nobody_waits_for_it(data, monkeypatch):
    started, begun = stand_in(DEAF, monkeypatch), time.monotonic()
    with reading_ahead(data) as reading:
        while reading._lines < 2:
            assert time.monotonic() < begun + 30
            time.sleep(0.01)
    assert [reader.returncode for reader in started] == [-signal.SIGKILL]
    assert started[0].stdout.closed
    assert time.monotonic() < begun + 45  # and not when the other ends by itself
    reading.stop()


DYING = """
import os, pathlib, signal, sys
from images.read_ahead import tell
ours, theirs = os.pipe()
tell(pathlib.Path(sys.argv[1]), 1, theirs)
os.close(theirs)
text = b"".join(iter(lambda: os.read(ours, 2**20), b""))
os.write(1, text[:-20])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.usefixtures("to_gain")
@pytest.mark.parametrize(
    ("program", "left"),
    [(DYING, 1), ("print('nonsense')", IMAGES), ("print('[1]')", IMAGES), ("raise SystemExit(1)", IMAGES)],
)
def test_what_was_not_told_is_read_here(data, read_here, monkeypatch, program, left):
    started = stand_in(program, monkeypatch)
    folder, left_out = checked(data)
    assert len(started) == 1
    assert not left_out
    assert len(read_here) == len(set(read_here)) == left
    assert folder.splits["valid"].sizes.all()


@pytest.mark.usefixtures("to_gain")
@pytest.mark.parametrize("why", ["torch is there", "one core"])
def test_where_nothing_is_to_be_gained(data, read_here, monkeypatch, why):
    monkeypatch.setattr(subprocess, "Popen", None)
    if why == "torch is there":
        monkeypatch.setitem(sys.modules, "torch", None)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    checked(data)
    assert len(read_here) == IMAGES


@pytest.mark.usefixtures("to_gain")
@pytest.mark.parametrize("name", ["none", "n" * 300])
def test_a_folder_that_is_not_there(data, name):
    with reading_ahead(data / name) as reading:
        assert reading.memory(0).take() == {}


@pytest.mark.usefixtures("to_gain")
def test_a_process_that_cannot_be_started(data, read_here, monkeypatch):
    def refuse(command, **options):
        raise BlockingIOError(errno.EAGAIN, "too many processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    checked(data)
    assert len(read_here) == IMAGES


@pytest.mark.parametrize("processes", [1, 3])
def test_it_ends_when_nobody_listens(data, processes):
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "images.read_ahead", str(data), str(processes)]
    done = subprocess.run(command, cwd=include.ROOT, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    assert "BrokenPipeError" in done.stderr  # of the one whose share these few images are


@pytest.mark.usefixtures("to_gain")
def test_the_folder_is_that_of_the_path_as_it_is(data, tmp_path, monkeypatch):
    """Of a link's parent: not the parent of the link's own folder."""
    (tmp_path / "elsewhere" / "inner").mkdir(parents=True)
    shutil.copytree(data, tmp_path / "elsewhere" / "data")
    write_image(tmp_path / "elsewhere" / "data" / "valid" / "bee" / "1.png", size=(70, 90))
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "inner")
    monkeypatch.chdir(tmp_path)
    folder, _ = checked(Path("link/../data"))
    place = folder.splits["valid"].paths.index("valid/bee/1.png")
    assert folder.splits["valid"].sizes[place].tolist() == [90, 70]


TRAINS = """
import sys
from images import folder
def read_header(path, limit):
    raise AssertionError(path)
folder.read_header = read_header
import train
assert "torch" not in sys.modules
raise SystemExit(train.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--lr_find"]])
def test_train_py_has_it_read(data, tmp_path, options):
    if read_ahead.cores() == 1:
        pytest.skip("there is no core to read on meanwhile")
    path = experiment(tmp_path / "experiment", num_epochs=1)
    command = [sys.executable, "-c", TRAINS, "--data_dir", str(data), "--model_dir", str(path), *options]
    done = subprocess.run(command, cwd=include.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


STOPS = """
import subprocess, sys
from images import read_ahead
held, program = int(sys.argv.pop()), "import os, time; os.fork(); time.sleep(60)"
def start(data_dir, processes):
    print("started")
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, pass_fds=[held])
read_ahead._start = start
import train
raise SystemExit(train.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_train_py_leaves_no_reader_behind(data, tmp_path):
    if read_ahead.cores() == 1:
        pytest.skip("there is no core to read on meanwhile")
    path = experiment(tmp_path / "experiment", arch="resnet81")
    ours, held = os.pipe()
    command = [sys.executable, "-c", STOPS, "--data_dir", str(data), "--model_dir", str(path), str(held)]
    done = subprocess.run(command, cwd=include.ROOT, capture_output=True, text=True, check=False, pass_fds=[held])
    os.close(held)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "resnet81" in done.stderr
    assert done.stdout == "started\n"
    assert select.select([ours], [], [], 30)[0]  # at its end: nobody holds it any more
    os.close(ours)
