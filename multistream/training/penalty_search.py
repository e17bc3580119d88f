"""Selects a penalty for each stream from a grid, by the loss on held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from multistream.training.linear_classifier import ROUGH_GRADIENT, Array, Optimum
from multistream.training.probe_data import FittedRows, HeldOut

FIRST = 1.0
"""The penalty at which the grid search starts."""
ROUNDS = 3
"""The maximum number of passes over the streams."""


class Judge:
    """A fit and the held-out rows that score its penalties; each fit starts from that of the nearest penalties."""

    def __init__(self, fit: FittedRows, held_out: HeldOut, start: Optimum | None) -> None:
        self.fit, self.held_out, self.start = fit, held_out, start
        self.found: dict[tuple[float, ...], Optimum] = {}

    def losses(self, candidates: Sequence[Mapping[str, float]]) -> list[float]:
        """Returns the summed loss on the held-out rows for each candidate's penalties."""
        optima = self.fit.regression.solve(candidates, self._nearest(candidates[0]), gradient=ROUGH_GRADIENT)
        self.found |= {tuple(each.values()): optimum for each, optimum in zip(candidates, optima, strict=True)}
        return [self._loss(self.logits(each)) for each in candidates]

    def _nearest(self, penalties: Mapping[str, float]) -> Optimum | None:
        """Returns the optimum of the nearest penalties on the grid, or the start if none was fitted yet."""
        wanted = np.log([*penalties.values()])
        nearest = min(self.found, key=lambda tried: float(np.abs(np.log(tried) - wanted).sum()), default=None)
        return self.start if nearest is None else self.found[nearest]

    def logits(self, penalties: Mapping[str, float]) -> Array:
        """Returns the held-out rows' logits (M, K) for penalties that were fitted."""
        optimum = self.found[tuple(penalties.values())]
        terms = [self.held_out.features[key] @ weight for key, weight in optimum.weight.items()]
        total: Array = np.sum(terms, axis=0) + optimum.bias
        return total

    def _loss(self, logits_MK: Array) -> float:
        targets = self.held_out.targets
        if self.fit.regression.label_sets:
            each = (targets * np.logaddexp(0, -logits_MK) + (1 - targets) * np.logaddexp(0, logits_MK)).sum(1)
        else:
            each = (targets * (np.logaddexp.reduce(logits_MK, axis=1, keepdims=True) - logits_MK)).sum(1)
        return float(self.held_out.weights @ each)


class PenaltySearch:
    """Selects penalties on a grid: one for all streams, then one per stream."""

    def __init__(self, judges: Sequence[Judge], groups: Mapping[str, str], grid: Sequence[float]) -> None:
        self.judges, self.groups, self.grid = judges, groups, grid
        self.names = list(dict.fromkeys(groups.values()))
        self.total = max(sum(float(judge.held_out.weights.sum()) for judge in judges), 1e-300)
        self.losses: dict[tuple[int, ...], float] = {}

    @property
    def fits(self) -> int:
        """The number of fits."""
        return len(self.losses) * len(self.judges)

    def run(self, first: Mapping[str, float], *, per_stream: bool) -> tuple[dict[str, float], float]:
        """Returns ({key: penalty}, held-out loss); starts at the grid points nearest to `first`."""
        logs = np.log(self.grid)
        begin = {name: first.get(key, FIRST) for key, name in self.groups.items()}
        best = tuple(int(np.abs(logs - np.log(begin[name])).argmin()) for name in self.names)
        everything = frozenset(range(len(self.names)))
        best = self._climb(best, everything)
        for _ in range(ROUNDS if per_stream and len(self.names) > 1 else 0):
            before = best
            for place in everything:
                best = self._climb(best, frozenset({place}))
            best = self._climb(best, everything)
            if best == before:
                break
        return self._penalties(best), self.losses[best]

    def _climb(self, best: tuple[int, ...], moved: frozenset[int]) -> tuple[int, ...]:
        """Moves these streams' penalties along the grid together as long as the loss decreases."""

        def neighbour(steps: tuple[int, ...], direction: int) -> tuple[int, ...]:
            return tuple(step + direction * (place in moved) for place, step in enumerate(steps))

        around = [best, neighbour(best, 1), neighbour(best, -1)]
        self._try([steps for steps in around if self._on_grid(steps)])
        for direction in (1, -1):
            while self._on_grid(now := neighbour(best, direction)):
                self._try([now])
                if self.losses[now] >= self.losses[best]:
                    break
                best = now
        return best

    def _on_grid(self, steps: tuple[int, ...]) -> bool:
        return min(steps) >= 0 and max(steps) < len(self.grid)

    def _try(self, points: Sequence[tuple[int, ...]]) -> None:
        """Computes the losses of those of these points that have none yet, all in one fit."""
        new = [steps for steps in points if steps not in self.losses]
        if not new:
            return
        penalties = [self._penalties(steps) for steps in new]
        sums = np.sum([judge.losses(penalties) for judge in self.judges], axis=0)
        self.losses |= dict(zip(new, (sums / self.total).tolist(), strict=True))

    def _penalties(self, steps: tuple[int, ...]) -> dict[str, float]:
        chosen = dict(zip(self.names, steps, strict=True))
        return {key: self.grid[chosen[name]] for key, name in self.groups.items()}
