"""What is said of one photo: numbers for people and programs, and the arrays behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from multistream.explaining.decomposition import Kind


@dataclass(frozen=True)
class Arrays:
    """One photo's tensors on the CPU. C is K classes, or 1: what was explained alone.

    `maps` {key: {stage: (C, h, w)}}, `vectors` {key: (C, D)}, `tokens` {key: (T, W)} of integrated gradients.
    `target_maps` and `target_vectors` hold what was explained without the leading C. `shapley` (K, S),
    `shapley_stages` {key: (K, T)}, `interactions` (K, S, S), `attention` {key: (T,)}; `logits` and `bias`
    {name: (C,)} and `probabilities` {key: (K,)}. `image` is uint8 (3, S, S) as the network saw it.
    """

    image: Tensor | None
    logits: Mapping[str, Tensor]
    bias: Mapping[str, Tensor]
    probabilities: Mapping[str, Tensor]
    maps: Mapping[str, Mapping[str, Tensor]]
    vectors: Mapping[str, Tensor]
    tokens: Mapping[str, Tensor]
    target_maps: Mapping[str, Mapping[str, Tensor]]
    target_vectors: Mapping[str, Tensor]
    shapley: Tensor
    shapley_stages: Mapping[str, Tensor]
    interactions: Tensor
    attention: Mapping[str, Tensor]


@dataclass(frozen=True)
class Explanation:
    """One photo's evidence for `target` (minus that for `against`, if there is one); values are signed.

    By `method`: `decomposition` gives `stages` and `vectors` that sum with `bias` to `logits`, up to `residual`, for
    every stream whose `kinds` is exact; `local` holds near this photo only. For late and gated fusion the sums hold
    for each stream's own logit. `grad-cam` and `integrated-gradients` explain `value`, on `scale`; the latter sum to
    its distance from the average photo's, up to `gap`. `shapley` are the streams' exact Shapley values of the fused
    score on `scale`, `shapley_stages` the Owen values of their stages, `interactions` those of pairs ("a+b"), with
    `baseline` for what is absent.
    """

    path: str
    status: str
    label: str = ""
    predicted: str = ""
    target: str = ""
    against: str = ""
    probability: float = 0.0
    value: float = 0.0
    method: str = ""
    flow: str = ""
    scale: str = ""
    baseline: str = ""
    logits: Mapping[str, float] = field(default_factory=dict)
    bias: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    vectors: Mapping[str, float] = field(default_factory=dict)
    entries: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict)
    exact: Mapping[str, bool] = field(default_factory=dict)
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    residual: float | None = None
    gap: float | None = None
    shapley: Mapping[str, float] = field(default_factory=dict)
    shapley_stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    interactions: Mapping[str, float] = field(default_factory=dict)
    attention: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    arrays: Arrays | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """An object of `explain --json`: all but the arrays."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "arrays"}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in found.items()}

    @property
    def subject(self) -> str:
        """What is explained, in words."""
        return f"{self.target} against {self.against}" if self.against else self.target

    @property
    def manner(self) -> str:
        """How, in words: method, flow, scale, and where each map's sum begins."""
        return f"{self.method}, flow {self.flow}, scale {self.scale}, absent streams: {self.baseline}"
