"""fastai's Learner; and the same with its switches on."""

from functools import partial

import torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD, OptimWrapper
from fastai.vision.augment import FlipItem, RandomResizedCrop
from fastai.vision.data import ImageDataLoaders

from bench.peers.job import LEARNING_RATE, MEAN, MOMENTUM, STD, WEIGHT_DECAY, Clock, Job
from bench.peers.torchvision_loop import new_net


class Clocked(Callback):  # type: ignore[misc]  # fastai has no types
    """Tells the clock of the phases."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def before_train(self) -> None:
        """An epoch begins."""
        self.clock.begin("train")

    def before_validate(self) -> None:
        """Its training has ended."""
        self.clock.begin("valid")

    def after_batch(self) -> None:
        """Of either."""
        self.clock.step(len(self.y))

    def after_validate(self) -> None:
        """The epoch has ended."""
        self.clock.end()


class BFloat16(MixedPrecision):  # type: ignore[misc]
    """What to_bf16() adds, which acts on CUDA alone, for any device."""

    def before_fit(self) -> None:
        """Puts another context in the place of that for CUDA."""
        super().before_fit()
        self.autocast = torch.autocast(self.dls.device.type, torch.bfloat16)


def run(job: Job, clock: Clock) -> None:
    """Trains and validates; tuned: bf16 autocast, channels_last, torch's fused SGD, workers that stay."""
    data = ImageDataLoaders.from_folder(
        job.data_dir, valid="valid", item_tfms=[RandomResizedCrop(job.im_sz), FlipItem()],
        batch_tfms=Normalize.from_stats(MEAN, STD), bs=job.batch_size, num_workers=job.workers,
        persistent_workers=job.tuned and job.workers > 0,
    )  # fmt: skip
    fused = partial(OptimWrapper, opt=partial(torch.optim.SGD, momentum=MOMENTUM, fused=True))
    learner = Learner(
        data, new_net(job), opt_func=fused if job.tuned else partial(SGD, mom=MOMENTUM), wd=WEIGHT_DECAY,
        metrics=accuracy, path=job.scratch, cbs=Clocked(clock),
    )  # fmt: skip
    if job.tuned:
        learner.add_cbs([ChannelsLast(), BFloat16(AMPMode.BF16)])
    with learner.no_bar(), learner.no_logging():
        learner.fit(job.epochs, LEARNING_RATE)
