"""An ablation as lines to read."""

from __future__ import annotations

from collections.abc import Iterator

from multistream.ablation.results import Ablation, Row


def table(result: Ablation) -> str:
    """The rows, and what else the axis tells."""
    width = max(len("keep"), *(len(row.label) for row in result.rows))
    return "\n".join([_head(width), *(_line(row, width) for row in result.rows), *_further(result)])


def _head(width: int) -> str:
    return (
        f"  {'keep':{width}}  {'accuracy':>8} {'95 %':>14} {'delta':>6} {'p Holm':>7} {'masked':>7} "
        f"{'params':>13} {'MACs':>15} {'ms':>8}"
    )


def _line(row: Row, width: int) -> str:
    low, high = row.accuracy_ci95
    p = f"{row.p_holm:7.3f}" if row.p_holm is not None else f"{'':7}"
    masked = f"{100 * row.masked_accuracy:7.1f}" if row.masked_accuracy is not None else f"{'':7}"
    return (
        f"{'*' if row.pareto else ' '} {row.label:{width}}  {100 * row.accuracy:8.1f} "
        f"{f'[{100 * low:.1f}, {100 * high:.1f}]':>14} {100 * row.delta:+6.1f} {p} {masked} "
        f"{row.params:13,} {row.macs:15,} {row.ms_p50:8.2f}"
    )


def _further(result: Ablation) -> Iterator[str]:
    seeds, splits = len(result.seeds), len(result.split_seeds)
    yield (
        f"\n* no row is as accurate for fewer multiply-adds. {result.data}, {result.n:,} test photos, {seeds} seeds x "
        f"{splits} splits, on {result.trained_on}: {result.seconds:.1f} s, {result.training_seconds:.1f} s of training"
    )
    if result.shapley:
        yield "\nShapley value of each tap (points of accuracy, all subsets trained again):"
        for share in result.shapley:
            spread = f" +- {100 * share.deviation:.1f}" if share.deviation is not None else ""
            yield f"  {share.stream} {share.stage}  {100 * share.value:+.1f}{spread}"
    if result.ridge:
        yield (
            f"ridge probes of {result.ridge.checked} subsets from one Gram matrix differ from direct least squares by "
            f"at most {result.ridge.largest_difference:.1e}"
        )
    if result.streams:
        yield "\nstreams, each trained alone: disagreement, both wrong, at least one right"
        for pair in result.streams.pairs:
            yield (
                f"  {pair.first} and {pair.second}  {100 * pair.disagreement:.1f} %  {100 * pair.double_fault:.1f} %  "
                f"{100 * pair.oracle:.1f} %"
            )
        yield f"  at least one of all right: {100 * result.streams.oracle_any:.1f} %"
        for left in result.streams.leave_one_out:
            yield f"  {left.fusion} without {left.stream}: {100 * left.accuracy:.1f} % ({100 * left.delta:+.1f})"
    if result.verified:
        same = "the same bits" if result.verified.identical else f"differs by {result.verified.largest_difference:.1e}"
        yield f"verified: {result.verified.label}, seed {result.verified.seed}, trained alone: {same}"
    yield from (f"note: {note}" for note in result.notes)
