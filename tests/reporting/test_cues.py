"""The demo set's cues: the page finds what was planted, and says so with interval and chance level."""

from __future__ import annotations

from pathlib import Path

import pytest

from multistream.recipe import Recipe
from multistream.reporting import report
from multistream.training import train


@pytest.mark.slow
def test_evidence_lies_where_it_was_planted(tmp_path: Path) -> None:
    recipe = Recipe().updated({"network": {"streams": {"object": "object", "anp": "anp"}}, "training": {"epochs": 15}})
    train(recipe, out=tmp_path / "run")
    found = report(tmp_path / "run", photos=4, device="cpu")
    assert 'id="cues"' in found.path.read_text()
    sun, texture, pairs = found.cues
    assert {cue.n for cue in found.cues} == {320}
    for cue, key in ((sun, "object"), (texture, "object"), (pairs, "anp")):
        mean, (low, high) = cue.shapley[key]
        assert 0 < low <= mean <= high
        other = "anp" if key == "object" else "object"
        assert abs(cue.shapley[other][0]) <= 1e-2
    share = sun.pointing["object"]
    assert share.ci95[0] > share.chance
    assert pairs.carried["anp"].value >= 0.95
    assert pairs.planted["anp"].ci95[0] > pairs.planted["anp"].chance
    assert texture.pointing.keys() == {"object"}
