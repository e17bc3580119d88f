"""Real photos, real weights: nothing is missing from the sum, on every photo (check E3)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from multistream import explain
from multistream.explaining import Explanation
from multistream.recipe import Recipe
from multistream.training.train import train
from tests.real.test_scenes import site  # noqa: F401  the stranger's stream, installed

SHARED = Path(__file__).parents[3] / "shared"
DATA = SHARED / "data" / "emotion6"
WEIGHTS = {
    "object": SHARED / "weights" / "mobilenet_v2_imagenet.safetensors",
    "scenes": SHARED / "weights" / "squeezenet_places365.safetensors",
}
CASES = [("object",), ("object", "anp"), ("object", "scenes")]
PHOTOS = 200

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("site"),
    pytest.mark.skipif(
        not (DATA.is_dir() and all(file.is_file() for file in WEIGHTS.values())),
        reason="the real photos and weights are not here (../shared)",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The cases share what the object stream pooled, and no other run's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTISTREAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def explained(keys: tuple[str, ...], fusion: str, out: Path) -> list[Explanation]:
    """A run on Emotion6, and its first test photos' explanations."""
    recipe = Recipe().updated(
        {
            "data": {"source": f"emotion6:{DATA}", "label": "keyword"},
            "network": {
                "streams": {key: key for key in keys},
                "weights": {key: str(WEIGHTS[key]) for key in keys if key in WEIGHTS},
                "inputs": {"anp": str(DATA / "concepts.npz")} if "anp" in keys else {},
                "fusion": fusion,
            },
            "training": {"epochs": 3},
            "runtime": {"device": "cpu"},
        }
    )
    run = train(recipe, out=out)
    found = list(islice(explain(run.folder, device="cpu"), PHOTOS))
    assert len(found) == PHOTOS
    assert all(each.status == "ok" for each in found)
    return found


@pytest.mark.parametrize("keys", CASES, ids="+".join)
def test_early_sums_to_the_logit(keys: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(keys, "early", tmp_path / "run")
    residuals = [each.residual for each in found if each.residual is not None]
    with capsys.disabled():
        print(f"\n{'+'.join(keys)}, early: largest residual of {PHOTOS} photos {max(residuals):.1e}")
    for each in found:
        assert set(each.exact) == set(keys)
        assert all(each.exact.values())
        parts = [value for stages in each.stages.values() for value in stages.values()]
        total = sum([*parts, *each.vectors.values(), *each.bias.values()])
        assert abs(total - each.logits["fused"]) <= 1e-5 * max(1, abs(each.logits["fused"]))
    assert max(residuals) < 1e-5
    assert len(residuals) == PHOTOS


@pytest.mark.parametrize("keys", CASES[1:], ids="+".join)
def test_late_sums_per_stream(keys: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(keys, "late", tmp_path / "run")
    worst = {
        key: max(
            abs(sum(each.stages[key].values()) + each.bias[key] - each.logits[key]) / max(1, abs(each.logits[key]))
            for each in found
        )
        for key in keys
        if key != "anp"
    }
    with capsys.disabled():
        told = ", ".join(f"{key} {value:.1e}" for key, value in worst.items())
        print(f"\n{'+'.join(keys)}, late: largest residual of {PHOTOS} photos: {told}")
    assert max(worst.values()) < 1e-5
    assert all(each.kinds[key] == ("local" if key == "anp" else "exact") for each in found for key in keys)
    for each in found:
        assert each.arrays is not None
        mean = sum(each.arrays.probabilities.values()) / len(keys)
        assert float(mean.max()) == pytest.approx(each.probability, abs=1e-6)  # the predicted class is the target
