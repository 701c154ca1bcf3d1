"""The side-by-side benchmark: what counts, what is compared with what, and what its table says."""

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from bench.peers import __main__ as peers
from bench.peers import job, measure, ours, picture, table
from bench.peers.loops import LOOPS, OURS, Loop
from config.load import load_params
from training.threads import STAT

PEERS = [name for name in LOOPS if name != OURS]


@pytest.mark.parametrize("count", range(len(PEERS) + 1))
@pytest.mark.parametrize("backwards", [False, True])
def test_every_peer_is_next_to_ours(count, backwards):
    order = table.sequence(PEERS[:count], backwards)
    assert sorted(name for name in order if name != OURS) == sorted(PEERS[:count])
    assert order.count(OURS) == (count + 1) // 2
    for place, name in enumerate(order):
        assert name == OURS or OURS in order[max(0, place - 1) : place + 2]


def test_load_of_others_makes_void():
    assert table.void(0.6, 0.5)
    assert not table.void(0.5, 0.5)
    assert not table.void(None, 0.5)


def line(what, rate, place, round_="a", void=False):
    return {"what": what, "round": round_, "place": place, "void": void, "images_per_second": rate,
            "valid_images_per_second": 3 * rate, "cpu_ms_per_image": 9.0, "first_step_s": 5.0,
            "first_epoch_s": 7.0, "peak_mb": None, "accuracy": None if what == "limit" else rate / 100,
            "device": "a processor", "versions": {"torch": "2.0"},
            "settings": {"arch": "resnet18", "im_sz": 64, "batch_size": 8, "images": 80, "epochs": 2}}  # fmt: skip


LINES = [
    line("limit", 50.0, 0), line(OURS, 40.0, 1), line("torchvision", 20.0, 2), line("fastai", 10.0, 3),
    line(OURS, 1.0, 4, void=True), line(OURS, 30.0, 4),
    line(OURS, 60.0, 0, "b"), line("torchvision", 20.0, 1, "b"), line("fastai", 1.0, 2, "b", void=True),
    line("torchvision", 9.0, 1, "c"),
]  # fmt: skip


def test_a_pair_is_of_one_round_and_of_neighbours():
    rates = {name: [(ours["images_per_second"], other["images_per_second"])
                    for ours, other in table.pairs(LINES, name)] for name in PEERS}  # fmt: skip
    assert {name: found for name, found in rates.items() if found} == {
        "limit": [(40.0, 50.0)], "torchvision": [(40.0, 20.0), (60.0, 20.0)], "fastai": [(30.0, 10.0)]
    }  # fmt: skip


def test_the_table():
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.table(LINES).splitlines()[2:]]
    assert [row[0] for row in rows] == [OURS, "limit", "torchvision", "fastai"]
    assert rows[0] == [OURS, "40.0", "", "120", "", "5.0", "7.0", "9.0", "", "0.40 (0.30 to 0.60)", "3"]
    ratio = "2.50 (2.00 to 3.00)"
    assert rows[2] == ["torchvision", "20.0", ratio, "60", ratio, "5.0", "7.0", "9.0", "", "0.20 (0.09 to 0.20)", "2"]
    assert table.heading(LINES) == (
        "resnet18 at 64 pixels, batch size 8, 80 images, 2 epochs; a processor, torch 2.0; "
        "10 measurements, of which 2 are void"
    )
    assert "nothing" in table.heading([])


def test_the_picture_shows_shares_of_the_nearest_of_ours(tmp_path):
    found = {name: [round(share, 3) for share in shares] for name, shares in picture.shares(LINES).items()}
    assert found == {"limit": [1.25], "torchvision": [0.5, 0.333], "fastai": [0.333]}
    (tmp_path / "lines.jsonl").write_text("\n".join(json.dumps(found) for found in LINES))
    assert picture.main([str(tmp_path / "lines.jsonl")] * 2 + ["--out", str(tmp_path / "p.png")]) == 0
    with Image.open(tmp_path / "p.png") as image:
        assert image.size[0] > 2 * image.size[1]


