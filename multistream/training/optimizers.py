"""Optimizers and learning rates: which parameters step how far, and when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from multistream.errors import UsageError, did_you_mean
from multistream.interfaces import Stream
from multistream.network.network import MultiStream
from multistream.recipe import TrainingSettings
from multistream.runtime.device import Runtime


def make_optimizer(network: MultiStream, settings: TrainingSettings, runtime: Runtime) -> torch.optim.Optimizer:
    """The optimizer over all parameters that train; biases and norms (one dimension) are not decayed.

    `settings.rates` and `settings.decays` give streams their own rate and weight decay, by key.
    """
    groups = _groups(network, settings)
    if settings.optimizer.startswith("timm:"):
        return _timm_optimizer(groups, settings)
    return optimizer_of(groups, settings, runtime.device)


def optimizer_of(
    groups: Mapping[tuple[float, float], Sequence[nn.Parameter]], settings: TrainingSettings, device: torch.device
) -> torch.optim.Optimizer:
    """The settings' optimizer over parameters by (learning rate, weight decay); it treats every number by itself."""
    given = [{"params": p, "lr": rate, "base": rate, "weight_decay": wd} for (rate, wd), p in groups.items()]
    if settings.optimizer.startswith("timm:"):  # several of them look at whole tensors, which batched rows are not
        what = f"{settings.optimizer} cannot train several rows in one batch."
        raise UsageError(
            "training.optimizer", what, right="adamw, adam and sgd can.", do="Pass --set training.optimizer=adamw."
        )
    # One kernel for all parameters: on CPU and CUDA it is the fastest of torch's three, and as exact.
    fused = device.type in ("cpu", "cuda")
    if settings.optimizer == "sgd":
        return torch.optim.SGD(given, lr=settings.learning_rate, momentum=settings.momentum, fused=fused)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(given, lr=settings.learning_rate, fused=fused)


def schedule_factor(step: int, *, total: int, settings: TrainingSettings) -> float:
    """The factor of the learning rate in optimizer step `step` of `total`: warm-up, then the schedule.

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
    """Sets every group's rate to its own base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * factor


def parameter_names(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name; a shared one once."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def _timm_optimizer(
    groups: Mapping[tuple[float, float], Sequence[nn.Parameter]], settings: TrainingSettings
) -> torch.optim.Optimizer:
    """An optimizer of timm by its name there (timm.optim.list_optimizers)."""
    from timm.optim._optim_factory import create_optimizer_v2, list_optimizers  # a second that adamw need not wait

    name = settings.optimizer.removeprefix("timm:")
    if name not in (known := [str(each) for each in list_optimizers()]):
        raise UsageError("training.optimizer", f"timm has no optimizer {name!r}.", right=did_you_mean(name, known))
    given = [{"params": p, "lr": rate, "base": rate, "weight_decay": wd} for (rate, wd), p in groups.items()]
    try:
        made: torch.optim.Optimizer = create_optimizer_v2(
            given, opt=name, lr=settings.learning_rate, weight_decay=settings.weight_decay, momentum=settings.momentum
        )
    except (ImportError, RuntimeError, AssertionError) as error:  # of apex or bitsandbytes, which are not installed
        raise UsageError("training.optimizer", f"timm's {name} cannot be used here: {error}.") from error
    return made


def _groups(network: MultiStream, settings: TrainingSettings) -> dict[tuple[float, float], list[nn.Parameter]]:
    """Parameters by (learning rate, weight decay): each stream's and all the rest, decayed and not.

    A stage further down steps less far, by `settings.layer_decay`.
    """
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    base = settings.learning_rate
    if settings.probe_epochs > 0:  # nothing is as it was initialised
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
    """How many stages lie above the one that a parameter belongs to; what belongs to none lies below all."""
    stages = list(stream.stages)
    _, _, inner = name.partition(".stream.")
    stage = inner.split(".")[1] if inner.startswith("stages.") else ""
    return len(stages) - 1 - stages.index(stage) if stage in stages else len(stages)
