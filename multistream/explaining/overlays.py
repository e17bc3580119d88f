"""Overlays: a PNG for each photo, with the evidence of every stream and stage over it, to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from multistream.data.filenames import printable
from multistream.explaining.explanation import Arrays, Explanation
from multistream.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

ColourScale = Literal["shared", "map"]

SIDE = 224
"""Pixels of a drawn map."""
CLIPPED = 0.995
"""Quantile of all magnitudes that gets the full colour: single pixels of early stages would dim all else."""
FOR, AGAINST = (0.86, 0.35, 0.0), (0.36, 0.16, 0.62)
"""Orange speaks for, violet against: told apart by colour-blind readers too, and on paper by their darkness."""

Densities = dict[str, dict[str, Tensor]]
"""{key: {stage: (h, w)}}: evidence by area, so that a stage of 7 x 7 cells and one of 112 x 112 speak of the same."""


def write_overlay(found: Explanation, path: Path, *, colour_scale: ColourScale = "shared") -> None:
    """Draws one photo's evidence for the target into a PNG.

    `shared` gives all streams and stages one colour scale, `map` each map its own, so that faint ones show.
    """
    from matplotlib.figure import Figure  # a second of import that only overlays need

    if found.arrays is None:
        raise ValueError(f"{found.path}: {found.status}. Only what was explained can be drawn.")
    dense = {
        key: {stage: m.double() * m.numel() for stage, m in stages.items()}
        for key, stages in found.arrays.target_maps.items()
    }
    lines = max(1, len(dense))
    columns = max((len(stages) for stages in dense.values()), default=0)
    vectors = found.arrays.target_vectors
    wide = max(7.5, 3.3 + 1.75 * columns)
    heights = [2.1 * lines, *(0.5 + 0.22 * len(found.entries[key]) for key in vectors)]
    figure = Figure(figsize=(wide, 1.35 + sum(heights)), layout="constrained", facecolor="white")
    figure.suptitle(_title(found), fontsize=11, fontweight="bold", x=0.01, ha="left")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_maps(parts[0], found, found.arrays, dense, columns=columns, colour_scale=colour_scale)
    for part, key in zip(parts[1:], vectors, strict=True):
        _draw_entries(part, found, key)
    figure.supxlabel(_caption(found, colour_scale), fontsize=7.5, color="0.3", x=0.01, ha="left")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120, metadata={"Software": None})


def blended(image: Tensor | None, density: Tensor, *, limit: float) -> NDArray[np.float32]:
    """The photo in grey with evidence over it, (SIDE, SIDE, 3) in 0..1: the more, the stronger the colour."""
    size = (SIDE, SIDE)
    value = functional.interpolate(density[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0]
    grey = torch.full(size, 0.92)
    if image is not None:
        photo = functional.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0] / 255
        grey = 0.45 + 0.5 * (photo * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    strength = (value.abs() / limit).clamp(0, 1).pow(0.7) * 0.9
    colour = torch.where((value > 0)[..., None], torch.tensor(FOR), torch.tensor(AGAINST))
    mixed: NDArray[np.float32] = (grey[..., None] * (1 - strength[..., None]) + colour * strength[..., None]).numpy()
    return mixed


def limits_of(dense: Mapping[str, Mapping[str, Tensor]], *, colour_scale: ColourScale) -> dict[str, dict[str, float]]:
    """The density that gets the full colour, for each map."""
    own = {k: {s: float(m.abs().flatten().quantile(CLIPPED)) or 1.0 for s, m in v.items()} for k, v in dense.items()}
    if colour_scale == "map":
        return own
    shared = max((limit for stages in own.values() for limit in stages.values()), default=1.0)
    return {key: dict.fromkeys(stages, shared) for key, stages in own.items()}


def _draw_maps(
    part: Figure | SubFigure,
    found: Explanation,
    arrays: Arrays,
    dense: Densities,
    *,
    columns: int,
    colour_scale: ColourScale,
) -> None:
    """The photo at the left, then a line for each stream and a column for each stage."""
    lines = max(1, len(dense))
    grid = part.add_gridspec(lines, columns + 1, width_ratios=[1.25, *[1] * columns])
    photo = part.add_subplot(grid[:, 0])
    photo.set_axis_off()
    if arrays.image is not None:
        photo.imshow(arrays.image.permute(1, 2, 0).numpy())
    photo.set_title(_outcome(found), fontsize=9)
    limits = limits_of(dense, colour_scale=colour_scale)
    drawn: list[Axes] = []
    for line, (key, stages) in enumerate(dense.items()):
        for column, (stage, density) in enumerate(stages.items(), 1):
            axis = part.add_subplot(grid[line, column])
            axis.set_xticks([])
            axis.set_yticks([])
            axis.imshow(blended(arrays.image, density, limit=limits[key][stage]))
            given = found.stages[key][stage]
            own = f"  (full at {limits[key][stage]:.2g})" if colour_scale == "map" else ""
            axis.set_title(f"{stage}  {given:+.3g}{own}", fontsize=8.5)
            if column == 1:
                axis.set_ylabel(f"{key}  {sum(found.stages[key].values()):+.3g}", fontsize=9, fontweight="bold")
            drawn.append(axis)
    if drawn:
        full = None if colour_scale == "map" else max(max(stages.values()) for stages in limits.values())
        _draw_scale(part, drawn, found, full)


def _draw_scale(part: Figure | SubFigure, axes: list[Axes], found: Explanation, limit: float | None) -> None:
    """The colour bar; `limit` is the density that gets the full colour, None where each map has its own."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    ramp = blended(None, torch.linspace(-1, 1, SIDE).expand(SIDE, SIDE), limit=1.0)[0]
    bar = part.colorbar(
        ScalarMappable(Normalize(-(limit or 1), limit or 1), ListedColormap([tuple(row) for row in ramp.tolist()])),
        ax=axes,
        fraction=0.03,
        pad=0.01,
        aspect=30,
        extend="both",
    )
    bar.ax.tick_params(labelsize=7)
    unit = "probability" if found.scale == "probability" else "logits"
    bar.set_label(f"{unit}, were it so everywhere" if limit else "share of full colour", fontsize=7.5)


