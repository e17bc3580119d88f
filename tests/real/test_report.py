"""The report of real photos with real weights: whole, small, and with nothing left over."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from multistream.recipe import Recipe
from multistream.reporting import report
from multistream.training.train import train

SHARED = Path(__file__).parent.parent.parent.parent / "shared"
WEIGHTS = SHARED / "weights" / "mobilenet_v2_imagenet.safetensors"
PHOTOS = SHARED / "data" / "emotion6"

pytestmark = pytest.mark.skipif(
    not (WEIGHTS.is_file() and (PHOTOS / "concepts.npz").is_file()),
    reason="the real photos and weights are not here (../shared)",
)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["early", "late"])
def test_two_dozen_photos_fit_and_sum_to_their_logits(
    fusion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTISTREAM_CACHE", str(tmp_path / "cache"))
    with (tmp_path / "photos.csv").open("w", newline="") as file:
        write = csv.writer(file)
        write.writerow(("path", "label"))
        for folder in sorted((PHOTOS / "images").iterdir()):
            write.writerows((str(photo), folder.name) for photo in sorted(folder.glob("*.jpg"))[:16])
    recipe = Recipe().updated(
        {
            "data": {"source": str(tmp_path / "photos.csv"), "split": "50/10/40", "allow_outside": True},
            "network": {
                "streams": {"object": "object", "anp": "anp"},
                "fusion": fusion,
                "weights": {"object": str(WEIGHTS)},
                "inputs": {"anp": str(PHOTOS / "concepts.npz")},
            },
            "training": {"epochs": 5},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )
    train(recipe, out=tmp_path / "run")
    found = report(tmp_path / "run", device="cpu", precision="fp32")
    assert found.photos == 24
    assert found.bytes < 2_000_000
    checks = {check.name: check for check in found.checks}
    assert checks["Contributions and bias sum to the logit"].measured <= 1e-5
    assert all(check.passed for check in found.checks)
