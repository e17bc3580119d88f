"""Builds a network from a plan: its branches, taps, temporals and fusion, from the registry, with checked shapes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from multistream import registry
from multistream.errors import UsageError, check_known
from multistream.inputs import Image
from multistream.interfaces import VECTOR, Fusion, Stream, Tap, Temporal
from multistream.network.branch import Branch, MakeTemporal
from multistream.network.checks import check_branch, check_fusion
from multistream.network.network import MakeFusion, MultiStream
from multistream.network.plan import BranchPlan, NetworkPlan, Options
from multistream.nn.seeding import drawn_seed, initializing
from multistream.parts.fusions import Solo
from multistream.parts.taps import VectorTap
from multistream.spec import Spec


def recompose(
    plan: NetworkPlan, *, streams: Mapping[str, Stream] | None = None, trained: bool | None = None
) -> MultiStream:
    """Builds the network of a plan, with new weights; `streams` holds the streams that were passed as instances.

    Each instance is copied, so that loading weights does not change another network that was built from it.
    A caller that then loads saved weights passes `trained`: all branches and heads count as loaded, and `trained` is
    whether the fusion has been trained too.
    """
    instances = streams or {}
    check_known(instances, plan.branches, where="streams", what="the network has no stream {name!r}.")
    for key, branch in plan.branches.items():
        if branch.is_instance and key not in instances:
            raise UsageError(
                "streams",
                f"{key!r} was given as a Python object, which cannot be saved in a file.",
                do=f"Pass it again: load(run, streams={{{key!r}: ...}}).",
            )
    branches = {
        key: build_branch(key, branch, copy.deepcopy(instances[key]) if key in instances else build_stream(key, branch))
        for key, branch in plan.branches.items()
    }
    heads = {key: branch.make_head(len(plan.classes)) for key, branch in branches.items()}
    network = MultiStream(
        branches,
        make_fusion=fusion_factory(plan.fusion, plan.fusion_options, classes=len(plan.classes)),
        classes=plan.classes,
        fusion_plan=(plan.fusion, plan.fusion_options),
        loaded=None if trained is None else heads,
        trained=bool(trained),
        label_sets=plan.label_sets,
    )
    check_fusion(network)
    return network


def plan_of(network: MultiStream) -> NetworkPlan:
    """The plan of a composed network."""
    branches = {}
    for key, branch in network.branches.items():
        if branch.plan is None:
            raise ValueError(f"{key}: a Branch built without a plan cannot be saved.")
        branches[key] = branch.plan
    return NetworkPlan(branches, *network.fusion_plan, network.classes, network.label_sets)


def build_branch(key: str, plan: BranchPlan, stream: Stream, *, seed: int | None = None) -> Branch:
    """Builds one branch of a plan over its stream, truncated to the plan's depth.

    Taps and temporal are initialised from `seed`; if it is None, it is drawn from torch's global generator.
    """
    seed = drawn_seed() if seed is None else seed
    if VECTOR in stream.channels:
        if plan.depth not in (0, len(stream.stages)):
            right = f"It ends in a vector; take all {len(stream.stages)} stages."
            raise UsageError(f"depth.{key}", f"{plan.depth} is out of range.", right=right)
        branch = Branch(stream, taps={VECTOR: VectorTap(stream.channels[VECTOR])}, make_temporal=None, plan=plan)
        check_branch(key, branch)
        return branch
    if plan.depth:
        if not 1 <= plan.depth <= len(stream.stages):
            right = f"It has 1 to {len(stream.stages)} stages."
            raise UsageError(f"depth.{key}", f"{plan.depth} is out of range.", right=right)
        stream = stream.truncate(plan.depth)
    taps = build_taps(stream, plan, key=key, seed=seed)
    branch = Branch(stream, taps=taps, make_temporal=temporal_factory(key, plan, seed=seed), plan=plan)
    check_branch(key, branch)
    return branch


def build_stream(key: str, plan: BranchPlan, *, seed: int | None = None) -> Stream:
    """Builds the stream of a plan, initialised from `seed`, or from torch's global generator if it is None."""
    spec = Spec.parse(plan.stream, key=key)
    # A stream whose constructor has `size` checks it itself; for other streams it is set below.
    known = dict(plan.known) | ({"size": plan.image_size} if plan.image_size else {})
    known |= {"summary": reads} if (reads := summary_read(plan)) else {}
    known = {name: value for name, value in known.items() if name not in plan.stream_options}
    with initializing(drawn_seed() if seed is None else seed, key, "stream"):
        stream: Stream = _built("stream", spec, plan.stream_options, known, Stream)
    if plan.image_size and isinstance(stream.input, Image):
        stream.input = replace(stream.input, size=plan.image_size)
    return stream


