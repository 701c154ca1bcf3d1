"""A stand-in for train.py, for tests of who is started when: no torch, a tenth of a second an epoch."""

import argparse
import time

from config.run_folder import RunFolder
from training.signals import Signals
from utils import BusyError, Interrupted, read_json, reports_errors

EPOCHS = 8


@reports_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data_dir")
    parser.add_argument("--model_dir")
    parser.add_argument("--set")
    folder = RunFolder(parser.parse_args(argv).model_dir)
    folder.lock()
    if folder.status().get("state") == "finished":
        raise BusyError("already finished")
    with Signals("stopped") as signals:
        checkpoint = folder.file("checkpoint.pt")
        done = read_json(checkpoint) if checkpoint.is_file() else []
        folder.set_state("running", reason=None)
        try:
            with signals.held():
                for epoch in range(len(done), EPOCHS):
                    time.sleep(0.1)
                    if signals.received:
                        break
                    done.append(epoch)
                    note(folder, "work.txt", f"epoch {epoch}")
                    folder.write_json("checkpoint.pt", done)
                    if asked_to_end(folder, len(done)):
                        folder.set_state("pruned")
                        return 0
        except Interrupted:
            folder.set_state("stopped", reason="signal")
            raise
    if not folder.file("history.json").exists():
        folder.write_json("metrics_val_best_weights.json", {"accuracy": 0.5})
    folder.set_state("finished")
    note(folder, "work.txt", "finished")
    note(folder, "finished.txt", "once")
    return 0


def asked_to_end(folder: RunFolder, epochs: int) -> bool:
    """Whether stop.json asks for it after so many epochs; a search that prunes is left a history too."""
    params = read_json(folder.params)
    if params["num_epochs"] != EPOCHS:
        return False
    accuracy = params["learning_rate"] / EPOCHS
    rows = [{"epoch": n, "train": {"loss": 0.1, "accuracy": 0.1}, "valid": {"loss": 0.1, "accuracy": n * accuracy},
             "learning_rate": [0.1], "seconds": 0.1, "images_per_second": 1.0, "memory_mb": 1.0}
            for n in range(1, epochs + 1)]  # fmt: skip
    folder.write_json("history.json", {"epochs": rows})
    folder.write_json("metrics_val_best_weights.json", {"accuracy": epochs * accuracy})
    stop = folder.file("stop.json")
    return stop.is_file() and epochs >= read_json(stop)["epoch"]


def note(folder: RunFolder, name: str, line: str) -> None:
    """What happened, in order, whatever is killed."""
    with folder.file(name).open("a") as file:
        file.write(f"{line}\n")


if __name__ == "__main__":
    raise SystemExit(main())
