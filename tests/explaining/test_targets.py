"""Targets of explanations: class, photo and scale."""

from __future__ import annotations

import pytest
import torch

from multistream.errors import UsageError
from multistream.explaining.targets import Target
from tests.explaining.conftest import CLASSES

LOGITS = torch.tensor([[3.0, 1, 2], [0.0, 5, 1]])
LABELS = torch.tensor([2, 0])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target(), [3.0, 5.0]),
        (Target("true"), [2.0, 0.0]),
        (Target("fear"), [2.0, 1.0]),
        (Target("fear", "awe"), [1.0, -4.0]),
        (Target("true", "predicted"), [-1.0, -5.0]),
    ],
)
def test_scores_on_the_logit_scale(target: Target, expected: list[float]) -> None:
    chosen = target.of(LOGITS.softmax(1), LABELS, CLASSES)
    assert chosen.score(LOGITS).tolist() == expected
    assert chosen.score(LOGITS.repeat(3, 1)).tolist() == expected * 3  # repeated batches, as in an integral
    assert chosen.pick(LOGITS.unsqueeze(2).expand(-1, -1, 4)).shape == (2, 4)


def test_scores_on_the_probability_scale() -> None:
    chosen = Target("fear", "awe", "probability").of(LOGITS.softmax(1), LABELS, CLASSES)
    assert torch.allclose(chosen.score(LOGITS), LOGITS.softmax(1)[:, 2] - LOGITS.softmax(1)[:, 1])


def test_calibrated_probability_uses_scaled_logits() -> None:
    probabilities = (LOGITS / 0.5).softmax(1)
    chosen = Target("fear", scale="probability").of(probabilities, LABELS, CLASSES, temperature=0.5)
    assert torch.allclose(chosen.score(LOGITS.repeat(2, 1)), probabilities[:, 2].repeat(2))
    assert torch.allclose(chosen.of_class(1).score(LOGITS), probabilities[:, 1])


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Target("feer"), "Did you mean 'fear'"),
        (Target("fear", "aw"), "Did you mean 'awe'"),
        (Target("fear", "fear"), "the target itself"),
        (Target("fear", scale="odds"), "logit or probability"),
    ],
)
def test_invalid_targets_raise(target: Target, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        target.check(CLASSES)
