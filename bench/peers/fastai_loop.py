"""fastai's Learner; and the same with its switches on."""

from collections.abc import Callable
from functools import partial
from typing import Any

import fastai.callback.schedule  # noqa: F401  # gives the Learner fine_tune and fit_one_cycle
import torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.hook import num_features_model
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD, Adam, Optimizer, OptimWrapper
from fastai.torch_core import set_seed
from fastai.vision.augment import FlipItem, RandomResizedCrop
from fastai.vision.data import ImageDataLoaders
from fastai.vision.learner import add_head, create_body, default_split

from bench.peers.job import LEARNING_RATE, MEAN, MOMENTUM, STD, WEIGHT_DECAY, Clock, Job
from bench.peers.torchvision_loop import new_net, pretrained_net


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
        self.clock.end(float(self.learn.metrics[0].value))


class BFloat16(MixedPrecision):  # type: ignore[misc]
    """What to_bf16() adds, which acts on CUDA alone, for any device."""

    def before_fit(self) -> None:
        """Puts another context in the place of that for CUDA."""
        super().before_fit()
        self.autocast = torch.autocast(self.dls.device.type, torch.bfloat16)


def new_learner(job: Job, data: ImageDataLoaders, **how: Any) -> Learner:
    """The net as it is; a pretrained one with fastai's own head, its body frozen at first."""
    if job.weights:
        body = create_body(pretrained_net(job), cut=-1)  # before its classifier
        return Learner(data, add_head(body, num_features_model(body), job.classes), splitter=default_split, **how)
    return Learner(data, new_net(job), **how)


def new_optimizer(job: Job) -> Callable[..., Optimizer | OptimWrapper]:
    """SGD, or Adam with decoupled weight decay where there is a peak; tuned: torch's fused one."""
    if job.tuned:
        fused = torch.optim.AdamW if job.peak else partial(torch.optim.SGD, momentum=MOMENTUM)
        return partial(OptimWrapper, opt=partial(fused, fused=True))
    return Adam if job.peak else partial(SGD, mom=MOMENTUM)


def run(job: Job, clock: Clock) -> None:
    """Trains and validates; tuned: bf16 autocast, channels_last, torch's fused optimizer, workers that stay."""
    set_seed(job.seed)
    data = ImageDataLoaders.from_folder(
        job.data_dir, valid="valid", item_tfms=[RandomResizedCrop(job.im_sz, job.scale), FlipItem()],
        batch_tfms=Normalize.from_stats(MEAN, STD), bs=job.batch_size, num_workers=job.workers,
        persistent_workers=job.tuned and job.workers > 0,
    )  # fmt: skip
    learner = new_learner(
        job, data, opt_func=new_optimizer(job), wd=None if job.peak else WEIGHT_DECAY, metrics=accuracy,
        path=job.scratch, cbs=Clocked(clock),
    )  # fmt: skip
    if job.tuned:
        learner.add_cbs([ChannelsLast(), BFloat16(AMPMode.BF16)])
    with learner.no_bar(), learner.no_logging():
        if job.weights:
            learner.fine_tune(job.epochs - 1, job.peak)  # after one with the body frozen
        elif job.peak:
            learner.fit_one_cycle(job.epochs, job.peak)
        else:
            learner.fit(job.epochs, LEARNING_RATE)
