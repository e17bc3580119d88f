"""The methods of explanation behind one face: what was observed and what is asked -> signed evidence by place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from multistream.errors import UsageError
from multistream.explaining.attribution import Baseline
from multistream.explaining.decomposition import Decomposer, Decomposition, Kind
from multistream.explaining.gradients import Flow, Score, grad_cam, grad_cam_of, integrated_gradients
from multistream.explaining.observing import Maps, Observed
from multistream.explaining.targets import Chosen, Target
from multistream.network.network import MultiStream

Method = Literal["decomposition", "grad-cam", "integrated-gradients"]
METHODS: tuple[Method, ...] = ("decomposition", "grad-cam", "integrated-gradients")
Stages = Literal["all", "last"]


@dataclass(frozen=True)
class Question:
    """What is asked of each photo, and how: settled, so that nothing is left to choose."""

    target: Target
    method: Method
    flow: Flow
    stages: Stages
    baseline: Baseline
    every_class: bool
    """Whether all classes are wanted beside the target."""


@dataclass(frozen=True)
class Every:
    """A batch's evidence for all classes: as in Findings, with the axis (B, K, ...)."""

    maps: Maps
    vectors: Mapping[str, Tensor]
    logits: Mapping[str, Tensor]
    bias: Mapping[str, Tensor]


@dataclass(frozen=True)
class Findings:
    """A batch's evidence for what was chosen: `maps` {key: {stage: (B, h, w)}}, `vectors` {key: (B, D)}.

    `logits` and `bias` {name: (B,)} belong to the sums. `tokens` {key: (B, T, W)} are integrated gradients.
    `residual` (B,) is that of the sum, None where there is no sum; `gap` (B,) that of the integral. `every` has all
    classes, where they were asked for.
    """

    kinds: Mapping[str, Kind]
    maps: Maps
    vectors: Mapping[str, Tensor]
    logits: Mapping[str, Tensor]
    bias: Mapping[str, Tensor]
    tokens: Mapping[str, Tensor]
    residual: Tensor | None = None
    gap: Tensor | None = None
    every: Every | None = None

    def cpu(self) -> Findings:
        """The same on the CPU, all at once."""
        moved: Findings = _on_cpu(self)
        return moved


def _on_cpu(value: Any) -> Any:
    """Tensors, and all tensors within mappings and our dataclasses, on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Findings | Every):
        return type(value)(**{each.name: _on_cpu(getattr(value, each.name)) for each in fields(value)})
    return {key: _on_cpu(each) for key, each in value.items()} if isinstance(value, Mapping) else value


def settle(
    network: MultiStream,
    *,
    target: Target,
    method: str,
    flow: str,
    stages: str,
    baseline: str,
    every_class: bool | None,
    names: tuple[str, str, str],
) -> Question:
    """Checks a question and fills in what `auto` leaves open; `names` are the specs of tap, temporal, fusion.

    The exact sum is taken where every stream has one and it is asked for on the logit scale, else Grad-CAM. Raises
    UsageError where the method cannot give what is asked.
    """
    target.check(network.classes)
    for option, value, known in (
        ("--method", method, ("auto", *METHODS)),
        ("--flow", flow, ("auto", "direct", "total")),
        ("--stages", stages, ("all", "last")),
        ("--baseline", baseline, ("mean", "zero", "drop")),
    ):
        if value not in known:
            raise UsageError(option, f"{value!r} is unknown.", right=f"{', '.join(known[:-1])} or {known[-1]}.")
    why_not = no_sum(network, target, names=names)
    if method == "auto":
        asks_gradients = why_not or flow == "total" or stages == "last"
        method = "grad-cam" if asks_gradients else "decomposition"
    elif method == "decomposition" and why_not:
        raise UsageError("--method", f"no exact sum exists: {why_not}.", do="Take grad-cam or integrated-gradients.")
    if method != "grad-cam" and (flow == "total" or stages == "last"):
        option = "--flow" if flow == "total" else "--stages"
        what = f"{method} goes through each stage's own tap, and all of them make the sum."
        raise UsageError(option, what, right=f"{option} {flow if flow == 'total' else stages} is for grad-cam.")
    if method == "integrated-gradients" and every_class:
        raise UsageError("--classes", "integrated gradients are taken for one target.", right="auto or target.")
    every = method == "decomposition" if every_class is None else every_class
    return Question(target, method, "total" if flow == "total" else "direct", stages, baseline, every)  # type: ignore[arg-type]  # checked above


def no_sum(network: MultiStream, target: Target, *, names: tuple[str, str, str]) -> str:
    """Why no stream's evidence sums to what is asked; empty where sums exist, exactly or near each photo."""
    if target.scale == "probability":
        return "a probability is no linear function of the maps"
    if "gradient" not in Decomposer(network).kinds.values():
        return ""
    tap, temporal, fusion = names
    branches = network.branches.values()
    if not all(t.linear for branch in branches for t in branch.taps.values()):
        return f"the tap {tap} is not linear"
    if not all(branch.temporal is None or branch.temporal.linear for branch in branches):
        return f"the temporal {temporal} is not linear"
    return f"the fusion {fusion} is not linear"


