"""Text table of an ablation."""

from __future__ import annotations

from collections.abc import Iterator

from multistream.ablation.results import LARGEST_DIFFERENCE, Ablation, Metric, StreamComplement, VariantResult

MOST_ROWS = 24
"""If there are more rows, the differences by class are only in the files."""
MOST_CLASSES = 10
"""If there are more classes, the differences by class are only in the files."""


def table(result: Ablation) -> str:
    """Formats the rows and the further results of the axis."""
    width = max(len("by class: row minus the complete network"), *(len(row.label) for row in result.rows))
    ridge = any(row.ridge_score is not None for row in result.rows)
    lines = [_head(width, result.metric, ridge=ridge), *(_line(row, width, ridge=ridge) for row in result.rows)]
    return "\n".join([*lines, *_further(result), *_by_class(result, width)])


def _head(width: int, metric: Metric, *, ridge: bool) -> str:
    return (
        f"  {'keep':{width}}  {metric.title:>8} {'95 %':>14} {'delta':>6} {'p Holm':>7} {'masked':>7} "
        + ("  ridge " if ridge else "")
        + f"{'params':>13} {'MACs (M)':>10} {'ms':>8}"
    )


def _line(row: VariantResult, width: int, *, ridge: bool) -> str:
    low, high = row.score_ci95
    p = f"{row.p_holm:7.3f}" if row.p_holm is not None else f"{'':7}"
    probe = f"{_percent(row.ridge_score)} " if ridge else ""
    return (
        f"{'*' if row.pareto else ' '} {row.label:{width}}  {100 * row.score:8.1f} "
        f"{f'[{100 * low:.1f}, {100 * high:.1f}]':>14} {100 * row.delta:+6.1f} {p} {_percent(row.masked_score)} "
        f"{probe}{row.params:13,} {row.macs / 1e6:10,.1f} {row.ms_p50:8.2f}"
    )


def _percent(fraction: float | None) -> str:
    return f"{100 * fraction:7.1f}" if fraction is not None else f"{'':7}"


def _by_class(result: Ablation, width: int) -> Iterator[str]:
    """Yields the differences between each row and the complete network by class, in percentage points."""
    classes = list(result.whole.per_class)
    if len(result.rows) > MOST_ROWS or len(classes) > MOST_CLASSES:
        return
    columns = {name: max(6, len(name)) for name in classes}
    names = " ".join(f"{name:>{column}}" for name, column in columns.items())
    yield f"\n  {'by class: row minus the complete network':{width}}  {names}"
    for row in result.rows[:-1]:
        deltas = [f"{100 * row.per_class[name]['delta']:+{column}.1f}" for name, column in columns.items()]
        yield f"  {row.label:{width}}  {' '.join(deltas)}"
    of_class = result.metric.of_class.replace("_", " ")
    scores = [f"{100 * result.whole.per_class[name]['score']:{column}.1f}" for name, column in columns.items()]
    yield f"  {f'{of_class} of the complete network':{width}}  {' '.join(scores)}"


def _further(result: Ablation) -> Iterator[str]:
    seeds, splits = len(result.seeds), len(result.split_seeds)
    many = f"{seeds} seed{'s' * (seeds > 1)} x {splits} split{'s' * (splits > 1)}"
    yield (
        f"\n* Pareto front: no row is at least as accurate with fewer multiply-adds. "
        f"{result.data}, {result.n:,} test photos, {many}, on "
        f"{result.trained_on}: {result.seconds:.1f} s, {result.training_seconds:.1f} s of training"
    )
    if result.shapley:
        yield f"\nShapley value of each tap (percentage points of {result.metric.title}, every subset retrained):"
        for tap in result.shapley:
            spread = f" +- {100 * tap.deviation:.1f}" if tap.deviation is not None else ""
            yield f"  {tap.stream} {tap.stage}  {100 * tap.value:+.1f}{spread}"
    if result.ridge:
        yield (
            f"ridge probes of {result.ridge.checked} subsets from one Gram matrix differ from direct least squares by "
            f"at most {result.ridge.largest_difference:.1e}"
        )
    if result.streams:
        yield from _complement(result.streams)
    if verified := result.verified:
        yield (
            f"verified: {verified.label}, seed {verified.seed}: probabilities differ by at most "
            f"{verified.largest_difference:.1e} from the row trained alone "
            f"and by at most {verified.difference_to_train:.1e} from "
            f"train's own loop ({LARGEST_DIFFERENCE:.0e} allowed)"
        )


def _complement(found: StreamComplement) -> Iterator[str]:
    yield "\nstreams, each trained alone: disagreement, both wrong, at least one right"
    for pair in found.pairs:
        yield (
            f"  {pair.first} and {pair.second}  {100 * pair.disagreement:.1f} %  {100 * pair.double_fault:.1f} %  "
            f"{100 * pair.oracle:.1f} %"
        )
    yield f"  at least one of all right: {100 * found.oracle_any:.1f} %"
    for left in found.leave_one_out:
        yield f"  {left.fusion} without {left.stream}: {100 * left.score:.1f} % ({100 * left.delta:+.1f})"
