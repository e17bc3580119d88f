"""The linearity that components declare, and the first declaration that does not hold on a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from multistream.explaining.forward import ForwardPass
from multistream.interfaces import Tap
from multistream.network.branch import Branch
from multistream.network.network import MultiStream
from multistream.nn.modules import evaluating


def is_linear(network: MultiStream) -> bool:
    """Returns whether every fused logit is declared to be an affine function of all pooled features."""
    return network.fusion.linear and all(is_linear_branch(branch) for branch in network.branches.values())


def is_linear_stream(network: MultiStream, key: str) -> bool:
    """Returns whether this stream's own logits are declared to be an affine function of its pooled features."""
    return network.fusion.is_linear_stream(key) and is_linear_branch(network.branches[key])


def is_linear_branch(branch: Branch) -> bool:
    """Returns whether a branch's vector is declared to be an affine function of its maps."""
    return all(tap.linear for tap in branch.taps.values()) and (branch.temporal is None or branch.temporal.linear)


def nonlinear_part(network: MultiStream) -> str:
    """Names the first component that does not declare to be linear: "the temporal module bigru+att of object"."""
    for key, branch in network.branches.items():
        if not all(tap.linear for tap in branch.taps.values()):
            return f"the tap {_tap_name(branch)} of {key}"
        if branch.temporal is not None and not branch.temporal.linear:
            return f"the temporal module {_temporal_name(branch)} of {key}"
    return f"the fusion {_fusion_name(network)}"


@torch.no_grad()
def false_claim(network: MultiStream, forward: ForwardPass) -> str:
    """Names the first component whose declaration does not hold on this batch, in a sentence that says what to do."""
    with evaluating(network):
        branches = (_false_claims_of_branch(key, branch, forward) for key, branch in network.branches.items())
        claims = chain(chain.from_iterable(branches), _false_claims_of_fusion(network, forward))
        return next(claims, "Every component alone matches its declaration; large contributions cancel in the sum.")


def _false_claims_of_branch(key: str, branch: Branch, forward: ForwardPass) -> Iterator[str]:
    for stage, tap in branch.taps.items():
        if tap.linear and not _is_affine(tap, forward.maps[key][stage].float()):
            yield _declares(f"the tap {_tap_name(branch)} of {key}", "linear = True")
        if tap.linear and not branch.is_vector and not _sums_to_pooled(tap, forward, key, stage):
            name = f"The pixels of `locate` of the tap {_tap_name(branch)} of {key}"
            yield f"{name} do not sum to the pooled features; fix it."
    temporal = branch.temporal
    if temporal is not None and temporal.linear and not _is_affine(temporal, branch.tokens(forward.pooled[key])):
        yield _declares(f"the temporal module {_temporal_name(branch)} of {key}", "linear = True")


def _false_claims_of_fusion(network: MultiStream, forward: ForwardPass) -> Iterator[str]:
    fusion, name = network.fusion, f"the fusion {_fusion_name(network)}"
    vectors = {key: branch(forward.pooled[key]) for key, branch in network.branches.items()}
    widths = [vector.shape[1] for vector in vectors.values()]

    def of_joined(joined: Tensor) -> Tensor:
        logits: Tensor = fusion(dict(zip(vectors, joined.split(widths, 1), strict=True))).logits
        return logits

    if fusion.linear and not _is_affine(of_joined, torch.cat(list(vectors.values()), 1)):
        yield _declares(name, "linear = True")
    for key, stream_logits in forward.output.streams.items():
        if not torch.allclose(fusion.stream_logits(key, vectors[key]), stream_logits, atol=1e-4, rtol=1e-4):
            yield f"T{name[1:]} returns other logits of {key} than its `stream_logits`; override that method."
        if fusion.is_linear_stream(key) and not _is_affine(partial(fusion.stream_logits, key), vectors[key]):
            yield _declares(name, f"is_linear_stream({key!r})")


def _declares(part: str, claim: str) -> str:
    return f"T{part[1:]} declares {claim}, but is not linear; set it to False."


def _is_affine(function: Callable[[Tensor], Tensor], values: Tensor) -> bool:
    """Returns whether f(0.3 x + 0.7 y) = 0.3 f(x) + 0.7 f(y), where y is the batch x with its columns reversed."""
    other = values.flip(-1)
    between, ends = function(0.3 * values + 0.7 * other), 0.3 * function(values) + 0.7 * function(other)
    return torch.allclose(between, ends, atol=1e-4 * max(1.0, float(ends.abs().max())))


def _sums_to_pooled(tap: Tap, forward: ForwardPass, key: str, stage: str) -> bool:
    pooled = forward.pooled[key][stage]
    located = tap.locate(torch.ones_like(pooled[:1]), forward.maps[key][stage]).sum((2, 3))[:, 0]
    return torch.allclose(located, pooled.sum(1), atol=1e-4 * max(1.0, float(pooled.abs().sum(1).max())))


def _tap_name(branch: Branch) -> str:
    return branch.plan.tap if branch.plan else type(next(iter(branch.taps.values()))).__name__


def _temporal_name(branch: Branch) -> str:
    return branch.plan.temporal if branch.plan else type(branch.temporal).__name__


def _fusion_name(network: MultiStream) -> str:
    return network.fusion_plan[0] or type(network.fusion).__name__
