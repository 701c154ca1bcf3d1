"""How fast exported models are, and predict.py with them; ratios of times that were taken in turn in one run.

python bench/export.py speed                                     # resnet18 at 224 pixels: PyTorch, ONNX, int8
python bench/export.py pixels                                    # the preprocessing in the graph alone
python bench/export.py throughput --model M --images FOLDER      # images a second of the whole way from files
python bench/export.py start --model M --image FILE              # seconds of one call of predict.py
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from export.predictor import Predictor  # noqa: E402

CONTRACT: dict[str, Any] = {
    "name": "bench", "classes": [str(number) for number in range(10)], "multi_label": False, "channels": 3,
    "resize": "crop", "crop_fraction": 1.0, "background": [255, 255, 255], "max_megapixels": 50.0, "mean": [0.5] * 3,
    "std": [0.25] * 3, "weights": "best", "weights_sha256": "0" * 64, "provenance": {},
}  # fmt: skip


def speed(options: argparse.Namespace) -> None:
    """Times the net alone on random weights and images: what int8 gains does not depend on them."""
    import torch
    from tabulate import tabulate

    from config.schema import Params
    from export.contract import Contract
    from export.graph import net_model
    from export.quantize import attempts
    from export.session import open_session
    from model.net import build_net

    torch.set_num_threads(options.threads)
    random = np.random.default_rng(0)
    rows = []
    for arch in options.archs:
        torch.manual_seed(0)
        params = Params(arch=arch, pretrain=False, im_sz=options.im_sz)
        net = build_net(params, 10).net.eval()
        contract = Contract(**CONTRACT | {"name": arch, "im_sz": options.im_sz})
        shape = (8, 3, options.im_sz, options.im_sz)
        calibration = random.normal(size=shape).astype(np.float32)
        exported = net_model(net, contract)
        quantised = next(attempts(exported, lambda images=calibration: iter([images]))).net  # type: ignore[misc]
        sessions = {
            name: open_session(model.SerializeToString(), name, options.threads)
            for name, model in (("onnx", exported), ("int8", quantised))
        }
        for batch in options.batches:
            pixels = random.normal(size=(batch, *shape[1:])).astype(np.float32)
            tensor = torch.from_numpy(pixels)

            def pytorch(net: Any = net, tensor: Any = tensor) -> None:
                with torch.inference_mode():
                    net(tensor)

            calls = {"pytorch": pytorch} | {
                name: lambda session=session, pixels=pixels: session.run(None, {"pixels": pixels})
                for name, session in sessions.items()
            }
            best = {name: min(times) for name, times in in_turn(calls, options.rounds).items()}
            ratios = [f"{best['pytorch'] / best['onnx']:.2f}", f"{best['onnx'] / best['int8']:.2f}"]
            rows.append([arch, batch, *(f"{1000 * best[name]:.1f}" for name in calls), *ratios])
    header = ["net", "batch", "PyTorch ms", "ONNX ms", "int8 ms", "ONNX gains", "int8 gains over ONNX"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))  # noqa: T201


def pixels(options: argparse.Namespace) -> None:
    """Times what lies between a decoded image and the net."""
    from onnx import helper

    from export.contract import INPUT, Contract
    from export.preprocessing import FLOAT, PIXELS, UINT8, preprocessing
    from export.session import open_session

    contract = Contract(**CONTRACT | {"im_sz": options.im_sz, "crop_fraction": 0.875})
    tape = preprocessing(contract)
    ends = (
        [helper.make_tensor_value_info(INPUT, UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info(PIXELS, FLOAT, None)],
    )
    graph = helper.make_graph(tape.nodes, "preprocessing", *ends, tape.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = open_session(model.SerializeToString(), "preprocessing", options.threads)
    random = np.random.default_rng(0)
    images = {
        f"{height} x {width}": random.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        for height, width in ((160, 213), (375, 500), (3000, 4000))
    }
    calls = {size: lambda image=image: session.run(None, {INPUT: image}) for size, image in images.items()}
    for size, seconds in in_turn(calls, options.rounds).items():
        print(f"{size}: {1000 * min(seconds):.1f} ms")  # noqa: T201


def in_turn(calls: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, one round after another."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def throughput(options: argparse.Namespace) -> None:
    """Images a second from files to answers, with batches and alone."""
    predictor = Predictor.load(options.model, options.threads)
    paths = sorted(path for path in options.images.rglob("*") if path.is_file())[: options.count]
    for workers, size in ((1, 1), (1, 32), (2, 1), (2, 32), (2, 128)):
        seconds = []
        for _ in range(options.rounds):
            start = time.perf_counter()
            found = sum(1 for _ in predictor.stream(paths, size, workers))
            seconds.append(time.perf_counter() - start)
        print(f"{workers} decoding threads, batches of {size}: {found / min(seconds):.0f} images/s")  # noqa: T201


def start(options: argparse.Namespace) -> None:
    """Wall time of whole calls with one image."""
    command = [sys.executable, str(ROOT / "predict.py"), "--model", str(options.model), str(options.image)]
    seconds = []
    for _ in range(options.rounds):
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - begun)
    print(f"predict.py, one image: {min(seconds):.2f} s at best, {statistics.median(seconds):.2f} s median")  # noqa: T201


def main() -> int:
    """Measures what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "pixels", "throughput", "start"))
    parser.add_argument("--archs", nargs="+", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--im_sz", type=int, default=224)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    {"speed": speed, "pixels": pixels, "throughput": throughput, "start": start}[options.what](options)
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
