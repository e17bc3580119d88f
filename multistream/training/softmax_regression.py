"""Softmax regression with a penalty for each block of features, solved to its optimum.

    minimise over W, b:  sum_n w_n CE(y_n, softmax(sum_k x_nk W_k + b))  +  sum_k penalty_k / 2 |W_k|^2,  sum_n w_n = 1

The problem is strictly convex in W: neither seed nor order matters. The Hessian lies below x'x / 2 + penalty (Boehning,
"Multinomial logistic regression algorithm", 1992). The Cholesky factor of this bound scales the unknowns; L-BFGS then
needs few iterations. With more features than rows the unknowns are as many as the rows: the optimum lies in their span.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import logsumexp

Array = NDArray[np.float64]

GRADIENT = 1e-6
"""The largest entry of the scaled gradient at the end: probabilities are then within 1e-5 of the optimum's."""
ROUGH_GRADIENT = 1e-5
"""The same where penalties are compared: their losses differ by far more than what is missing then."""
ITERATIONS = 2000
JITTER = 8 * float(np.finfo(np.float64).eps)
"""Added to a kernel's diagonal, times its trace and rows: centred features make it singular, rounding indefinite."""


@dataclass(frozen=True)
class Optimum:
    """`weight` {key: (D, K)} and `bias` (K,); `iterations` of L-BFGS that it took."""

    weight: Mapping[str, Array]
    bias: Array
    iterations: int


class SoftmaxRegression:
    """The rows of one fit: `blocks` {key: (N, D)} with weighted mean 0, `targets` (N, K), `weights` (N,) that sum to 1.

    What all penalties share is computed once: the Gram matrix or, with more features than rows, each block's kernel.
    """

    def __init__(
        self,
        blocks: Mapping[str, Array],
        targets_NK: Array,
        weights_N: Array,
        *,
        larger: SoftmaxRegression | None = None,
    ) -> None:
        """`larger` may hold these very blocks among others: its products are then taken from it."""
        self.blocks, self.targets, self.weights = dict(blocks), targets_NK, weights_N
        self.is_wide = sum(block.shape[1] for block in blocks.values()) > len(targets_NK)
        known = larger if larger is not None and larger.is_wide == self.is_wide and larger._holds(self) else None
        if self.is_wide:
            self.kernels: dict[str, Array] = {
                k: known.kernels[k] if known else block @ block.T for k, block in blocks.items()
            }
            return
        self.joined = np.concatenate(list(blocks.values()), axis=1)
        if known is None:
            self.gram = (self.joined * weights_N[:, None]).T @ self.joined
        else:
            columns = np.concatenate([known._columns(key) for key in blocks])
            self.gram = known.gram[np.ix_(columns, columns)]

    def _holds(self, other: SoftmaxRegression) -> bool:
        """Whether all blocks of the other, and its weights, are among these."""
        same = np.array_equal(self.weights, other.weights)
        return same and all(k in self.blocks and np.array_equal(self.blocks[k], b) for k, b in other.blocks.items())

    def _columns(self, key: str) -> NDArray[np.int64]:
        """The places of a block's features among all."""
        before = list(self.blocks)[: list(self.blocks).index(key)]
        start = sum(self.blocks[name].shape[1] for name in before)
        return np.arange(start, start + self.blocks[key].shape[1])

    def solve(
        self, penalties: Mapping[str, float], start: Optimum | None = None, *, gradient: float = GRADIENT
    ) -> Optimum:
        """The optimum under one penalty a block; `start` is the optimum of another fit."""
        design, bound = self._kernel_design(penalties) if self.is_wide else self._feature_design(penalties)
        factor = cholesky(bound, lower=True, overwrite_a=True, check_finite=False)
        first = np.zeros((len(factor) + 1, self.targets.shape[1]))
        if start is not None:
            first[:-1] = factor.T @ self._unknowns(start.weight, penalties, design)
            first[-1] = start.bias
        scaled, bias, iterations = _minimise(design, factor, self.targets, self.weights, first, gradient)
        unknowns = solve_triangular(factor, scaled, lower=True, trans="T", check_finite=False)
        return Optimum(self._weight(unknowns, penalties, design), bias, iterations)

    def _feature_design(self, penalties: Mapping[str, float]) -> tuple[Array, Array]:
        """The design (N, D) whose weights have penalty 1, and the bound (D, D) of the Hessian."""
        roots = self._roots(penalties)
        bound = 0.5 * roots[:, None] * self.gram * roots
        bound[np.diag_indices_from(bound)] += 1
        return self.joined * roots, bound

    def _kernel_design(self, penalties: Mapping[str, float]) -> tuple[Array, Array]:
        """The same in N unknowns: the Cholesky factor of the kernel has the inner products of the features' rows."""
        kernel = np.sum([kernel / penalties[key] for key, kernel in self.kernels.items()], axis=0)
        diagonal = np.diag_indices_from(kernel)
        kernel[diagonal] += JITTER * len(kernel) * max(kernel.trace(), 1.0)
        design = cholesky(kernel, lower=True, overwrite_a=True, check_finite=False)
        bound = 0.5 * (design * self.weights[:, None]).T @ design
        bound[diagonal] += 1
        return design, bound

    def _roots(self, penalties: Mapping[str, float]) -> Array:
        return np.concatenate([np.full(block.shape[1], penalties[key] ** -0.5) for key, block in self.blocks.items()])

    def _unknowns(self, weight: Mapping[str, Array], penalties: Mapping[str, float], design: Array) -> Array:
        if self.is_wide:
            logits = np.sum([block @ weight[key] for key, block in self.blocks.items()], axis=0)
            found: Array = solve_triangular(design, logits, lower=True, check_finite=False)
            return found
        return np.concatenate([weight[key] * penalties[key] ** 0.5 for key in self.blocks])

    def _weight(self, unknowns: Array, penalties: Mapping[str, float], design: Array) -> dict[str, Array]:
        if self.is_wide:
            rows = solve_triangular(design, unknowns, lower=True, trans="T", check_finite=False)
            return {key: block.T @ rows / penalties[key] for key, block in self.blocks.items()}
        ends = np.cumsum([block.shape[1] for block in self.blocks.values()])[:-1]
        return dict(zip(self.blocks, np.split(self._roots(penalties)[:, None] * unknowns, ends), strict=True))


def _minimise(
    design: Array, factor: Array, targets_NK: Array, weights_N: Array, first: Array, gradient: float
) -> tuple[Array, Array, int]:
    """L-BFGS over factor' x unknowns (n, K) and, as the last row, the bias (K,): (unknowns, bias, iterations)."""

    def objective(flat: Array) -> tuple[float, Array]:
        point = flat.reshape(first.shape)
        unknowns = solve_triangular(factor, point[:-1], lower=True, trans="T", check_finite=False)
        logits = design @ unknowns + point[-1]
        totals = logsumexp(logits, axis=1, keepdims=True)
        value = weights_N @ (totals[:, 0] - (targets_NK * logits).sum(1)) + 0.5 * np.square(unknowns).sum()
        residual = weights_N[:, None] * (np.exp(logits - totals) - targets_NK)
        slope = np.empty_like(point)
        slope[:-1] = solve_triangular(factor, design.T @ residual + unknowns, lower=True, check_finite=False)
        slope[-1] = residual.sum(0)
        return float(value), slope.ravel()

    options = {"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "gtol": gradient, "ftol": 0.0, "maxcor": 20}
    found = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    point = found.x.reshape(first.shape)
    return point[:-1], point[-1] - point[-1].mean(), int(found.nit)
