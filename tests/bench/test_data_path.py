"""What an image costs: the enlarged copies, and each way gone once."""

from PIL import Image

from bench import data_path
from bench.peers.job import Job


def test_enlarged_copies_have_the_size_that_was_asked_for(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(data_path, "OUT", tmp_path)
    folder = data_path.enlarged(tiny_data, 0.1, 2)
    found = sorted(folder.glob("train/*/*"))
    assert len(found) == 6
    for path in found:
        with Image.open(path) as image:
            assert abs(image.width * image.height - 1e5) < 2e3
    assert data_path.enlarged(tiny_data, 0.1, 2) == folder
    job = Job(data_dir=str(folder), scratch="", arch="resnet18", classes=3, im_sz=16, batch_size=4, images=6, epochs=1,
              workers=0)  # fmt: skip
    costs = data_path.round_of(job)
    assert list(costs) == ["torchvision", "ours, first epoch", "ours, later epochs"]
    assert 0 < costs["ours, later epochs"] < costs["ours, first epoch"]
