"""Fits a network with frozen streams and otherwise linear parts to its optimum (`training.solver`).

The trained parts are an affine function of the pooled features, so the logits are a softmax regression. It is solved
(`fit_probe`) and written back to the network: a tap's layer writes its stage's contributions to the K logits into the
first K numbers of its token, and the classifier adds them up. The network's composition does not change, so it
predicts, explains and truncates like any other. Dropout is not used: the penalty replaces it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from multistream.errors import UsageError
from multistream.interfaces import Tap
from multistream.network.branch import Branch
from multistream.network.network import MultiStream, Pooled
from multistream.nn.modules import trains
from multistream.training.probe_data import ProbeData, as_distributions, as_label_sets, inner_folds
from multistream.training.solver import FOLDS, PENALTIES, FittedProbe, ProbeRows

Blocks = dict[str, NDArray[np.float64]]
"""Features (N, D) by `key/stage`, or by `key` if a whole branch is frozen."""


@dataclass(frozen=True)
class ConvexData:
    """Pooled features {key: {stage: (N, P)}} of N rows, their targets (N,) or (N, K), and weights (N,).

    `validation` lists the rows that select the penalties. `images` (N,) is the photo index of each row, so that inner
    folds keep the views of a photo together.
    """

    pooled: Pooled
    targets: ArrayLike
    weights: NDArray[np.float64]
    images: NDArray[np.int64]
    validation: NDArray[np.int64] | None


@dataclass(frozen=True)
class ConvexFit:
    """The fitted classifiers by the streams that each reads: one, or with late fusion one per stream."""

    probes: Mapping[tuple[str, ...], FittedProbe]

    @property
    def penalties(self) -> dict[str, float]:
        """The penalty of each stream."""
        return {name.split("/")[0]: p for probe in self.probes.values() for name, p in probe.penalties.items()}

    @property
    def fits(self) -> int:
        """The number of fits."""
        return sum(probe.fits for probe in self.probes.values())

    @property
    def held_out_loss(self) -> float:
        """The cross entropy that selected the penalties; with late fusion, the mean over the classifiers."""
        return float(np.mean([probe.held_out_loss for probe in self.probes.values()]))


def check_convex(network: MultiStream) -> None:
    """Raises UsageError, with the reason, if lbfgs cannot fit this network."""
    if reason := next(_reasons(network), ""):
        right = "lbfgs fits frozen streams with linear components: taps gap or last, concat or average, early or late."
        raise UsageError("training.solver", f"lbfgs cannot fit this network: {reason}.", right=right)


def is_convex(network: MultiStream) -> bool:
    """Returns whether lbfgs can fit this network."""
    return next(_reasons(network), None) is None


def fit_network(
    network: MultiStream,
    data: ConvexData,
    *,
    penalties: tuple[float, ...] = PENALTIES,
    starts: Sequence[ConvexFit] = (),
) -> ConvexFit:
    """Fits the trainable parts of a network to their optimum and writes the result into the network.

    `starts` are fits of this network or of larger ones to the same data, with the same standardisation of the taps. The
    search starts from the smallest fit that contains all blocks of this one, and reuses the rows of its probes.
    """
    check_convex(network)
    probes = {}
    for read in _classifiers(network):
        names = {name: key for key in read for name in _block_names(key, network.branches[key])}
        known = _start(starts, names)
        rows = (known and known.rows) or _rows(network, read, data)
        probes[read] = rows.fit(tuple(names), penalties=penalties, groups=names, start=known)
        _write(network, read, probes[read])
    return ConvexFit(probes)


def _classifiers(network: MultiStream) -> list[tuple[str, ...]]:
    """Lists the streams that each classifier reads; a loaded head that is frozen is not included."""
    keys = tuple(network.branches)
    reads = [(key,) for key in keys] if network.fusion.averages_probabilities else [keys]
    return [read for read in reads if any(trains(part) for key in read for part in _parts(network, key))]


def _reasons(network: MultiStream) -> Iterator[str]:
    """Yields the reasons why lbfgs cannot fit the network."""
    if not network.is_cacheable:
        yield "a stream trains"
    for key, branch in network.branches.items():
        if _trains(branch):
            yield from _reasons_of_branch(key, branch, classes=len(network.classes))
    fusion = network.fusion
    if fusion.averages_probabilities:
        yield from (f"the head of {key} is not linear" for key in network.branches if not fusion.is_linear_stream(key))
    elif not fusion.linear:
        yield f"{type(fusion).__name__} is not linear"


def _reasons_of_branch(key: str, branch: Branch, *, classes: int) -> Iterator[str]:
    for stage, tap in branch.taps.items():
        if not isinstance(tap.affine_layer, nn.Linear | nn.Identity):
            yield f"the tap of {key} {stage} ({type(tap).__name__}) is not one linear layer"
        elif isinstance(tap.affine_layer, nn.Linear) and tap.width < classes:
            yield f"a token of {key} has {tap.width} numbers and there are {classes} classes"
    temporal = branch.temporal
    if temporal is not None and not (temporal.linear and next(temporal.parameters(), None) is None):
        yield f"{key} is read by {type(temporal).__name__}, which is not linear"


def _trains(branch: Branch) -> bool:
    """Returns whether any part above the stream trains; the pooled features are then the inputs of the fit."""
    return any(map(trains, (*branch.taps.values(), branch.temporal or nn.Identity())))


def _parts(network: MultiStream, key: str) -> list[nn.Module]:
    """Lists the parts that can train for one stream: its taps, and the fusion or, with late fusion, its head."""
    fusion = network.fusion
    head = fusion.heads[key] if fusion.averages_probabilities else fusion
    return [*network.branches[key].taps.values(), head]


def _block_names(key: str, branch: Branch) -> list[str]:
    """Lists `key/stage` for all taps, or `key` if the whole branch is frozen."""
    if not _trains(branch) and branch.temporal is not None:
        return [key]
    return [f"{key}/{stage}" for stage in branch.taps]


@torch.no_grad()
def _blocks(key: str, branch: Branch, pooled: Mapping[str, Tensor]) -> Blocks:
    if _block_names(key, branch) == [key]:
        return {key: branch(pooled).cpu().double().numpy()}
    taps = branch.taps.items()
    return {f"{key}/{stage}": tap.standardise(pooled[stage]).cpu().double().numpy() for stage, tap in taps}


def _rows(network: MultiStream, read: tuple[str, ...], data: ConvexData) -> ProbeRows:
    """Builds the rows of the classifier that reads these streams."""
    blocks = {k: v for key in read for k, v in _blocks(key, network.branches[key], data.pooled[key]).items()}
    sets = network.label_sets
    targets = as_label_sets(data.targets) if sets else as_distributions(data.targets, classes=len(network.classes))
    rows = ProbeData.of(blocks, targets, data.weights, label_sets=sets)
    return ProbeRows(rows, validation=data.validation, folds=_folds(data) if data.validation is None else FOLDS)


def _folds(data: ConvexData) -> NDArray[np.int64]:
    """Returns a fold number for each row, the same for all views of a photo."""
    targets = np.asarray(data.targets)
    classes = targets.argmax(1) if targets.ndim == 2 else targets.astype(np.int64)
    photos, first, place = np.unique(data.images, return_index=True, return_inverse=True)
    numbers = np.zeros(len(photos), np.int64)
    for number, (_, held_out) in enumerate(inner_folds(np.eye(classes.max() + 1)[classes[first]], FOLDS)):
        numbers[held_out] = number
    return numbers[place]


def _start(starts: Sequence[ConvexFit], names: Mapping[str, str]) -> FittedProbe | None:
    """Returns the smallest fit that contains all these blocks, None if no fit does."""
    found = [probe for fit in starts for probe in fit.probes.values() if set(probe.weight) >= set(names)]
    return min(found, key=lambda probe: len(probe.weight), default=None)


@torch.no_grad()
def _write(network: MultiStream, read: tuple[str, ...], probe: FittedProbe) -> None:
    """Writes a fitted classifier into the taps and the fusion."""
    weights: dict[str, Tensor] = {}
    bias = torch.from_numpy(np.array(probe.bias))
    for key in read:
        branch = network.branches[key]
        affine = {name: _affine(probe, name) for name in probe.weight if name.split("/")[0] == key}
        bias = bias + sum(offset for _, offset in affine.values())
        if key in affine:
            weights[key] = affine[key][0]
        else:
            weights[key] = _columns(branch, {stage: affine[f"{key}/{stage}"][0] for stage in branch.taps})
    network.fusion.set_classifier(weights, bias)


def _affine(probe: FittedProbe, name: str) -> tuple[Tensor, Tensor]:
    """Returns a block's weights (K, D) and offset (K,) for the unscaled features: the standardisation is folded in."""
    standard, weight = probe.standardisation[name], probe.weight[name]
    scaled = standard.scale[:, None] * weight
    return torch.from_numpy(scaled.T.copy()), torch.from_numpy(-standard.mean @ scaled)


