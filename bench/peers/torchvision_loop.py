"""A plain loop over torchvision's folder of images, as in its reference scripts; and the same with its switches on."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import get_model
from torchvision.transforms import v2

from bench.peers.job import LEARNING_RATE, MEAN, MOMENTUM, STD, WEIGHT_DECAY, Clock, Job


def loaders(job: Job) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Of train and valid; with tuned, workers live on from epoch to epoch."""
    end = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    augmented = v2.Compose([v2.RandomResizedCrop(job.im_sz, (job.scale, 1.0)), v2.RandomHorizontalFlip(), *end])
    plain = v2.Compose([v2.Resize(round(job.im_sz / 0.875)), v2.CenterCrop(job.im_sz), *end])
    how: dict[str, Any] = {
        "batch_size": job.batch_size, "num_workers": job.workers, "pin_memory": torch.cuda.is_available(),
        "persistent_workers": job.tuned and job.workers > 0,
    }  # fmt: skip
    return (
        DataLoader(ImageFolder(f"{job.data_dir}/train", augmented), shuffle=True, **how),
        DataLoader(ImageFolder(f"{job.data_dir}/valid", plain), **how),
    )


def new_net(job: Job) -> nn.Module:
    """Pretrained, with a new last layer, or from random weights; tuned: channels_last."""
    net = pretrained_net(job) if job.weights else get_model(job.arch, num_classes=job.classes)
    if job.weights:
        name, last = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Linear)][-1]
        net.set_submodule(name, nn.Linear(last.in_features, job.classes))
    return net.to(memory_format=torch.channels_last if job.tuned else torch.contiguous_format)


def pretrained_net(job: Job) -> nn.Module:
    """With the job's weights and their 1,000 classes."""
    net: nn.Module = get_model(job.arch)
    net.load_state_dict(torch.load(job.weights, weights_only=True))
    return net


def new_optimizer(job: Job, net: nn.Module) -> torch.optim.Optimizer:
    """SGD, or AdamW where there is a peak; tuned: fused."""
    fused = job.tuned or None
    if job.peak:
        return torch.optim.AdamW(net.parameters(), job.peak, fused=fused)
    return torch.optim.SGD(net.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, fused=fused)


def new_schedule(job: Job, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """One cycle over all steps where there is a peak, else the same rate throughout."""
    if job.peak:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, job.peak, steps)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)


def run(job: Job, clock: Clock) -> None:
    """Trains and validates; tuned: bf16 autocast, channels_last, a fused optimizer, workers that stay."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if job.tuned else torch.contiguous_format
    torch.manual_seed(job.seed)
    train, valid = loaders(job)
    net = new_net(job).to(device)
    optimizer = new_optimizer(job, net)
    schedule = new_schedule(job, optimizer, job.epochs * len(train))
    criterion = nn.CrossEntropyLoss()
    for _ in range(job.epochs):
        net.train()
        clock.begin("train")
        for images, labels in train:
            images, labels = images.to(device, memory_format=layout), labels.to(device)
            with torch.autocast(device, torch.bfloat16, enabled=job.tuned):
                loss = criterion(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            clock.step(len(images))
        net.eval()
        clock.begin("valid")
        right = 0
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=job.tuned):
            for images, labels in valid:
                logits = net(images.to(device, memory_format=layout))
                right += int((logits.argmax(1) == labels.to(device)).sum())
                clock.step(len(images))
        clock.end(right / len(valid.dataset))  # type: ignore[arg-type]
