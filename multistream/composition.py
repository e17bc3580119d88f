"""compose: from names, specs and instances to a MultiStream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from multistream import registry
from multistream.errors import UsageError, WeightsError, did_you_mean
from multistream.inputs import Image, Map, Vector
from multistream.interfaces import VECTOR, Fusion, Stream, Tap, Temporal
from multistream.modes import evaluating
from multistream.network import Branch, MakeFusion, MakeTemporal, MultiStream
from multistream.parts.fusions import Solo
from multistream.parts.taps import VectorTap
from multistream.spec import Spec, check_key, parse_specs
from multistream.weights import from_hub, read_tensors

Options = Mapping[str, Any]


def compose(
    streams: Mapping[str, str | Stream | Branch] | Sequence[str],
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
    make_temporal = _temporal_factory(temporal, options.get("temporal", {}))
    branches, heads = {}, {}
    for key, given in specs.items():
        if isinstance(given, Spec) and given.run is not None:
            branches[key], heads[key] = _from_run(given.run, key)
        elif isinstance(given, Branch):
            branches[key] = given
        else:
            stream = _stream(given, options.get("streams", {}).get(key, {}), known.get(key, {}), image_size)
            if key in weights:
                load_stream_weights(stream, weights[key], key=key)
            if key in depth:
                stream = _truncated(stream, depth[key], key)
            branches[key] = _branch(key, stream, tap, options.get("tap", {}), make_temporal)
    make_fusion = _fusion_factory(fusion, options.get("fusion", {}), classes=len(classes))
    network = MultiStream(branches, make_fusion=make_fusion, classes=classes)
    network.loaded_branches = frozenset(heads)
    network.loaded_heads = frozenset(key for key, head in heads.items() if _take_head(network, key, head))
    return network


def load_stream_weights(stream: Stream, source: str, *, key: str) -> None:
    """Loads a stream's weights from a file, a run, or the hub; `random` leaves its initialisation."""
    if source == "random":
        return
    if source == "hub":
        hub = stream.source.hub if stream.source else ""
        if not hub:
            raise WeightsError(
                f"weights.{key}", "no hub is known for this stream.", do=f"Give a file: --weights {key}=FILE."
            )
        stream.load_weights(from_hub(hub), where=f"weights.{key}")
    elif Path(source).expanduser().is_dir():
        branch, _ = _from_run(Path(source), key)
        stream.load_state_dict(branch.stream.state_dict())
    else:
        stream.load_weights(read_tensors(Path(source).expanduser()).tensors, where=f"weights.{key}")


def map_shapes(stream: Stream) -> dict[str, tuple[int, ...]]:
    """The shapes (1, C, h, w) of a stream's maps, found without computing any."""
    with evaluating(stream), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        return {stage: tuple(m.shape) for stage, m in stream(example_input(stream)).items()}


def example_input(stream: Stream, batch: int = 1) -> Tensor:
    """A batch of zeros as this stream reads it."""
    match stream.input:
        case Image(size=size):
            return torch.zeros(batch, 3, size, size, dtype=torch.uint8)
        case Map(channels=channels, size=size):
            return torch.zeros(batch, channels, size, size)
        case Vector(width=width):
            return torch.zeros(batch, width)


def _by_key(streams: Mapping[str, str | Stream | Branch] | Sequence[str]) -> dict[str, Spec | Stream | Branch]:
    """Every stream by its key; a sequence of specs brings its own keys."""
    if not streams:
        raise UsageError("streams", "none is given.", right="At least one is needed, as in --streams object,anp.")
    if isinstance(streams, Mapping):
        for key in streams:
            check_key(key)
        return {k: Spec.parse(v, key=k) if isinstance(v, str) else v for k, v in streams.items()}
    return {spec.key: spec for spec in parse_specs(streams)}


