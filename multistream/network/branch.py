"""A branch of the network, from a batch entry to one vector, and the check that a batch fits the branches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from multistream.errors import UsageError
from multistream.inputs import Image, Input, Vector
from multistream.interfaces import VECTOR, Stream, Tap, Temporal
from multistream.network.plan import BranchPlan
from multistream.nn.modules import Modules, shallow_copy
from multistream.parts.taps import MaskedTap, VectorTap

Batch = Mapping[str, Tensor | Mapping[str, Tensor]]
"""Entries by input name or stream key: images (B, C, S, S), vectors (B, D), or the pooled features of a stream."""

MakeTemporal = Callable[[int, int], Temporal]
"""(token width, steps) -> a new Temporal"""


class Branch(nn.Module):
    """A stream with its taps and its temporal: batch entry -> one vector (B, out_width).

    A stream that reads or returns a vector (B, D) has one tap, named `vector`, and no temporal.
    """

    stream: Stream
    taps: Modules[Tap]
    temporal: Temporal | None

    def __init__(
        self,
        stream: Stream,
        *,
        taps: Mapping[str, Tap],
        make_temporal: MakeTemporal | None,
        plan: BranchPlan | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.stream = stream
        self.taps = Modules(taps)
        self.make_temporal = make_temporal
        width = next(iter(taps.values())).width
        self.temporal = make_temporal(width, len(taps)) if make_temporal else None
        self.out_width = self.temporal.out_width if self.temporal else width

    @property
    def is_vector(self) -> bool:
        """Whether the tapped stage is a vector (B, D): the stream reads one, or its network ends in one."""
        return VECTOR in self.taps

    @property
    def reads_vector(self) -> bool:
        """Whether the stream reads a Vector, so that it runs no network."""
        return isinstance(self.stream.input, Vector)

    @property
    def is_cacheable(self) -> bool:
        """Whether training needs `pool` only once: the stream is frozen and all taps are cacheable."""
        return self.stream.is_frozen and all(tap.cacheable for tap in self.taps.values())

    def make_head(self, classes: int) -> nn.Module:
        """A new classifier of this branch alone: (B, out_width) -> logits (B, classes)."""
        return self.stream.make_head(self.out_width, classes)

    def entry(self, key: str, batch: Batch) -> str:
        """The name of this branch's entry in a batch: its own key if the batch has it, else its input's name."""
        return key if key in batch else self.stream.input.name

    def pool(self, x: Tensor) -> dict[str, Tensor]:
        """The stream's input -> {stage: (B, P) float32}; without gradients if the stream is frozen.

        An input that requires gradients gets them, because explanation differentiates frozen streams too.
        """
        is_still = self.stream.is_frozen and not x.requires_grad
        with torch.no_grad() if is_still else nullcontext():
            maps = self.stream(x)
        # A pool with trainable parameters (not cacheable) trains even if the stream is frozen.
        with torch.no_grad() if is_still and self.is_cacheable else nullcontext():
            return {stage: tap.pool(maps[stage]) for stage, tap in self.taps.items()}

    def tokens(self, pooled: Mapping[str, Tensor]) -> Tensor:
        """{stage: (B, P)} -> tokens (B, T, W)."""
        return torch.stack([tap.project(pooled[stage]) for stage, tap in self.taps.items()], dim=1)

    def forward(self, pooled: Mapping[str, Tensor]) -> Tensor:
        """{stage: (B, P)} -> (B, out_width)."""
        tokens_BTW = self.tokens(pooled)
        return self.temporal(tokens_BTW) if self.temporal else tokens_BTW.squeeze(1)

    @property
    def raw_mean(self) -> Tensor:
        """(D,) the training mean of the vectors that this branch reads, before any scaling."""
        tap = self.taps[VECTOR]
        assert isinstance(tap, VectorTap)
        return tap.raw_mean

    def truncate(self, depth: int) -> Branch:
        """The first `depth` stages with their taps, shared; the temporal is new and untrained."""
        stream = self.stream.truncate(depth)
        if set(self.taps) == set(self.stream.stages):
            kept = {stage: self.taps[stage] for stage in stream.stages}
            plan = replace(self.plan, depth=depth) if self.plan else None
            return Branch(stream, taps=kept, make_temporal=self.make_temporal, plan=plan)
        raise UsageError(
            "truncate", "the stages are not all tapped.", right="Truncation needs a tap at every stage, as gap:64 is."
        )

    def mask(self, stages: Iterable[str]) -> Branch:
        """The same branch, sharing all weights, in which the taps of these stages return the training mean."""
        new = shallow_copy(self)
        new.taps = Modules({s: MaskedTap(tap) if s in stages else tap for s, tap in self.taps.items()})
        return new


def checked_batch(batch: Batch | Tensor, branches: Mapping[str, Branch]) -> Batch:
    """Returns the batch by input name; a tensor is accepted if all streams read the same input.

    Checks only types and shapes. Raises UsageError if they do not fit.
    """
    names = list(dict.fromkeys(branch.stream.input.name for branch in branches.values()))
    if isinstance(batch, Tensor) and len(names) == 1:
        batch = {names[0]: batch}
    if not isinstance(batch, Mapping):
        raise UsageError("batch", f"a {type(batch).__name__} was given.", right=_wanted(branches))
    rows: dict[str, int] = {}
    for key, branch in branches.items():
        entry = branch.entry(key, batch)
        if entry not in batch:
            found = f" It has {', '.join(map(repr, batch))}." if batch else ""
            raise UsageError("batch", f"{entry!r} is missing.{found}", right=_wanted(branches))
        given = batch[entry]
        if not isinstance(given, Mapping):  # a mapping holds pooled features
            _check_entry(entry, given, branch.stream.input)
            rows[entry] = given.shape[0]  # not len(), which torch.export takes for a constant
    if any(count != next(iter(rows.values())) for count in rows.values()):
        raise UsageError("batch", f"its entries have {rows} rows.", right="All must have the same number of rows.")
    return batch


def _wanted(branches: Mapping[str, Branch]) -> str:
    inputs = {branch.stream.input.name: branch.stream.input for branch in branches.values()}
    entries = ", ".join(f"{name!r}: {_form(each)}" for name, each in inputs.items())
    return f"It must be a mapping of tensors: {{{entries}}}."


def _form(wanted: Input) -> str:
    if isinstance(wanted, Image):
        return "uint8 (B, 3, H, W)"
    return f"float32 (B, {wanted.width})" if isinstance(wanted, Vector) else f"float32 (B, {wanted.channels}, H, W)"


def _check_entry(name: str, entry: object, wanted: Input) -> None:
    """Raises UsageError for an entry that is not a tensor of the input's shape, and for images that are not integers.

    Floating-point images are accepted if they require gradients, because uint8 cannot be differentiated.
    """
    where = f"batch[{name!r}]"
    if not isinstance(entry, Tensor):
        raise UsageError(where, f"it is a {type(entry).__name__}.", right=f"It must be a tensor, {_form(wanted)}.")
    width = wanted.width if isinstance(wanted, Vector) else 3 if isinstance(wanted, Image) else wanted.channels
    if entry.ndim != (2 if isinstance(wanted, Vector) else 4) or entry.shape[1] != width:
        raise UsageError(where, f"its shape is {tuple(entry.shape)}.", right=f"It must be {_form(wanted)}.")
    if isinstance(wanted, Image) and entry.is_floating_point() and not entry.requires_grad:
        right = "Images must be uint8, with values from 0 to 255."
        do = (
            "For [0, 1] pass (x * 255).round().byte(), or load without ToTensor's scaling; for floating-point numbers "
            "from 0 to 255 call net.classify(net.pool(batch))."
        )
        raise UsageError(where, f"it is {str(entry.dtype).removeprefix('torch.')}.", right=right, do=do)