def _one_column(found: Decomposition) -> Findings:
    """A decomposition of what was chosen alone."""
    return Findings(
        kinds=found.kinds,
        maps={key: {stage: m[:, 0] for stage, m in stages.items()} for key, stages in found.maps.items()},
        vectors={key: v[:, 0] for key, v in found.vectors.items()},
        logits={name: values[:, 0] for name, values in found.logits.items()},
        bias={name: values[:, 0] for name, values in found.bias.items()},
        tokens={},
        residual=found.residual(),
    )


class Examiner:
    """Answers one question batch after batch."""

    def __init__(self, network: MultiStream, question: Question) -> None:
        self.network, self.question = network, question
        self.decomposer = Decomposer(network)

    def examine(self, seen: Observed, batch: Mapping[str, Tensor], chosen: Chosen) -> Findings:
        """The evidence of a batch that was observed, for the classes chosen."""
        if self.question.method == "decomposition":
            return self._decomposed(seen, chosen)
        if self.question.method == "grad-cam":
            return self._differentiated(seen, batch, chosen)
        return self._integrated(seen, chosen)

    def _decomposed(self, seen: Observed, chosen: Chosen) -> Findings:
        if not self.question.every_class:
            return _one_column(self.decomposer.decompose(seen, chosen))
        found = self.decomposer.decompose(seen)
        bias = {name: b.expand_as(found.logits[name]) for name, b in found.bias.items()}
        return Findings(
            kinds=found.kinds,
            maps={k: {s: chosen.pick(m) for s, m in stages.items()} for k, stages in found.maps.items()},
            vectors={key: chosen.pick(v) for key, v in found.vectors.items()},
            logits={name: chosen.pick(values) for name, values in found.logits.items()},
            bias={name: chosen.pick(values) for name, values in bias.items()},
            tokens={},
            residual=found.residual(),
            every=Every({k: dict(v) for k, v in found.maps.items()}, found.vectors, found.logits, bias),
        )

    def _differentiated(self, seen: Observed, batch: Mapping[str, Tensor], chosen: Chosen) -> Findings:
        maps, vectors = self._cams(seen, batch, chosen.score)
        return Findings(
            kinds=dict.fromkeys(self.network.branches, "gradient"),
            maps=maps,
            vectors=vectors,
            logits={"": chosen.pick(seen.output.logits)},
            bias={},
            tokens={},
            every=self._every_class(seen, batch, chosen) if self.question.every_class else None,
        )

    def _every_class(self, seen: Observed, batch: Mapping[str, Tensor], chosen: Chosen) -> Every:
        """Grad-CAM of each class in turn, stacked: (B, K, ...)."""
        columns = [
            self._cams(seen, batch, Chosen(torch.full_like(chosen.rows, k), None, chosen.scale).score)
            for k in range(len(self.network.classes))
        ]
        first_maps, first_vectors = columns[0]
        maps = {
            key: {stage: torch.stack([m[key][stage] for m, _ in columns], 1) for stage in stages}
            for key, stages in first_maps.items()
        }
        vectors = {key: torch.stack([v[key] for _, v in columns], 1) for key in first_vectors}
        return Every(maps, vectors, {"": seen.output.logits}, {})

    def _cams(self, seen: Observed, batch: Mapping[str, Tensor], score: Score) -> tuple[Maps, dict[str, Tensor]]:
        """Grad-CAM of the stages asked for. At the last stage both flows are one: the head alone is differentiated."""
        head_only = self.question.flow == "direct" or self.question.stages == "last"
        cams = grad_cam_of(self.network, seen, score) if head_only else grad_cam(
            self.network, batch, score=score, flow="total"
        )  # fmt: skip
        maps, vectors = self._parted(cams)
        if self.question.stages == "last":
            maps = {key: {list(stages)[-1]: list(stages.values())[-1]} for key, stages in maps.items()}
        return maps, vectors

    def _integrated(self, seen: Observed, chosen: Chosen) -> Findings:
        found = integrated_gradients(self.network, seen, score=chosen.score)
        maps, vectors = self._parted(found.places)
        return Findings(
            kinds=dict.fromkeys(self.network.branches, "gradient"),
            maps=maps,
            vectors=vectors,
            logits={"": chosen.pick(seen.output.logits)},
            bias={},
            tokens=found.tokens,
            gap=found.gap,
        )

    def _parted(self, places: Maps) -> tuple[Maps, dict[str, Tensor]]:
        """Maps and vectors apart."""
        branches = self.network.branches
        maps = {key: stages for key, stages in places.items() if not branches[key].is_vector}
        vectors = {key: next(iter(v.values())) for key, v in places.items() if branches[key].is_vector}
        return maps, vectors
