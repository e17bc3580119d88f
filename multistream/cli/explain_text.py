"""Text output of the commands explain, gallery and test-explanation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multistream.explaining import Explanation
    from multistream.explaining.faithfulness import CurveArea
    from multistream.explaining.gallery import Gallery
    from multistream.explaining.photo_tests import PhotoTests
    from multistream.explaining.selftest import SelfTest

MARKS = {"exact": "", "local": "   gradient x input: the head is not linear, so there is no exact sum", "gradient": ""}


SMALLEST = 0.0005
"""The smallest interaction that is not 0 with three decimals; logits that are sums over the streams have none."""


def explanation_text(found: Explanation) -> str:
    """Formats one photo's explanation."""
    if found.status != "ok":
        return f"{found.path}: {found.status}"
    label = f" (label {found.label})" if found.label else ""
    lines = [
        f"{found.path}: {found.predicted}{label}",
        f"class {found.subject} (probability {100 * found.probability:.1f} %{_calibrated(found)}); {found.settings}",
    ]
    return "\n".join([*lines, *_streams(found), *_sums(found), *_games(found)])


def _calibrated(found: Explanation) -> str:
    """Returns the temperature of the probability, which the printed logits do not include; empty if it is 1."""
    return "" if found.temperature == 1 else f" at temperature {found.temperature:.3g}"


def _streams(found: Explanation) -> Iterator[str]:
    for key, stages in found.stages.items():
        yield _line(key, sum(stages.values()), stages, MARKS[found.kinds[key]])
    for key, value in found.vectors.items():
        yield _line(key, value, dict(found.entries[key][:5]), MARKS[found.kinds[key]])


def _sums(found: Explanation) -> Iterator[str]:
    """Yields bias and residual of a sum, the gap of integrated gradients, or a note that there is no sum."""
    if found.method == "decomposition":
        for name, parts in (("bias", found.bias), ("remainder", found.remainder)):
            for classifier, part in parts.items():
                yield f"  {name:10} {part:+8.3f}   {classifier} logit {found.logits[classifier]:+.3f}"
        if found.residual is not None:
            yield f"  residual   {found.residual:.1e} (fraction of the logit not accounted for)"
        yield from (f"  warning    {warning}" for warning in found.warnings)
    elif found.method == "integrated-gradients":
        exact = f"the {found.scale} minus its value at the training mean"
        yield f"  gap        {found.gap:.1e}: error of the sum, which should be {exact}"
    else:
        yield f"  {'':10} gradients of the {found.scale} ({found.value:+.3f}): no exact sum"


def _games(found: Explanation) -> Iterator[str]:
    """Yields Shapley values, interactions (if any are not zero), and attention weights."""
    yield f"  Shapley    {_values(found.shapley)}"
    for key, values in found.shapley_stages.items():
        yield f"    {key:8} {_values(values)}"
    if any(abs(value) >= SMALLEST for value in found.interactions.values()):
        yield f"  interaction {_values(found.interactions)}"
    for key, values in found.attention.items():
        yield f"  attention  {key}: " + "  ".join(f"{stage} {value:.2f}" for stage, value in values.items())


def _line(key: str, total: float, parts: Mapping[str, float], mark: str) -> str:
    return f"  {key:10} {total:+8.3f}   {_values(parts)}{mark}"


def _values(parts: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:+.3f}" for name, value in parts.items())


def gallery_text(found: Gallery) -> str:
    """Formats the numbers of photos that all, some or no streams classify correctly."""
    named = {"all": "all streams", "some": "some", "none": "none"}
    counts = ", ".join(f"by {named[name]}: {count:,}" for name, count in found.outcomes.items())
    head = f"{_photos(found.n, found.left_out)}; attribution maps: {found.method}"
    return f"{head}\nphotos classified correctly {counts}"


def photo_tests_text(found: PhotoTests) -> str:
    """Formats the results of faithfulness and localisation."""
    lines = [f"{_photos(found.n, found.left_out)}; attribution maps: {found.method}"]
    for each in found.faithfulness:
        lines += [
            "",
            f"{each.name}: probability of the class as pixels are removed or inserted in {each.steps} steps; "
            f"removed pixels become: {each.absent}",
            f"  deletion   {_area(each.deletion)}   lower than the random map is better",
            f"  insertion  {_area(each.insertion)}   higher than the random map is better",
        ]
    if found.localisation:
        lines += ["", f"{'stream':12} {'pointing game':>24} {'energy in the mask':>24} {'chance':>8}"]
    for row in found.localisation:
        pointing, energy = _percent(row.pointing, row.pointing_ci95), _percent(row.energy, row.energy_ci95)
        lines.append(f"{row.stream:12} {pointing:>24} {energy:>24} {100 * row.chance:>6.1f} %")
    return "\n".join(lines)


def self_test_text(found: SelfTest) -> str:
    """Formats the self-test's checks as a table."""
    lines = [f"{'cue in':12} {'check':40} {'measured':>10}   bound"]
    for check in found.checks:
        bound = f"{'>=' if check.at_least else '<='} {check.bound:g}"
        verdict = "pass" if check.passed else "FAIL"
        lines.append(f"{check.stream:12} {check.name:40} {check.value:>10.3g}   {bound:8} {verdict}")
    end = "passed" if found.passed else "FAILED"
    return "\n".join([*lines, f"{end}; attribution maps: {found.method}, {found.seconds:.0f} s"])


def _photos(n: int, left_out: int) -> str:
    return f"{n:,} photos{f', {left_out:,} left out' if left_out else ''}"


def _area(area: CurveArea) -> str:
    low, high = area.difference_ci95
    return f"{area.value:.3f}, random map {area.noise:.3f}, difference {area.difference:+.3f} [{low:+.3f}, {high:+.3f}]"


def _percent(value: float, ends: tuple[float, float]) -> str:
    return f"{100 * value:.1f} % [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"
