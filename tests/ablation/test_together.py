"""Rows trained together are the rows trained alone, bit by bit; and what would break that does (checks B1-B3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from multistream.ablation.pieces import kind_of
from multistream.ablation.separate import SeparateRows
from multistream.ablation.solo import train_by_itself
from multistream.ablation.stacked import StackedRows
from multistream.ablation.variants import Axis
from multistream.network.network import MultiStream
from multistream.recipe import TrainingSettings
from tests.ablation.conftest import CPU, PARTS, Bench, difference, settings_of, weights_of

SEEDS = [4, 9]
OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "adam": {"optimizer": "adam", "learning_rate": 0.01},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.01},
}


def solo(bench: Bench, network: MultiStream, settings: TrainingSettings, folder: Path) -> MultiStream:
    """The network after `train`'s own loop over the same features."""
    train_by_itself(network, bench.pool, settings=settings, runtime=CPU, folder=folder)
    return network.eval()


def check_alone(bench: Bench, axis: Axis, settings: TrainingSettings) -> None:
    found = bench.variants(axis)
    together = bench.grid(found, SEEDS)
    untrained = weights_of(together[0][0])
    done = bench.train(together, SEEDS, settings)
    assert not all(torch.equal(t, untrained[n]) for n, t in weights_of(together[0][0]).items())
    for g, seed in enumerate(SEEDS):
        for v, variant in enumerate(found):
            (alone,) = bench.grid([variant], [seed])
            own = bench.train([alone], [seed], settings)
            assert difference(alone[0], together[g][v]) == 0, (seed, variant)
            assert own.best_epochs.item() == done.best_epochs[g, v]


@pytest.mark.parametrize("axis", ["depth", "taps"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_together_is_alone_bit_by_bit(optimizer: str, axis: Axis) -> None:
    """With dropout of one half, several seeds, and the best epoch kept for each row."""
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
def test_together_is_alone_with_every_setting(changes: dict[str, object]) -> None:
    check_alone(Bench(), "taps", settings_of(**changes))


@pytest.mark.parametrize("form", [{"temporal": "average"}, {"keys": ("toy", "anp")}, {"tap": "last"}], ids=str)
def test_together_is_alone_in_every_linear_form(form: dict[str, Any]) -> None:
    bench = Bench(**form)
    assert kind_of(bench.base) is not None
    check_alone(bench, "depth", settings_of(learning_rate=0.01))


@pytest.mark.parametrize("fusion", ["early", "late", "gated"])
def test_subsets_of_streams_are_trained_as_alone(fusion: str) -> None:
    check_alone(Bench(keys=("toy", "anp"), fusion=fusion), "streams", settings_of(learning_rate=0.01))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_recurrent_rows_are_the_trainers_bit_by_bit(optimizer: str, tmp_path: Path) -> None:
    """Rows that do not stack do what `train` does, number for number."""
    bench, settings = Bench(temporal="bigru+att"), settings_of(**OPTIMIZERS[optimizer])
    found = bench.variants("depth")
    together = bench.grid(found, SEEDS)
    assert bench.train(together, SEEDS, settings).separate == len(SEEDS) * len(found)
    for g, seed in enumerate(SEEDS):
        own = settings_of(**OPTIMIZERS[optimizer], seed=seed)
        for v, (alone,) in enumerate(zip(bench.grid(found, [seed])[0], strict=True)):
            assert difference(solo(bench, alone, own, tmp_path / f"{seed}-{v}"), together[g][v]) == 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("axis", ["depth", "taps"])
def test_stacked_rows_are_the_trainers_up_to_rounding(axis: Axis, optimizer: str, tmp_path: Path) -> None:
    """B2: the trainer sums a row's numbers in another order, so float32 rounds otherwise; 60 steps stay within 1e-6.

    Adam divides by a root near 0 in its first steps, which turns a last bit into 1e-5.
    """
    bench, settings = Bench(), settings_of(**OPTIMIZERS[optimizer])
    found = bench.variants(axis)
    together = bench.grid(found, [5])
    assert bench.train(together, [5], settings).stacked == len(found)
    own = settings_of(**OPTIMIZERS[optimizer], seed=5)
    for v, alone in enumerate(bench.grid(found, [5])[0]):
        trained = solo(bench, alone, own, tmp_path / str(v))
        assert difference(trained, together[0][v]) < (1e-6 if optimizer == "sgd" else 2e-5)


def test_what_a_row_leaves_out_does_not_exist() -> None:
    """B2: the weights of masked stages stay 0, for a row has none: no projection, and no column of the classifier."""
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
    batch = bench.pool.take(torch.arange(110, 150))
    for stage in ("edges", "things"):
        whole.branches["toy"].taps[stage].load_state_dict(networks[number].branches["toy"].taps[stage].state_dict())
    tokens = torch.cat([tap.project(batch["toy"][s]) for s, tap in whole.branches["toy"].taps.items()], 1)
    logits = tokens @ wide.T + networks[number].fusion.heads["toy"].bias
    assert (logits - networks[number].classify(batch)).abs().max() < 1e-6


def test_clipping_by_the_norm_of_all_rows_breaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """B3: one factor for all rows makes each depend on the others."""

    def clip_globally(rows: StackedRows) -> None:
        leaves = [t.leaf for t in rows.stack.tensors().values()]
        torch.nn.utils.clip_grad_norm_(leaves, rows.settings.clip_norm)

    bench, settings = Bench(), settings_of(clip_norm=0.05, optimizer="sgd", learning_rate=0.05)
    found = bench.variants("depth")
    right = bench.grid(found, SEEDS)
    bench.train(right, SEEDS, settings)
    monkeypatch.setattr(StackedRows, "_clip", clip_globally)
    wrong = bench.grid(found, SEEDS)
    bench.train(wrong, SEEDS, settings)
    assert max(difference(a, b) for r, w in zip(right, wrong, strict=True) for a, b in zip(r, w, strict=True)) > 1e-4


def test_both_ways_of_training_measure_alike() -> None:
    bench, settings = Bench(keys=("toy", "anp")), settings_of()
    grid = bench.grid(bench.variants("streams")[-1:], SEEDS)
    first, second = StackedRows(grid, bench.pool, settings), SeparateRows(grid, bench.pool, settings, CPU)
    one, other = first.measure(PARTS.test), second.measure(PARTS.test)
    assert torch.equal(one.accuracy, other.accuracy)
    assert (one.loss - other.loss).abs().max() < 1e-6


def test_a_generator_outside_is_left_as_it_was() -> None:
    bench = Bench()
    before = torch.get_rng_state()
    bench.train(bench.grid(bench.variants("depth"), [0]), [0], settings_of())
    assert torch.equal(before, torch.get_rng_state())
