"""Initial networks: a variant as it is before training, for each seed, with the streams shared by all.

Taps, temporal modules, heads and fusions begin as `train` has them with that seed: each follows from (seed, key, part).
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
    """Makes untrained networks of a composed, fitted one, `base`; `fusions` gives (factory, options) by spec."""

    def __init__(self, base: MultiStream, recipe: Recipe, *, fusions: Mapping[str, tuple[MakeFusion, Options]]) -> None:
        self.base, self.recipe, self.fusions = base, recipe, fusions
        specs = {key: Spec.parse(recipe.network.streams[key], key=key) for key in base.loaded_branches}
        self.heads = {key: branch_of_run(spec.run, key)[1] for key, spec in specs.items() if spec.run is not None}

    def network(self, variant: Variant, *, seed: int) -> MultiStream:
        """The variant's network, initialised from `seed`."""
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
        if network.prior.device != self.base.prior.device:  # to() visits all modules of the streams, which lie there
            network.to(self.base.prior.device)
        _share_fit(self.base, network)
        network.freeze("branches" if "branches" in self.recipe.network.freeze else "streams")
        for key in network.loaded_branches:
            branch = network.branches[key]
            if branch.temporal is not None and tuple(branch.taps) != tuple(self.base.branches[key].taps):
                branch.temporal.requires_grad_(True)  # it is new: what read other stages cannot read these
        return network

    def _branch(self, key: str, stages: tuple[str, ...], *, seed: int) -> Branch:
        """A branch over the shared stream, cut to these stages; what came trained from a run is copied."""
        own = self.base.branches[key]
        assert own.plan is not None
        if own.is_vector:
            return Branch(own.stream, taps=copy.deepcopy(dict(own.taps.items())), make_temporal=None, plan=own.plan)
        depth = list(own.stream.stages).index(stages[-1]) + 1
        stream = own.stream.truncate(depth)
        plan = replace(own.plan, depth=depth if depth < len(own.stream.stages) else own.plan.depth)
        loaded = key in self.base.loaded_branches
        made = copy.deepcopy(dict(own.taps.items())) if loaded else build_taps(stream, own.plan, key=key, seed=seed)
        branch = Branch(
            stream,
            taps={stage: made[stage] for stage in stages},
            make_temporal=temporal_factory(key, own.plan, seed=seed),
            plan=own.plan if loaded else plan,
        )
        if loaded and stages == tuple(own.taps):
            branch.temporal = copy.deepcopy(own.temporal)
        return branch

    def _head(self, key: str, branch: Branch) -> nn.Module | None:
        """A copy of the run's head, where it has one and the branch is as it was."""
        whole = tuple(branch.taps) == tuple(self.base.branches[key].taps)
        return copy.deepcopy(self.heads.get(key)) if whole else None


def tapped_everywhere(network: MultiStream) -> MultiStream:
    """The same network; where only a last stage is tapped, with taps at all stages, so that each can be pooled."""
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
    """Gives a network's taps what `base` was fitted to: the buffers of the same stages."""
    for key, branch in network.branches.items():
        for stage, tap in branch.taps.items():
            theirs = base.branches[key].taps[stage]
            for name, buffer in tap.named_buffers():
                buffer.copy_(theirs.get_buffer(name))
    network.set_zero_shot_heads()
