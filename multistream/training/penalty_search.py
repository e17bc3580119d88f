"""The choice of a penalty for each stream, from a grid, by the loss of rows that are held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from multistream.training.linear_classifier import ROUGH_GRADIENT, Array, Optimum
from multistream.training.probe_data import FittedRows, HeldOut

FIRST = 1.0
"""Where the search on the grid begins."""
ROUNDS = 3
"""How often each stream's penalty is reconsidered."""


class Judge:
    """A fit and the rows that judge its penalties; each fit starts at that of the nearest penalties."""

    def __init__(self, fit: FittedRows, held_out: HeldOut, start: Optimum | None) -> None:
        self.fit, self.held_out, self.start = fit, held_out, start
        self.found: dict[tuple[float, ...], Optimum] = {}

    def losses(self, candidates: Sequence[Mapping[str, float]]) -> list[float]:
        """The summed loss of the held-out rows under each candidate's penalties."""
        optima = self.fit.regression.solve(candidates, self._nearest(candidates[0]), gradient=ROUGH_GRADIENT)
        self.found |= {tuple(each.values()): optimum for each, optimum in zip(candidates, optima, strict=True)}
        return [self._loss(self.logits(each)) for each in candidates]

    def _nearest(self, penalties: Mapping[str, float]) -> Optimum | None:
        """The optimum of the penalties that are the nearest on the grid; where there is none yet, the start."""
        wanted = np.log([*penalties.values()])
        nearest = min(self.found, key=lambda tried: float(np.abs(np.log(tried) - wanted).sum()), default=None)
        return self.start if nearest is None else self.found[nearest]

    def logits(self, penalties: Mapping[str, float]) -> Array:
        """The held-out rows' logits (M, K) under penalties that were tried."""
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
    """The choice of penalties on a grid: one for all streams, then stream by stream."""

    def __init__(self, judges: Sequence[Judge], groups: Mapping[str, str], grid: Sequence[float]) -> None:
        self.judges, self.groups, self.grid = judges, groups, grid
        self.names = list(dict.fromkeys(groups.values()))
        self.total = max(sum(float(judge.held_out.weights.sum()) for judge in judges), 1e-300)
        self.losses: dict[tuple[int, ...], float] = {}

    @property
    def fits(self) -> int:
        """How many fits were made."""
        return len(self.losses) * len(self.judges)

    def run(self, first: Mapping[str, float], *, per_stream: bool) -> tuple[dict[str, float], float]:
        """({key: penalty}, the held-out loss), from the grid's points nearest to `first`."""
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
        """Moves these streams' penalties along the grid together for as long as the loss falls."""

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
        """Computes the losses of these points that are not known yet, all in one fit."""
        new = [steps for steps in points if steps not in self.losses]
        if not new:
            return
        penalties = [self._penalties(steps) for steps in new]
        sums = np.sum([judge.losses(penalties) for judge in self.judges], axis=0)
        self.losses |= dict(zip(new, (sums / self.total).tolist(), strict=True))

    def _penalties(self, steps: tuple[int, ...]) -> dict[str, float]:
        chosen = dict(zip(self.names, steps, strict=True))
        return {key: self.grid[chosen[name]] for key, name in self.groups.items()}
