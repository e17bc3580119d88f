"""L-BFGS for penalised linear classifiers, for several penalties on the same rows at once.

    minimise over W:  sum_n w_n loss(y_n, W x_n) + sum_d penalty_d / 2 |W_d|^2,  for each of C candidates

The candidates share the products with the rows, of which each iteration takes two. Logits are linear in W, so the line
search needs no further product. The unknowns of a candidate are scaled by the Cholesky factor of an approximate
Hessian, in which few iterations suffice. Arrays are (C, K, P) and (C, K, N): long axes last, for speed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_blas_funcs

Array = NDArray[np.float64]
"""Rough results are computed in single precision."""

ITERATIONS = 2000
MEMORY = 20
"""Pairs of steps and gradients that approximate the Hessian."""
SLOPE = 0.25
"""The line search ends where the slope is this fraction of the first."""
TRIALS = 30
"""Steps that a line search tries at most."""
TINY = 1e-30
"""A number above 0 in single precision too."""


@dataclass(frozen=True)
class LinearProblem:
    """N rows with P features, the last of which is 1 for the bias, and what C candidates make of them."""

    rows: Array
    """(P, N): the features of a row are a column."""
    targets: Array
    """(K, N) distributions over the classes or, with `label_sets`, the classes that each row has (0 or 1)."""
    weights: Array
    """(N,), of sum 1."""
    label_sets: bool
    """Whether the classes are independent of one another: the logistic loss of each, else the cross entropy of all."""
    penalties: Array
    """(C, P); 0 for the bias."""
    factor: Array
    """The lower Cholesky factor (P - 1, P - 1) that scales the weights: nearly the Hessian of the first candidate."""
    bias_scale: float
    """The same for the bias."""

    def rough(self) -> LinearProblem:
        """The same in single precision."""
        arrays = {name: getattr(self, name) for name in ("rows", "targets", "weights", "penalties", "factor")}
        return replace(self, **{name: array.astype(np.float32) for name, array in arrays.items()})

    def scaled_gradient(self, weight_CKP: Array, probabilities_CKN: Array) -> Array:
        """The gradient (C, K, P) over the scaled unknowns."""
        residuals = probabilities_CKN - self.targets
        residuals *= self.weights
        slope = (residuals.reshape(-1, residuals.shape[2]) @ self.rows.T).reshape(weight_CKP.shape)
        slope += self.penalties[:, None] * weight_CKP
        return self._solved(slope, transposed=False)

    def unscaled(self, scaled_CKP: Array) -> Array:
        """Weights (C, K, P) of scaled unknowns."""
        return self._solved(scaled_CKP, transposed=True)

    def logits(self, weight_CKP: Array) -> Array:
        """(C, K, N)"""
        flat = weight_CKP.reshape(-1, weight_CKP.shape[2]) @ self.rows
        return flat.reshape(*weight_CKP.shape[:2], -1)

    def probabilities(self, logits_CKN: Array) -> Array:
        """(C, K, N)"""
        return probabilities_of(logits_CKN, label_sets=self.label_sets, axis=1)

    def _solved(self, right_CKP: Array, *, transposed: bool) -> Array:
        right = right_CKP.reshape(-1, right_CKP.shape[2])
        found = np.empty_like(right)
        (trsm,) = get_blas_funcs(("trsm",), (self.factor,))
        found[:, :-1] = trsm(1.0, self.factor, right[:, :-1].T, lower=True, trans_a=transposed).T
        found[:, -1] = right[:, -1] / self.bias_scale
        return found.reshape(right_CKP.shape)


def probabilities_of(logits: Array, *, label_sets: bool, axis: int) -> Array:
    """Softmax over the axis of the classes, or the logistic function of each logit."""
    if label_sets:
        from scipy.special import expit  # for label sets alone: a fifth of the time of importing torch

        independent: Array = expit(logits)
        return independent
    found: Array = logits - logits.max(axis=axis, keepdims=True)
    np.exp(found, out=found)
    found /= found.sum(axis=axis, keepdims=True)
    return found


def minimise(problem: LinearProblem, weight_CKP: Array, *, gradient: float) -> tuple[Array, int]:
    """From these weights to the optimum: no entry of a scaled gradient is above `gradient`. And how many iterations."""
    logits = problem.logits(weight_CKP)
    probabilities = problem.probabilities(logits)
    slope = problem.scaled_gradient(weight_CKP, probabilities)
    pairs: deque[tuple[Array, Array, Array]] = deque(maxlen=MEMORY)
    for iteration in range(ITERATIONS):
        if np.abs(slope).max() <= gradient:
            return weight_CKP, iteration
        direction = _direction(slope, pairs)
        step = problem.unscaled(direction)
        change = problem.logits(step)
        factor_C, probabilities = _line_search(problem, weight_CKP, step, logits, change, _dot(slope, direction))
        factor = factor_C[:, None, None]
        weight_CKP, logits = weight_CKP + factor * step, logits + factor * change
        before, slope = slope, problem.scaled_gradient(weight_CKP, probabilities)
        pairs.append(_pair(factor * direction, slope - before))
    return weight_CKP, ITERATIONS


def _dot(one_CKP: Array, other_CKP: Array) -> Array:
    """The inner product of each candidate, (C,)."""
    return np.array([np.vdot(one, other) for one, other in zip(one_CKP, other_CKP, strict=True)])


def _pair(moved_CKP: Array, bent_CKP: Array) -> tuple[Array, Array, Array]:
    """A step, the change of the gradient along it, and 1 / their product (C,): 0 where a candidate no longer moves."""
    product = _dot(moved_CKP, bent_CKP)
    return moved_CKP, bent_CKP, np.where(product > TINY, 1 / np.maximum(product, TINY), 0)


def _direction(slope_CKP: Array, pairs: deque[tuple[Array, Array, Array]]) -> Array:
    """The two loops of L-BFGS (Nocedal and Wright 2006, algorithm 7.4)."""
    direction = -slope_CKP
    kept = []
    for moved, bent, inverse in reversed(pairs):
        kept.append(inverse * _dot(moved, direction))
        direction -= kept[-1][:, None, None] * bent
    if pairs:
        _, bent, inverse = pairs[-1]
        square = _dot(bent, bent) * inverse
        direction *= np.where(square > 0, 1 / np.maximum(square, TINY), 1)[:, None, None]
    for (moved, bent, inverse), alpha in zip(pairs, reversed(kept), strict=True):
        direction += (alpha - inverse * _dot(bent, direction))[:, None, None] * moved
    return direction


def _line_search(
    problem: LinearProblem, weight_CKP: Array, step_CKP: Array, logits_CKN: Array, change_CKN: Array, first_C: Array
) -> tuple[Array, Array]:
    """(factors (C,), the probabilities there): Newton's method on the slope along the step, which is monotone."""
    penalised = problem.penalties[:, None] * step_CKP
    linear_C, square_C = _dot(penalised, weight_CKP), _dot(penalised, step_CKP)
    weighted = problem.weights * change_CKN
    targeted_C = np.array([np.vdot(each, problem.targets) for each in weighted])
    factor_C, low_C, high_C = np.ones_like(first_C), np.zeros_like(first_C), np.full_like(first_C, np.inf)
    found = problem.probabilities(logits_CKN + change_CKN)
    for _ in range(TRIALS):
        slope_C = _dot(found, weighted) - targeted_C + linear_C + factor_C * square_C
        steep = np.abs(slope_C) > SLOPE * np.abs(first_C)
        if not steep.any():
            break
        low_C, high_C = np.where(slope_C < 0, factor_C, low_C), np.where(slope_C > 0, factor_C, high_C)
        curvature_C = _curvature(problem, found, change_CKN, weighted) + square_C
        newton_C = factor_C - slope_C / np.maximum(curvature_C, TINY)
        halved_C = np.where(np.isfinite(high_C), low_C / 2 + np.minimum(high_C, 1 / TINY) / 2, 2 * factor_C)
        inside = (newton_C > low_C) & (newton_C < high_C)
        factor_C = np.where(steep, np.where(inside, newton_C, halved_C), factor_C)
        found = problem.probabilities(logits_CKN + factor_C[:, None, None] * change_CKN)
    return factor_C, found


def _curvature(problem: LinearProblem, found_CKN: Array, change_CKN: Array, weighted_CKN: Array) -> Array:
    """The second derivative of the loss along a change of the logits, (C,)."""
    shared = found_CKN * change_CKN
    if problem.label_sets:
        return _dot(shared * (1 - found_CKN), weighted_CKN)
    total: Array = _dot(shared, weighted_CKN) - np.square(shared.sum(1)) @ problem.weights
    return total
