"""compose: builds a network from names, specs, runs and instances. Branches of runs are loaded here."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from multistream.data.side_inputs import known_of_vectors
from multistream.data.table import Table
from multistream.errors import MultistreamWarning, UsageError, WeightsError, check_known, did_you_mean
from multistream.inputs import Image
from multistream.interfaces import Stream
from multistream.network.branch import Branch
from multistream.network.checks import check_fusion
from multistream.network.compose import build_branch, build_stream, fusion_factory, plan_of
from multistream.network.network import MultiStream
from multistream.network.plan import BranchPlan, Options
from multistream.nn.seeding import drawn_seed, initializing
from multistream.recipe import Recipe
from multistream.registry import Kind, pinned
from multistream.runs.compose_arguments import check_classes, check_keys, streams_by_key
from multistream.runs.model_file import load_model
from multistream.spec import INSTANCE, Spec
from multistream.weights import from_hub, read_tensors

UNKNOWN_DATA = "<unknown>"
"""The data set of a network that was trained outside this library. No file has this name."""


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
    seed: int | None = None,
    label_sets: bool = False,
) -> MultiStream:
    """Composes a network of streams, given by spec (`object`, `places:resnet18`, `runs/o`) or as instances.

    `weights` maps keys to a file, a run, `hub` or `random`; other streams are initialised at random, but instances are
    not changed. Nothing is frozen: call `freeze`. `options` are those of components: `{"tap": {...}, "temporal": {...},
    "fusion": {...}, "streams": {key: {...}}}`. `depth` keeps the first n stages of a stream; `image_size` replaces the
    streams' own. `known` contains, by key, the properties of a stream that the data set determines (`width`,
    `vocabulary`); a factory receives those in its signature. Each component is initialised from (seed, key, component),
    independently of the others; if `seed` is None, it is drawn from torch's global generator. With `label_sets`, an
    image may have several classes. All shapes are checked once. Raises UsageError, PluginError (69) and WeightsError
    (69).

    >>> import torch
    >>> from multistream import streams
    >>> anp = streams["anp"]
    >>> net = compose({"anp": anp(width=12)}, classes=["awe", "fear"])
    >>> net({"anp": torch.zeros(2, 12)}).shape
    torch.Size([2, 2])
    """
    check_classes(classes)
    options, weights, depth, known = options or {}, weights or {}, depth or {}, known or {}
    seed = drawn_seed() if seed is None else seed
    check_known(options, ("streams", "tap", "temporal", "fusion", "loss"), where="options")
    specs = streams_by_key(streams)
    check_keys(specs, {"weights": weights, "depth": depth, "options.streams": options.get("streams", {})})
    tap, temporal = _pinned("tap", tap), _pinned("temporal", temporal)
    branches, loaded = dict[str, Branch](), dict[str, nn.Module | None]()
    for key, given in specs.items():
        if isinstance(given, Spec) and given.run is not None:
            branches[key], loaded[key] = branch_of_run(given.run, key)
            continue
        settings = {"depth": depth.get(key, 0), "image_size": image_size, "known": known.get(key, {})}
        plan = _new_plan(key, given, options, tap=tap, temporal=temporal, **settings)
        branches[key] = _new_branch(key, given, plan, weights=weights.get(key, "random"), seed=seed)
    fusion, fusion_options = _pinned("fusion", fusion), options.get("fusion", {})
    network = MultiStream(
        branches,
        make_fusion=fusion_factory(fusion, fusion_options, classes=len(classes)),
        classes=classes,
        fusion_plan=(fusion, fusion_options),
        loaded=loaded,
        seed=seed,
        label_sets=label_sets,
    )
    check_fusion(network)
    return network


def _new_plan(key: str, given: Spec | Stream, options: Mapping[str, Options], **settings: Any) -> BranchPlan:
    """Returns the plan of a new branch; `settings` are further fields of BranchPlan."""
    return BranchPlan(
        _stream_text(key, given),
        stream_options=options.get("streams", {}).get(key, {}),
        tap_options=options.get("tap", {}),
        temporal_options=options.get("temporal", {}),
        **settings,
    )


def branch_of_run(path: Path, key: str) -> tuple[Branch, nn.Module | None]:
    """Loads the branch of this key from a run, or its only branch; with its head if the run's fusion has one."""
    network = load_model(path).network
    names = list(network.branches)
    if key not in names and len(names) > 1:
        raise UsageError(f"streams.{key}", f"{path} has no branch {key!r}.", right=did_you_mean(key, names))
    name = key if key in names else names[0]
    return network.branches[name], dict(network.fusion.heads.items()).get(name)


