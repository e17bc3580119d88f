"""Sanity check: a map that stays when the weights go explains the picture, not the network (Adebayo et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from multistream.explaining.ranks import spearman
from multistream.network.network import MultiStream
from multistream.nn.eval_mode import evaluating

Explain = Callable[[], Tensor]
"""Explains one and the same batch with the network as it is now: maps (B, ...)."""


@contextmanager
def randomised(
    network: MultiStream, *, seed: int, batch: Mapping[str, Tensor], only: Sequence[nn.Module] | None = None
) -> Iterator[None]:
    """Inside, the entries of every weight tensor (of the modules `only`) are shuffled; afterwards all is as it was.

    Shuffled weights keep their scale, so that any stranger's network stays alive. Statistics of batch norm that no
    longer fit are measured anew on `batch`. Weights, buffers and modes come back also after an exception.
    """
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    before = {name: tensor.detach().clone() for name, tensor in state.items()}
    try:
        with torch.no_grad():
            _shuffle(only or [network], torch.Generator().manual_seed(seed))
            _measure_statistics(network, batch, only or [network])
        yield
    finally:
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(before[name])


def _shuffle(modules: Sequence[nn.Module], generator: torch.Generator) -> None:
    for parameter in dict.fromkeys(p for module in modules for p in module.parameters()):  # shared ones once
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))


def _measure_statistics(network: MultiStream, batch: Mapping[str, Tensor], modules: Sequence[nn.Module]) -> None:
    norms = [m for module in modules for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    with evaluating(network):
        try:
            for norm in norms:
                norm.training, norm.momentum = True, 1.0
            if norms:
                network.pool(batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def similarity_to_random(
    network: MultiStream, explain: Explain, *, batch: Mapping[str, Tensor], seeds: Sequence[int]
) -> Tensor:
    """Rank correlation (seeds, B) of maps with those after all weights were randomised; it should be around 0."""
    whole = explain().flatten(1)
    found = []
    for seed in seeds:
        with randomised(network, seed=seed, batch=batch):
            found.append(spearman(whole, explain().flatten(1)))
    return torch.stack(found)


def cascade(network: MultiStream, explain: Explain, *, batch: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Weights randomised from the top downwards, each step with all above: {step: Spearman correlation (B,)}.

    The steps are the fusion, the branches' tops (projections and temporals), then the stages from the deepest on.
    """
    whole = explain().flatten(1)
    gone: list[nn.Module] = []
    found = {}
    for name, modules in _levels(network).items():
        gone += modules
        if not any(True for module in modules for _ in module.parameters()):
            continue
        with randomised(network, seed=seed, batch=batch, only=gone):
            found[name] = spearman(whole, explain().flatten(1))
    return found


def _levels(network: MultiStream) -> dict[str, list[nn.Module]]:
    branches = list(network.branches.values())
    tops: list[nn.Module] = [branch.taps for branch in branches]
    tops += [branch.temporal for branch in branches if branch.temporal]
    levels: dict[str, list[nn.Module]] = {"fusion": [network.fusion], "taps and temporals": tops}
    deepest = max(len(branch.stream.stages) for branch in branches)
    for depth in range(deepest, 0, -1):
        here = [list(b.stream.stages.values())[depth - 1] for b in branches if len(b.stream.stages) >= depth]
        levels[f"stage {depth}"] = here
    return levels
