"""Absent streams: fusion of images that each may lack some of the streams."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from multistream.interfaces import FusionOutput
from multistream.network.network import MultiStream, Pooled
from multistream.nn.nested import take_rows


def fill_with_means(
    network: MultiStream, pooled: Pooled, present: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """The pooled features (B, P), with the training mean if a stream is absent; `present` is {key: (B,) bool}."""
    return {
        key: {
            stage: torch.where(present[key].unsqueeze(1), values, network.branches[key].taps[stage].baseline)
            for stage, values in stages.items()
        }
        if key in present
        else dict(stages)
        for key, stages in pooled.items()
    }


def fill_with_raw_means(
    network: MultiStream, pooled: Pooled, present: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """The same for streams that read vectors: absent ones get the pooled features of the unscaled training mean."""
    filled = {key: dict(stages) for key, stages in pooled.items()}
    for key, has_stream in present.items():
        branch = network.branches[key]
        for stage, mean in branch.pool(branch.raw_mean.unsqueeze(0)).items():
            filled[key][stage] = torch.where(has_stream.unsqueeze(1), filled[key][stage], mean)
    return filled


def draw_present(rows: int, streams: int, *, dropout: float, device: torch.device) -> Tensor:
    """Which streams each image keeps, (rows, streams) bool: each is dropped with probability `dropout`, but never all.

    Draws from torch's global generator, which training seeds at every step, so that a run is reproducible.
    """
    draws_BS = torch.rand(rows, streams, device=device)
    # If all would be dropped, the stream with the highest draw is kept.
    return (draws_BS >= dropout) | (draws_BS == draws_BS.max(1, keepdim=True).values)


def fuse_present(network: MultiStream, pooled: Pooled, present_BS: Tensor) -> FusionOutput:
    """Fuses the streams that each image has: `present_BS` bool, one column per stream, in the network's order.

    Images with the same streams are fused together. Raises ValueError if an image has no stream.
    """
    if not bool(present_BS.any(1).all()):
        raise ValueError("fuse_present: an image has no stream. Each must have one at least.")
    patterns, pattern_of = torch.unique(present_BS, dim=0, return_inverse=True)
    if bool(present_BS.all()):
        return network.fuse(pooled)
    rows = [torch.nonzero(pattern_of == number).squeeze(1) for number in range(len(patterns))]
    outputs = [
        network.fuse(
            take_rows(pooled, chosen),
            frozenset(key for key, is_present in zip(network.branches, pattern.tolist(), strict=True) if is_present),
        )
        for pattern, chosen in zip(patterns, rows, strict=True)
    ]
    back = torch.argsort(torch.cat(rows))
    streams = {key: torch.cat([output.streams[key] for output in outputs])[back] for key in outputs[0].streams}
    return FusionOutput(torch.cat([output.logits for output in outputs])[back], streams)
