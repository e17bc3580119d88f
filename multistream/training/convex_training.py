"""`training.solver = "lbfgs"`: fits a prepared network on extracted features and computes its metrics."""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from multistream.console import Say
from multistream.data.splits import Parts
from multistream.features import Extracted
from multistream.interfaces import Loss
from multistream.network.network import MultiStream, Pooled
from multistream.nn.modules import evaluating
from multistream.nn.nested import map_stages
from multistream.training.calibration import OutOfFold
from multistream.training.convex import ConvexData, fit_network
from multistream.training.feeds import as_targets
from multistream.training.loop import hit_count, plain_loss
from multistream.training.prepare import Prepared


def solve(
    prepared: Prepared, extracted: Extracted, criterion: Loss, *, say: Say
) -> tuple[dict[str, float], OutOfFold | None]:
    """Fits the network to its optimum; returns the line of metrics.jsonl, with the selected penalties.

    The second value holds the out-of-fold logits of the training photos, if inner folds selected the penalties and
    there is one classifier; else None.
    """
    started = time.monotonic()
    network, settings, parts = prepared.network, prepared.recipe.training, prepared.parts
    targets = as_targets(prepared.targets, device=torch.device("cpu"))
    pooled = extracted.views_to(prepared.runtime.device)
    views, classes = 1 + len(extracted.turned), len(network.classes)
    data = convex_data(pooled, targets, extracted.valid, parts, criterion, views=views, classes=classes)
    fit = fit_network(network, data, penalties=settings.penalties)
    seconds = time.monotonic() - started
    chosen = ", ".join(f"{key} {penalty:.3g}" for key, penalty in fit.penalties.items())
    say(f"lbfgs: penalties {chosen} from {fit.fits} fits, {seconds:.1f} s")
    train_loss, accuracy = _measured(network, pooled, targets, extracted.valid, parts.train)
    val_loss = fit.held_out_loss
    if len(parts.val):
        val_loss, accuracy = _measured(network, pooled, targets, extracted.valid, parts.val)
    line = {
        "epoch": 0,
        "step": fit.fits,
        "train_loss": train_loss,
        "val_loss": val_loss,
        "val_accuracy": accuracy,
        "learning_rate": 0.0,
        "seconds": seconds,
        **{f"penalty/{key}": penalty for key, penalty in fit.penalties.items()},
    }
    out = [probe.out_of_fold for probe in fit.probes.values() if probe.out_of_fold is not None]
    first_views = np.flatnonzero(np.arange(len(data.images)) < len(_valid(parts.train, extracted.valid)))
    return line, OutOfFold(out[0][first_views], data.images[first_views]) if len(out) == len(fit.probes) == 1 else None


def convex_data(
    pooled: Pooled, targets: Tensor, valid: Tensor, parts: Parts, criterion: Loss, *, views: int, classes: int
) -> ConvexData:
    """Builds the rows to fit: each training photo in all its views, then the validation split in its first view.

    `pooled` holds V * N rows, view by view; `targets`, labels (N,) or distributions (N, K), and `valid` the N photos.
    Class weights and label smoothing are applied to the rows' weights and targets, so that the loss equals the
    criterion.
    """
    count = len(targets)
    train, val = (_valid(rows, valid) for rows in (parts.train, parts.val))
    rows = np.concatenate([*(view * count + train for view in range(views)), val])
    images = rows % count
    held_out = np.arange(len(rows) - len(val), len(rows)) if len(val) else None
    own, smoothing, chosen = targets[images], criterion.label_smoothing, torch.from_numpy(rows)
    features = map_stages(pooled, lambda rows: rows[chosen.to(rows.device)])
    if criterion.label_sets:
        return ConvexData(features, own.double().numpy(), np.ones(len(own)), images, held_out)
    own = own.double() if own.ndim == 2 else functional.one_hot(own, classes).double()
    weights = torch.ones(classes) if criterion.weights is None else criterion.weights.cpu()
    # As in torch's cross_entropy: the smoothed part of a target is weighted by its own class, not by the label's.
    weighted = ((1 - smoothing) * own + smoothing / classes) * weights.double()
    return ConvexData(features, weighted.numpy(), weighted.sum(1).numpy(), images, held_out)


def _valid(rows: NDArray[np.int64], valid: Tensor) -> NDArray[np.int64]:
    kept: NDArray[np.int64] = rows[valid.numpy()[rows]]
    return kept


@torch.no_grad()
def _measured(
    network: MultiStream, pooled: Pooled, targets: Tensor, valid: Tensor, rows: NDArray[np.int64]
) -> tuple[float, float]:
    """(mean cross entropy, accuracy) of these photos."""
    chosen = torch.from_numpy(_valid(rows, valid))
    if not len(chosen):
        return float("nan"), float("nan")
    with evaluating(network):
        logits = network.classify(map_stages(pooled, lambda rows: rows[chosen.to(rows.device)])).cpu()
    own = targets[chosen]
    sets = network.label_sets
    return plain_loss(logits, own, label_sets=sets) / len(own), hit_count(logits, own, label_sets=sets) / len(own)
