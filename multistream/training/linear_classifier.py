"""Linear classifiers with a penalty for each block of features, solved to their optimum.

    minimise over W, b:  sum_n w_n loss(y_n, sum_k x_nk W_k + b)  +  sum_k penalty_k / 2 |W_k|^2,  sum_n w_n = 1

The loss is the cross entropy of a softmax or, if a row may have several classes, the sum of the classes' logistic
losses: each class is then a separate regression. The problem is strictly convex in W, so that neither the seed nor the
order of rows matters. Its Hessian is close to share * x'x + penalty, where share is the mean of p (1 - p) over rows and
classes. The unknowns are scaled by its Cholesky factor; L-BFGS then needs few iterations. With more features than rows
there are as many unknowns as rows, because the optimum is in the span of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.training.lbfgs import LinearProblem, minimise, probabilities_of

Array = NDArray[np.float64]

GRADIENT = 3e-6
"""Stops when no entry of the scaled gradient is larger: probabilities are then within 1e-5 of the optimum's."""
ROUGH_GRADIENT = 3e-4
"""The threshold for comparing penalties, whose losses differ by far more than the remaining error."""
JITTER = 8 * float(np.finfo(np.float64).eps)
"""Added to a kernel's diagonal, times its trace and number of rows.

Centred features make the kernel singular, and rounding can make it indefinite.
"""
SMALLEST_SHARE = 1e-3
"""Lower bound of the share: p (1 - p) is near 0 at a start that fits all rows, but not at another penalty's optimum."""


@dataclass(frozen=True)
class Optimum:
    """`weight` {key: (D, K)}, `bias` (K,), and the number of L-BFGS `iterations`."""

    weight: Mapping[str, Array]
    bias: Array
    iterations: int


