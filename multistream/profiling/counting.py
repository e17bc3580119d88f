"""Counting: multiply-adds, activations and peak memory of a piece of a network, exactly, from the operations it runs.

Nothing is computed: the operations run on tensors that have shapes and no numbers. On the CPU torch takes a GRU apart
into its matrix products, so that they count too; on CUDA it is one operation that torch's counter takes for nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from multistream.interfaces import FusionOutput

PRODUCTS = frozenset({"aten::convolution", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"})
"""The operations whose outputs count as activations, as papers count them."""


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two FLOPs a multiply-add of queries with keys, and of weights with values, from the three shapes."""
    return int(sdpa_flop_count(query, key, value))


UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""Operations that torch's counter does not know, with what they cost: attention as a CPU computes it."""


@dataclass(frozen=True)
class Count:
    """`macs` multiply-adds; `activations`, numbers that convolutions and matrix products return; `peak_bytes` alive.

    `moved` are the numbers that go in and come out: what any implementation has to move, parameters apart.
    """

    macs: int
    activations: int
    peak_bytes: int
    moved: int = 0


def without_numbers() -> FakeTensorMode:
    """The context in which tensors have shapes and no numbers; what is counted together shares one."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def count(run: Callable[[], Any]) -> tuple[Count, Any]:
    """Counts what `run` computes, and returns what it returns; to be called inside `without_numbers`, on the CPU.

    torch's counter sees convolutions, matrix products and attention, and counts two FLOPs a multiply-add.
    """
    counter = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)
    with torch.no_grad(), _unfused_attention(), _Observer() as seen, counter as flops:
        result = run()
    given = run.args if isinstance(run, partial) else ()
    return Count(flops.get_total_flops() // 2, seen.activations, seen.peak, _numbers((given, result))), result


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """In eval mode nn.MultiheadAttention and nn.TransformerEncoderLayer run as one operation that nothing can count."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _numbers(value: Any) -> int:
    """How many numbers the tensors in a value hold."""
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, FusionOutput):
        return value.logits.numel()
    if isinstance(value, Mapping):
        return sum(map(_numbers, value.values()))
    return sum(map(_numbers, value)) if isinstance(value, tuple | list) else 0


class _Observer(TorchDispatchMode):
    """Watches operations go by: adds up activations, and the bytes of the tensors that are alive at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.activations = self.peak = self.alive = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.activations += tensor.numel() if func._schema.name in PRODUCTS else 0
                self._watch(tensor)
        return result

    def _watch(self, tensor: Tensor) -> None:
        """Counts a new storage until it dies; a view has none of its own."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(tensor, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.alive -= size
