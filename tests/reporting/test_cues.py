"""The demo set's cues: the page finds what was planted, and says so with interval and chance level."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from multistream.recipe import Recipe
from multistream.reporting import report
from multistream.reporting.attributed import planted
from multistream.reporting.cues import NAMES, Cue, Share, _carried, _weighed
from multistream.training.train import train

GIVEN = np.array([[3.0, 1.0, -2.0, 2.0], [4.0, 0.0, 2.0, -2.0]])
"""What four entries gave in two photos; the last two speak by chance."""


def test_signs_cancel_and_sizes_do_not() -> None:
    carriers = np.array([0, 1])
    net = _carried(GIVEN, carriers)
    assert net.value == pytest.approx(1.0)
    assert net.ci95[0] <= 1 <= net.ci95[1]
    whole = _weighed(GIVEN, np.tile(carriers, (2, 1)))
    assert whole.value == pytest.approx((4 / 8 + 4 / 8) / 2)
    assert whole.chance == net.chance == 0.5
    assert _weighed(GIVEN, np.array([[0], [0]])).value == pytest.approx((3 / 8 + 4 / 8) / 2)


def cue(name: str, *, picture: float, net: float) -> Cue:
    """A cue of one picture stream and one vector stream."""
    share = {"anp": Share(net, (0.0, 1.1), 0.2)}
    shapley = {"object": (picture, (-1.0, 1.0)), "anp": (2.0, (1.0, 3.0))}
    return Cue(name, 9, shapley, pointing={}, energy={}, planted=share, weighed=share, carried=share)


@pytest.mark.parametrize(("picture", "net", "failing"), [(1e-3, 0.99, 0), (-0.02, 0.99, 1), (0.02, 0.94, 2)])
def test_the_page_says_what_did_not_come_out(picture: float, net: float, failing: int) -> None:
    found = [replace(cue(name, picture=0.0, net=net), carried={}, planted={}, weighed={}) for name in NAMES[:2]]
    page = planted([*found, cue(NAMES[2], picture=picture, net=net)])
    assert page.count("✗ FAILS") == failing
    assert page.count("✓ holds") == 2 - failing
    alone = replace(cue(NAMES[2], picture=0.0, net=net), shapley={"anp": (2.0, (1.0, 3.0))})
    assert "holds" not in planted([*(replace(each, shapley=alone.shapley) for each in found), alone])


@pytest.mark.slow
def test_evidence_lies_where_it_was_planted(tmp_path: Path) -> None:
    recipe = Recipe().updated({"network": {"streams": {"object": "object", "anp": "anp"}}, "training": {"epochs": 15}})
    train(recipe, out=tmp_path / "run")
    found = report(tmp_path / "run", photos=4, device="cpu")
    page = re.search(r'<section id="cues".*?</section>', found.path.read_text(), re.S)
    assert page
    assert page[0].count("✓ holds") == 2
    assert "✗" not in page[0]
    sun, texture, pairs = found.cues
    assert {cue.n for cue in found.cues} == {320}
    for cue, key in ((sun, "object"), (texture, "object"), (pairs, "anp")):
        mean, (low, high) = cue.shapley[key]
        assert 0 < low <= mean <= high
        other = "anp" if key == "object" else "object"
        assert abs(cue.shapley[other][0]) <= 1e-2
    share = sun.pointing["object"]
    assert share.ci95[0] > share.chance
    energy = sun.energy["object"]
    assert energy.ci95[0] > energy.chance
    assert pairs.carried["anp"].value >= 0.95
    assert pairs.weighed["anp"].value >= pairs.planted["anp"].value
    assert pairs.weighed["anp"].ci95[0] > 0.7
    assert pairs.planted["anp"].ci95[0] > pairs.planted["anp"].chance
    assert texture.pointing.keys() == {"object"}
