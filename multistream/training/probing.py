"""Linear probing before fine-tuning (LP-FT): taps, temporal modules and heads are trained on frozen streams first.

Kumar et al., "Fine-tuning can distort pretrained features and underperform out-of-distribution" (ICLR 2022).
"""

from __future__ import annotations

from copy import deepcopy

from multistream.errors import UsageError
from multistream.network.network import MultiStream
from multistream.recipe import Recipe

PROBE_EPOCHS = 30
"""The maximum number of probe epochs by default: as many as frozen streams train by default."""


def settle_probing(recipe: Recipe, network: MultiStream) -> Recipe:
    """Resolves `training.probe_epochs = -1`.

    Raises UsageError if a linear probe is requested but no stream is trained.
    """
    epochs = recipe.training.probe_epochs
    if epochs > 0 and network.is_frozen:
        what = "all streams are frozen, so there is nothing to fine-tune after the linear probe."
        raise UsageError("training.probe_epochs", what, do="Pass --freeze none, or --set training.probe_epochs=0.")
    if epochs >= 0:
        return recipe
    branches = network.branches.items()
    tuned = [key for key, branch in branches if not (branch.stream.is_frozen or branch.reads_vector)]
    weights = recipe.network.weights
    pays = bool(tuned) and all(weights.get(key, "random") != "random" for key in tuned)
    return recipe.updated({"training": {"probe_epochs": PROBE_EPOCHS if pays else 0}})


def probe_of(recipe: Recipe, network: MultiStream) -> tuple[Recipe, MultiStream]:
    """Returns the recipe and a copy of the network for the linear probe: frozen streams, no augmentation."""
    settings = recipe.training
    plain = {"flips": [], "crops": False, "augment": "none", "mixup": 0.0, "cutmix": 0.0, "ema": 0.0}
    epochs = {"epochs": settings.probe_epochs, "probe_epochs": 0}
    probe = recipe.updated(
        {
            "network": {"freeze": ["streams"]},
            "training": {**plain, **epochs},
            "runtime": {"shard": False, "fit_batch": False},
        }
    )
    return probe, deepcopy(network).freeze("streams")
