"""Rows trained in one batch equal rows trained alone up to rounding, and negative controls do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from multistream.ablation.batched_rows import BatchedRows, batch_kind
from multistream.ablation.row_loop import SingleRows, train_by_itself
from multistream.ablation.variants import Axis
from multistream.network.network import MultiStream
from multistream.recipe import TrainingSettings
from tests.ablation.conftest import CPU, PARTS, Bench, difference, probability_difference, settings_of, weights_of

SEEDS = [4, 9]
OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "adam": {"optimizer": "adam", "learning_rate": 0.01},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.01},
    "adamw without weight decay": {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.0},
}


PROMISE = 1e-5


def by_train(bench: Bench, network: MultiStream, settings: TrainingSettings) -> MultiStream:
    """Trains the network with the loop of `train` on the same features."""
    train_by_itself(network, bench.data, settings=settings, runtime=CPU)
    return network.eval()


def check_alone(bench: Bench, axis: Axis, settings: TrainingSettings) -> None:
    found = bench.variants(axis)
    rows = bench.grid(found, SEEDS)
    untrained = weights_of(rows[0][0])
    done = bench.train(rows, SEEDS, settings)
    assert not all(torch.equal(t, untrained[n]) for n, t in weights_of(rows[0][0]).items())
    for g, seed in enumerate(SEEDS):
        for v, variant in enumerate(found):
            (alone,) = bench.grid([variant], [seed])
            own = bench.train([alone], [seed], settings)
            assert probability_difference(bench, alone[0], rows[g][v]) < PROMISE, (seed, variant)
            assert own.best_epochs.item() == done.best_epochs[g, v]


@pytest.mark.parametrize("axis", ["depth", "taps"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_row_of_a_batch_equals_the_row_alone(optimizer: str, axis: Axis) -> None:
    """With dropout of 0.5, several seeds, and the best epoch of each row."""
    check_alone(Bench(keys=("toy", "anp")), axis, settings_of(**OPTIMIZERS[optimizer]))


@pytest.mark.parametrize(
    "changes",
    [
        {"patience": 1, "learning_rate": 0.1},
        {"accumulation": 3},
        {"label_smoothing": 0.1, "warmup_steps": 4, "schedule": "linear"},
        {"clip_norm": 0.05},
        {"monitor": "accuracy", "keep": "accuracy"},
    ],
    ids=str,
)
def test_row_equals_the_row_alone_with_every_setting(changes: dict[str, object]) -> None:
    check_alone(Bench(), "taps", settings_of(**changes))


@pytest.mark.parametrize(
    "form",
    [{"temporal": "average"}, {"keys": ("toy", "anp")}, {"tap": "last"}, {"label_sets": True, "keys": ("toy", "anp")}],
    ids=str,
)
def test_row_equals_the_row_alone_in_every_linear_form(form: dict[str, Any]) -> None:
    bench = Bench(**form)
    assert batch_kind(bench.base) is not None
    check_alone(bench, "depth", settings_of(learning_rate=0.01))


@pytest.mark.parametrize("fusion", ["early", "late", "gated"])
@pytest.mark.parametrize("second", ["other", "anp"])
def test_subsets_of_streams_equal_rows_alone(fusion: str, second: str) -> None:
    """`anp` has an MLP as head, so with late fusion its rows are not batched."""
    check_alone(Bench(keys=("toy", second), fusion=fusion), "streams", settings_of(learning_rate=0.01))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_recurrent_rows_equal_the_trainer_bit_by_bit(optimizer: str) -> None:
    """Rows that are not batched have exactly the weights of `train`."""
    bench, settings = Bench(temporal="bigru+att"), settings_of(**OPTIMIZERS[optimizer])
    found = bench.variants("depth")
    rows = bench.grid(found, SEEDS)
    assert bench.train(rows, SEEDS, settings).batched == 0
    for g, seed in enumerate(SEEDS):
        own = settings_of(**OPTIMIZERS[optimizer], seed=seed)
        for v, (alone,) in enumerate(zip(bench.grid(found, [seed])[0], strict=True)):
            assert difference(by_train(bench, alone, own), rows[g][v]) == 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adamw without weight decay"])
@pytest.mark.parametrize("axis", ["depth", "taps"])
@pytest.mark.parametrize("label_sets", [False, True])
def test_batched_rows_equal_the_trainer_up_to_rounding(label_sets: bool, axis: Axis, optimizer: str) -> None:
    """The trainer sums in another order, so float32 rounding differs."""
    bench, settings = Bench(label_sets=label_sets), settings_of(**OPTIMIZERS[optimizer])
    found = bench.variants(axis)
    rows = bench.grid(found, [5])
    assert bench.train(rows, [5], settings).batched == len(found)
    own = settings_of(**OPTIMIZERS[optimizer], seed=5)
    for v, alone in enumerate(bench.grid(found, [5])[0]):
        assert probability_difference(bench, by_train(bench, alone, own), rows[0][v]) < PROMISE


def test_rows_have_no_weights_for_missing_stages() -> None:
    """A row without a stage has no projection and no columns of the classifier for it."""
    bench = Bench()
    found = bench.variants("taps")
    (networks,) = bench.grid(found, [1])
    bench.train([networks], [1], settings_of())
    whole = networks[-1]
    for variant, network in zip(found, networks, strict=True):
        stages = variant.keep["toy"]
        assert tuple(network.branches["toy"].taps) == stages
        assert network.fusion.heads["toy"].weight.shape == (3, 8 * len(stages))
    wide = torch.zeros_like(whole.fusion.heads["toy"].weight)
    places = [whole_place for whole_place, stage in enumerate(found[-1].keep["toy"]) if stage != "parts"]
    number = [v.keep["toy"] for v in found].index(("edges", "things"))
    for own, place in enumerate(places):
        columns = networks[number].fusion.heads["toy"].weight[:, 8 * own : 8 * own + 8]
        wide[:, 8 * place : 8 * place + 8] = columns.detach()
    batch = bench.data.take(torch.arange(110, 150))
    for stage in ("edges", "things"):
        whole.branches["toy"].taps[stage].load_state_dict(networks[number].branches["toy"].taps[stage].state_dict())
    tokens = torch.cat([tap.project(batch["toy"][s]) for s, tap in whole.branches["toy"].taps.items()], 1)
    logits = tokens @ wide.T + networks[number].fusion.heads["toy"].bias
    assert (logits - networks[number].classify(batch)).abs().max() < 1e-6


def test_clipping_by_the_norm_of_all_rows_gives_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: one clipping factor for all rows makes them depend on each other."""

    def clip_globally(rows: BatchedRows) -> None:
        torch.nn.utils.clip_grad_norm_([p.value for p in rows.parameters], rows.settings.clip_norm)

    bench, settings = Bench(), settings_of(clip_norm=0.05, optimizer="sgd", learning_rate=0.05)
    found = bench.variants("depth")
    right = bench.grid(found, SEEDS)
    bench.train(right, SEEDS, settings)
    monkeypatch.setattr(BatchedRows, "_clip", clip_globally)
    wrong = bench.grid(found, SEEDS)
    bench.train(wrong, SEEDS, settings)
    assert max(difference(a, b) for r, w in zip(right, wrong, strict=True) for a, b in zip(r, w, strict=True)) > 1e-4


