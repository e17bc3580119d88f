"""Checks the shapes of a network's parts when it is composed; an error names the part and both shapes.

The checks compute shapes only. An exception in a plugin's code becomes a PluginError of one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from multistream.errors import UsageError
from multistream.inputs import Vector
from multistream.interfaces import VECTOR, FusionOutput, Tap
from multistream.network.branch import Branch
from multistream.network.network import MultiStream
from multistream.nn.modules import evaluating
from multistream.nn.shapes import without_numbers
from multistream.registry import PLURALS, Kind, Owner, owner_of, owner_of_instance
from multistream.spec import Spec

BATCH = 2
"""Images in the batch that the checks pass through the network."""

_CHECKED: set[tuple[object, ...]] = set()
"""The plans of branches that passed in this process, each with the classes of its parts."""


def check_branch(key: str, branch: Branch) -> None:
    """Raises PluginError if the shapes of a branch's maps, pooled features, tokens or vector are not as declared.

    A plan is checked once in a process, because a stream with batch norm takes half a second.
    """
    parts = (branch.stream, next(iter(branch.taps.values()), None), branch.temporal)
    plan = (repr(branch.plan), *map(type, parts))
    if plan in _CHECKED:
        return
    with evaluating(branch):
        without_numbers(partial(_check_branch, key, branch))
    if branch.plan is not None and not branch.plan.is_instance:
        _CHECKED.add(plan)


def check_fusion(network: MultiStream) -> None:
    """Compares the logits of every head and of the fusion with the network's classes.

    Raises PluginError for wrong shapes, UsageError for a fusion that does not support label sets.
    """
    _check_label_sets(network)
    with evaluating(network):
        without_numbers(partial(_check_fusion, network))


@torch.no_grad()
def _check_branch(key: str, branch: Branch) -> None:
    maps = _checked_maps(key, branch)
    tokens = [_checked_token(_owner("tap", branch), stage, tap, maps[stage]) for stage, tap in branch.taps.items()]
    if branch.temporal is None:
        return
    owner = _owner("temporal", branch)
    with owner.running("forward"):
        vector = branch.temporal(torch.stack(tokens, dim=1))
        weights = branch.temporal.attention(torch.stack(tokens, dim=1))
    width, steps = branch.temporal.out_width, len(tokens)
    asked = f"of {steps} tokens of width {tokens[0].shape[1]} it"
    _require(owner, f"{asked} returns", vector, (BATCH, width), f"out_width is {width}")
    if weights is not None:
        _require(owner, f"{asked}s attention is", weights, (BATCH, steps), "attention is one number a step")


def _checked_maps(key: str, branch: Branch) -> dict[str, Tensor]:
    """The maps of the example input, after checking them against the declared stages and channels."""
    stream, owner = branch.stream, stream_owner(key, branch)
    with owner.running("forward"):
        maps: dict[str, Tensor] = stream(stream.example_input(batch=BATCH))
    if not isinstance(maps, Mapping) or list(maps) != list(stream.channels):
        names = list(maps) if isinstance(maps, Mapping) else type(maps).__name__
        raise owner.broken(f"forward returns {names}, but its stages are {list(stream.channels)}")
    if isinstance(stream.input, Vector):
        width = stream.input.width
        _require(owner, "forward returns", maps[VECTOR], (BATCH, width), f"its input has width {width}")
        return maps
    for stage, channels in stream.channels.items():
        output = maps[stage]
        if stage == VECTOR:
            _require(owner, f"stage {VECTOR!r} returns", output, (BATCH, channels), f"{channels} channels are declared")
            continue
        if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[1] != channels:
            size = stream.example_input().shape[-1]
            raise owner.broken(
                f"stage {stage!r} returns {_shape(output)} for an input of size {size}, but {channels} channels are "
                f"declared: it must return ('B', {channels}, h, w)"
            )
    return maps


def _checked_token(owner: Owner, stage: str, tap: Tap, map_BChw: Tensor) -> Tensor:
    """The token of a map, after checking pooled features and token against the tap's declared widths."""
    with owner.running("pool"), torch.enable_grad():
        pooled = tap.pool(map_BChw)
    for_map = f"pool of a map {_shape(map_BChw)} (stage {stage!r}) returns"
    _require(owner, for_map, pooled, (BATCH, tap.pooled_width), f"pooled_width is {tap.pooled_width}")
    if pooled.requires_grad and tap.cacheable:
        raise owner.broken("pool has parameters that train, but cacheable is True: set cacheable = False")
    with owner.running("project"):
        token = tap.project(pooled.detach())
    _require(owner, f"project of {_shape(pooled)} returns", token, (BATCH, tap.width), f"width is {tap.width}")
    return token


