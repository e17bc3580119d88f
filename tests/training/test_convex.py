"""Networks fitted to their optimum give the fitted probabilities, in every linear form; what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from multistream.ablation.row_data import RowData
from multistream.errors import UsageError
from multistream.network.network import MultiStream
from multistream.parts.losses import CrossEntropy
from multistream.training.convex import ConvexFit, check_convex, fit_network
from multistream.training.convex_training import convex_data
from tests.ablation.conftest import PARTS, Bench


def fit(network: MultiStream, data: RowData, penalties: tuple[float, ...] = (0.1,)) -> ConvexFit:
    rows = convex_data(data.features, data.labels, data.valid, PARTS, data.criterion, views=1, classes=3)
    return fit_network(network, rows, penalties=penalties)


def standardised(network: MultiStream, data: RowData, key: str) -> np.ndarray[Any, Any]:
    taps = network.branches[key].taps.items()
    return torch.cat([tap.standardise(data.features[key][stage]) for stage, tap in taps], 1).double().numpy()


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"temporal": "average"},
        {"tap": "last"},
        {"keys": ("toy", "anp")},
        {"keys": ("toy", "other")},
    ],
    ids=str,
)
def test_the_network_gives_scikit_learns_probabilities(form: dict[str, Any]) -> None:
    bench = Bench(**form)
    (variant,) = bench.variants("streams" if len(bench.keys) > 1 else "depth")[-1:]
    network = bench.initial.network(variant, seed=0)
    fit(network, bench.data)
    joined = np.concatenate([standardised(network, bench.data, key) for key in network.branches], axis=1)
    train = joined[PARTS.train]
    scale = np.where(train.std(0) > 0, train.std(0), 1)  # vectors are standardised by the fit
    joined = (joined - train.mean(0)) / scale
    labels = bench.data.labels.numpy()[PARTS.train]
    oracle = LogisticRegression(C=1 / (0.1 * len(labels)), tol=1e-10, max_iter=50_000).fit(joined[PARTS.train], labels)
    with torch.no_grad():
        own = network.eval().classify(bench.data.features).double().softmax(1).numpy()
    assert np.abs(own - oracle.predict_proba(joined)).max() < 1e-4


def test_late_has_each_streams_own_optimum() -> None:
    bench = Bench(keys=("toy", "other"), fusion="late")
    network = bench.initial.network(bench.variants("streams")[-1], seed=0)
    fit(network, bench.data)
    for key in network.branches:
        alone = bench.initial.network(next(v for v in bench.variants("streams") if list(v.keep) == [key]), seed=0)
        fit(alone, bench.data)
        pooled = {key: bench.data.features[key]}
        with torch.no_grad():
            own = network.eval().fuse(bench.data.features).streams[key]
            assert (own.softmax(1) - alone.eval().classify(pooled).softmax(1)).abs().max() < 1e-4


def test_smoothing_and_class_weights_are_the_criterions() -> None:
    """A free bias: at the optimum the criterion itself has no slope along it, whatever the penalty."""
    bench = Bench()
    criterion = CrossEntropy(weights=torch.tensor([1.0, 3.0, 0.5]), label_smoothing=0.2)
    data = RowData(bench.data.features, bench.data.labels, bench.data.labels, bench.data.valid, PARTS, criterion)
    network = bench.initial.network(bench.variants("depth")[-1], seed=0)
    fit(network, data)
    loss = criterion(network.classify(data.take(torch.from_numpy(PARTS.train))), data.labels[PARTS.train])
    (slope,) = torch.autograd.grad(loss, [network.fusion.heads["toy"].bias])
    assert slope.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"temporal": "bigru"}, "BiGRU, which is not linear"),
        ({"tap": "gap:2"}, "a token of toy has 2 numbers and there are 3 classes"),
        ({"keys": ("toy", "anp"), "fusion": "gated"}, "Gated is not linear"),
        ({"keys": ("toy", "anp"), "fusion": "late"}, "the head of anp is not linear"),
    ],
    ids=str,
)
def test_what_is_not_convex_is_refused_with_the_reason(form: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        check_convex(Bench(**form).network)


def test_a_stream_that_trains_is_refused() -> None:
    network = Bench().network
    network.branches["toy"].stream.requires_grad_(True)
    with pytest.raises(UsageError, match="a stream trains"):
        check_convex(network)
