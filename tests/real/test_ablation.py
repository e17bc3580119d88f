"""Ablation on the real photos with the real MobileNetV2: batched rows are rows trained alone, and depth pays."""

from __future__ import annotations

from pathlib import Path

import pytest

from multistream.ablation import ablate
from multistream.recipe import Recipe

SHARED = Path(__file__).parents[3] / "shared"
WEIGHTS = SHARED / "weights" / "mobilenet_v2_imagenet.safetensors"
PHOTOS = SHARED / "data" / "emotion6"


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists() or not PHOTOS.exists(), reason="needs shared/ beside the repository")
def test_depth_of_a_pretrained_stream_pays() -> None:
    recipe = Recipe().updated(
        {
            "data": {"source": f"emotion6:{PHOTOS}", "label": "keyword"},
            "network": {"streams": {"object": "object"}, "weights": {"object": str(WEIGHTS)}},
            "training": {"epochs": 10},
            "runtime": {"device": "cpu"},
        }
    )
    result = ablate(recipe, axis="depth", seeds=3, verify=True)
    assert result.verified is not None
    assert max(result.verified.largest_difference, result.verified.difference_to_train) < 1e-5
    first, whole = result.rows[0], result.whole
    assert len(result.rows) == 5
    assert whole.score - first.score > 0.1
    assert first.p_holm is not None
    assert first.p_holm < 0.001
    assert whole.macs > 20 * first.macs / 2
