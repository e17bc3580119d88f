"""The table and the figure of a small artificial result."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.figure import Figure

from multistream.ablation.figure import draw
from multistream.ablation.results import Ablation, VariantResult, VerifiedRow
from multistream.ablation.table import table


def row_of(
    label: str, accuracy: float, *, delta: float, macs: int, classes: dict[str, tuple[float, float]]
) -> VariantResult:
    return VariantResult(
        keep={"toy": tuple(label.split()[1:])},
        fusion="",
        label=label,
        score=accuracy,
        score_ci95=(accuracy - 0.1, accuracy + 0.1),
        delta=delta,
        p_value=0.02 if delta else None,
        p_holm=0.04 if delta else None,
        params=10,
        macs=macs,
        ms_p50=0.5,
        scores=(accuracy,),
        masked_score=0.4,
        ridge_score=None,
        pareto=True,
        per_class={name: {"score": own, "delta": less} for name, (own, less) in classes.items()},
    )


def result_of() -> Ablation:
    """Returns a result of two rows on eight photos of two classes."""
    cut = row_of("toy edges", 0.5, delta=-0.25, macs=1_000_000, classes={"awe": (0.25, -0.5), "joy": (0.75, 0.0)})
    whole = row_of("toy", 0.75, delta=0.0, macs=9_000_000, classes={"awe": (0.75, 0.0), "joy": (0.75, 0.0)})
    return Ablation(
        axis="depth",
        rows=(cut, whole),
        seconds=2.0,
        training_seconds=1.0,
        seeds=(0,),
        split_seeds=(18,),
        n=8,
        trained_on="pooled features",
        stacked=2,
        data="toys",
        run="",
        verified=VerifiedRow("toy edges", 0, 0.0, 3e-7),
    )


def test_table_shows_every_row_and_class() -> None:
    text = table(result_of())
    lines = text.splitlines()
    assert lines[1].startswith("* toy edges")
    assert {"50.0", "-25.0", "0.040", "40.0", "10", "1.0"} <= set(lines[1].split())
    assert lines[2].startswith("* toy ")
    place = next(i for i, line in enumerate(lines) if "by class" in line)
    assert lines[place + 1].split()[-2:] == ["-50.0", "+0.0"]
    assert "8 test photos, 1 seed x 1 split, on pooled features" in text
    assert (
        "at most 0.0e+00 from the row trained alone and by at most 3.0e-07 from train's own loop (1e-05 allowed)"
        in text
    )


def test_figure_has_a_dot_per_row_and_the_pareto_front() -> None:
    figure = draw(result_of())
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    dots = sorted(line.get_xydata().tolist()[0] for line in axes.lines if line.get_marker() == "o")
    assert dots == [[1.0, 50.0], [9.0, 75.0]]
    assert any(line.get_drawstyle() == "steps-post" for line in axes.lines)
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["1  toy edges", "2  toy (all)"]


def test_overlapping_dots_share_one_label() -> None:
    result = result_of()
    figure = draw(replace(result, rows=(result.rows[0], result.rows[0], result.whole)))
    assert [text.get_text() for text in figure.axes[0].texts] == ["1, 2", "3"]
