"""Saves and restores the states of the random generators that a training may use."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.errors import CannotResume


def rng_tensors() -> dict[str, Tensor]:
    """Returns the states of torch's generators (CPU; each CUDA device if in use), NumPy's global and Python's."""
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
    if torch.cuda.is_initialized():
        states |= {f"cuda_{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_rng(tensors: Mapping[str, Tensor]) -> None:
    """Sets the generators to the output of `rng_tensors`. Raises CannotResume, without any change, if it does not fit.

    A CUDA device that does not exist is skipped: a run may be resumed on another device.
    """
    devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    try:
        cuda = {index: tensors[f"cuda_{index}"] for index in devices if f"cuda_{index}" in tensors}
        cpu, numpy, python = tensors["torch"], _numpy_state(tensors), _python_state(tensors)
        # Other generators are set first as a test, because some generators fail half-way.
        torch.Generator().set_state(cpu)
        np.random.RandomState().set_state(numpy)
        random.Random().setstate(python)
        for index, state in cuda.items():
            torch.Generator(f"cuda:{index}").set_state(state)
    except (LookupError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise CannotResume(
            "rng", f"the random generator states do not fit: {error}.", do="Use another checkpoint."
        ) from error
    torch.set_rng_state(cpu)
    np.random.set_state(numpy)
    random.setstate(python)
    for index, state in cuda.items():
        torch.cuda.set_rng_state(state, index)


def _numpy_state(tensors: Mapping[str, Tensor]) -> tuple[str, NDArray[np.uint32], int, int, float]:
    position, has_normal = tensors["numpy_at"].tolist()
    # from a list, so that numbers out of range raise an error
    keys = np.array(tensors["numpy"].tolist(), dtype=np.uint32)
    return "MT19937", keys, position, has_normal, tensors["numpy_normal"].item()


def _python_state(tensors: Mapping[str, Tensor]) -> tuple[int, tuple[int, ...], float | None]:
    version, *words = tensors["python"].tolist()
    kept = tensors["python_normal"]
    return version, tuple(words), float(kept) if kept.numel() else None
