"""Games compared with axioms, closed forms and three other libraries (checks A1, A2, A4, A5)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multistream.explaining.games import coalitions, interactions, owen, shapley


def game(players: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2**players, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("players", [1, 2, 3, 5])
def test_shapley_values_sum_to_the_full_coalition(players: int) -> None:
    values = game(players)
    assert abs(shapley(values).sum() - (values[-1] - values[0])) < 1e-12


def test_dummy_player_gets_zero_and_equal_players_get_equal_values() -> None:
    masks = coalitions(3)
    values = masks[:, 0].double() + masks[:, 1].double() + 3 * (masks[:, 0] & masks[:, 1]).double()
    found = shapley(values)
    assert found[2] == 0
    assert found[0] == found[1] == 2.5


def test_further_dimensions_are_kept() -> None:
    values = torch.stack([game(3, 1), game(3, 2)], dim=1)
    assert torch.equal(shapley(values)[:, 0], shapley(values[:, 0]))
    assert torch.equal(interactions(values)[..., 1], interactions(values[:, 1]))


@pytest.mark.parametrize("players", [3, 5])
def test_shapley_and_interactions_equal_shapiq(players: int) -> None:
    shapiq = pytest.importorskip("shapiq")
    values = game(players).numpy()
    powers = 1 << np.arange(players)
    computer = shapiq.ExactComputer(game=lambda masks: values[np.asarray(masks, dtype=int) @ powers], n_players=players)
    single = computer("SV")
    pairs = computer("SII", order=2)
    ours, both = shapley(torch.from_numpy(values)), interactions(torch.from_numpy(values))
    for i in range(players):
        assert abs(ours[i].item() - single[(i,)]) < 1e-12
        for j in range(i + 1, players):
            assert abs(both[i, j].item() - pairs[(i, j)]) < 1e-12


@pytest.mark.parametrize(
    ("groups", "baseline", "expected"),
    [
        ([0, 1, 2], 0.0, [76.6667, 196.6667, 116.6667]),
        ([0, 0, 1], 0.0, [275.0, 115.0]),
        ([0, 0, 1], 4.0, [248.0, 104.0]),
    ],
)
def test_shapley_values_equal_captum_test_cases(groups: list[int], baseline: float, expected: list[float]) -> None:
    """Check A4: the network and the values of captum's tests, x = [20, 50, 30]."""
    captum = pytest.importorskip("captum.attr")
    network = pytest.importorskip("captum.testing.helpers.basic_models").BasicModel_MultiLayer()
    x, member = torch.tensor([[20.0, 50, 30]]), torch.tensor(groups)
    with torch.no_grad():
        rows = coalitions(max(groups) + 1)[:, member]
        ours = shapley(network(torch.where(rows, x, baseline))[:, 0])
    assert torch.allclose(ours, torch.tensor(expected), atol=1e-4)
    theirs = captum.ShapleyValues(network).attribute(x, baselines=baseline, target=0, feature_mask=member[None])
    assert torch.allclose(ours[member], theirs[0], atol=1e-4)


def test_shapley_equals_shap_exact() -> None:
    shap = pytest.importorskip("shap")
    weights = np.random.default_rng(0).normal(size=(4, 4))
    point, background = np.array([[1.0, 2, 3, 4]]), np.zeros((1, 4))

    def model(rows: np.ndarray) -> np.ndarray:
        return np.einsum("ni,ij,nj->n", rows, weights, rows)

    expected = shap.ExactExplainer(model, background)(point).values[0]
    rows = np.where(coalitions(4).numpy(), point, background)
    assert np.allclose(shapley(torch.from_numpy(model(rows))).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("groups", [[2, 3], [1, 4, 2], [3], [1, 1, 1]])
def test_owen_values_of_a_group_sum_to_its_shapley_value(groups: list[int]) -> None:
    """Check A5, in the quotient game."""
    values, powers = game(sum(groups)), 2 ** torch.arange(sum(groups))
    found = owen(lambda rows: values[(rows * powers).sum(1)], groups)
    member = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor(groups))
    quotient = torch.stack([values[(row[member] * powers).sum()] for row in coalitions(len(groups))])
    sums = torch.stack([part.sum() for part in found.split(groups)])
    assert torch.allclose(sums, shapley(quotient), atol=1e-10)


def test_owen_with_one_player_per_group_equals_shapley() -> None:
    values, powers = game(4), 2 ** torch.arange(4)
    assert torch.allclose(owen(lambda rows: values[(rows * powers).sum(1)], [1] * 4), shapley(values), atol=1e-12)


def test_invalid_game_table_raises() -> None:
    with pytest.raises(ValueError, match="2\\^n rows"):
        shapley(torch.zeros(6))
    with pytest.raises(ValueError, match="At most"):
        coalitions(30)