@torch.no_grad()
def _check_fusion(network: MultiStream) -> None:
    classes, fusion = len(network.classes), network.fusion
    vectors = {key: torch.zeros(BATCH, branch.out_width) for key, branch in network.branches.items()}
    owner = fusion_owner(network)
    for key, head in fusion.heads.items():
        if key in vectors:
            head_owner = stream_owner(key, network.branches[key])
            with head_owner.running("its head"):
                logits = head(vectors[key])
            shape = _shape(vectors[key])
            _require(
                head_owner, f"its head returns for {shape}", logits, (BATCH, classes), f"there are {classes} classes"
            )
    with owner.running("forward"):
        output = fusion(vectors)
    if not isinstance(output, FusionOutput):
        raise owner.broken(f"forward returns {_shape(output)}; it must return a multistream.FusionOutput")
    for name, logits in {"logits": output.logits, **{f"streams[{k!r}]": v for k, v in output.streams.items()}}.items():
        _require(owner, f"its {name} are", logits, (BATCH, classes), f"there are {classes} classes")
    if unknown := set(output.streams) - set(vectors):
        raise owner.broken(f"streams holds {sorted(unknown)}; the streams are {sorted(vectors)}")


def _check_label_sets(network: MultiStream) -> None:
    """Raises UsageError if an image may have several classes and the fusion predicts only one."""
    if network.label_sets and network.fusion.one_class:
        what = f"{network.fusion_plan[0]} gives probabilities that sum to 1, and an image may have several labels here."
        raise UsageError("fusion", what, do="Pass --fusion early.")


def stream_owner(key: str, branch: Branch) -> Owner:
    """The owner of a branch's stream: a plugin, or the class of an instance."""
    if branch.plan is None or branch.plan.is_instance:
        return owner_of_instance(branch.stream, where=f"streams.{key}")
    return owner_of("stream", Spec.parse(branch.plan.stream, key=key), where=f"streams.{key}")


def fusion_owner(network: MultiStream) -> Owner:
    """The owner of a network's fusion."""
    text, _ = network.fusion_plan
    if not text:
        return owner_of_instance(network.fusion, where="fusion")
    return owner_of("fusion", Spec.parse(text, key="fusion", where="fusion"))


def _owner(kind: Kind, branch: Branch) -> Owner:
    """The owner of a branch's tap or temporal; the tap of a vector belongs to this package."""
    part = next(iter(branch.taps.values())) if kind == "tap" else branch.temporal
    if branch.plan is None or branch.is_vector:
        return owner_of_instance(part, where=PLURALS[kind])
    text = branch.plan.tap if kind == "tap" else branch.plan.temporal
    return owner_of(kind, Spec.parse(text, key=kind, where=kind))


def _require(owner: Owner, what: str, value: object, wanted: tuple[int, int], why: str) -> None:
    """Raises PluginError for a value that is not a tensor of the `wanted` shape."""
    if not isinstance(value, Tensor) or tuple(value.shape) != wanted:
        raise owner.broken(f"{what} {_shape(value)}, but {why}: it must be ('B', {wanted[1]})")


def _shape(value: object) -> str:
    """A tensor's shape for a message, its batch as 'B'; the type of anything else."""
    return str(("B", *value.shape[1:])) if isinstance(value, Tensor) else f"a {type(value).__name__}"
