"""Variants: the parts of a composition that are kept, listed for each axis of an ablation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Literal, TypeVar

from multistream.errors import UsageError, did_you_mean
from multistream.network.branch import Branch
from multistream.network.network import MultiStream

Item = TypeVar("Item")
Axis = Literal["depth", "taps", "streams"]
AXES: tuple[Axis, ...] = ("depth", "taps", "streams")
FUSIONS = ("early", "late", "gated")
"""The fusions on the axis `streams`, in addition to the recipe's own."""
FUSIONS_OF_LABEL_SETS = ("early",)
"""The same for images with several labels; late and gated average probabilities that sum to 1."""
MOST_TAPS = 10
"""The largest number of taps (1,023 subsets, each trained for every seed): more would take too long."""


@dataclass(frozen=True)
class Variant:
    """The stages whose taps are kept, {key: stages}, and the spec of the fusion; streams without an entry are removed.

    `about` is the key of the stream that is cut, on the axes `depth` and `taps`.
    """

    keep: Mapping[str, tuple[str, ...]]
    fusion: str
    about: str = ""

    def label(self, whole: Variant) -> str:
        """Describes the variant in a few words; stages are named if some of the stream's stages are missing.

        >>> whole = Variant({"object": ("a", "b", "c", "d"), "anp": ("vector",)}, "early")
        >>> Variant({"object": ("a", "b", "c"), "anp": ("vector",)}, "early").label(whole)
        'object a..c, anp; early'
        >>> Variant({"object": ("a", "c", "d")}, "early").label(whole), whole.label(whole)
        ('object a+c+d', 'object, anp; early')
        """
        parts = [f"{key} {_named(stages, whole.keep[key])}".rstrip() for key, stages in self.keep.items()]
        return ", ".join(parts) + (f"; {self.fusion}" if len(self.keep) > 1 else "")


def _named(stages: tuple[str, ...], everything: tuple[str, ...]) -> str:
    """Names stages, three or more consecutive ones by the first and last; an empty string if all are kept."""
    if stages == everything:
        return ""
    start = everything.index(stages[0]) if stages[0] in everything else 0
    if len(stages) > 2 and stages == everything[start : start + len(stages)]:
        return f"{stages[0]}..{stages[-1]}"
    return "+".join(stages)


def whole(network: MultiStream) -> Variant:
    """Returns the variant of the complete network: all its taps and its own fusion."""
    keep = {key: tuple(branch.taps) for key, branch in network.branches.items()}
    return Variant(keep, network.fusion_plan[0])


def variants(network: MultiStream, axis: Axis, *, cut: str = "") -> tuple[Variant, ...]:
    """Lists all variants of an axis, the complete network last; `cut` is the only stream to cut, "" cuts each."""
    full = whole(network)
    if axis == "streams":
        if cut:
            do = "Omit --cut, or use --axis depth or --axis taps."
            raise UsageError("--cut", "--axis streams removes whole streams and cuts none.", do=do)
        fusions = FUSIONS_OF_LABEL_SETS if network.label_sets else FUSIONS
        listed = list(_stream_subsets(full, fusions))
    elif axis == "depth":
        listed = [variant for key in _cuttable(network, cut) for variant in _depths(full, key, network.branches[key])]
    else:
        listed = [
            variant for key in _cuttable(network, cut) for variant in _tap_subsets(full, key, network.branches[key])
        ]
    different: dict[object, Variant] = {}
    for variant in listed:
        different.setdefault(_identity(variant), variant)
    different.pop(_identity(full), None)
    return (*different.values(), full)


def _identity(variant: Variant) -> tuple[object, ...]:
    """Returns a key that is equal for equal variants; the fusion of a single stream is ignored."""
    return (*variant.keep.items(), variant.fusion if len(variant.keep) > 1 else "")


def _cuttable(network: MultiStream, cut: str) -> Sequence[str]:
    """Returns the keys of the streams to cut. Raises UsageError if no stream has stages."""
    keys = [key for key, branch in network.branches.items() if not branch.is_vector]
    if cut and cut not in keys:
        raise UsageError("--cut", f"no stream with stages has the key {cut!r}.", right=did_you_mean(cut, keys))
    if not keys:
        raise UsageError("--axis", "no stream of this network has stages.", do="Use --axis streams.")
    return [cut] if cut else keys


def _depths(full: Variant, key: str, branch: Branch) -> Iterator[Variant]:
    """Yields every depth of one stream; the other streams are complete."""
    names = tuple(branch.stream.stages)
    last_only = next(iter(branch.taps.values())).last_only
    for depth in range(1, len(names) + 1):
        kept = names[depth - 1 : depth] if last_only else names[:depth]
        yield Variant({**full.keep, key: kept}, full.fusion, about=key)


def _tap_subsets(full: Variant, key: str, branch: Branch) -> Iterator[Variant]:
    """Yields the subsets of one stream's taps; the first is the empty coalition: the network without the stream."""
    names = tuple(branch.stream.stages)
    if tuple(branch.taps) != names:
        right = "--axis taps needs a tap at every stage, such as gap:64."
        raise UsageError("--axis", f"not all stages of {key} are tapped.", right=right)
    if len(names) > MOST_TAPS:
        what = f"{key} has {len(names)} taps, which make {2 ** len(names):,} subsets."
        raise UsageError("--axis", what, right=f"At most {MOST_TAPS} taps are allowed.")
    others = {k: v for k, v in full.keep.items() if k != key}
    if others:
        yield Variant(others, full.fusion, about=key)
    for subset in _subsets(names, smallest=1):
        yield Variant({**full.keep, key: subset}, full.fusion, about=key)


def _stream_subsets(full: Variant, fusions: Sequence[str]) -> Iterator[Variant]:
    """Yields every stream alone, then all larger subsets with each fusion."""
    if len(full.keep) < 2:
        right = "Leave-one-out needs at least two streams; with one, use --axis depth or --axis taps."
        raise UsageError("--axis", "--axis streams needs several streams, but the composition has one.", right=right)
    names = {spec.partition(":")[0].partition("@")[0]: spec for spec in (*fusions, full.fusion)}
    for key, stages in full.keep.items():
        yield Variant({key: stages}, full.fusion)
    for fusion in names.values():
        for subset in _subsets(tuple(full.keep.items()), smallest=2):
            yield Variant(dict(subset), fusion)


def _subsets(items: Sequence[Item], *, smallest: int) -> Iterator[tuple[Item, ...]]:
    return chain.from_iterable(combinations(items, size) for size in range(smallest, len(items) + 1))
