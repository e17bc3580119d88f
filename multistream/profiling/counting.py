"""Exact counts of multiply-adds, activations and peak memory of a part of a network, from the operations that it runs.

The operations run on fake tensors, which have shapes but no values. Counting runs on the CPU, where torch splits a GRU
into matrix products, so that they are counted; on CUDA a GRU is one operation that torch's counter does not count.
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
    """Returns the FLOPs (two per multiply-add) of queries with keys and of weights with values, from three shapes."""
    return int(sdpa_flop_count(query, key, value))


UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""The FLOPs of operations that torch's counter does not know: attention on a CPU."""


@dataclass(frozen=True)
class Count:
    """Counts of one part: `macs` are multiply-adds, `peak_bytes` is the peak memory of tensors that are alive.

    `activations` are the elements that convolutions and matrix products return. `moved` are the elements of input and
    output, which every implementation has to move, without parameters.
    """

    macs: int
    activations: int
    peak_bytes: int
    moved: int = 0


def without_numbers() -> FakeTensorMode:
    """Returns the context in which tensors have shapes but no values; parts counted together must share it."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def count(run: Callable[[], Any]) -> tuple[Count, Any]:
    """Counts the operations of `run`, and returns its result too; to be called inside `without_numbers`, on the CPU.

    torch's counter includes convolutions, matrix products and attention, and counts two FLOPs per multiply-add.
    """
    counter = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)
    with torch.no_grad(), _unfused_attention(), _Observer() as seen, counter as flops:
        result = run()
    arguments = run.args if isinstance(run, partial) else ()
    return Count(flops.get_total_flops() // 2, seen.activations, seen.peak, _numbers((arguments, result))), result


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Disables the fast path of eval mode, in which nn.MultiheadAttention is one operation that cannot be counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _numbers(value: Any) -> int:
    """Returns the number of elements of the tensors in a value."""
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, FusionOutput):
        return value.logits.numel()
    if isinstance(value, Mapping):
        return sum(map(_numbers, value.values()))
    return sum(map(_numbers, value)) if isinstance(value, tuple | list) else 0


class _Observer(TorchDispatchMode):
    """Observes operations: sums up activations, and tracks the bytes of the tensors that are alive."""

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
        """Counts a new storage until it is freed; a view has no storage of its own."""
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
