"""Ridge probes: linear classifiers in closed form, for every subset of taps from one Gram matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

PENALTY = 0.01
"""The penalty of the squared weights, times the number of images; features have variance 1."""
WORK = 3e10
"""Maximum number of multiply-adds for direct solutions: a few seconds."""


@dataclass(frozen=True)
class RidgeProbes:
    """Standardised features (N, P), each stage's columns in them, and centred targets (N, K), in float64."""

    features: Tensor
    columns: Mapping[str, slice]
    targets: Tensor
    means: Tensor
    offset: Tensor

    @classmethod
    def of(cls, pooled: Mapping[str, Tensor], labels: Tensor, *, classes: int) -> RidgeProbes:
        """Builds probes from the training split: features {stage: (N, P)}, and labels (N,) or label sets (N, K)."""
        columns, start = {}, 0
        for stage, values in pooled.items():
            columns[stage] = slice(start, start + values.shape[1])
            start += values.shape[1]
        features = torch.cat(list(pooled.values()), 1).double()
        targets = (labels if labels.ndim == 2 else functional.one_hot(labels, classes)).double()
        means, offset = features.mean(0), targets.mean(0)
        return cls(features - means, columns, targets - offset, means, offset)

    @property
    def penalty(self) -> float:
        """The term that is added to the Gram matrix's diagonal."""
        return PENALTY * len(self.features)

    def solve_all(self, subsets: Sequence[Sequence[str]]) -> list[Tensor]:
        """Solves for the weights (P_s, K) of every subset: blocks of one Gram matrix, by Cholesky factorisation."""
        gram, moments = self.features.mT @ self.features, self.features.mT @ self.targets
        return [self._solve(gram, moments, self._places(subset)) for subset in subsets]

    def solve_directly(self, subset: Sequence[str]) -> Tensor:
        """Solves for the same weights by least squares on the images, with the penalty as additional rows."""
        chosen = self.features[:, self._places(subset)]
        extra = sqrt(self.penalty) * torch.eye(chosen.shape[1], dtype=chosen.dtype, device=chosen.device)
        none = self.targets.new_zeros(chosen.shape[1], self.targets.shape[1])
        solution: Tensor = torch.linalg.lstsq(torch.cat([chosen, extra]), torch.cat([self.targets, none])).solution
        return solution

    def certify(self, subsets: Sequence[Sequence[str]], weights: Sequence[Tensor]) -> tuple[int, float]:
        """Returns (number of checked subsets, largest difference of a weight from the direct solution).

        Checks the smallest subsets first, as many as WORK allows.
        """
        checked, largest, spent = 0, 0.0, 0.0
        for subset, own in sorted(zip(subsets, weights, strict=True), key=lambda pair: len(pair[1])):
            spent += 2.0 * (len(self.features) + len(own)) * len(own) ** 2
            if spent > WORK:
                break
            largest = max(largest, float((own - self.solve_directly(subset)).abs().max()))
            checked += 1
        return checked, largest

    def scores(self, pooled: Mapping[str, Tensor], subset: Sequence[str], weights: Tensor) -> Tensor:
        """Returns the class scores of M images, from features {stage: (M, P)} -> (M, K), float64."""
        places = self._places(subset)
        chosen = torch.cat([pooled[stage] for stage in self.columns if stage in subset], 1).double()
        scores: Tensor = (chosen - self.means[places]) @ weights + self.offset
        return scores

    def _places(self, subset: Sequence[str]) -> Tensor:
        chosen = [torch.arange(c.start, c.stop) for stage, c in self.columns.items() if stage in subset]
        return torch.cat(chosen).to(self.features.device)

    def _solve(self, gram: Tensor, moments: Tensor, places: Tensor) -> Tensor:
        block = gram[places][:, places]
        block.diagonal().add_(self.penalty)
        return torch.cholesky_solve(moments[places], torch.linalg.cholesky(block))
