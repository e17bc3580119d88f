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
            logits={name or "fused": float(values[place]) for name, values in found.logits.items()},
            bias={name or "fused": float(values[place]) for name, values in found.bias.items()},
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

    def _arrays(self, place: int) -> Arrays:
        found, given, every = self.found, self.given, self.found.every
        maps = {key: {stage: m[place] for stage, m in stages.items()} for key, stages in found.maps.items()}
        vectors = {key: v[place] for key, v in found.vectors.items()}

        def columns(values: Tensor) -> Tensor:
            """(B, K, ...) -> all K of this photo, or what was chosen alone, on the CPU."""
            return (self.chosen.pick(values)[place].unsqueeze(0) if every is None else values[place]).cpu()

        def named(one: Mapping[str, Tensor], all_of: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
            """Of each name all K of this photo, (K, ...), or what was chosen alone, (1, ...)."""
            return {n: v[place].unsqueeze(0) if all_of is None else all_of[n][place] for n, v in one.items()}

        return Arrays(
            image=None if self.images is None else self.images[place],
            logits=named(found.logits, None if every is None else every.logits),
            bias=named(found.bias, None if every is None else every.bias),
            probabilities={key: own[place].double().softmax(0).cpu() for key, own in self.seen.output.streams.items()},
            maps={key: named(m, None if every is None else every.maps[key]) for key, m in found.maps.items()},
            vectors=named(found.vectors, None if every is None else every.vectors),
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
