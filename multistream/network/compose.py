"""compose: from names, specs and instances to a MultiStream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from multistream import registry
from multistream.errors import UsageError, WeightsError, did_you_mean
from multistream.inputs import Image, Map, Vector
from multistream.interfaces import VECTOR, Fusion, Stream, Tap, Temporal
from multistream.network.network import Branch, MakeFusion, MakeTemporal, MultiStream
from multistream.network.plan import BranchPlan, NetworkPlan, Options
from multistream.nn.eval_mode import evaluating
from multistream.parts.fusions import Solo
from multistream.parts.taps import VectorTap
from multistream.spec import Spec, check_key, parse_specs
from multistream.weights import from_hub, read_tensors


def compose(
    streams: Mapping[str, str | Stream] | Sequence[str],
    *,
    classes: Sequence[str],
    tap: str = "gap:64",
    temporal: str = "concat",
    fusion: str = "early",
    weights: Mapping[str, str] | None = None,
    options: Mapping[str, Options] | None = None,
    depth: Mapping[str, int] | None = None,
    image_size: int = 0,
    known: Mapping[str, Options] | None = None,
) -> MultiStream:
    """Composes a network of streams, given by spec (`object`, `places:resnet18`, `runs/o`) or as instances.

    `weights` gives each key a FILE, a run, `hub` or `random`; a stream that is not named there keeps its own
    initialisation. `options` holds the parts' options: `{"tap": {...}, "temporal": {...}, "fusion": {...},
    "streams": {key: {...}}}`. `depth` keeps the first n stages of a stream; `image_size` overrides the streams' own.
    `known` is what the data tell of a stream, by key; its factory gets of it what it names (`width`, `vocabulary`).
    All shapes are checked here, once. Raises UsageError, PluginError (exit 69) and WeightsError (69).

    >>> net = compose({"anp": registry.streams["anp"](width=12)}, classes=["awe", "fear"])
    >>> net({"anp": torch.zeros(2, 12)}).shape
    torch.Size([2, 2])
    """
    options, weights, depth, known = options or {}, weights or {}, depth or {}, known or {}
    specs = _by_key(streams)
    for where, named in (("weights", weights), ("depth", depth), ("options.streams", options.get("streams", {}))):
        for key in named:
            if key not in specs:
                raise UsageError(where, f"no stream {key!r} is composed.", right=did_you_mean(key, specs))
    branches: dict[str, Branch] = {}
    heads: dict[str, nn.Module | None] = {}
    for key, given in specs.items():
        if isinstance(given, Spec) and given.run is not None:
            branches[key], heads[key] = branch_of_run(given.run, key)
            continue
        plan = BranchPlan(
            stream=given.part if isinstance(given, Spec) else "",
            stream_options=options.get("streams", {}).get(key, {}),
            tap=tap,
            tap_options=options.get("tap", {}),
            temporal=temporal,
            temporal_options=options.get("temporal", {}),
            depth=depth.get(key, 0),
            image_size=image_size,
            known=known.get(key, {}),
        )
        branches[key] = build_branch(key, plan, given if isinstance(given, Stream) else None, weights.get(key))
    make_fusion = fusion_factory(fusion, options.get("fusion", {}), classes=len(classes))
    network = MultiStream(branches, make_fusion=make_fusion, classes=classes)
    network.fusion_plan = (fusion, options.get("fusion", {}))
    network.loaded_branches = frozenset(heads)
    network.loaded_heads = frozenset(key for key, head in heads.items() if _take_head(network, key, head))
    return network


def recompose(plan: NetworkPlan, *, streams: Mapping[str, Stream] | None = None) -> MultiStream:
    """The network of a plan, with new weights; `streams` gives those that the plan cannot name (instances)."""
    given = streams or {}
    for key, branch in plan.branches.items():
        if not branch.stream and key not in given:
            raise UsageError(
                "streams",
                f"{key!r} was given as an instance, which a file cannot hold.",
                do=f"Give it again: load(run, streams={{{key!r}: ...}}).",
            )
    branches = {key: build_branch(key, branch, given.get(key)) for key, branch in plan.branches.items()}
    make_fusion = fusion_factory(plan.fusion, plan.fusion_options, classes=len(plan.classes))
    network = MultiStream(branches, make_fusion=make_fusion, classes=plan.classes)
    network.fusion_plan = (plan.fusion, plan.fusion_options)
    return network


def plan_of(network: MultiStream) -> NetworkPlan:
    """The plan of a composed network."""
    branches = {}
    for key, branch in network.branches.items():
        if branch.plan is None:
            raise ValueError(f"{key}: a Branch that compose did not make has no plan, and cannot be written to a file.")
        branches[key] = branch.plan
    fusion, options = network.fusion_plan
    return NetworkPlan(branches, fusion, options, network.classes)


def build_branch(key: str, plan: BranchPlan, stream: Stream | None = None, weights: str | None = None) -> Branch:
    """One branch of a plan; `stream` where it was given as an instance; `weights` go in before it is cut to depth."""
    stream = stream or build_stream(key, plan)
    if weights:
        load_stream_weights(stream, weights, key=key)
    if isinstance(stream.input, Vector):
        return Branch(stream, taps={VECTOR: VectorTap(stream.input.width)}, make_temporal=None, plan=plan)
    if plan.depth:
        if not 1 <= plan.depth <= len(stream.stages):
            right = f"It has 1 to {len(stream.stages)} stages."
            raise UsageError(f"depth.{key}", f"{plan.depth} is out of range.", right=right)
        stream = stream.truncate(plan.depth)
    check_channels(stream, key)
    taps = build_taps(stream, plan)
    return Branch(stream, taps=taps, make_temporal=_temporal_factory(plan.temporal, plan.temporal_options), plan=plan)


def load_stream_weights(stream: Stream, source: str, *, key: str) -> None:
    """Loads a stream's weights from a file, a run, or the hub; `random` leaves its initialisation."""
    where = f"weights.{key}"
    if source == "random":
        return
    if source == "hub":
        if not (stream.source and stream.source.hub):
            raise WeightsError(where, "no hub is known for this stream.", do=f"Give a file: --weights {key}=FILE.")
        stream.load_weights(from_hub(stream.source.hub), where=where)
        return
    path = Path(source).expanduser()
    if path.is_dir():
        stream.load_state_dict(branch_of_run(path, key)[0].stream.state_dict())
    else:
        file = read_tensors(path)
        # Nothing in the tensors tells: colours that change sides cost accuracy without an error.
        if isinstance(stream.input, Image) and (stream.input.channels, file.metadata.get("channels")) == ("BGR", "RGB"):
            what = f"{path} was turned to red, green, blue, and this stream gives blue, green, red."
            raise WeightsError(where, what, do="Give the file it was made of, or convert it without --rgb.")
        stream.load_weights(file.tensors, where=where)


def branch_of_run(path: Path, key: str) -> tuple[Branch, nn.Module | None]:
    """The branch of this key in a run, or its only one; with its head if the run's fusion has one."""
    from multistream.runs.model_file import load_model  # a model is composed by this very module

    network = load_model(path).network
    names = list(network.branches)
    if key not in names and len(names) > 1:
        raise UsageError(f"streams.{key}", f"{path} has no branch {key!r}.", right=did_you_mean(key, names))
    name = key if key in names else names[0]
    heads = dict(network.fusion.heads.items())
    return network.branches[name], heads.get(name)


def map_shapes(stream: Stream, *, batch: int = 1) -> dict[str, tuple[int, ...]]:
    """The shapes (B, C, h, w) of a stream's maps, found without computing any."""
    with evaluating(stream), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        return {stage: tuple(m.shape) for stage, m in stream(example_input(stream, batch=batch)).items()}


def example_input(stream: Stream, *, batch: int = 1) -> Tensor:
    """A batch of zeros as this stream reads it."""
    match stream.input:
        case Image(size=size):
            return torch.zeros(batch, 3, size, size, dtype=torch.uint8)
        case Map(channels=channels, size=size):
            return torch.zeros(batch, channels, size, size)
        case Vector(width=width):
            return torch.zeros(batch, width)


def check_channels(stream: Stream, key: str) -> None:
    """Compares the declared channels with the maps; a ValueError does the arithmetic."""
    shapes = map_shapes(stream)
    for stage, channels in stream.channels.items():
        if len(shapes[stage]) != 4 or shapes[stage][1] != channels:
            raise ValueError(
                f"{key}: stage {stage!r} returns {('B', *shapes[stage][1:])} for an input of size "
                f"{example_input(stream).shape[-1]}, but {channels} channels are declared: "
                f"it must return (B, {channels}, h, w)."
            )


def _by_key(streams: Mapping[str, str | Stream] | Sequence[str]) -> dict[str, Spec | Stream]:
    """Every stream by its key; a sequence of specs brings its own keys."""
    if not streams:
        raise UsageError("streams", "none is given.", right="At least one is needed, as in --streams object,anp.")
    if isinstance(streams, Mapping):
        for key in streams:
            check_key(key)
        return {k: Spec.parse(v, key=k) if isinstance(v, str) else v for k, v in streams.items()}
    return {spec.key: spec for spec in parse_specs(streams)}


def build_stream(key: str, plan: BranchPlan) -> Stream:
    """The stream of a plan, newly initialised."""
    spec = Spec.parse(plan.stream, key=key)
    # A stream that declares `size` refuses an impossible one itself; the others are set to it below.
    known = dict(plan.known) | ({"size": plan.image_size} if plan.image_size else {})
    known = {name: value for name, value in known.items() if name not in plan.stream_options}
    stream: Stream = _built("stream", spec, plan.stream_options, known, Stream)
    if plan.image_size and isinstance(stream.input, Image):
        stream.input = replace(stream.input, size=plan.image_size)
    return stream


def build_taps(stream: Stream, plan: BranchPlan) -> dict[str, Tap]:
    """New taps for the stages of a stream, or for its last one, as the plan's tap wants it."""
    spec, options = Spec.parse(plan.tap, key="tap", where="tap"), plan.tap_options
    if spec.variant and spec.variant.isdecimal():  # gap:64 states the token's width
        options = {**options, "width": int(spec.variant)}
        spec = replace(spec, variant=None)
    taps = {stage: _built("tap", spec, options, {"channels": n}, Tap) for stage, n in stream.channels.items()}
    deepest = list(taps.items())[-1:]
    return dict(deepest) if deepest[0][1].last_only else taps


@dataclass(frozen=True)
class TemporalFactory:
    """Makes temporals of one spec. A class and no closure: networks are pickled."""

    spec: Spec
    options: Options

    def __call__(self, width: int, steps: int) -> Temporal:
        """A new temporal over `steps` tokens of this width."""
        made: Temporal = _built("temporal", self.spec, self.options, {"width": width, "steps": steps}, Temporal)
        return made


@dataclass(frozen=True)
class FusionFactory:
    """Makes fusions of one spec for K classes; `Solo` where there is one stream."""

    spec: Spec
    options: Options
    classes: int

    def __call__(self, widths: Mapping[str, int], heads: Mapping[str, nn.Module]) -> Fusion:
        """A new fusion of branches of these widths."""
        given = {"widths": widths, "classes": self.classes, "heads": heads}
        # Also for one stream: its spec and options are checked.
        made: Fusion = _built("fusion", self.spec, self.options, given, Fusion)
        return made if len(widths) > 1 else Solo(widths, classes=self.classes, heads=heads)


def _temporal_factory(text: str, options: Options) -> MakeTemporal:
    return TemporalFactory(Spec.parse(text, key="temporal", where="temporal"), options)


def fusion_factory(text: str, options: Options, *, classes: int) -> MakeFusion:
    """What makes the fusion of a spec."""
    return FusionFactory(Spec.parse(text, key="fusion", where="fusion"), options, classes)


def _built(kind: registry.Kind, spec: Spec, options: Options, given: Options, base: type[Any]) -> Any:
    """A part from the registry, which must be of the interface's class."""
    made = registry.build(kind, spec, options=options, given=given)
    if not isinstance(made, base):
        raise ValueError(f"{kind}s: {spec.name!r} made a {type(made).__name__}, not a multistream.{base.__name__}.")
    return made


def _take_head(network: MultiStream, key: str, head: nn.Module | None) -> bool:
    """Puts a run's head in the place of the new one, where the fusion has heads; says whether it did."""
    if head is None or key not in network.fusion.heads:
        return False
    network.fusion.heads[key] = head
    return True
