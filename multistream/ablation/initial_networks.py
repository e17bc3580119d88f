"""Initial networks: the untrained network of each variant and seed; all share the same streams.

Taps, temporal modules, heads and fusions are initialised as by `train`: each depends only on (seed, key, component).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from multistream.ablation.variants import Variant
from multistream.network.branch import Branch
from multistream.network.compose import build_taps, temporal_factory
from multistream.network.network import MakeFusion, MultiStream
from multistream.network.plan import Options
from multistream.recipe import Recipe
from multistream.runs.composition import branch_of_run
from multistream.spec import Spec


class InitialNetworks:
    """Makes untrained networks from a composed and fitted one, `base`; `fusions` are (factory, options) by spec."""

    def __init__(self, base: MultiStream, recipe: Recipe, *, fusions: Mapping[str, tuple[MakeFusion, Options]]) -> None:
        self.base, self.recipe, self.fusions = base, recipe, fusions
        specs = {key: Spec.parse(recipe.network.streams[key], key=key) for key in base.loaded_branches}
        self.heads = {key: branch_of_run(spec.run, key)[1] for key, spec in specs.items() if spec.run is not None}

    def network(self, variant: Variant, *, seed: int) -> MultiStream:
        """Returns the variant's network, initialised from `seed`."""
        branches = {key: self._branch(key, stages, seed=seed) for key, stages in variant.keep.items()}
        make, options = self.fusions[variant.fusion]
        network = MultiStream(
            branches,
            make_fusion=make,
            classes=self.base.classes,
            fusion_plan=(variant.fusion, options),
            loaded={key: self._head(key, branches[key]) for key in branches if key in self.base.loaded_branches},
            seed=seed,
            label_sets=self.base.label_sets,
        )
        if network.prior.device != self.base.prior.device:  # avoids to(): it visits all stream modules
            network.to(self.base.prior.device)
        _share_fit(self.base, network)
        network.freeze("branches" if "branches" in self.recipe.network.freeze else "streams")
        for key in network.loaded_branches:
            branch = network.branches[key]
            if branch.temporal is not None and tuple(branch.taps) != tuple(self.base.branches[key].taps):
                branch.temporal.requires_grad_(True)  # newly initialised: it reads other stages
        return network

    def _branch(self, key: str, stages: tuple[str, ...], *, seed: int) -> Branch:
        """Builds a branch of the shared stream, truncated to these stages; copies components trained in a run."""
        original = self.base.branches[key]
        assert original.plan is not None
        if original.is_vector:
            return Branch(
                original.stream, taps=copy.deepcopy(dict(original.taps.items())), make_temporal=None, plan=original.plan
            )
        depth = list(original.stream.stages).index(stages[-1]) + 1
        stream = original.stream.truncate(depth)
        plan = replace(original.plan, depth=depth if depth < len(original.stream.stages) else original.plan.depth)
        loaded = key in self.base.loaded_branches
        taps = (
            copy.deepcopy(dict(original.taps.items()))
            if loaded
            else build_taps(stream, original.plan, key=key, seed=seed)
        )
        branch = Branch(
            stream,
            taps={stage: taps[stage] for stage in stages},
            make_temporal=temporal_factory(key, original.plan, seed=seed),
            plan=original.plan if loaded else plan,
        )
        if loaded and stages == tuple(original.taps):
            branch.temporal = copy.deepcopy(original.temporal)
        return branch

    def _head(self, key: str, branch: Branch) -> nn.Module | None:
        """Copies the run's head, if it has one and the branch keeps all its taps; else None."""
        whole = tuple(branch.taps) == tuple(self.base.branches[key].taps)
        return copy.deepcopy(self.heads.get(key)) if whole else None


def tapped_everywhere(network: MultiStream) -> MultiStream:
    """Returns the network with taps at all stages of streams that tap only their last stage, so that all are pooled."""
    branches = {}
    for key, branch in network.branches.items():
        tap, plan = next(iter(branch.taps.values())), branch.plan
        if not tap.last_only or plan is None or branch.is_vector:
            branches[key] = branch
            continue
        cut = [branch.stream.truncate(depth) for depth in range(1, len(branch.stream.stages) + 1)]
        taps = {stage: made for stream in cut for stage, made in build_taps(stream, plan, seed=0).items()}
        branches[key] = Branch(branch.stream, taps=taps, make_temporal=branch.make_temporal, plan=plan)
    return MultiStream(
        branches,
        make_fusion=network.make_fusion,
        classes=network.classes,
        fusion_plan=network.fusion_plan,
        loaded=dict.fromkeys(network.loaded_branches),
        seed=0,
        label_sets=network.label_sets,
    )


@torch.no_grad()
def _share_fit(base: MultiStream, network: MultiStream) -> None:
    """Copies the fitted buffers of `base` to a network's taps at the same stages."""
    for key, branch in network.branches.items():
        for stage, tap in branch.taps.items():
            fitted = base.branches[key].taps[stage]
            for name, buffer in tap.named_buffers():
                buffer.copy_(fitted.get_buffer(name))
    network.set_zero_shot_heads()
