"""Variants: what is kept of a composition, in the order in which an axis walks through it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from multistream.errors import UsageError, did_you_mean
from multistream.network.network import MultiStream

Axis = Literal["depth", "taps", "streams"]
AXES: tuple[Axis, ...] = ("depth", "taps", "streams")
FUSIONS = ("early", "late", "gated")
"""The fusions that `streams` tries, with the recipe's own."""
MOST_TAPS = 10
"""1,023 subsets, each trained for every seed: more would take too long."""


@dataclass(frozen=True)
class Variant:
    """The stages of which the taps are kept, {key: stages}; a stream without an entry is gone. And the fusion's spec.

    `about` names the stream that is cut, on the axes that cut one.
    """

    keep: Mapping[str, tuple[str, ...]]
    fusion: str
    about: str = ""

    def label(self, whole: Variant) -> str:
        """The variant in a few words: stages are named where some of a stream's are missing.

        >>> whole = Variant({"object": ("a", "b", "c", "d"), "anp": ("vector",)}, "early")
        >>> Variant({"object": ("a", "b", "c"), "anp": ("vector",)}, "early").label(whole)
        'object a..c, anp; early'
        >>> Variant({"object": ("a", "c", "d")}, "early").label(whole), whole.label(whole)
        ('object a+c+d', 'object, anp; early')
        """
        parts = [f"{key} {_named(stages, whole.keep[key])}".rstrip() for key, stages in self.keep.items()]
        return ", ".join(parts) + (f"; {self.fusion}" if len(self.keep) > 1 else "")


def _named(stages: tuple[str, ...], everything: tuple[str, ...]) -> str:
    """Stages by name, a run of three or more by its ends; nothing where all are kept."""
    if stages == everything:
        return ""
    start = everything.index(stages[0]) if stages[0] in everything else 0
    if len(stages) > 2 and stages == everything[start : start + len(stages)]:
        return f"{stages[0]}..{stages[-1]}"
    return "+".join(stages)


def whole(network: MultiStream) -> Variant:
    """All that a network taps, under its own fusion."""
    keep = {key: tuple(branch.taps) for key, branch in network.branches.items()}
    return Variant(keep, network.fusion_plan[0])


def variants(network: MultiStream, axis: Axis, *, cut: str = "") -> tuple[Variant, ...]:
    """All variants of an axis, the whole composition last; `cut` names the one stream to be cut, else each is."""
    full = whole(network)
    if axis == "streams":
        if len(full.keep) < 2:
            right = "Leave-one-out needs at least two streams; with one, use --axis depth or --axis taps."
            raise UsageError(
                "--axis", "--axis streams needs several streams, but the composition has one.", right=right
            )
        found = list(_stream_subsets(full))
    else:
        found = [v for key in _cuttable(network, cut) for v in _cuts(full, key, axis, network)]
    rest = [variant for variant in dict.fromkeys(map(_Keyed, found)) if variant != _Keyed(full)]
    return (*(each.variant for each in rest), full)


@dataclass(frozen=True)
class _Keyed:
    """A variant that can be put into a set: equal where the same is kept under the same fusion."""

    variant: Variant

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and self._key == other._key

    @property
    def _key(self) -> tuple[object, ...]:
        fusion = self.variant.fusion if len(self.variant.keep) > 1 else ""
        return (tuple(self.variant.keep.items()), fusion)


def _cuttable(network: MultiStream, cut: str) -> Sequence[str]:
    """The streams that have stages to cut."""
    keys = [key for key, branch in network.branches.items() if not branch.is_vector]
    if cut and cut not in keys:
        raise UsageError("--cut", f"no stream with stages has the key {cut!r}.", right=did_you_mean(cut, keys))
    if not keys:
        raise UsageError("--axis", "no stream of this composition has stages.", do="Use --axis streams.")
    return [cut] if cut else keys


def _cuts(full: Variant, key: str, axis: Axis, network: MultiStream) -> Iterator[Variant]:
    """One stream's depths, or the subsets of its taps; the others whole."""
    branch = network.branches[key]
    names = tuple(branch.stream.stages)
    if axis == "depth":
        last_only = next(iter(branch.taps.values())).last_only
        for depth in range(1, len(names) + 1):
            kept = names[depth - 1 : depth] if last_only else names[:depth]
            yield Variant({**full.keep, key: kept}, full.fusion, about=key)
        return
    if tuple(branch.taps) != names:
        raise UsageError(
            "--axis",
            f"not all stages of {key} are tapped.",
            right="--axis taps needs a tap at every stage, such as gap:64.",
        )
    if len(names) > MOST_TAPS:
        what = f"{key} has {len(names)} taps, which make {2 ** len(names):,} subsets."
        raise UsageError("--axis", what, right=f"At most {MOST_TAPS} taps are allowed.")
    others = {k: v for k, v in full.keep.items() if k != key}
    if others:  # the empty coalition of the game
        yield Variant(others, full.fusion, about=key)
    for size in range(1, len(names) + 1):
        for subset in combinations(names, size):
            yield Variant({**full.keep, key: subset}, full.fusion, about=key)


def _stream_subsets(full: Variant) -> Iterator[Variant]:
    """Every stream alone, then all larger subsets under each fusion."""
    names = {spec.partition(":")[0].partition("@")[0]: spec for spec in (*FUSIONS, full.fusion)}
    for key, stages in full.keep.items():
        yield Variant({key: stages}, full.fusion)
    for fusion in names.values():
        for size in range(2, len(full.keep) + 1):
            for subset in combinations(full.keep.items(), size):
                yield Variant(dict(subset), fusion)