@pytest.mark.parametrize("label_sets", [False, True])
def test_batched_and_single_rows_measure_equal_metrics(label_sets: bool) -> None:
    bench, settings = Bench(keys=("toy", "anp"), label_sets=label_sets), settings_of()
    grid = bench.grid(bench.variants("streams")[-1:], SEEDS)
    first, second = BatchedRows(grid, bench.data, settings), SingleRows(grid, bench.data, settings, CPU)
    one, other = first.measure(PARTS.test), second.measure(PARTS.test)
    assert torch.equal(one.accuracy, other.accuracy)
    assert (one.loss - other.loss).abs().max() < 1e-6


def test_global_generator_is_not_changed() -> None:
    bench = Bench()
    before = torch.get_rng_state()
    bench.train(bench.grid(bench.variants("depth"), [0]), [0], settings_of())
    assert torch.equal(before, torch.get_rng_state())


def test_late_loss_is_finite_for_extreme_logits() -> None:
    """With logits 300 apart the softmax of a class is 0 in float32, but its logarithm is finite."""
    bench, settings = Bench(keys=("toy", "other"), fusion="late"), settings_of()
    grid = bench.grid(bench.variants("streams")[-1:], [0])
    network = grid[0][0]
    with torch.no_grad():
        for head in network.fusion.heads.values():
            head.bias.copy_(torch.tensor([0.0, -300.0, -600.0]))
    measured = BatchedRows(grid, bench.data, settings).measure(PARTS.test)
    pooled, labels = bench.data.take(torch.from_numpy(PARTS.test)), bench.data.labels[PARTS.test]
    expected = torch.nn.functional.cross_entropy(network.eval().classify(pooled).double(), labels)
    assert torch.isfinite(measured.loss).all()
    assert measured.loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("temporal", ["concat", "bigru"])
def test_stream_and_stage_named_stream_keep_their_best_epoch(temporal: str) -> None:
    bench = Bench(keys=("stream", "anp"), temporal=temporal, stages=("edges", "stream", "things"))
    settings = settings_of(learning_rate=0.1, epochs=8)
    (rows,) = bench.grid(bench.variants("streams")[-1:], [0])
    done = bench.train([rows], [0], settings)
    best = int(done.best_epochs[0, 0])
    assert best < 7
    (own,) = bench.grid(bench.variants("streams")[-1:], [0])
    by_train(bench, own[0], settings_of(learning_rate=0.1, epochs=8))
    assert probability_difference(bench, own[0], rows[0]) < 1e-4


def test_random_layers_of_plugins_are_reproducible() -> None:
    """nn.Dropout draws from torch's generator, which is seeded for each step of each row."""
    networks = []
    for noise in (0, 5):
        bench = Bench(temporal="bigru")
        (rows,) = bench.grid(bench.variants("depth")[-1:], [2])
        rows[0].fusion.heads["toy"] = nn.Sequential(nn.Dropout(0.5), rows[0].fusion.heads["toy"])
        torch.rand(noise)
        bench.train([rows], [2], settings_of())
        networks.append(rows[0])
    assert difference(*networks) == 0
