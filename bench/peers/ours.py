"""Dossier's own training, and the limit that it is held against."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench.peers.job import LEARNING_RATE, MEAN, MOMENTUM, STD, WEIGHT_DECAY, Clock, Job


def params_of(job: Job) -> dict[str, Any]:
    """What a person would write into params.json: the training as it is for all, and nothing about the machine."""
    return {
        "arch": job.arch, "pretrain": 0, "im_sz": job.im_sz, "ps": 0.0,
        "normalize": {"mean": list(MEAN), "std": list(STD)},
        "augment": [{"name": "random_resized_crop", "scale": [job.scale, 1.0]}, "horizontal_flip"],
        "batch_size": job.batch_size, "num_epochs": job.epochs, "num_workers": job.workers,
        "optimizer": "SGD", "optimizer_arguments": {"momentum": MOMENTUM}, "learning_rate": LEARNING_RATE,
        "wd": WEIGHT_DECAY,
    }  # fmt: skip


def dossier(job: Job, clock: Clock) -> None:
    """train.py in a new experiment folder, on a data folder that it has not seen before unless it is known."""
    import train
    from config.load import load_params

    folder = Path(job.scratch) / "experiment"
    params = params_of(job)
    if job.experiment:
        params = json.loads((Path(job.experiment) / "params.json").read_text()) | json.loads(job.params)
        shutil.copytree(job.experiment, folder, ignore=lambda at, names: set(names) - {"net.py"})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params | {"seed": job.seed, "pretrain": job.weights or 0}))
    if not job.known:
        shutil.rmtree(Path(job.data_dir) / ".cache", ignore_errors=True)

    def clocked_load(*given: Any) -> Any:  # by now train.py has imported what trains, in its own order
        tell(clock)
        return load_params(*given)

    with patch.object(train, "load_params", clocked_load):
        code = train.main(["--data_dir", job.data_dir, "--model_dir", str(folder)])
    if code:
        raise SystemExit(code)
    clock.accuracy = json.loads((folder / "history.json").read_text())["epochs"][-1]["valid"]["accuracy"]


def tell(clock: Clock) -> None:
    """Lets the training loop tell the clock of its phases."""
    from training import loop
    from training.checkpoint import Progress
    from training.evaluation import Predictions

    train_epoch, update, validate = loop.train_epoch, loop.update, loop.validate

    def clocked_epoch(parts: loop.Parts, state: Any, recorder: Any) -> dict[str, float]:
        clock.begin("train")
        result = train_epoch(parts, state, recorder)
        clock.step(state.seen.images)
        clock.end()
        return result

    def clocked_update(parts: loop.Parts, state: Progress) -> None:
        update(parts, state)
        clock.step(0)

    def clocked_validate(*given: Any, **named: Any) -> Predictions:
        clock.begin("valid")
        result = validate(*given, **named)
        clock.step(len(result.labels))
        clock.end()
        return result

    loop.train_epoch, loop.update, loop.validate = clocked_epoch, clocked_update, clocked_validate


def limit(job: Job, clock: Clock) -> None:
    """The same net, optimizer, precision, memory format and threads, on one batch that is in memory."""
    import torch
    from torch.nn.functional import cross_entropy

    from config.schema import Params
    from model.net import build_net
    from model.optim import make_optimizer
    from training.machine import choose_machine

    params = Params.model_validate(params_of(job))
    machine = choose_machine(params, None, exact=False)
    net = machine.take(build_net(params, job.classes).net)
    names = [name for name, _ in net.named_parameters()]
    optimizer = make_optimizer("SGD", {"momentum": MOMENTUM}, net, [names], [LEARNING_RATE], WEIGHT_DECAY)
    layout = torch.channels_last if machine.memory_format == "channels_last" else torch.contiguous_format
    images = torch.randn(job.batch_size, 3, job.im_sz, job.im_sz, device=machine.device).to(memory_format=layout)
    labels = torch.randint(job.classes, (job.batch_size,), device=machine.device)
    for _ in range(job.epochs):
        net.train()
        clock.begin("train")
        for _ in range(job.images // job.batch_size):
            with machine.autocast():
                loss = cross_entropy(net(images).float(), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            clock.step(job.batch_size)
        net.eval()
        clock.begin("valid")
        with torch.inference_mode(), machine.autocast():
            for _ in range(job.images // job.batch_size):
                net(images).float().cpu()
                clock.step(job.batch_size)
        clock.end()