class LinearClassifier:
    """The rows of one fit: `blocks` {key: (N, D)} with weighted mean 0, `targets` (N, K), `weights` (N,) with sum 1.

    Terms that all penalties share are computed once: the Gram matrix or, with more features than rows, the kernel of
    each block. With `label_sets`, a row's targets mark the classes that it has, and each class is fitted separately.
    """

    def __init__(
        self, blocks: Mapping[str, Array], targets_NK: Array, weights_N: Array, *, label_sets: bool = False
    ) -> None:
        self.blocks, self.targets, self.weights, self.label_sets = dict(blocks), targets_NK, weights_N, label_sets
        self.is_wide = _width(blocks) > len(targets_NK)
        if self.is_wide:
            self.kernels: dict[str, Array] = {key: block @ block.T for key, block in blocks.items()}
            return
        self.rows = _side_by_side(self.blocks)
        """(D + 1, N); the last row is 1"""
        joined = self.rows[:-1]
        self.gram = (joined * weights_N) @ joined.T

    def subset(self, keys: Sequence[str]) -> LinearClassifier:
        """Returns the same rows with some of the blocks; reuses what is computed already."""
        blocks = {key: self.blocks[key] for key in keys}
        if list(blocks) == list(self.blocks):
            return self
        if self.is_wide and _width(blocks) <= len(self.targets):
            return LinearClassifier(blocks, self.targets, self.weights, label_sets=self.label_sets)
        part = copy(self)
        part.blocks = blocks
        if self.is_wide:
            part.kernels = {key: self.kernels[key] for key in keys}
            return part
        part.rows = _side_by_side(blocks)
        columns = np.concatenate([self._columns(key) for key in keys])
        part.gram = self.gram[np.ix_(columns, columns)]
        return part

    def _columns(self, key: str) -> NDArray[np.int64]:
        """Returns the indices of a block's features among all features."""
        before = list(self.blocks)[: list(self.blocks).index(key)]
        start = sum(self.blocks[name].shape[1] for name in before)
        return np.arange(start, start + self.blocks[key].shape[1])

    def solve(
        self, candidates: Sequence[Mapping[str, float]], start: Optimum | None = None, *, gradient: float = GRADIENT
    ) -> list[Optimum]:
        """Returns the optimum for each candidate's penalties, one per block; `start` is the optimum of another fit."""
        if self.is_wide:
            return [self._solve_wide(penalties, start, gradient) for penalties in candidates]
        first = np.zeros((self.targets.shape[1], len(self.rows)))
        if start is not None:
            first[:, :-1] = np.concatenate([start.weight[key] for key in self.blocks]).T
            first[:, -1] = start.bias
        share = self._share(first @ self.rows)
        penalties_CD = np.stack(list(map(self._spread, candidates)))
        factor = _factor(share * self.gram, penalties_CD[0])
        problem = self._problem(self.rows, np.pad(penalties_CD, ((0, 0), (0, 1))), factor, share)
        starts = np.stack([first] * len(candidates))
        if gradient >= ROUGH_GRADIENT:
            problem, starts = problem.rough(), starts.astype(np.float32)
        weight, iterations = minimise(problem, torch.from_numpy(starts), gradient=gradient)
        found = weight.double().numpy()
        return [self._optimum(self._split(own[:, :-1].T), own[:, -1], iterations) for own in found]

    def _solve_wide(self, penalties: Mapping[str, float], start: Optimum | None, gradient: float) -> Optimum:
        """Solves for N unknowns with penalty 1: the rows of the kernel's Cholesky factor replace those of the features.

        Both have the same inner products.
        """
        kernel = np.sum([kernel / penalties[key] for key, kernel in self.kernels.items()], axis=0)
        kernel[np.diag_indices_from(kernel)] += JITTER * len(kernel) * max(kernel.trace(), 1.0)
        design = torch.linalg.cholesky(torch.from_numpy(kernel)).numpy()
        first = np.zeros((self.targets.shape[1], len(design) + 1))
        if start is not None:
            logits = np.sum([block @ start.weight[key] for key, block in self.blocks.items()], axis=0)
            first[:, :-1] = _solved(design, logits).T
            first[:, -1] = start.bias
        rows = np.pad(design.T, ((0, 1), (0, 0)), constant_values=1)
        share, ones = self._share(first @ rows), np.ones(len(design))
        factor = _factor(share * (design * self.weights[:, None]).T @ design, ones)
        problem = self._problem(rows, np.append(ones, 0)[None], factor, share)
        (found_KP,), iterations = minimise(problem, torch.from_numpy(first[None]), gradient=gradient)
        weight = found_KP.numpy()
        duals = _solved(design, weight[:, :-1].T, transposed=True)
        found = {key: block.T @ duals / penalties[key] for key, block in self.blocks.items()}
        return self._optimum(found, weight[:, -1], iterations)

    def _share(self, logits_KN: Array) -> float:
        """Returns the mean of p (1 - p), the factor of the features' products in the Hessian."""
        found = probabilities_of(torch.from_numpy(logits_KN), label_sets=self.label_sets, axis=0).numpy()
        return max(SMALLEST_SHARE, float((found * (1 - found)).mean(0) @ self.weights))

    def _problem(self, rows: Array, penalties: Array, factor: Tensor, share: float) -> LinearProblem:
        arrays = map(torch.from_numpy, (rows, self.targets.T.copy(), self.weights, penalties))
        rows_PN, targets_KN, weights_N, penalties_CP = arrays
        scale = share**0.5
        return LinearProblem(rows_PN, targets_KN, weights_N, self.label_sets, penalties_CP, factor, bias_scale=scale)

    def _optimum(self, weight: Mapping[str, Array], bias_K: Array, iterations: int) -> Optimum:
        """Builds the result. A softmax is invariant to a constant added to all biases, so their mean is set to 0."""
        return Optimum(weight, bias_K if self.label_sets else bias_K - bias_K.mean(), iterations)

    def _spread(self, penalties: Mapping[str, float]) -> Array:
        return np.concatenate([np.full(block.shape[1], penalties[key]) for key, block in self.blocks.items()])

    def _split(self, weight_DK: Array) -> dict[str, Array]:
        ends = np.cumsum([block.shape[1] for block in self.blocks.values()])[:-1]
        return dict(zip(self.blocks, np.split(weight_DK, ends), strict=True))


def _width(blocks: Mapping[str, Array]) -> int:
    return sum(block.shape[1] for block in blocks.values())


def _side_by_side(blocks: Mapping[str, Array]) -> Array:
    """Concatenates all features and a row of ones, (D + 1, N)."""
    count = len(next(iter(blocks.values())))
    return np.concatenate([*(block.T for block in blocks.values()), np.ones((1, count))])


def _solved(factor: Array, right: Array, *, transposed: bool = False) -> Array:
    """Solves x in `factor` x = `right`, or with the transpose, for a lower triangular `factor`."""
    triangle = torch.from_numpy(factor)
    triangle = triangle.T if transposed else triangle
    found: Array = torch.linalg.solve_triangular(triangle, torch.from_numpy(right), upper=transposed).numpy()
    return found


def _factor(bound: Array, penalties_D: Array) -> Tensor:
    """Returns the lower Cholesky factor of bound + diag(penalties); overwrites `bound`."""
    bound[np.diag_indices_from(bound)] += penalties_D
    factor: Tensor = torch.linalg.cholesky(torch.from_numpy(bound))
    return factor
