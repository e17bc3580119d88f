"""Optimizers, parameter groups, learning rate schedules, and the moving average of the weights (EMA)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from multistream.errors import UsageError, did_you_mean
from multistream.interfaces import Stream
from multistream.network.network import MultiStream
from multistream.recipe import TrainingSettings
from multistream.runtime.device import Runtime
from multistream.runtime.sharding import divided_like


def make_optimizer(network: MultiStream, settings: TrainingSettings, runtime: Runtime) -> torch.optim.Optimizer:
    """Builds the optimizer over all trainable parameters; biases and norms (one dimension) have no weight decay.

    `settings.rates` and `settings.decays` set a learning rate and weight decay per stream, by key.
    """
    groups = _groups(network, settings)
    if settings.optimizer.startswith("timm:"):
        return _timm_optimizer(groups, settings)
    return optimizer_of(groups, settings, runtime.device)


def optimizer_of(
    groups: Mapping[tuple[float, float], Sequence[nn.Parameter]], settings: TrainingSettings, device: torch.device
) -> torch.optim.Optimizer:
    """Builds the optimizer over parameters by (learning rate, weight decay). Its update is element-wise."""
    given = [{"params": p, "lr": rate, "base": rate, "weight_decay": wd} for (rate, wd), p in groups.items()]
    if settings.optimizer.startswith("timm:"):  # several of them use whole tensors; batched rows share tensors
        what = f"{settings.optimizer} cannot train several rows in one batch."
        raise UsageError(
            "training.optimizer", what, right="adamw, adam and sgd can.", do="Pass --set training.optimizer=adamw."
        )
    # One fused kernel for all parameters: the fastest of torch's three implementations on CPU and CUDA, and as exact.
    fused = device.type in ("cpu", "cuda")
    if settings.optimizer == "sgd":
        return torch.optim.SGD(given, lr=settings.learning_rate, momentum=settings.momentum, fused=fused)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(given, lr=settings.learning_rate, fused=fused)


def schedule_factor(step: int, *, total: int, settings: TrainingSettings) -> float:
    """Returns the factor of the learning rate in optimizer step `step` of `total`: warm-up, then the schedule.

    >>> schedule_factor(50, total=100, settings=TrainingSettings(schedule="linear"))
    0.5
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    done = (step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    return 1 - done if settings.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's learning rate to its base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * factor


def parameter_names(network: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the trainable parameters by name; a shared parameter appears once."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def _timm_optimizer(
    groups: Mapping[tuple[float, float], Sequence[nn.Parameter]], settings: TrainingSettings
) -> torch.optim.Optimizer:
    """Builds a timm optimizer by its name in timm (timm.optim.list_optimizers)."""
    # Takes a second to import; adamw does not need it.
    from timm.optim._optim_factory import create_optimizer_v2, list_optimizers

    name = settings.optimizer.removeprefix("timm:")
    if name not in (known := [str(each) for each in list_optimizers()]):
        raise UsageError("training.optimizer", f"timm has no optimizer {name!r}.", right=did_you_mean(name, known))
    given = [{"params": p, "lr": rate, "base": rate, "weight_decay": wd} for (rate, wd), p in groups.items()]
    try:
        made: torch.optim.Optimizer = create_optimizer_v2(
            given, opt=name, lr=settings.learning_rate, weight_decay=settings.weight_decay, momentum=settings.momentum
        )
    # If it needs apex or bitsandbytes, which are not installed.
    except (ImportError, RuntimeError, AssertionError) as error:
        raise UsageError("training.optimizer", f"timm's {name} cannot be used here: {error}.") from error
    return made


def _groups(network: MultiStream, settings: TrainingSettings) -> dict[tuple[float, float], list[nn.Parameter]]:
    """Groups parameters by (learning rate, weight decay): each stream's and all others, with and without decay.

    A lower stage has a lower rate, by `settings.layer_decay`.
    """
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    base = settings.learning_rate
    if settings.probe_epochs > 0:  # the linear probe has trained all other parameters
        base = min(base, settings.fine_tuning_rate)
    for name, parameter in parameter_names(network).items():
        key = name.split(".")[1] if name.startswith("branches.") and name.split(".")[2] == "stream" else ""
        rate = settings.rates.get(key, base)
        if key:
            rate *= settings.layer_decay ** _stages_above(network.branches[key].stream, name)
        decay = settings.decays.get(key, settings.weight_decay) if parameter.ndim > 1 else 0.0
        members.setdefault((rate, decay), []).append(parameter)
    return members


def _stages_above(stream: Stream, name: str) -> int:
    """Returns the number of stages above a parameter's own; a parameter outside of stages is below all of them."""
    stages = list(stream.stages)
    _, _, inner = name.partition(".stream.")
    stage = inner.split(".")[1] if inner.startswith("stages.") else ""
    return len(stages) - 1 - stages.index(stage) if stage in stages else len(stages)


class WeightAverage:
    """The average of the trained parameters over the steps, with `decay` d: average = d * average + (1 - d) * weight.

    Buffers are not averaged: batch norm's statistics are already averages. In early steps d is at most
    (1 + steps) / (10 + steps), so that the average forgets the initial weights.
    """

    def __init__(self, trained: Mapping[str, nn.Parameter], *, decay: float) -> None:
        self.trained, self.decay = dict(trained), decay
        self.averages = {name: p.detach().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Updates the averages with the weights after optimizer step number `steps`."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        weights = [self.trained[name].detach() for name in self.averages]
        torch._foreach_lerp_(list(self.averages.values()), weights, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replaces the weights by the averages inside the context; restores the weights exactly on exit."""
        weights = {name: p.detach().clone() for name, p in self.trained.items()}
        self._write(self.averages)
        try:
            yield
        finally:
            self._write(weights)

    def restore(self, averages: Mapping[str, Tensor]) -> None:
        """Restores the averages from a checkpoint."""
        for name, average in averages.items():
            own = self.averages[name]
            own.copy_(divided_like(average, own))

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.trained[name].copy_(value)
