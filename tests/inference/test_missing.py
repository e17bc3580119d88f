"""Missing streams: each policy against the same network computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import multistream as ms
from multistream.data.loading import make_decoder
from multistream.errors import DataError, UsageError
from multistream.inference.evaluate import evaluate
from multistream.inference.model import Model
from multistream.network.present import draw_present, fuse_present
from multistream.recipe import Recipe
from multistream.reporting import report
from multistream.runs.model_file import save_model
from multistream.runs.split_file import read_split
from multistream.training.train import train
from tests.inference.conftest import settings


@pytest.fixture(scope="module")
def model(both: Path) -> Model:
    return ms.load(both)


def pooled_of(model: Model, photos: Path, vectors: Path, ids: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    held = np.load(vectors)
    of = dict(zip(held["ids"].tolist(), held["features"], strict=True))
    decoder = make_decoder(model.inputs, model.recipe.data)
    assert decoder is not None
    images = torch.from_numpy(np.stack([decoder.read(photos / name) for name in ids]))
    with torch.no_grad():
        return model.network.pool({"image": images, "anp": torch.from_numpy(np.stack([of[name] for name in ids]))})


def by_hand(model: Model, pooled: dict[str, dict[str, Tensor]], *, policy: str, absent: str) -> NDArray[np.float64]:
    """softmax with one stream absent from every photo."""
    network = model.network
    with torch.no_grad():
        if policy == "drop":
            logits = network.fuse(pooled, frozenset(network.branches) - {absent}).logits
        else:
            means = {s: t.baseline.expand_as(pooled[absent][s]) for s, t in network.branches[absent].taps.items()}
            logits = network.classify({**pooled, absent: means})
    return logits.double().softmax(1).numpy()


IDS = ["joy/0.png", "awe/1.png", "fear/7.png"]


@pytest.mark.parametrize("policy", ["drop", "mean"])
@pytest.mark.parametrize("absent", ["anp", "object"])
def test_a_stream_left_out_by_name(model: Model, photos: Path, vectors: Path, policy: str, absent: str) -> None:
    expected = by_hand(model, pooled_of(model, photos, vectors, IDS), policy=policy, absent=absent)
    found = model.predict([photos / name for name in IDS], inputs={"anp": vectors}, missing=policy, without=[absent])
    assert np.allclose([list(each.probabilities.values()) for each in found], expected, atol=1e-6)


@pytest.mark.parametrize("policy", ["drop", "mean"])
def test_a_photo_without_a_vector(model: Model, photos: Path, vectors: Path, some_vectors: Path, policy: str) -> None:
    pooled = pooled_of(model, photos, vectors, IDS)
    alone = by_hand(model, pooled, policy=policy, absent="anp")
    with torch.no_grad():
        whole = model.network.classify(pooled).double().softmax(1).numpy()
    has = set(np.load(some_vectors)["ids"].tolist())
    expected = np.stack([whole[i] if name in has else alone[i] for i, name in enumerate(IDS)])
    assert 0 < sum(name in has for name in IDS) < len(IDS)
    found = model.predict([photos / name for name in IDS], inputs={"anp": some_vectors}, missing=policy)
    assert np.allclose([list(each.probabilities.values()) for each in found], expected, atol=1e-6)
    company = [*IDS, *[f"fear/{i}.png" for i in range(10)]]
    again = list(model.predict([photos / name for name in company], inputs={"anp": some_vectors}, missing=policy))
    assert np.allclose([list(each.probabilities.values()) for each in again[:3]], expected, atol=1e-6)


def test_evaluate_tells_the_accuracy_of_every_policy(
    model: Model, both: Path, photos: Path, vectors: Path, some_vectors: Path
) -> None:
    test = [row for row in read_split(both / "split.csv") if row.part == "test"]
    pooled = pooled_of(model, photos, vectors, [row.path for row in test])
    labels = np.array([model.classes.index(row.label) for row in test])
    has = np.isin([row.path for row in test], np.load(some_vectors)["ids"])
    with torch.no_grad():
        whole = model.network.classify(pooled).numpy().argmax(1) == labels
    right = {
        name: np.where(has, whole, by_hand(model, pooled, policy=name, absent="anp").argmax(1) == labels)
        for name in ("drop", "mean")
    }
    found = evaluate(both, inputs={"anp": str(some_vectors)}, missing="drop", device="cpu")
    assert found.missing == {"anp": int((~has).sum())}
    assert found.policies["complete"].n == has.sum()
    assert found.policies["complete"].accuracy == pytest.approx(whole[has].mean())
    for name, each in right.items():
        assert found.policies[name].accuracy == pytest.approx(each.mean())
        low, high = found.policies[name].accuracy_ci95
        assert low <= each.mean() <= high
    assert found.metrics.accuracy == pytest.approx(right["drop"].mean())
    with pytest.raises(DataError, match="without a vector"):
        evaluate(both, inputs={"anp": str(some_vectors)}, device="cpu")


def test_drop_of_all_is_an_error(model: Model, photos: Path, both: Path) -> None:
    with pytest.raises(UsageError, match="all streams are left out"):
        model.predict(photos, without=["anp", "object"])
    with pytest.raises(UsageError, match="all streams are left out"):
        evaluate(both, without=["anp", "object"])
    with pytest.raises(UsageError, match="no stream 'anq'"):
        model.predict(photos, without=["anq"])
    with pytest.raises(UsageError, match="--missing drop or --missing mean"):
        model.predict(photos, without=["anp"], missing="error")
    with pytest.raises(ValueError, match="no stream"):
        fuse_present(model.network, {}, torch.tensor([[True, False], [False, False]]))


@pytest.mark.parametrize("fusion", ["early", "late", "gated"])
def test_photos_that_lack_different_streams_are_fused_as_each_alone(fusion: str) -> None:
    streams = {key: ms.streams["anp"](width=3, hidden=()) for key in "abc"}
    network = ms.compose(streams, classes=["x", "y"], fusion=fusion).eval()  # type: ignore[arg-type]
    pooled = {key: {"vector": torch.randn(7, 3)} for key in "abc"}
    present = torch.tensor([[n & 1, n & 2, n & 4] for n in range(1, 8)]).bool()
    fused = fuse_present(network, pooled, present)
    for row, mask in enumerate(present.tolist()):
        there = frozenset(key for key, has in zip("abc", mask, strict=True) if has)
        alone = network.fuse({key: {"vector": s["vector"][row : row + 1]} for key, s in pooled.items()}, there)
        assert torch.allclose(fused.logits[row], alone.logits[0], atol=1e-6)


def dropping(photos: Path, vectors: Path) -> Recipe:
    return Recipe().updated(
        {
            "data": {"source": str(photos), "image_size": 32, "split": "50/10/40"},
            "network": {
                "streams": {"object": "object", "anp": "anp"},
                "weights": {"object": "random"},
                "inputs": {"anp": str(vectors)},
                "freeze": ["streams"],
            },
            "training": {"batch_size": 8, "patience": 0},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )


def test_stream_dropout_leaves_one_stream_at_least() -> None:
    present = draw_present(5000, 3, dropout=0.6, device=torch.device("cpu"))
    assert present.any(1).all()
    assert abs(present.float().mean().item() - (0.4 + 0.6**3 / 3)) < 0.02
    assert draw_present(50, 3, dropout=0.0, device=torch.device("cpu")).all()


def test_training_with_stream_dropout_repeats_and_differs_from_training_without(
    photos: Path, vectors: Path, tmp_path: Path
) -> None:
    weights = []
    for number, rate in enumerate((0.5, 0.5, 0.0)):
        recipe = dropping(photos, vectors).updated({"training": {"epochs": 1, "stream_dropout": rate}})
        network = ms.load(train(recipe, out=tmp_path / str(number)).folder).network
        weights.append(torch.cat([p.flatten() for p in network.fusion.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_every_policy_of_a_run_that_was_trained_with_zeros(
    photos: Path, vectors: Path, some_vectors: Path, tmp_path: Path
) -> None:
    """Its vectors are filled with zeros as they are read; the row `mean` has the training mean all the same."""
    recipe = settings(photos, some_vectors, missing_vectors="zero")
    folder = train(recipe.updated({"training": {"epochs": 1}}), out=tmp_path / "zero").folder
    model = ms.load(folder)
    rows = [row for row in read_split(folder / "split.csv") if row.part == "test"]
    labels = np.array([model.classes.index(row.label) for row in rows])
    pooled = pooled_of(model, photos, vectors, [row.path for row in rows])
    has = torch.from_numpy(np.isin([row.path for row in rows], np.load(some_vectors)["ids"]))
    with torch.no_grad():
        # So large that the accuracies differ.
        model.network.branches["anp"].taps["vector"].raw_mean.copy_(torch.tensor([99.0, 0, -9, 0, 50, 0]))
        save_model(model.network, folder / "model.safetensors", recipe=model.recipe)
        means = model.network.branches["anp"].pool(model.network.branches["anp"].raw_mean.unsqueeze(0))["vector"]
        filled = torch.where(has.unsqueeze(1), pooled["anp"]["vector"], means)
        expected = model.network.classify({**pooled, "anp": {"vector": filled}}).numpy().argmax(1) == labels
    with pytest.raises(DataError, match=f"of {len(rows)} images there are {int((~has).sum())} images without a vector"):
        evaluate(folder, device="cpu", missing="error")
    found = evaluate(folder, device="cpu")
    assert list(found.policies) == ["complete", "drop", "mean", "zero"]
    assert found.policies["mean"].accuracy == pytest.approx(expected.mean())
    page = report(folder, photos=1, device="cpu", out=tmp_path / "page.html").path.read_text()
    for name in ("nothing missing", "drop", "mean", "zero"):
        assert f'<th scope="row" class="word">{name}</th>' in page
    lacking = int((~has).sum())
    assert f"Of {len(rows)} test images {lacking} lack anp." in page
    assert f"{100 * expected.mean():.1f} %" in page


def test_a_report_of_a_complete_run_has_no_policies(both: Path, tmp_path: Path) -> None:
    page = report(both, photos=1, device="cpu", out=tmp_path / "page.html").path.read_text()
    assert "Missing streams" not in page
