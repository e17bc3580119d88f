"""L-BFGS for penalised linear classifiers, for several penalties on the same rows at once.

    minimise over W:  sum_n w_n loss(y_n, W x_n) + sum_d penalty_d / 2 |W_d|^2,  for each of C candidates

The candidates share the products with the rows; each iteration needs two. Logits are linear in W, so the line search
needs no further product. The unknowns of a candidate are scaled by the Cholesky factor of an approximate Hessian, so
that few iterations suffice. Tensors are (C, K, P) and (C, K, N), with the long axes last, on the CPU. Products of few
rows with many columns take half as long in torch as in NumPy.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import torch
from torch import Tensor

ITERATIONS = 2000
MEMORY = 20
"""Number of pairs of steps and gradient changes that approximate the Hessian."""
SLOPE = 0.25
"""The line search ends when the slope is at most this fraction of the initial slope."""
TRIALS = 30
"""Maximum number of trial steps of a line search."""
TINY = 1e-30
"""A number that is positive in single precision too."""


@dataclass(frozen=True)
class LinearProblem:
    """N rows with P features, the last of which is 1 for the bias, and the penalties of C candidates."""

    rows: Tensor
    """(P, N): each row's features are a column."""
    targets: Tensor
    """(K, N) distributions over the classes or, with `label_sets`, the classes that each row has (0 or 1)."""
    weights: Tensor
    """(N,), with sum 1."""
    label_sets: bool
    """Whether classes are independent: a logistic loss for each class instead of one cross entropy over all classes."""
    penalties: Tensor
    """(C, P); 0 for the bias."""
    factor: Tensor
    """The Cholesky factor (P - 1, P - 1), lower, of about the first candidate's Hessian; it scales the weights."""
    bias_scale: float
    """The scale of the bias."""

    def rough(self) -> LinearProblem:
        """Returns this problem in single precision."""
        exact = {name: getattr(self, name) for name in ("rows", "targets", "weights", "penalties", "factor")}
        return replace(self, **{name: tensor.float() for name, tensor in exact.items()})

    def scaled_gradient(self, weight_CKP: Tensor, probabilities_CKN: Tensor) -> Tensor:
        """Returns the gradient (C, K, P) with respect to the scaled unknowns."""
        residuals = probabilities_CKN - self.targets
        residuals *= self.weights
        slope = (residuals.flatten(0, 1) @ self.rows.T).view(weight_CKP.shape)
        slope += self.penalties[:, None] * weight_CKP
        return self._solved(slope, transposed=False)

    def unscaled(self, scaled_CKP: Tensor) -> Tensor:
        """Returns the weights (C, K, P) of scaled unknowns."""
        return self._solved(scaled_CKP, transposed=True)

    def logits(self, weight_CKP: Tensor) -> Tensor:
        """Returns the logits (C, K, N)."""
        return (weight_CKP.flatten(0, 1) @ self.rows).view(*weight_CKP.shape[:2], -1)

    def probabilities(self, logits_CKN: Tensor) -> Tensor:
        """Returns the probabilities (C, K, N)."""
        return probabilities_of(logits_CKN, label_sets=self.label_sets, axis=1)

    def _solved(self, right_CKP: Tensor, *, transposed: bool) -> Tensor:
        right, found = right_CKP.flatten(0, 1), torch.empty_like(right_CKP)
        flat = found.flatten(0, 1)
        triangle = self.factor.T if transposed else self.factor
        flat[:, :-1] = torch.linalg.solve_triangular(triangle, right[:, :-1].T, upper=transposed).T
        flat[:, -1] = right[:, -1] / self.bias_scale
        return found


def probabilities_of(logits: Tensor, *, label_sets: bool, axis: int) -> Tensor:
    """Applies softmax over the class axis or, with `label_sets`, the logistic function to each logit."""
    return logits.sigmoid() if label_sets else logits.softmax(axis)


