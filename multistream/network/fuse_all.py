"""Fusion of many images' pooled features, some at a time: a million at once would fill the memory."""

from __future__ import annotations

import torch

from multistream.interfaces import FusionOutput
from multistream.network.network import MultiStream, Pooled
from multistream.nn.nested import chunks


@torch.no_grad()
def fuse_all(network: MultiStream, pooled: Pooled) -> FusionOutput:
    """`network.fuse` of N images, N > 0, on the CPU; the features stay on the network's device."""
    outputs = [network.fuse(some) for some in chunks(pooled)]
    return FusionOutput(
        torch.cat([output.logits.cpu() for output in outputs]),
        {key: torch.cat([output.streams[key].cpu() for output in outputs]) for key in outputs[0].streams},
    )
