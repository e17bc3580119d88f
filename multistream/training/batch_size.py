"""--batch-size auto: the largest part of a batch that fits into memory, found by trial before the training starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from multistream.recipe import TrainingSettings
from multistream.runtime.memory import SMALLER, Gauge, as_it_was, largest_that_fits, pieces_of
from multistream.training.feeds import Feed, Indices
from multistream.training.step import Objective

MOMENTS = 2
"""Tensors of a parameter's size that an optimizer may keep as its state (two for Adam)."""


def settings_that_fit(
    settings: TrainingSettings,
    *,
    objective: Objective,
    make_feed: Callable[[TrainingSettings], Feed],
    train: Indices,
    device: torch.device,
) -> TrainingSettings:
    """Returns settings with the largest batch that fits; accumulation keeps the number of images per optimizer step.

    Runs forward and backward passes of growing size on photos of the training split, with memory reserved for the
    optimizer's state. The network is left unchanged. Raises MemoryExhausted if not even one image fits.
    """
    whole = settings.batch_size * settings.accumulation
    reserved = [torch.ones_like(p) for p in objective.network.parameters() if p.requires_grad for _ in range(MOMENTS)]
    gauge = Gauge(device)

    def attempt(size: int) -> float:
        gauge.reset()
        with as_it_was(objective.network):
            objective.network.train()
            feed = make_feed(replace(settings, batch_size=size))
            batch = next(feed.training(np.resize(train, size), epoch=0))
            objective(batch.given, batch.labels)[0].backward()
        return gauge.taken()

    sizes = pieces_of(whole)
    if whole > 1 and _normalises_batches(objective.network):
        sizes = sizes[1:]  # the variance of one image is undefined
    size = largest_that_fits(sizes, attempt)
    del reserved
    return replace(settings, batch_size=size, accumulation=whole // size)


def _normalises_batches(network: nn.Module) -> bool:
    """Returns whether any BatchNorm is in training mode; those of frozen streams are not."""
    with as_it_was(network):
        network.train()
        return any(isinstance(module, _BatchNorm) and module.training for module in network.modules())


def smaller_batches(settings: TrainingSettings) -> str:
    """Returns the advice if a batch does not fit: the next smaller size with the same number of images per step.

    >>> smaller_batches(TrainingSettings(batch_size=48)).partition(" (")[0]
    'Train again with --batch-size 24 --set training.accumulation=2'
    """
    if settings.batch_size == 1:
        return SMALLER
    smaller = pieces_of(settings.batch_size)[-2]
    pieces = settings.accumulation * settings.batch_size // smaller
    sizes = f"--batch-size {smaller} --set training.accumulation={pieces}"
    return f"Train again with {sizes} (steps of as many images), or with --batch-size auto, which finds what fits."