def minimise(problem: LinearProblem, weight_CKP: Tensor, *, gradient: float) -> tuple[Tensor, int]:
    """Minimises from these weights until no entry of a scaled gradient exceeds `gradient`.

    Returns the weights (C, K, P) and the number of iterations.
    """
    logits = problem.logits(weight_CKP)
    probabilities = problem.probabilities(logits)
    slope = problem.scaled_gradient(weight_CKP, probabilities)
    pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=MEMORY)
    for iteration in range(ITERATIONS):
        if float(slope.abs().max()) <= gradient:
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


def _dot(one_CKP: Tensor, other_CKP: Tensor) -> Tensor:
    """Returns the inner product for each candidate, (C,)."""
    product: Tensor = torch.linalg.vecdot(one_CKP.flatten(1), other_CKP.flatten(1))
    return product


def _pair(moved_CKP: Tensor, bent_CKP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a step, the gradient's change along it, and 1 / their product (C,), 0 for converged candidates."""
    product = _dot(moved_CKP, bent_CKP)
    return moved_CKP, bent_CKP, torch.where(product > TINY, 1 / product.clamp_min(TINY), 0)


def _direction(slope_CKP: Tensor, pairs: deque[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Returns the search direction by the two-loop recursion of L-BFGS (Nocedal and Wright 2006, algorithm 7.4)."""
    direction = -slope_CKP
    kept = []
    for moved, bent, inverse in reversed(pairs):
        kept.append(inverse * _dot(moved, direction))
        direction -= kept[-1][:, None, None] * bent
    if pairs:
        _, bent, inverse = pairs[-1]
        square = _dot(bent, bent) * inverse
        direction *= torch.where(square > 0, 1 / square.clamp_min(TINY), 1)[:, None, None]
    for (moved, bent, inverse), alpha in zip(pairs, reversed(kept), strict=True):
        direction += (alpha - inverse * _dot(bent, direction))[:, None, None] * moved
    return direction


def _line_search(
    problem: LinearProblem,
    weight_CKP: Tensor,
    step_CKP: Tensor,
    logits_CKN: Tensor,
    change_CKN: Tensor,
    first_C: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns step factors (C,) and the probabilities at the new point.

    Newton's method on the slope along the step, which is monotone.
    """
    penalised = problem.penalties[:, None] * step_CKP
    linear_C, square_C = _dot(penalised, weight_CKP), _dot(penalised, step_CKP)
    weighted = problem.weights * change_CKN
    targeted_C = weighted.flatten(1) @ problem.targets.flatten()
    factor_C, low_C, high_C = torch.ones_like(first_C), torch.zeros_like(first_C), torch.full_like(first_C, torch.inf)
    found = problem.probabilities(logits_CKN + change_CKN)
    for _ in range(TRIALS):
        slope_C = _dot(found, weighted) - targeted_C + linear_C + factor_C * square_C
        steep = slope_C.abs() > SLOPE * first_C.abs()
        if not steep.any():
            break
        low_C, high_C = torch.where(slope_C < 0, factor_C, low_C), torch.where(slope_C > 0, factor_C, high_C)
        curvature_C = _curvature(problem, found, change_CKN, weighted) + square_C
        newton_C = factor_C - slope_C / curvature_C.clamp_min(TINY)
        halved_C = torch.where(high_C.isfinite(), (low_C + high_C) / 2, 2 * factor_C)
        inside = (newton_C > low_C) & (newton_C < high_C)
        factor_C = torch.where(steep, torch.where(inside, newton_C, halved_C), factor_C)
        found = problem.probabilities(logits_CKN + factor_C[:, None, None] * change_CKN)
    return factor_C, found


def _curvature(problem: LinearProblem, found_CKN: Tensor, change_CKN: Tensor, weighted_CKN: Tensor) -> Tensor:
    """Returns the second derivative of the loss along a change of the logits, (C,)."""
    shared = found_CKN * change_CKN
    if problem.label_sets:
        return _dot(shared * (1 - found_CKN), weighted_CKN)
    return _dot(shared, weighted_CKN) - shared.sum(1).square() @ problem.weights