def _columns(branch: Branch, weights: Mapping[str, Tensor]) -> Tensor:
    """Sets the taps' layers, and returns the classifier's columns (K, E) over this branch's vector.

    The columns are solved so that the logits are M (K, T x W) times the tokens. M selects the first K numbers of a
    token whose layer was set, and has the fitted weights of any other token.
    """
    read, classes = [], len(next(iter(weights.values())))
    for stage, tap in branch.taps.items():
        read.append(weights[stage])
        if isinstance(tap.affine_layer, nn.Linear):
            _set_layer(tap, weights[stage])
            read[-1] = torch.eye(classes, tap.width, dtype=torch.float64)
    wanted = torch.cat(read, 1)
    if branch.temporal is None:
        return wanted
    tokens = torch.eye(wanted.shape[1]).unflatten(1, (len(read), -1)).to(next(iter(branch.taps.values())).mean.device)
    # (T x W, E): the temporal module's output for each unit vector of its tokens.
    through = branch.temporal(tokens).double().cpu()
    if torch.equal(through, torch.eye(len(through), dtype=torch.float64)):
        return wanted
    columns: Tensor = wanted @ torch.linalg.pinv(through.T)
    if not torch.allclose(columns @ through.T, wanted, atol=1e-6):
        raise UsageError(
            "training.solver", f"lbfgs cannot fit what {type(branch.temporal).__name__} makes of the tokens."
        )
    return columns


def _set_layer(tap: Tap, weight_KP: Tensor) -> None:
    """Sets the layer so that the token's first K numbers are the products with the weights, and the others 0."""
    layer = tap.affine_layer
    assert isinstance(layer, nn.Linear)
    layer.weight.zero_()
    layer.weight[: len(weight_KP)] = weight_KP.to(layer.weight)
    if layer.bias is not None:
        layer.bias.zero_()