def load_stream_weights(stream: Stream, source: str, *, key: str) -> None:
    """Loads a stream's weights from a file, a run, or the hub; `random` keeps its initialisation."""
    where = f"weights.{key}"
    if not isinstance(source, str | os.PathLike):
        right = "It must be a file, a run, hub or random."
        do = "For tensors in memory pass the stream itself, after stream.load_weights(tensors)."
        raise UsageError(where, f"a {type(source).__name__} was given.", right=right, do=do)
    if source == "random":
        return
    if source == "hub":
        if not (stream.source and stream.source.hub):
            raise WeightsError(where, "this stream has no hub weights.", do=f"Pass a file: --weights {key}=FILE.")
        stream.load_weights(from_hub(stream.source.hub), where=where)
        return
    path = Path(source).expanduser()
    if path.is_dir():
        stream.load_state_dict(branch_of_run(path, key)[0].stream.state_dict())
    else:
        _load_weight_file(stream, path, where=where)


def _load_weight_file(stream: Stream, path: Path, *, where: str) -> None:
    """Loads a stream's weights from a file of any format; warns if the file has a second set of weights."""
    file = read_tensors(path)
    if file.unused:
        names = ", ".join(file.unused)
        text = f"{where}: {path} also holds {names}; used: {'; '.join(file.notes[:1])}"
        warnings.warn(text, MultistreamWarning, stacklevel=2)
    # Swapped colour channels cannot be detected from the tensors; they cost accuracy without an error.
    if isinstance(stream.input, Image) and (stream.input.channels, file.metadata.get("channels")) == ("BGR", "RGB"):
        what = f"{path} was converted to RGB, but this stream uses BGR."
        raise WeightsError(where, what, do="Pass the original file, or convert it without --rgb.")
    stream.load_weights(file.tensors, where=where)


def compose_network(recipe: Recipe, table: Table, *, streams: Mapping[str, Stream] | None) -> MultiStream:
    """Composes the recipe's network, initialised from its seed; the state of torch's generator does not change.

    Instances are copied, so that every training starts with the caller's weights. Otherwise a fold would start with
    the weights of the previous fold, which were trained on photos that this fold tests.
    """
    given: dict[str, str | Stream] = {**recipe.network.streams, **copy.deepcopy(dict(streams or {}))}
    named = {key: text for key, text in given.items() if isinstance(text, str)}
    # A stream may have to be built to find its input.
    with initializing(recipe.training.seed, "", "inputs"):
        known = known_of_vectors(named, table, recipe.network.inputs, options=recipe.options.streams)
    label_sets = table.label_sets is not None
    return compose_recipe(
        recipe, classes=table.classes, streams=given, known=known, seed=recipe.training.seed, label_sets=label_sets
    )


def compose_recipe(
    recipe: Recipe, *, classes: Sequence[str], streams: Mapping[str, str | Stream] | None = None, **settled: Any
) -> MultiStream:
    """Composes the recipe's network for these classes; `settled` are further arguments of `compose`."""
    return compose(
        streams or recipe.network.streams,
        classes=classes,
        tap=recipe.network.tap,
        temporal=recipe.network.temporal,
        fusion=recipe.network.fusion,
        weights=recipe.network.weights,
        options=vars(recipe.options),
        depth=recipe.network.depth,
        image_size=recipe.data.image_size,
        **settled,
    )


def recipe_of(network: MultiStream) -> Recipe:
    """Returns a recipe with the components of a network that was composed without one; its data set is unknown.

    Taps and temporal modules are those of the first stream with stages.
    """
    plan = plan_of(network)
    branches = plan.branches
    with_stages = (each for key, each in branches.items() if not network.branches[key].is_vector)
    first = next(with_stages, BranchPlan(INSTANCE))
    components = {"tap": first.tap_options, "temporal": first.temporal_options, "fusion": plan.fusion_options}
    streams = {key: each.stream_options for key, each in branches.items() if each.stream_options}
    return Recipe().updated(
        {
            "data": {"source": UNKNOWN_DATA, "image_size": first.image_size},
            "network": {
                "streams": {key: each.stream or INSTANCE for key, each in branches.items()},
                "tap": first.tap,
                "temporal": first.temporal,
                "fusion": plan.fusion,
                "depth": {key: each.depth for key, each in branches.items() if each.depth},
            },
            "options": {**components, "streams": streams},
        }
    )


