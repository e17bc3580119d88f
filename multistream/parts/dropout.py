"""Dropout whose mask depends only on seed, step and part, so that a run can be repeated, resumed and distributed."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.nn import functional


class SteppedDropout(nn.Module):
    """Dropout with rate `p` that draws from its own generator after `reseed` was called, before that from torch's.

    torch's `nn.Dropout` has no generator argument: its masks depend on all earlier draws, so that two heads trained in
    one run would get other masks than each trained alone (checks B1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout={p} is not a rate. It must be at least 0 and below 1.")
        self.p = p
        self.draw: tuple[int, int] | None = None
        self.rows: tuple[int, int] | None = None

    def reseed(self, seed: int, step: int, rows: tuple[int, int] | None = None) -> None:
        """Sets the seed of the next masks; `rows` (first, total) locates this process's rows in the batch."""
        self.draw, self.rows = (seed, step), rows

    def forward(self, x_BE: Tensor, part: str = "") -> Tensor:
        """(B, E) -> (B, E); `part` names the input: each part of a step has its own mask."""
        if not self.training or self.p == 0:
            return x_BE
        if self.draw is None:
            return functional.dropout(x_BE, self.p)
        seed, step = self.draw
        first, total = self.rows or (0, len(x_BE))
        keep_EB = kept(x_BE.shape[1], total, p=self.p, seed=seed, step=step, part=part)[:, first : first + len(x_BE)]
        return x_BE * keep_EB.T.to(x_BE.device) / (1 - self.p)


def kept(width: int, batch: int, *, p: float, seed: int, step: int, part: str) -> Tensor:
    """The mask of the entries that are kept, (width, batch) booleans on the CPU, the same for every device.

    The mask of a narrower vector is the first rows of a wider one's, so a truncated network keeps the same entries.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{part}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.rand(width, batch, generator=generator) >= p


def reseed_dropout(network: nn.Module, *, seed: int, step: int, rows: tuple[int, int] | None = None) -> None:
    """Sets the seed of the next masks of every SteppedDropout in the network; `rows` as in `SteppedDropout.reseed`."""
    for module in network.modules():
        if isinstance(module, SteppedDropout):
            module.reseed(seed, step, rows)
