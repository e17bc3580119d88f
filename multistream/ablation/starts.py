"""Starts: the network of a variant as it is before training, for each seed, with the streams shared by all.

Taps, temporals and fusions begin as `train` would have them with that seed. For this torch's generator must stand
where it stood there, so whatever draws on it comes in the same order; but a stream that has been built once from some
state of the generator is not built again: the state that it left is set.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from multistream.ablation.variants import Variant
from multistream.interfaces import Stream
from multistream.network.compose import build_stream, build_taps
from multistream.network.network import Branch, MakeFusion, MultiStream
from multistream.network.plan import Options
from multistream.recipe import Recipe
from multistream.runs.composition import branch_of_run, load_stream_weights
from multistream.spec import Spec


class Starts:
    """Makes untrained networks of a composed, fitted one, `base`; `fusions` gives (factory, options) by spec."""

    def __init__(
        self,
        base: MultiStream,
        recipe: Recipe,
        *,
        streams: Mapping[str, Stream] | None,
        fusions: Mapping[str, tuple[MakeFusion, Options]],
    ) -> None:
        self.base, self.recipe, self.fusions = base, recipe, fusions
        self.instances = frozenset(streams or {})
        self._after: dict[tuple[str, bytes], Tensor] = {}
        self._heads: dict[str, nn.Module | None] = {}

    def network(self, variant: Variant, *, seed: int) -> MultiStream:
        """The variant's network, initialised from `seed`; torch's own generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            branches = {key: self._branch(key, stages) for key, stages in variant.keep.items()}
            make, options = self.fusions[variant.fusion]
            network = MultiStream(
                branches,
                make_fusion=make,
                classes=self.base.classes,
                fusion_plan=(variant.fusion, options),
                loaded={key: self._head(key, branches[key]) for key in branches if key in self.base.loaded_branches},
            )
        network.to(self.base.prior.device)
        _share_fit(self.base, network)
        network.freeze(*(("branches",) if "branches" in self.recipe.network.freeze else ("streams",)))
        for key in network.loaded_branches:
            branch = network.branches[key]
            if branch.temporal is not None and tuple(branch.taps) != tuple(self.base.branches[key].taps):
                branch.temporal.requires_grad_(True)  # it is new: what read other stages cannot read these
        return network

    def _branch(self, key: str, stages: tuple[str, ...]) -> Branch:
        own = self.base.branches[key]
        self._draw_stream(key)
        if own.is_vector:
            taps = copy.deepcopy(dict(own.taps.items()))
            return Branch(own.stream, taps=taps, make_temporal=None, plan=own.plan)
        depth = list(own.stream.stages).index(stages[-1]) + 1
        stream = own.stream.truncate(depth)
        if key in self.base.loaded_branches or own.plan is None:
            branch = Branch(
                stream,
                taps={s: copy.deepcopy(own.taps[s]) for s in stages},
                make_temporal=own.make_temporal,
                plan=own.plan,
            )
            if own.temporal is not None and stages == tuple(own.taps):
                branch.temporal = copy.deepcopy(own.temporal)
            return branch
        made = build_taps(stream, own.plan)
        plan = replace(own.plan, depth=depth if depth < len(own.stream.stages) else own.plan.depth)
        return Branch(stream, taps={s: made[s] for s in stages}, make_temporal=own.make_temporal, plan=plan)

    def _draw_stream(self, key: str) -> None:
        """Takes from torch's generator what building this stream takes."""
        if key in self.instances:
            return
        before = (key, torch.get_rng_state().numpy().tobytes())
        if before not in self._after:
            self._build_stream(key)
            self._after[before] = torch.get_rng_state()
        torch.set_rng_state(self._after[before])

    def _build_stream(self, key: str) -> None:
        spec = Spec.parse(self.recipe.network.streams[key], key=key)
        if spec.run is not None:
            self._heads[key] = branch_of_run(spec.run, key)[1]
            return
        plan = self.base.branches[key].plan
        assert plan is not None
        stream = build_stream(key, plan)
        weights = self.recipe.network.weights.get(key, "random")
        if Path(weights).expanduser().is_dir():  # a run, whose network is composed to be read
            load_stream_weights(stream, weights, key=key)

    def _head(self, key: str, branch: Branch) -> nn.Module | None:
        """A copy of the run's head, where it has one and the branch is as it was."""
        whole = tuple(branch.taps) == tuple(self.base.branches[key].taps)
        return copy.deepcopy(self._heads.get(key)) if whole else None


def tapped_everywhere(network: MultiStream) -> MultiStream:
    """The same network; where only a last stage is tapped, with taps at all stages, so that each can be pooled."""
    branches = {}
    for key, branch in network.branches.items():
        tap, plan = next(iter(branch.taps.values())), branch.plan
        if not tap.last_only or plan is None or branch.is_vector:
            branches[key] = branch
            continue
        cut = [branch.stream.truncate(depth) for depth in range(1, len(branch.stream.stages) + 1)]
        taps = {stage: made for stream in cut for stage, made in build_taps(stream, plan).items()}
        branches[key] = Branch(branch.stream, taps=taps, make_temporal=branch.make_temporal, plan=plan)
    return MultiStream(
        branches,
        make_fusion=network.make_fusion,
        classes=network.classes,
        fusion_plan=network.fusion_plan,
        loaded=dict.fromkeys(network.loaded_branches),
    )


@torch.no_grad()
def _share_fit(base: MultiStream, network: MultiStream) -> None:
    """Gives a network's taps what `base` was fitted to: the buffers of the same stages."""
    for key, branch in network.branches.items():
        for stage, tap in branch.taps.items():
            theirs = base.branches[key].taps[stage]
            for name, buffer in tap.named_buffers():
                buffer.copy_(theirs.get_buffer(name))
