"""The ANP stream: its scaling and its head."""

import pytest
import torch
from multistream_anp.stream import ANP
from torch import nn

from multistream import MultistreamError, Vector
from multistream.testing import StreamContract


class TestANP(StreamContract):
    def make(self) -> ANP:
        return ANP(width=7, scaling="zscore")


SCORES = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1e-4, 1.0, 0.0]) + 0.25


def test_scores_go_through_as_they_are() -> None:
    stream = ANP(width=4, vocabulary=["happy dog", "stormy sky", "cute cat", "old house"])
    assert stream.input == Vector("anp", width=4, vocabulary=("happy dog", "stormy sky", "cute cat", "old house"))
    assert torch.equal(stream(SCORES)["vector"], SCORES)


def test_zscore_gives_mean_zero_and_deviation_one_and_silences_what_never_varies() -> None:
    stream = ANP(width=4, scaling="zscore")
    stream.fit(SCORES)
    scaled = stream(SCORES)["vector"]
    torch.testing.assert_close(scaled.mean(0), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.tensor([1.0, 1.0, 1.0, 0.0]), atol=1e-3, rtol=0)
    assert torch.equal(scaled[:, 3], torch.zeros(50))


def test_the_scaling_travels_with_the_state_dict() -> None:
    fitted, loaded = ANP(width=4, scaling="zscore"), ANP(width=4, scaling="zscore")
    fitted.fit(SCORES)
    assert not torch.equal(loaded(SCORES)["vector"], fitted(SCORES)["vector"])
    loaded.load_state_dict(fitted.state_dict())
    assert torch.equal(loaded(SCORES)["vector"], fitted(SCORES)["vector"])


def test_log_is_finite_at_zero_and_refuses_negative_scores() -> None:
    stream = ANP(width=2, scaling="log")
    scores = torch.tensor([[0.0, 0.5]])
    stream.fit(scores)
    expected = torch.tensor([[1e-6, 0.5]]).log()
    torch.testing.assert_close(stream(scores)["vector"], expected)
    with pytest.raises(MultistreamError, match=r"the scaling 'log' cannot take the score -0\.3"):
        stream.fit(torch.tensor([[-0.3, 0.5]]))


def softmaxes(*widths: int) -> torch.Tensor:
    """Probabilities of 40 photos from softmaxes of these widths, concatenated."""
    chance = torch.Generator().manual_seed(1)
    return torch.cat([torch.randn(40, width, generator=chance).mul(3).softmax(1) for width in widths], 1)


@pytest.mark.parametrize(
    ("scores", "total"),
    [
        (softmaxes(6), 1),
        (softmaxes(1000, 365), 2),
        (torch.rand(40, 1365, generator=torch.Generator().manual_seed(2)), 0),
        (softmaxes(6) * 0.7, 0),
        (softmaxes(6) - 1e-3, 0),
        (torch.zeros(40, 6), 0),
    ],
)
def test_logarithms_are_taken_of_probabilities(scores: torch.Tensor, total: int) -> None:
    """Of one softmax or several, such as the concatenated scores of an object and a scene classifier; not of others."""
    stream = ANP(width=scores.shape[1])
    said = stream.fit(scores)
    expected = scores.clamp_min(1e-6).log() if total else scores
    assert torch.equal(stream(scores)["vector"], expected)
    assert (said or "").startswith(f"every photo's scores sum to about {total}," if total else "")
    kept = ANP(width=scores.shape[1], scaling="none")
    assert kept.fit(scores) is None
    assert torch.equal(kept(scores)["vector"], scores)


def test_head_is_the_papers_mlp() -> None:
    head = ANP(width=2089).make_head(2089, 8)
    assert [m.weight.shape[::-1] for m in head if isinstance(m, nn.Linear)] == [(2089, 1024), (1024, 512), (512, 8)]
    assert [type(m) for m in head] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert isinstance(ANP(width=5, hidden=[]).make_head(5, 3), nn.Linear), "alone it is linear, so lbfgs fits it"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width": 3, "scaling": "sqrt"}, "'sqrt' is unknown. Known: auto, none, log, zscore."),
        ({"width": 0}, "at least 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(MultistreamError, match=says):
        ANP(**options)