def _draw_entries(part: Figure | SubFigure, found: Explanation, key: str) -> None:
    """The entries of a vector that gave most, as bars."""
    axis = part.subplots()
    names = [printable(name) for name, _ in found.entries[key]]
    given = [value for _, value in found.entries[key]]
    axis.barh(range(len(names)), given, color=[FOR if value > 0 else AGAINST for value in given], height=0.7)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.axvline(0, color="0.3", linewidth=0.8)
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.set_title(f"{key}  {found.vectors[key]:+.3g}: the entries that gave most", fontsize=9, loc="left")


def _title(found: Explanation) -> str:
    return f"{printable(Path(found.path).name)}: evidence for {found.subject}"


def _outcome(found: Explanation) -> str:
    """What the network said, and whether it was right."""
    lines = [f"predicted {found.predicted}", f"p({found.target}) = {100 * found.probability:.1f} %"]
    return "\n".join([*lines, *([f"label {found.label}"] if found.label else [])])


def _caption(found: Explanation, colour_scale: ColourScale) -> str:
    """Method, flow, scale, baseline, and how far the sum can be trusted."""
    sums = f"residual of the sum {found.residual:.0e}" if found.residual is not None else "no exact sum"
    local = [key for key, kind in found.kinds.items() if kind == "local"]
    marks = f"; local only: {', '.join(local)}" if local else ""
    shapley = ", ".join(f"{key} {value:+.3g}" for key, value in found.shapley.items())
    return (
        f"{found.manner}; colour scale {colour_scale}; {sums}{marks}. Orange speaks for, violet against.\n"
        f"Shapley values: {shapley}"
    )