def test_the_clock_leaves_out_the_first_epoch(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(job.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(job, "cpu_seconds", lambda: now[0] / 2)
    clock = job.Clock()
    for seconds in (100.0, 4.0, 6.0):
        clock.begin("train")
        for _ in range(2):
            now[0] += seconds / 2
            clock.step(10)
        clock.begin("valid")
        now[0] += seconds / 10
        clock.step(5)
        clock.end(1 / seconds)
        now[0] += 1000  # between epochs
    assert clock.first_step == 50.0
    assert clock.figures() == {"images_per_second": 4.0, "cpu_ms_per_image": 125.0, "valid_images_per_second": 10.0,
                               "images": 40, "first_epoch_s": 100.0, "accuracy": 0.1667}  # fmt: skip


def test_one_epoch_has_no_rates():
    clock = job.Clock()
    clock.begin("train")
    clock.step(10)
    clock.begin("valid")
    clock.step(5)
    clock.end(0.5)
    figures = clock.figures()
    assert (figures["images_per_second"], figures["valid_images_per_second"], figures["accuracy"]) == (None, None, 0.5)


def test_ours_is_given_what_the_others_are(tiny_data, tmp_path, monkeypatch):
    shutil.copytree(tiny_data, tmp_path / "data")
    what = job.Job(data_dir=str(tmp_path / "data"), scratch=str(tmp_path), arch="resnet18", classes=3, im_sz=32,
                   batch_size=8, images=24, epochs=2, workers=1, scale=0.5, seed=7)  # fmt: skip
    seen = []

    def train_(given):
        seen.append(load_params(Path(given[3]) / "params.json"))
        (Path(given[3]) / "history.json").write_text(json.dumps({"epochs": [{"valid": {"accuracy": 0.25}}]}))
        return 0

    monkeypatch.setattr("train.main", train_)
    for known in (False, True):
        (tmp_path / "data" / ".cache").mkdir(exist_ok=True)
        clock = job.Clock()
        ours.dossier(dataclasses.replace(what, known=known), clock)
        assert (tmp_path / "data" / ".cache").exists() == known
        assert clock.accuracy == 0.25
        assert seen[-1].augment[0]["scale"] == [0.5, 1.0]
        assert (seen[-1].seed, seen[-1].batch_size, seen[-1].num_epochs) == (7, 8, 2)
        shutil.rmtree(tmp_path / "experiment")


@pytest.mark.skipif(not STAT.is_file(), reason="the system has no /proc")
def test_what_a_process_starts_is_counted_with_it():
    before = job.cpu_seconds()
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        running = job.cpu_seconds()
        assert child.pid in job.family(job.os.getpid())
        assert measure.memory_mb(child.pid) > 1
        child.kill()
    assert 0.25 < running - before < 1.5
    assert abs(job.cpu_seconds() - running) < 0.5  # none is counted twice


def test_a_peer_that_is_not_installed_is_left_out(monkeypatch, capsys):
    monkeypatch.setitem(LOOPS, "other", Loop("other:run", ("no_such_package",)))
    assert peers.installed(sys.executable, ["limit", "other", "torchvision"]) == ["limit", "torchvision"]
    assert capsys.readouterr().err == f"no_such_package is left out: it is not installed ({peers.INSTALL})\n"


@pytest.mark.campaign
def test_side_by_side(tiny_data, tmp_path, capsys):
    kept = tmp_path / "lines.jsonl"
    options = ["--data_dir", str(tiny_data), "--im_sz", "32", "--batch_size", "8", "--train", "24", "--valid", "12",
               "--peers", "limit", "torchvision", "torchvision tuned", "--load", "1000", "--out", str(tmp_path / "out"),
               "--json", str(kept)]  # fmt: skip
    started = time.monotonic()
    assert peers.main([*options, "--pairs", "1"]) == 0
    lines = [json.loads(text) for text in kept.read_text().splitlines()]
    assert [found["what"] for found in lines] == ["limit", OURS, "torchvision", "torchvision tuned", OURS]
    for found in lines:
        assert found["images"] == 24
        assert 0 < found["first_step_s"] < time.monotonic() - started
        assert found["images_per_second"] > 0
    shown = capsys.readouterr().out
    assert peers.main([*options, "--pairs", "0"]) == 0
    assert shown.endswith(capsys.readouterr().out)


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert peers.main(["--data_dir", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert f"{tmp_path}/none/train is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "text"), [([], ""), ([None], ""), ([2.5, None], "2.50"), ([1, 4, 3], "3.00 (1.00 to 4.00)")]
)
def test_one_value_has_no_range(values, text):
    assert table.spread(values) == text