def build_taps(stream: Stream, plan: BranchPlan, *, key: str = "", seed: int | None = None) -> dict[str, Tap]:
    """Builds taps for the stages of a stream, or for the one stage that the plan's tap reads.

    They are initialised from (seed, key, stage); if `seed` is None, it is drawn from torch's global generator.
    """
    seed = drawn_seed() if seed is None else seed
    spec, options = Spec.parse(plan.tap, key="tap", where="tap"), plan.tap_options
    if spec.variant and spec.variant.isdecimal():  # gap:64 states the token's width
        options = {**options, "width": int(spec.variant)}
        spec = replace(spec, variant=None)
    all_channels = stream.channels
    if reads := summary_read(plan):
        if reads not in all_channels:
            stages = ", ".join(all_channels)
            what = f"{spec.name!r} reads the summary {reads!r}, and this stream has the stages {stages}."
            raise UsageError("tap", what, right="timm models have it at full depth.", do="Use gap:64 or last.")
        all_channels = {reads: all_channels[reads]}
    taps: dict[str, Tap] = {}
    for stage, channels in all_channels.items():
        with initializing(seed, key, f"tap {stage}"):
            taps[stage] = _built("tap", spec, options, {"channels": channels}, Tap)
    deepest = list(taps.items())[-1:]
    return dict(deepest) if deepest[0][1].last_only else taps


def summary_read(plan: BranchPlan) -> str:
    """The only stage that the plan's tap reads, `cls` or `embed`; "" if it reads the maps."""
    spec = Spec.parse(plan.tap, key="tap", where="tap")
    factory = registry.find("tap", spec.name, distribution=spec.distribution).resolve()
    reads: str = getattr(factory, "reads", "")
    return reads


@dataclass(frozen=True)
class TemporalFactory:
    """Makes temporal modules of one spec for one stream. A class, because a closure cannot be pickled."""

    spec: Spec
    options: Options
    key: str
    seed: int

    def __call__(self, width: int, steps: int) -> Temporal:
        """A new temporal over `steps` tokens of this width."""
        with initializing(self.seed, self.key, "temporal"):
            temporal: Temporal = _built("temporal", self.spec, self.options, {"width": width, "steps": steps}, Temporal)
        return temporal


@dataclass(frozen=True)
class FusionFactory:
    """Makes fusions of one spec for K classes; returns `Solo` for a network with one stream."""

    spec: Spec
    options: Options
    classes: int

    def __call__(self, widths: Mapping[str, int], heads: Mapping[str, nn.Module]) -> Fusion:
        """A new fusion of branches of these widths."""
        arguments = {"widths": widths, "classes": self.classes, "heads": heads}
        # Built even for one stream, to check its spec and options.
        fusion: Fusion = _built("fusion", self.spec, self.options, arguments, Fusion)
        if not isinstance(fusion.heads, nn.ModuleDict):
            cause = f"its heads are {fusion.heads!r}; a fusion without heads gives Fusion heads={{}}"
            raise registry.owner_of("fusion", self.spec).broken(cause)
        return fusion if len(widths) > 1 else Solo(widths, classes=self.classes, heads=heads)


def temporal_factory(key: str, plan: BranchPlan, *, seed: int) -> MakeTemporal:
    """The factory of a plan's temporal."""
    return TemporalFactory(
        Spec.parse(plan.temporal, key="temporal", where="temporal"), plan.temporal_options, key, seed
    )


def fusion_factory(text: str, options: Options, *, classes: int) -> MakeFusion:
    """The factory of a spec's fusion."""
    return FusionFactory(Spec.parse(text, key="fusion", where="fusion"), options, classes)


def _built(kind: registry.Kind, spec: Spec, options: Options, given: Options, base: type[Any]) -> Any:
    """Builds a part from the registry; PluginError if it is not of class `base` or did not call its constructor."""
    part = registry.build(kind, spec, options=options, given=given)
    owner = registry.owner_of(kind, spec)
    if not isinstance(part, base):
        raise owner.broken(f"it is a {type(part).__name__}, not a multistream.{base.__name__}")
    if "_modules" not in vars(part):
        raise owner.broken("its constructor does not call super().__init__(...)")
    return part
