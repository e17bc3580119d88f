"""What `multistream explain` prints of a photo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multistream.explaining import Explanation

MARKS = {
    "exact": "",
    "local": "   local: its head is not linear; gradient x input, a sum near this photo only",
    "gradient": "",
}


def described(found: Explanation) -> str:
    """One photo's evidence as lines to read."""
    if found.status != "ok":
        return f"{found.path}: {found.status}"
    label = f" (label {found.label})" if found.label else ""
    lines = [
        f"{found.path}: {found.predicted}{label}",
        f"for {found.subject}, {100 * found.probability:.1f} %; {found.manner}",
    ]
    for key, stages in found.stages.items():
        lines.append(_line(key, sum(stages.values()), stages, MARKS[found.kinds[key]]))
    for key, value in found.vectors.items():
        lines.append(_line(key, value, dict(found.entries[key][:5]), MARKS[found.kinds[key]]))
    lines += _sums(found)
    lines.append(f"  Shapley    {_values(found.shapley)}")
    for key, values in found.shapley_stages.items():
        lines.append(f"    {key:8} {_values(values)}")
    if found.interactions:
        lines.append(f"  together   {_values(found.interactions)}")
    for key, values in found.attention.items():
        lines.append(f"  attention  {key}: " + "  ".join(f"{stage} {value:.2f}" for stage, value in values.items()))
    return "\n".join(lines)


def _sums(found: Explanation) -> list[str]:
    """Bias and residual where there is a sum; what there is instead where there is none."""
    if found.method == "decomposition":
        lines = [
            f"  {'bias':10} {bias:+8.3f}   {name}: logit {found.logits[name]:+.3f}" for name, bias in found.bias.items()
        ]
        return [*lines, f"  residual   {found.residual:.1e} of the logit is not in the sum"]
    if found.method == "integrated-gradients":
        return [f"  gap        {found.gap:.1e}: all sum to the change of the {found.scale} from the average photo's"]
    return [f"  {'':10} gradients of the {found.scale} ({found.value:+.3f}): no exact sum"]


def _line(key: str, total: float, parts: Mapping[str, float], mark: str) -> str:
    return f"  {key:10} {total:+8.3f}   {_values(parts)}{mark}"


def _values(parts: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:+.3f}" for name, value in parts.items())
