"""The network: parallel branches and a fusion.

    batch -> pool: {key: {stage: (B, P)}} -> classify: logits (B, K)

`pool` runs the streams, and the feature cache stores its output. `classify` holds all that trains if the streams are
frozen: ablation trains it, explanation differentiates it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from multistream.errors import UsageError, check_known
from multistream.inputs import Input
from multistream.interfaces import VECTOR, Fusion, FusionOutput
from multistream.network.branch import Batch, Branch, checked_batch
from multistream.network.plan import Options
from multistream.nn.modules import Modules, shallow_copy
from multistream.nn.seeding import drawn_seed, initializing

Pooled = Mapping[str, Mapping[str, Tensor]]
"""{key: {stage: (B, P) float32}}"""

MakeFusion = Callable[[Mapping[str, int], Mapping[str, nn.Module]], Fusion]
"""({key: width}, {key: head}) -> a new Fusion"""


class MultiStream(nn.Module):
    """A network: its branches by key, and their fusion. `compose` returns it.

    `classes` names the K outputs; `fusion_plan` is the fusion's spec and options. `loaded` maps the branches that
    were taken from a run to their trained heads, or to None if the branch has no head or a new one.
    `trained` is False until training has ended (`mark_trained`), and for a truncated network.
    `prior` (K,) holds the fractions of the classes in the training data. New heads and the fusion are initialised from
    `seed`, or from torch's global generator if it is None. With `label_sets` an image may have several classes, with
    independent probabilities.
    """

    branches: Modules[Branch]
    fusion: Fusion
    prior: Tensor

    def __init__(
        self,
        branches: Mapping[str, Branch],
        *,
        make_fusion: MakeFusion,
        classes: Sequence[str],
        fusion_plan: tuple[str, Options] = ("", {}),
        loaded: Mapping[str, nn.Module | None] | None = None,
        trained: bool = False,
        seed: int | None = None,
        label_sets: bool = False,
    ) -> None:
        super().__init__()
        seed = drawn_seed() if seed is None else seed
        loaded_heads = {key: head for key, head in (loaded or {}).items() if head is not None}
        self.branches = Modules(branches)
        self.classes = tuple(classes)
        self.label_sets = label_sets
        self.make_fusion = make_fusion
        self.register_buffer("prior", torch.full((len(classes),), 1 / len(classes)))
        widths = {key: branch.out_width for key, branch in branches.items()}
        new = {key: branch for key, branch in branches.items() if key not in (loaded or {})}
        zero_shot = {k: h for k, b in new.items() if (h := b.stream.zero_shot_head(self.classes)) is not None}
        ready = {**zero_shot, **loaded_heads}
        heads = {k: ready[k] if k in ready else _new_head(k, b, len(classes), seed) for k, b in branches.items()}
        with initializing(seed, "", "fusion"):
            self.fusion = make_fusion(widths, heads)
        self.fusion_plan = fusion_plan
        self.loaded_branches = frozenset(loaded or {})
        """Keys of the branches that were loaded, trained, from a run."""
        self.loaded_heads = frozenset(loaded_heads) & set(self.fusion.heads)
        """Keys of the heads that were loaded, trained, from a run."""
        self.zero_shot_heads = frozenset(zero_shot) & set(self.fusion.heads)
        """Keys of the heads that need no training, because their streams provide them for these classes."""
        self._trained = trained
        self._temperature = 1.0

    @property
    def trained(self) -> bool:
        """Whether the whole network has been trained, its fusion included."""
        return self._trained

    @property
    def temperature(self) -> float:
        """The divisor of the logits in `probabilities`; 1 unless the network has been calibrated."""
        return self._temperature

    def probabilities(self, logits_BK: Tensor) -> Tensor:
        """softmax(logits / temperature), (B, K) float64; with label sets the logistic function of each logit."""
        scaled = logits_BK.double() / self._temperature
        return scaled.sigmoid() if self.label_sets else scaled.softmax(1)

    def calibrate(self, temperature: float) -> Self:
        """Sets the temperature, a number above 0."""
        self._temperature = temperature
        return self

    def mark_trained(self, prior: Tensor | None = None) -> Self:
        """Records that training has ended; `prior` (K,) are the fractions of the classes in the training data."""
        if prior is not None:
            self.prior.copy_(prior)
        self._trained = True
        return self

    @property
    def inputs(self) -> dict[str, Input]:
        """The input of each stream, by key."""
        return {key: branch.stream.input for key, branch in self.branches.items()}

    @property
    def picture_branches(self) -> dict[str, Branch]:
        """The branches that run a network on photos or maps; the others read vectors."""
        return {key: branch for key, branch in self.branches.items() if not branch.reads_vector}

    @property
    def raw_means(self) -> dict[str, NDArray[np.float32]]:
        """The vectors (D,), by key, that replace missing vectors if the policy for them is the mean."""
        branches = {key: branch for key, branch in self.branches.items() if branch.reads_vector}
        return {key: branch.raw_mean.cpu().numpy() for key, branch in branches.items()}

    def pool(self, batch: Batch) -> dict[str, dict[str, Tensor]]:
        """Runs the streams: batch -> {key: {stage: (B, P) float32}}.

        A batch entry under a stream's key takes precedence over one under its input's name. It may hold the stream's
        pooled features; the stream then does not run.
        """
        return {key: _pooled(branch, batch[branch.entry(key, batch)]) for key, branch in self.branches.items()}

    def fuse(self, pooled: Pooled, present: frozenset[str] | None = None) -> FusionOutput:
        """Runs everything after the pooling: {key: {stage: (B, P)}} -> FusionOutput. `present`: the streams to use."""
        vectors = {key: branch(pooled[key]) for key, branch in self.branches.items()}
        output: FusionOutput = self.fusion(vectors, present)
        return output

    def classify(self, pooled: Pooled) -> Tensor:
        """{key: {stage: (B, P)}} -> logits (B, K)."""
        return self.fuse(pooled).logits

    def forward(self, batch: Batch | Tensor) -> Tensor:
        """A batch by input name, images uint8 (B, 3, H, W), vectors float32 (B, D) -> logits (B, K).

        A tensor is accepted if all streams read the same input. Raises UsageError for a batch that does not fit, and
        for images of floating-point numbers that do not require gradients, because their scale is unknown.
        """
        return self.classify(self.pool(checked_batch(batch, dict(self.branches.items()))))

    def truncate(self, depths: Mapping[str, int]) -> MultiStream:
        """A new network in which these streams keep the first n stages (paper fig. 4).

        It shares the kept stages and projections; its temporal modules and fusion are new, so it is untrained.
        """
        self._check_keys(depths, "truncate")
        branches = {k: b.truncate(depths[k]) if k in depths else _renewed(b) for k, b in self.branches.items()}
        return MultiStream(
            branches,
            make_fusion=self.make_fusion,
            classes=self.classes,
            fusion_plan=self.fusion_plan,
            label_sets=self.label_sets,
        )

    def mask(self, stages: Mapping[str, Sequence[str]]) -> Self:
        """The same network, sharing all weights, with the features of these stages replaced by their training mean."""
        self._check_keys(stages, "mask")
        for key, names in stages.items():
            check_known(names, self.branches[key].taps, where="mask", what=f"{key} has no tap {{name!r}}.")
        new = shallow_copy(self)
        new.branches = Modules({k: b.mask(stages[k]) if k in stages else b for k, b in self.branches.items()})
        return new

    def freeze(self, *what: str) -> Self:
        """Freezes `streams`, `branches`, a stream (KEY) or its first n stages (KEY:n); `none` freezes nothing.

        Several entries are combined. Raises UsageError, and freezes nothing, if one of them is not valid.
        """
        depths = {entry: self._frozen_stages(entry) for entry in what}
        for stages in depths.values():
            for key, depth in stages.items():
                self.branches[key].stream.freeze(depth)
        if "branches" in what:
            self.branches.requires_grad_(False)
            for head in (self.loaded_heads | self.zero_shot_heads) & set(self.fusion.heads):
                self.fusion.heads[head].requires_grad_(False)
        return self

    def unfreeze(self, *what: str) -> Self:
        """Reverses `freeze` for `streams`, `branches` or a stream (KEY).

        To train only the last stages, freeze the first ones again: `net.unfreeze("object").freeze("object:3")`.
        """
        check_known(what, {"streams", "branches", *self.branches}, where="unfreeze", what="no stream {name!r}.")
        for key, branch in self.branches.items():
            if {"streams", "branches", key} & set(what):
                branch.stream.unfreeze()
        if "branches" in what:
            self.branches.requires_grad_(True)
            self.fusion.heads.requires_grad_(True)
        return self.train(self.training)

    def _frozen_stages(self, entry: str) -> dict[str, int | None]:
        """The number of stages to freeze for an entry of --freeze, by stream key; None for all stages."""
        if not isinstance(entry, str):
            right = "Entries are separate arguments: freeze('object', 'places:3')."
            raise UsageError("freeze", f"{entry!r} is a {type(entry).__name__}.", right=right)
        if entry in ("streams", "branches"):
            return dict.fromkeys(self.branches)
        if entry == "none":
            return {}
        key, _, depth = entry.partition(":")
        self._check_keys([key], "freeze")
        stages = len(self.branches[key].stream.stages)
        if depth and not (depth.isascii() and depth.isdecimal() and len(depth) < 6 and int(depth) <= stages):
            raise UsageError("freeze", f"{entry!r} sets depth {depth}.", right=f"{key} has 0 to {stages}.")
        return {key: int(depth) if depth else None}

    @property
    def is_frozen(self) -> bool:
        """Whether every stream is frozen."""
        return all(branch.stream.is_frozen for branch in self.branches.values())

    @property
    def is_cacheable(self) -> bool:
        """Whether training needs `pool` only once: all streams are frozen and all taps cacheable."""
        return all(branch.is_cacheable for branch in self.branches.values())

    @torch.no_grad()
    def fit(self, pooled: Pooled, rows: Tensor | None = None) -> None:
        """Fits the taps' buffers to the training split's pooled features; standardises if the stream is frozen.

        `rows` are the training split's, where the features are of more images: one tap's are copied at a time.
        A branch from a run keeps the values that it was trained with; a vector keeps the scale of its stream.
        """
        for key in set(pooled) - self.loaded_branches:
            branch = self.branches[key]
            for stage, tap in branch.taps.items():
                own = pooled[key][stage] if rows is None else pooled[key][stage][rows]
                tap.fit(own, standardise=branch.stream.is_frozen and not branch.reads_vector)
        self.set_zero_shot_heads()

    @torch.no_grad()
    def set_zero_shot_heads(self) -> None:
        """Sets the `zero_shot_heads` so that they return their streams' own logits for standardised features."""
        for key in self.zero_shot_heads:
            branch, head = self.branches[key], self.fusion.heads[key]
            known, tap = branch.stream.zero_shot_head(self.classes), branch.taps[VECTOR]
            assert isinstance(head, nn.Linear)
            assert known is not None
            weight, bias = known.weight.to(tap.mean), known.bias.to(tap.mean)
            # The tap sets an entry that is constant in training to 0; its mean is counted in the bias.
            head.weight.copy_(torch.where(tap.scale == 0, 0.0, weight / tap.scale))
            head.bias.copy_(bias + weight @ tap.mean)

    def _check_keys(self, keys: Iterable[str], where: str) -> None:
        check_known(keys, self.branches, where=where, what="no stream {name!r}.")


def _pooled(branch: Branch, entry: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    return branch.pool(entry) if isinstance(entry, Tensor) else dict(entry)


def _new_head(key: str, branch: Branch, classes: int, seed: int) -> nn.Module:
    with initializing(seed, key, "head"):
        return branch.make_head(classes)


def _renewed(branch: Branch) -> Branch:
    """The same stream and taps with a new temporal."""
    return Branch(branch.stream, taps=dict(branch.taps.items()), make_temporal=branch.make_temporal, plan=branch.plan)
