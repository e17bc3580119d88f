"""The attribution of a batch: signed contributions by stream, stage, pixel and vector entry, by any method.

ExplanationRequest -> resolved(network) -> Attributor.attribute(forward pass) -> Attribution
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from multistream.errors import UsageError, check_choice
from multistream.explaining.decomposition import ContributionKind, Decomposer
from multistream.explaining.forward import ForwardPass, Maps, forward_pass
from multistream.explaining.games import Baseline
from multistream.explaining.gradients import Flow, Score, grad_cam, grad_cam_of, integrated_gradients
from multistream.explaining.linearity import is_linear, nonlinear_part
from multistream.explaining.targets import Target, TargetColumns
from multistream.interfaces import VECTOR
from multistream.network.network import MultiStream
from multistream.nn.nested import map_stages
from multistream.runtime.device import Runtime

Method = Literal["decomposition", "grad-cam", "integrated-gradients"]
METHODS = ("decomposition", "grad-cam", "grad-cam-total", "grad-cam-last", "integrated-gradients")
BASELINES = ("mean", "zero", "drop")

Contributions = tuple[Maps, dict[str, Tensor]]
"""Maps {key: {stage: (B, h, w)}} and vectors {key: (B, D)} of one target."""


@dataclass(frozen=True)
class ExplanationRequest:
    """The options of an explanation.

    `method` is one of METHODS, `auto` or `fused`. `auto` is the exact sum if every stream has one and the scale is the
    logit, else Grad-CAM. `fused` is the exact sum of the fused logit if it has one, else integrated gradients, which
    point at planted cues in 96 to 100 % of the images (gradient x input: in 49 to 62 %, docs/explanation.md).
    `every_class` keeps all classes in addition to the target; None leaves the choice to the method.
    """

    target: Target = field(default_factory=Target)
    method: str = "auto"
    baseline: str = "mean"
    every_class: bool | None = None

    def resolved(self, network: MultiStream) -> ResolvedRequest:
        """Returns the request with all choices made. Raises UsageError if the method does not fit the network."""
        self.target.check(network.classes)
        if network.label_sets:
            self.target.check_label_sets()
        if self.method != "fused":
            check_choice("--method", self.method, ("auto", *METHODS))
        check_choice("--baseline", self.baseline, BASELINES)
        method = self._method(network)
        every = method == "decomposition" if self.every_class is None else self.every_class
        return ResolvedRequest(
            target=self.target,
            method="grad-cam" if method.startswith("grad-cam") else method,  # type: ignore[arg-type]  # checked above
            flow="total" if method == "grad-cam-total" else "direct",
            last_stage=method == "grad-cam-last",
            baseline=self.baseline,  # type: ignore[arg-type]  # checked above
            every_class=every,
        )

    def _method(self, network: MultiStream) -> str:
        if self.method == "fused":
            is_sum = is_linear(network) and self.target.scale == "logit"
            return "decomposition" if is_sum else "integrated-gradients"
        if self.method not in ("auto", "decomposition"):
            return self.method
        reason = no_sum(network, self.target)
        if self.method == "decomposition" and reason:
            what = f"there is no exact sum: {reason}."
            raise UsageError("--method", what, do="Choose grad-cam or integrated-gradients.")
        return "grad-cam" if reason else "decomposition"


@dataclass(frozen=True)
class ResolvedRequest:
    """An explanation request with all choices made for one network."""

    target: Target
    method: Method
    flow: Flow
    last_stage: bool
    """Whether Grad-CAM is limited to the last stage of each stream."""
    baseline: Baseline
    every_class: bool
    """Whether all classes are explained in addition to the target."""

    def for_target_alone(self) -> ResolvedRequest:
        """Returns the request limited to the target class."""
        return replace(self, every_class=False)


def no_sum(network: MultiStream, target: Target) -> str:
    """Returns why the streams' contributions have no exact or local sum; an empty string if they have one."""
    if target.scale == "probability":
        return "a probability is not a linear function of the maps"
    if "gradient" not in Decomposer(network).kinds.values():
        return ""
    return f"{nonlinear_part(network)} is not linear"


@dataclass(frozen=True)
class Attribution:
    """The contributions of each pixel and vector entry of a batch. C is the number of classes, or 1: only the target.

    `maps` {key: {stage: (B, C, h, w)}} and `vectors` {key: (B, C, D)}. `logits`, `bias` and `remainder` {name: (B, C)}
    belong to the sums (see Decomposition). `tokens` {key: (B, T, W)} are integrated gradients of the target.
    `residual` (B,) is the error of the exact sums, None if no sum is exact; `gap` (B,) is the error of the integral.
    `warnings` name the components whose declaration (for example `linear`) does not hold.
    """

    method: Method
    columns: TargetColumns
    every_class: bool
    kinds: Mapping[str, ContributionKind]
    maps: Mapping[str, Mapping[str, Tensor]]
    vectors: Mapping[str, Tensor]
    logits: Mapping[str, Tensor]
    bias: Mapping[str, Tensor]
    remainder: Mapping[str, Tensor]
    tokens: Mapping[str, Tensor]
    residual: Tensor | None = None
    gap: Tensor | None = None
    warnings: tuple[str, ...] = ()

    def of_target(self, values_BC: Tensor) -> Tensor:
        """Selects the target's column, minus that of the class it is compared against: (B, C, ...) -> (B, ...)."""
        return self.columns.pick(values_BC) if self.every_class else values_BC[:, 0]

    @property
    def target_maps(self) -> Maps:
        """{key: {stage: (B, h, w)}} of the target."""
        return map_stages(self.maps, self.of_target)

    @property
    def target_vectors(self) -> dict[str, Tensor]:
        """{key: (B, D)} of the target."""
        return {key: self.of_target(v) for key, v in self.vectors.items()}

    def densities(self, size: int) -> dict[str, Tensor]:
        """Sums each stream's target maps over its stages, per unit of area: {key: (B, size, size) float64}."""
        return {key: density(list(stages.values()), size=size) for key, stages in self.target_maps.items()}

    def cpu(self) -> Attribution:
        """Returns a copy on the CPU."""
        moved = {item.name: _on_cpu(getattr(self, item.name)) for item in fields(self)}
        return replace(self, **moved)