def _stream(given: Spec | Stream, options: Options, known: Options, image_size: int) -> Stream:
    if isinstance(given, Stream):
        return given
    stream = registry.build("stream", given, options=options, given=known)
    if not isinstance(stream, Stream):
        raise ValueError(f"streams: {given.name!r} made a {type(stream).__name__}, not a multistream.Stream.")
    if image_size and isinstance(stream.input, Image):
        stream.input = replace(stream.input, size=image_size)
    return stream


def _truncated(stream: Stream, depth: int, key: str) -> Stream:
    if not 1 <= depth <= len(stream.stages):
        raise UsageError(f"depth.{key}", f"{depth} is out of range.", right=f"It has 1 to {len(stream.stages)} stages.")
    return stream.truncate(depth)


def _branch(key: str, stream: Stream, tap: str, options: Options, make_temporal: MakeTemporal) -> Branch:
    """A stream with a tap at each stage that the tap wants; the declared channels are checked against the maps."""
    if isinstance(stream.input, Vector):
        return Branch(stream, taps={VECTOR: VectorTap(stream.input.width)}, make_temporal=None)
    shapes = map_shapes(stream)
    for stage, channels in stream.channels.items():
        if len(shapes[stage]) != 4 or shapes[stage][1] != channels:
            raise ValueError(
                f"{key}: stage {stage!r} returns {('B', *shapes[stage][1:])} for an input of size "
                f"{example_input(stream).shape[-1]}, but {channels} channels are declared: "
                f"it must return (B, {channels}, h, w)."
            )
    spec = Spec.parse(tap, key="tap", where="tap")
    if spec.variant and spec.variant.isdecimal():  # gap:64 states the token's width
        spec, options = replace(spec, variant=None), {**options, "width": int(spec.variant)}
    taps = {c: registry.build("tap", spec, options=options, given={"channels": n}) for c, n in stream.channels.items()}
    for made in taps.values():
        if not isinstance(made, Tap):
            raise ValueError(f"taps: {spec.name!r} made a {type(made).__name__}, not a multistream.Tap.")
    if next(iter(taps.values())).last_only:
        taps = dict(list(taps.items())[-1:])
    return Branch(stream, taps=taps, make_temporal=make_temporal)


def _temporal_factory(text: str, options: Options) -> MakeTemporal:
    spec = Spec.parse(text, key="temporal", where="temporal")

    def make(width: int, steps: int) -> Temporal:
        made = registry.build("temporal", spec, options=options, given={"width": width, "steps": steps})
        if not isinstance(made, Temporal):
            raise ValueError(f"temporals: {text!r} made a {type(made).__name__}, not a multistream.Temporal.")
        return made

    return make


def _fusion_factory(text: str, options: Options, *, classes: int) -> MakeFusion:
    spec = Spec.parse(text, key="temporal", where="temporal")

    def make(widths: Mapping[str, int], heads: Mapping[str, nn.Module]) -> Fusion:
        given = {"widths": widths, "classes": classes, "heads": heads}
        made = registry.build("fusion", spec, options=options, given=given)
        if not isinstance(made, Fusion):
            raise ValueError(f"fusions: {text!r} made a {type(made).__name__}, not a multistream.Fusion.")
        return made if len(widths) > 1 else Solo(widths, classes=classes, heads=heads)

    return make


def _from_run(path: Path, key: str) -> tuple[Branch, nn.Module | None]:
    """The branch of this key in a run, with its head if the run's fusion has one."""
    from multistream.model import load  # a model is composed by this very module

    network = load(path).network
    names = list(network.branches)
    name = key if key in names else names[0]
    if key not in names and len(names) > 1:
        raise UsageError(f"streams.{key}", f"{path} has no branch {key!r}.", right=did_you_mean(key, names))
    return network.branches[name], network.fusion.heads[name] if name in network.fusion.heads else None  # noqa: SIM401


def _take_head(network: MultiStream, key: str, head: nn.Module | None) -> bool:
    """Puts a run's head in the place of the new one, where the fusion has heads; says whether it did."""
    if head is None or key not in network.fusion.heads:
        return False
    network.fusion.heads[key] = head
    return True
