"""The loss of a recipe (`training.loss`): built from the registry, with the class counts of the training split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.errors import UsageError
from multistream.interfaces import Loss
from multistream.registry import build, find, owner_of, signature
from multistream.spec import Spec


def make_loss(
    name: str,
    options: Mapping[str, Any],
    *,
    shares: NDArray[np.float64],
    balanced: bool,
    label_smoothing: float,
    label_sets: bool = False,
) -> Loss:
    """Builds the loss of a spec; class weights and priors are computed from `shares` (N, K), the training targets.

    `label_sets` means that images may have several classes. Raises UsageError if the loss does not fit that.
    """
    spec = Spec.parse(name, key="loss", where="training.loss")
    counts = torch.from_numpy(shares.sum(0))
    weights = class_weights(counts) if balanced else None
    known = signature(part := find("loss", spec.name, distribution=spec.distribution), part.resolve()).parameters
    for setting, argument, is_set in (
        ("class_weights", "weights", balanced),
        ("label_smoothing", "label_smoothing", label_smoothing > 0),
    ):
        if is_set and argument not in known:
            raise UsageError(f"training.{setting}", f"the loss {name!r} takes none.", do="Leave it at its default.")
    given = {"weights": weights, "label_smoothing": label_smoothing, "counts": counts}
    made = build("loss", spec, options=options, given=given)
    if not isinstance(made, Loss):
        owner = owner_of("loss", spec, where="training.loss")
        raise owner.broken(f"it is a {type(made).__name__}; it must be a multistream.Loss")
    if label_sets != made.label_sets:
        several = "several labels" if label_sets else "one label"
        do = "Set training.loss = binary_cross_entropy." if label_sets else "Leave training.loss at cross_entropy."
        raise UsageError("training.loss", f"{name!r} does not fit images that have {several}.", do=do)
    return made


def class_weights(counts: Tensor) -> Tensor:
    """Returns weights (K,) that balance the classes: N / (K x n_k); 0 for a class without images."""
    total = counts.double().sum()
    return torch.where(counts > 0, total / (len(counts) * counts.clamp_min(1e-12)), 0.0).float()