def density(maps: Sequence[Tensor], *, size: int) -> Tensor:
    """Interpolates the maps (B, h, w) of several stages to (B, size, size) and adds them, per unit of area.

    A cell of a coarse map covers more of the photo than a cell of a fine map; per unit of area they are comparable.
    """
    total = torch.zeros(len(maps[0]), size, size, dtype=torch.float64)
    for stage_map in maps:
        by_area = stage_map.detach().double().cpu() * (stage_map.shape[-2] * stage_map.shape[-1])
        total += functional.interpolate(by_area[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
    return total


def attribute(
    network: MultiStream,
    batch: Mapping[str, Tensor],
    *,
    targets: Tensor,
    against: Tensor | None = None,
    method: str = "fused",
    runtime: Runtime,
) -> Attribution:
    """Returns the contributions to the fused logits of `targets` (B,), minus those to the logits of `against` (B,)."""
    request = ExplanationRequest(method=method, every_class=False).resolved(network)
    forward = forward_pass(network, batch, runtime=runtime)
    return Attributor(network, request).attribute(forward, batch, TargetColumns(targets, against, "logit"))


class Attributor:
    """Computes the attributions of one request, batch after batch."""

    def __init__(self, network: MultiStream, request: ResolvedRequest) -> None:
        self.network, self.request = network, request
        self.decomposer = Decomposer(network)

    def attribute(self, forward: ForwardPass, batch: Mapping[str, Tensor], columns: TargetColumns) -> Attribution:
        """Returns the attribution of a batch, given its forward pass."""
        if self.request.method == "decomposition":
            return self._decomposition(forward, columns)
        if self.request.method == "grad-cam":
            return self._by_gradients(forward, columns, lambda wanted: self._cams(forward, batch, wanted.score))
        return self._integrated(forward, columns)

    def _decomposition(self, forward: ForwardPass, columns: TargetColumns) -> Attribution:
        every = self.request.every_class
        decomposition = self.decomposer.decompose(forward, None if every else columns)
        return Attribution(
            method="decomposition",
            columns=columns,
            every_class=every,
            kinds=decomposition.kinds,
            maps=decomposition.maps,
            vectors=decomposition.vectors,
            logits=decomposition.logits,
            bias=decomposition.bias,
            remainder=decomposition.remainder,
            tokens={},
            residual=decomposition.residual,
            warnings=decomposition.faults,
        )

    def _integrated(self, forward: ForwardPass, columns: TargetColumns) -> Attribution:
        integrated = integrated_gradients(self.network, forward, score=columns.score)

        def contributions(wanted: TargetColumns) -> Contributions:
            one = integrated if wanted is columns else integrated_gradients(self.network, forward, score=wanted.score)
            return self._separated(one.pixels)

        attribution = self._by_gradients(forward, columns, contributions)
        return replace(attribution, tokens=integrated.tokens, gap=integrated.gap)

    def _by_gradients(
        self, forward: ForwardPass, columns: TargetColumns, contributions: Callable[[TargetColumns], Contributions]
    ) -> Attribution:
        """Returns the attribution by a method that explains one target at a time."""
        every, logits = self.request.every_class, forward.output.logits
        wanted = [columns.of_class(k) for k in range(logits.shape[1])] if every else [columns]
        maps, vectors = zip(*map(contributions, wanted), strict=True)
        return Attribution(
            method=self.request.method,
            columns=columns,
            every_class=every,
            kinds=dict.fromkeys(self.network.branches, "gradient"),
            maps={key: _stacked([each[key] for each in maps]) for key in maps[0]},
            vectors=_stacked(vectors),
            logits={"": logits if every else columns.pick(logits).unsqueeze(1)},
            bias={},
            remainder={},
            tokens={},
        )

    def _cams(self, forward: ForwardPass, batch: Mapping[str, Tensor], score: Score) -> Contributions:
        """Computes Grad-CAM. At the last stage both flows are equal: only the head is differentiated."""
        if self.request.flow == "total":
            return self._separated(grad_cam(self.network, batch, score=score, flow="total"))
        maps, vectors = self._separated(grad_cam_of(self.network, forward, score))
        if self.request.last_stage:
            maps = {key: {list(stages)[-1]: list(stages.values())[-1]} for key, stages in maps.items()}
        return maps, vectors

    def _separated(self, contributions: Maps) -> Contributions:
        """Splits contributions into maps and vectors. A stream whose output is a vector can have maps of its stages."""
        maps = {k: {s: m for s, m in stages.items() if s != VECTOR} for k, stages in contributions.items()}
        vectors = {key: stages[VECTOR] for key, stages in contributions.items() if VECTOR in stages}
        return {key: stages for key, stages in maps.items() if stages}, vectors


def _stacked(by_class: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stacks {name: (B, ...)} of each class into {name: (B, C, ...)}."""
    return {name: torch.stack([each[name] for each in by_class], 1) for name in by_class[0]}


def _on_cpu(value: Any) -> Any:
    """Moves a tensor, or all tensors in a mapping, to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    return {key: _on_cpu(each) for key, each in value.items()} if isinstance(value, Mapping) else value
