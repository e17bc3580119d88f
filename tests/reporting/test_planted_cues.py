"""The demo set's cues: attributions find them, and the page shows the results with interval and chance level."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from multistream.recipe import Recipe
from multistream.reporting import report
from multistream.reporting.page import environment
from multistream.reporting.planted_cues import NAMES, CueFraction, CueResult, _absolute, _signed
from multistream.training.train import train

GIVEN = np.array([[3.0, 1.0, -2.0, 2.0], [4.0, 0.0, 2.0, -2.0]])
"""Contributions of four entries in two images; the last two are independent of the class."""


def test_signed_attributions_cancel_and_absolute_ones_do_not() -> None:
    carriers = np.array([0, 1])
    net = _signed(GIVEN, carriers)
    assert net.value == pytest.approx(1.0)
    assert net.ci95[0] <= 1 <= net.ci95[1]
    whole = _absolute(GIVEN, np.tile(carriers, (2, 1)))
    assert whole.value == pytest.approx((4 / 8 + 4 / 8) / 2)
    assert whole.chance == net.chance == 0.5
    assert _absolute(GIVEN, np.array([[0], [0]])).value == pytest.approx((3 / 8 + 4 / 8) / 2)


def cue(name: str, *, picture: float, net: float) -> CueResult:
    """The result of a cue with one image stream and one vector stream."""
    fraction = {"anp": CueFraction(net, (0.0, 1.1), 0.2)}
    shapley = {"object": (picture, (-1.0, 1.0)), "anp": (2.0, (1.0, 3.0))}
    return CueResult(name, 9, shapley, pointing={}, energy={}, planted=fraction, absolute=fraction, signed=fraction)


def rendered(cues: list[CueResult]) -> str:
    return environment().get_template("cues.html").render(cues=cues)


@pytest.mark.parametrize(("picture", "net", "failing"), [(1e-3, 0.99, 0), (-0.02, 0.99, 1), (0.02, 0.94, 2)])
def test_page_reports_failed_results(picture: float, net: float, failing: int) -> None:
    found = [replace(cue(name, picture=0.0, net=net), signed={}, planted={}, absolute={}) for name in NAMES[:2]]
    page = rendered([*found, cue(NAMES[2], picture=picture, net=net)])
    assert page.count("✗ FAIL") == failing
    assert page.count("✓ pass") == 2 - failing
    alone = replace(cue(NAMES[2], picture=0.0, net=net), shapley={"anp": (2.0, (1.0, 3.0))})
    assert "pass" not in rendered([*(replace(each, shapley=alone.shapley) for each in found), alone])


@pytest.mark.parametrize(("value", "noted"), [(0.7, True), (0.95, False)])
def test_a_pointing_game_below_chance_is_explained(value: float, noted: bool) -> None:
    found = [replace(cue(name, picture=0.0, net=1.0), signed={}, planted={}, absolute={}) for name in NAMES]
    below = CueFraction(value, (value - 0.04, value + 0.04), 0.89)
    page = rendered([found[0], replace(found[1], pointing={"object": below}), found[2]])
    assert ("the pointing game is below chance" in page) == noted


@pytest.mark.slow
def test_attributions_find_the_planted_cues(tmp_path: Path) -> None:
    recipe = Recipe().updated({"network": {"streams": {"object": "object", "anp": "anp"}}, "training": {"epochs": 15}})
    train(recipe, out=tmp_path / "run")
    found = report(tmp_path / "run", photos=4, device="cpu")
    page = re.search(r'<section id="cues".*?</section>', found.path.read_text(), re.S)
    assert page
    assert page[0].count("✓ pass") == 2
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
    assert pairs.signed["anp"].value >= 0.95
    assert pairs.absolute["anp"].value >= pairs.planted["anp"].value
    assert pairs.absolute["anp"].ci95[0] > 0.7
    assert pairs.planted["anp"].ci95[0] > pairs.planted["anp"].chance
    assert texture.pointing.keys() == {"object"}
