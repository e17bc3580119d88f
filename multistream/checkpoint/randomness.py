"""The states of the random generators that a training may draw from."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from multistream.errors import CannotResume


def rng_tensors() -> dict[str, Tensor]:
    """The states of torch's generators (CPU, and each CUDA device once CUDA is in use), numpy's global and Python's."""
    kind, keys, position, has_normal, normal = np.random.get_state()
    version, words, kept = random.getstate()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy_at": torch.tensor([position, has_normal]),
        "numpy_normal": torch.tensor(normal, dtype=torch.float64),
        "python": torch.tensor([version, *words]),
        "python_normal": torch.tensor([] if kept is None else [kept], dtype=torch.float64),
    }
    assert kind == "MT19937", "numpy's global generator has no other kind"
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states |= {f"cuda_{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_rng(tensors: Mapping[str, Tensor]) -> None:
    """Sets the generators to what `rng_tensors` returned; CannotResume for anything else.

    A CUDA device that is not here is passed over: a run may go on on another device.
    """
    try:
        torch.set_rng_state(tensors["torch"])
        position, has_normal = tensors["numpy_at"].tolist()
        keys = tensors["numpy"].numpy().astype(np.uint32)
        np.random.set_state(("MT19937", keys, position, has_normal, tensors["numpy_normal"].item()))
        version, *words = tensors["python"].tolist()
        kept = tensors["python_normal"].tolist()
        random.setstate((version, tuple(words), kept[0] if kept else None))
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            if f"cuda_{index}" in tensors:
                torch.cuda.set_rng_state(tensors[f"cuda_{index}"], index)
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise CannotResume(
            "rng", f"the generators' states do not fit: {error}.", do="Use another checkpoint."
        ) from error
