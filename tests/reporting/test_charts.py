"""Charts: requirements of the page's Content-Security-Policy and of screen readers."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from multistream.reporting import charts
from multistream.reporting.charts import ChartRow, CostPoint, Curve
from multistream.reporting.results import CalibrationBin

ROWS = [ChartRow("this run", 0.643, (0.62, 0.66)), ChartRow("$x$ <b> \x01 生", 0.5, highlighted=False)]
BINS = [CalibrationBin(0.4, 0.47, 9, 0.44, 0.5, (0.2, 0.8)), CalibrationBin(0.93, 1, 30, 0.97, 0.9, (0.8, 0.95))]
POINTS = [
    CostPoint("object 1", 1e6, 0.5, (0.4, 0.6), 1),
    CostPoint("object 2", 3e8, 0.6, None, 2),
    CostPoint("anp", 0, 0.1, None, None),
]


def drawn() -> dict[str, Markup]:
    percent = "{:.1%}".format
    return {
        "dots": charts.dot_chart(ROWS, title="Accuracy", xlabel="accuracy, %", write=percent, limits=(0, 1)),
        "signed": charts.dot_chart(ROWS, title="Values", xlabel="logits", write=percent, reference=0),
        "bins": charts.reliability_chart(BINS),
        "curves": charts.curve_chart([Curve("training", [(1, 2.0), (2, 1.0)])], ylabel="loss", best=2),
        "front": charts.pareto_chart(POINTS, metric="accuracy"),
    }


@pytest.fixture(scope="module")
def elements() -> dict[str, ElementTree.Element]:
    return {name: ElementTree.fromstring(svg) for name, svg in drawn().items()}


def test_charts_satisfy_the_policy_and_ids_are_unique(elements: dict[str, ElementTree.Element]) -> None:
    for svg in elements.values():
        for element in svg.iter():
            assert element.tag in ("svg", "g", "path", "text", "title")
            assert not {"style", "id", "href", "clip-path"} & set(element.attrib)


def test_charts_use_the_colours_of_the_page(elements: dict[str, ElementTree.Element]) -> None:
    for svg in elements.values():
        colours = {e.get(name) for e in svg.iter() for name in ("fill", "stroke")}
        assert all(value is None or value == "none" or value.startswith("var(--") for value in colours), colours


def test_charts_have_descriptions(elements: dict[str, ElementTree.Element]) -> None:
    assert all(svg.get("role") == "img" for svg in elements.values())
    assert "this run 64.3%" in str(elements["dots"].get("aria-label"))
    assert "2: object 2 60.0 %" in str(elements["front"].get("aria-label"))
    texts = [text.text for text in elements["dots"].iter("text")]
    assert {"this run", "64.3%", "accuracy, %", "0", "50", "100"} <= set(texts)
    assert any(text and text.startswith("$x$ <b>") and text.endswith("生") for text in texts)
    assert "object 1: 50.0 %" in [title.text for title in elements["front"].iter("title")]


def test_equal_values_give_equal_bytes() -> None:
    assert drawn() == drawn()
