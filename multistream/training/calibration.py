"""Temperature scaling: logits are divided by one number, so that mean confidence agrees with accuracy.

Guo et al. 2017 (On Calibration of Modern Neural Networks, ICML). The predicted class does not change. The temperature
is fitted on photos that the network was not trained on: the validation split, or the inner folds of the convex probe.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multistream.console import Say
from multistream.errors import DataError, UsageError
from multistream.network.network import MultiStream
from multistream.nn.modules import trains
from multistream.recipe import Recipe

Targets = NDArray[np.int64] | NDArray[np.float64]
"""Labels (N,) or distributions (N, K)."""
WHERE = "training.calibration"
HOTTEST = 100.0
"""The temperature is between 1 / 100 and 100. If a few photos are all right, or all wrong, no optimum exists."""


ENOUGH = 100
"""The smallest number of validation photos for which `auto` fits a temperature."""


@dataclass(frozen=True)
class OutOfFold:
    """Logits (N, K) of N photos, `images` (N,), by classifiers that were fitted without them."""

    logits: NDArray[np.float64]
    images: NDArray[np.int64]


def settled_temperature(validation: OutOfFold, inner_folds: OutOfFold | None, targets: Targets, *, say: Say) -> float:
    """Fits the temperature on the validation split or, if it is empty, on the inner folds.

    `targets` are those of all photos, by index. Raises DataError if there are no photos.
    """
    found, source = validation, "validation photos"
    if not len(found.images) and inner_folds is not None:
        found, source = inner_folds, "photos, out of inner folds"
    if not len(found.images):
        raise DataError(WHERE, "no photo of the validation split can be decoded.", do="Run multistream data scan.")
    temperature = fit_temperature(found.logits, targets[found.images])
    say(f"calibration: temperature {temperature:.3f}, fitted on {len(found.images):,} {source}")
    return temperature


def fit_temperature(logits: NDArray[np.float64], targets: Targets) -> float:
    """Returns the temperature with the least mean cross entropy, for labels (N,) or distributions (N, K).

    `logits` are (N, K).

    The loss is convex in 1 / temperature, so the minimum is unique.

    >>> logits = np.log([[0.9, 0.1]] * 4)
    >>> round(float(1 / (1 + np.exp(-np.log(9) / fit_temperature(logits, np.array([0, 0, 0, 1]))))), 4)
    0.75
    """
    # Only calibration needs it; it takes a third of the import time of torch.
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    shares = targets if targets.ndim == 2 else np.eye(logits.shape[1])[targets.astype(np.int64)]

    def loss(log_temperature: float) -> float:
        return float(-(shares * log_softmax(logits / np.exp(log_temperature), axis=1)).sum(1).mean())

    limit = np.log(HOTTEST)
    return float(np.exp(minimize_scalar(loss, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-7}).x))


def settle_calibration(recipe: Recipe, network: MultiStream, *, validation: int) -> Recipe:
    """Resolves `training.calibration = auto`. Raises UsageError if a temperature is requested but cannot be fitted."""
    chosen = recipe.training.calibration
    if chosen == "none":
        return recipe
    averages = network.fusion.averages_probabilities and len(network.branches) > 1
    if chosen == "auto":
        fitted = validation >= ENOUGH and not averages and not network.label_sets
        return recipe.updated({"training": {"calibration": "temperature" if fitted else "none"}})
    if averages:
        what = f"{recipe.network.fusion} fusion averages the streams' probabilities, which no temperature may change."
        raise UsageError(WHERE, what, do="Leave it at none, or calibrate the runs of the single streams.")
    if not validation and not (recipe.training.solver == "lbfgs" and trains(network)):
        right = "A temperature needs photos that the network has not learned from."
        raise UsageError(WHERE, "there is no validation split.", right=right, do="Write data.split as in 80/5/15.")
    return recipe
