"""Lightning's Trainer; and the same with its switches on."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.peers.job import Clock, Job
from bench.peers.torchvision_loop import loaders, new_net, new_optimizer, new_schedule


class Classifier(LightningModule):  # type: ignore[misc]  # lightning may not be installed
    """The net with its loss and optimizer."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job
        self.net: nn.Module = new_net(job)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images (B, 3, S, S)."""
        logits: Tensor = self.net(images.to(memory_format=torch.channels_last) if self.job.tuned else images)
        return logits

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """The loss."""
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Accuracy."""
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer, and the schedule of its steps."""
        optimizer = new_optimizer(self.job, self)
        schedule = new_schedule(self.job, optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Clocked(Callback):  # type: ignore[misc]
    """Tells the clock of the phases."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_epoch_start(self, *_: Any) -> None:
        """Before the first batch is asked for."""
        self.clock.begin("train")

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: list[Tensor], index: int) -> None:
        """After the optimizer's step; after the last one validation begins."""
        self.clock.step(len(batch[0]))
        if index + 1 == trainer.num_training_batches:
            self.clock.begin("valid")

    def on_validation_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: list[Tensor], *_: Any
    ) -> None:
        """But for those that are tried out before training."""
        if not trainer.sanity_checking:
            self.clock.step(len(batch[0]))

    def on_validation_end(self, trainer: Trainer, _: Any) -> None:
        """The epoch has ended."""
        if not trainer.sanity_checking:
            self.clock.end(float(trainer.callback_metrics["accuracy"]))


def run(job: Job, clock: Clock) -> None:
    """Trains and validates; tuned: precision "bf16-mixed", channels_last, fused SGD, workers that stay."""
    seed_everything(job.seed, verbose=False)
    trainer = Trainer(
        max_epochs=job.epochs, precision="bf16-mixed" if job.tuned else None, devices=1, callbacks=[Clocked(clock)],
        default_root_dir=job.scratch, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Classifier(job), *loaders(job))