def with_instances(recipe: Recipe, streams: Mapping[str, Stream]) -> Recipe:
    """Returns the recipe with streams passed as instances as `<instance>`. Raises UsageError if one is missing."""
    network = recipe.network.streams
    if missing := [key for key, text in network.items() if text == INSTANCE and key not in streams]:
        what = f"{', '.join(missing)} was given as a Python object, which cannot be saved in a recipe."
        given = ", ".join(f"{key!r}: ..." for key in missing)
        raise UsageError("streams", what, do=f"Pass it again, in Python: streams={{{given}}}.")
    return recipe.updated({"network": {"streams": {**network, **dict.fromkeys(streams, INSTANCE)}}})


def with_distributions(recipe: Recipe) -> Recipe:
    """Returns the recipe with the distribution of each third-party part: later installations do not change it."""
    network = recipe.network
    specs = {key: pinned("stream", Spec.parse(text, key=key)).part for key, text in network.streams.items()}
    parts = {"tap": _pinned("tap", network.tap), "temporal": _pinned("temporal", network.temporal)}
    parts["fusion"] = _pinned("fusion", network.fusion)
    loss = _pinned("loss", recipe.training.loss)
    return recipe.updated({"network": {"streams": specs, **parts}, "training": {"loss": loss}})


def settle_weights(recipe: Recipe, network: MultiStream, *, is_demo: bool) -> Recipe:
    """Raises WeightsError if a stream with published weights has none; on the demo set, it is set to random."""
    weights = dict(recipe.network.weights)
    for key, branch in network.branches.items():
        if key in weights or key in network.loaded_branches or not branch.stream.weights:
            continue
        if not is_demo:
            raise _without_weights(key, branch.stream)
        weights[key] = "random"
    return recipe.updated({"network": {"weights": weights}})


def _without_weights(key: str, stream: Stream) -> WeightsError:
    right = "Pretrained weights: a file (its own)."
    if source := stream.source:
        right = f"Pretrained weights: {source.file} ({source.trained_on}, {source.size}, licence {source.licence})."
    return WeightsError(
        f"weights.{key}",
        "this stream needs pretrained weights, but none were given.",
        right=right,
        do=f"Pass --weights {key}=FILE, {key}=hub to download them, or {key}=random to train from scratch.",
    )


def _stream_text(key: str, given: Spec | Stream) -> str:
    """Returns a stream's text in a plan. Raises UsageError if a recipe names an instance that was not passed again."""
    if isinstance(given, Stream):
        return INSTANCE
    if given.is_instance:
        what = f"{key!r} was given as a Python object, which cannot be saved in a recipe."
        raise UsageError("streams", what, do=f"Pass it again: streams={{{key!r}: ...}}.")
    return pinned("stream", given).part


def _new_branch(key: str, given: Spec | Stream, plan: BranchPlan, *, weights: str, seed: int) -> Branch:
    """Builds the branch of a plan: the stream (or instance) with its `weights`, its taps and its temporal module."""
    stream = given if isinstance(given, Stream) else build_stream(key, plan, seed=seed)
    plan = _without_files(plan, stream)
    load_stream_weights(stream, weights, key=key)
    return build_branch(key, plan, stream, seed=seed)


def _without_files(plan: BranchPlan, stream: Stream) -> BranchPlan:
    """Returns a plan that can rebuild the stream without the files it was built from."""
    settled = dict(stream.settled)
    options = {name: value for name, value in plan.stream_options.items() if name not in settled}
    return replace(plan, stream_options=options, known={**plan.known, **settled}) if settled else plan


def _pinned(kind: Kind, text: str) -> str:
    """Returns the spec of a tap, temporal, fusion or loss, with its distribution if it is a third-party part."""
    return pinned(kind, Spec.parse(text, key=kind, where=kind)).part
