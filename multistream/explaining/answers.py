"""From what was found of a batch to what is said of each of its photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from multistream.explaining.attribution import Attribution
from multistream.explaining.explanation import Arrays, Explanation
from multistream.explaining.methods import Findings, Question
from multistream.explaining.observing import Observed
from multistream.explaining.targets import Chosen

TOP = 8
"""Vector entries that are named."""


@dataclass(frozen=True)
class Answers:
    """A batch observed, examined and attributed; `vocabularies` name vectors' entries by key."""

    classes: Sequence[str]
    vocabularies: Mapping[str, Sequence[str]]
    question: Question
    seen: Observed
    chosen: Chosen
    found: Findings
    given: Attribution
    attention: Mapping[str, Tensor]
    images: Tensor | None

    def explanation(self, place: int, *, path: str, label: str) -> Explanation:
        """One photo's evidence in numbers, with its arrays."""
        found, question = self.found, self.question
        target = int(self.chosen.rows[place])
        against = "" if self.chosen.against is None else self.classes[int(self.chosen.against[place])]
        return Explanation(
            path=path,
            status="ok",
            label=label,
            predicted=self.classes[int(self.seen.fused[place].argmax())],
            target=self.classes[target],
            against=against,
            probability=float(self.seen.fused[place, target]),
            value=float(self.chosen.score(self.seen.output.logits)[place]),
            method=question.method,
            flow=question.flow,
            scale=question.target.scale,
            baseline=question.baseline,
            logits={name or "fused": self._picked(logits, place) for name, logits in found.logits.items()},
            bias={name or "fused": self._picked(bias, place) for name, bias in found.bias.items()},
            stages=self._stages(place),
            vectors={key: float(v[place].sum(dtype=torch.float64)) for key, v in found.vectors.items()},
            entries={key: _top(v[place], self.vocabularies[key]) for key, v in found.vectors.items()},
            exact={key: kind == "exact" for key, kind in found.kinds.items()},
            kinds=dict(found.kinds),
            residual=None if found.residual is None else float(found.residual[place]),
            gap=None if found.gap is None else float(found.gap[place]),
            arrays=self._arrays(place),
            **self._attributed(place),  # type: ignore[arg-type]  # four mappings, named below
        )

    def _attributed(self, place: int) -> dict[str, dict[str, object]]:
        """The Shapley values of streams and stages, the pairs' interactions, and the attention."""
        given, pick = self.given, self.chosen.pick
        pairs = pick(given.interactions)[place]
        stages = {key: list(stages) for key, stages in self.seen.maps.items()}
        return {
            "shapley": dict(zip(given.keys, pick(given.streams)[place].tolist(), strict=True)),
            "shapley_stages": {
                key: dict(zip(stages[key], pick(part)[place].tolist(), strict=True))
                for key, part in given.stages.items()
                if len(stages[key]) > 1
            },
            "interactions": {
                f"{a}+{b}": float(pairs[i, j]) for (i, a), (j, b) in combinations(enumerate(given.keys), 2)
            },
            "attention": {
                key: dict(zip(stages[key], part[place].tolist(), strict=True)) for key, part in self.attention.items()
            },
        }

    def _stages(self, place: int) -> dict[str, dict[str, float]]:
        """What each stage gave: the sum of its map, or of its token's units."""
        found = self.found
        if not found.tokens:
            return {
                key: {stage: float(m[place].sum(dtype=torch.float64)) for stage, m in stages.items()}
                for key, stages in found.maps.items()
            }
        return {
            key: dict(zip(self.seen.maps[key], part[place].sum(1, dtype=torch.float64).tolist(), strict=True))
            for key, part in found.tokens.items()
            if key not in found.vectors
        }

    def _picked(self, values_BK: Tensor, place: int) -> float:
        return float(self.chosen.pick(values_BK)[place])

    def _arrays(self, place: int) -> Arrays:
        found, given = self.found, self.given
        every = self.question.every_class
        maps = {key: {stage: m[place] for stage, m in stages.items()} for key, stages in found.maps.items()}
        vectors = {key: v[place] for key, v in found.vectors.items()}
        wide = found.every_maps if every and found.every_maps is not None else None
        long = found.every_vectors if every and found.every_vectors is not None else None

        def columns(values: Tensor) -> Tensor:
            """(B, K, ...) -> all K of this photo, or its target alone, on the CPU."""
            return (values[place] if every else self.chosen.pick(values)[place].unsqueeze(0)).cpu()

        return Arrays(
            image=None if self.images is None else self.images[place],
            logits={name: columns(v) for name, v in found.logits.items()},
            bias={name: columns(v) for name, v in found.bias.items()},
            probabilities={key: own[place].double().softmax(0).cpu() for key, own in self.seen.output.streams.items()},
            maps={
                key: {s: m.unsqueeze(0) if wide is None else wide[key][s][place] for s, m in stages.items()}
                for key, stages in maps.items()
            },
            vectors={key: v.unsqueeze(0) if long is None else long[key][place] for key, v in vectors.items()},
            tokens={key: part[place] for key, part in found.tokens.items()},
            target_maps=maps,
            target_vectors=vectors,
            shapley=columns(given.streams),
            shapley_stages={key: columns(part) for key, part in given.stages.items()},
            interactions=columns(given.interactions),
            attention={key: part[place].cpu() for key, part in self.attention.items()},
        )


def _top(values_D: Tensor, vocabulary: Sequence[str]) -> list[tuple[str, float]]:
    """The entries that gave most, for or against."""
    order = values_D.abs().argsort(descending=True)[:TOP].tolist()
    return [(vocabulary[i] if vocabulary else f"entry {i}", float(values_D[i])) for i in order]
