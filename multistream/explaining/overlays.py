"""Overlays: one figure per photo, with the contributions of every stream and stage drawn over the photo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from multistream.errors import printable
from multistream.explaining.explanation import Explanation, ExplanationArrays
from multistream.figures import save_figure
from multistream.nn.nested import map_stages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

ColourScale = Literal["shared", "map"]

SIDE = 224
"""The longer side of a drawn map in pixels."""
CLIPPED = 0.995
"""The quantile of all magnitudes that gets the full colour: single pixels of early stages would dim all others."""
FOR, AGAINST = (226 / 255, 88 / 255, 12 / 255), (22 / 255, 104 / 255, 190 / 255)
"""Orange for the class, blue against it, as in the report: readable for colour-blind users and in greyscale."""

Densities = dict[str, dict[str, Tensor]]
"""{key: {stage: (h, w)}}: contributions per unit of area, so that 7 x 7 and 112 x 112 maps are comparable."""


def write_overlay(explanation: Explanation, path: Path, *, colour_scale: ColourScale = "shared") -> None:
    """Draws one photo's contributions to the target into a PNG. Raises DiskFull (exit 74) if it cannot be written.

    `shared` uses one colour scale for all streams and stages, `map` one for each map, so that faint maps are visible.
    """
    from matplotlib.figure import Figure  # importing it takes a second

    arrays = explanation.arrays
    if arrays is None:
        raise ValueError(f"{explanation.path}: {explanation.status}. Only explained photos can be drawn.")
    dense = map_stages(arrays.target_maps, lambda m: m.double() * m.numel())
    columns = max((len(stages) for stages in dense.values()), default=0)
    height = min(2.1, 1.75 / min(arrays.aspect, 1.75) + 0.35)
    heights = [
        max(height, 0.35 + height * len(dense)),
        *(0.5 + 0.22 * len(explanation.entries[key]) for key in arrays.vectors),
    ]
    figure = Figure(figsize=(max(7.5, 3.3 + 1.75 * columns), 1.35 + sum(heights)), layout="constrained")
    figure.suptitle(_title(explanation), fontsize=11, fontweight="bold", x=0.01, ha="left", parse_math=False)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_maps(parts[0], explanation, arrays, dense, columns=columns, colour_scale=colour_scale)
    for part, key in zip(parts[1:], arrays.vectors, strict=True):
        _draw_entries(part, explanation, key)
    caption = _caption(explanation, colour_scale)
    figure.supxlabel(caption, fontsize=7.5, color="0.3", x=0.01, ha="left", parse_math=False)
    save_figure(figure, path, dpi=120)


def blended(image: Tensor | None, density: Tensor, *, limit: float, aspect: float = 1.0) -> NDArray[np.float32]:
    """Draws contributions over the grey photo in its own shape, (H, W, 3) in 0..1; `limit` gets the full colour."""
    size = drawn_size(aspect)
    value = functional.interpolate(density[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0]
    grey = torch.full(size, 0.92)
    if image is not None:
        photo = functional.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0] / 255
        grey = 0.45 + 0.5 * (photo * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    strength = (value.abs() / limit).clamp(0, 1).pow(0.7) * 0.9
    colour = torch.where((value > 0)[..., None], torch.tensor(FOR), torch.tensor(AGAINST))
    mixed: NDArray[np.float32] = (grey[..., None] * (1 - strength[..., None]) + colour * strength[..., None]).numpy()
    return mixed


def photo_pixels(image: Tensor | None, *, aspect: float) -> NDArray[np.float32]:
    """Returns the photo in its own shape, (H, W, 3) in 0..1; light grey if no stream reads photos."""
    size = drawn_size(aspect)
    if image is None:
        return np.full((*size, 3), 0.93, dtype=np.float32)
    resized = functional.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    pixels: NDArray[np.float32] = (resized / 255).clamp(0, 1).permute(1, 2, 0).numpy()
    return pixels


def drawn_size(aspect: float) -> tuple[int, int]:
    """Returns height and width of a drawn photo; the longer side is SIDE.

    >>> drawn_size(2.0)
    (112, 224)
    """
    return max(1, round(SIDE / max(aspect, 1))), max(1, round(SIDE * min(aspect, 1)))


def limits_of(dense: Mapping[str, Mapping[str, Tensor]], *, colour_scale: ColourScale) -> dict[str, dict[str, float]]:
    """Returns the density that gets the full colour, for each map."""
    own = map_stages(dense, lambda m: float(m.abs().flatten().quantile(CLIPPED)) or 1.0)
    if colour_scale == "map":
        return own
    shared = max((limit for stages in own.values() for limit in stages.values()), default=1.0)
    return {key: dict.fromkeys(stages, shared) for key, stages in own.items()}


def short_name(path: str) -> str:
    """Returns a photo's folder and file name on one line."""
    return printable("/".join(Path(path).parts[-2:]))


def _draw_maps(
    part: Figure | SubFigure,
    explanation: Explanation,
    arrays: ExplanationArrays,
    dense: Densities,
    *,
    columns: int,
    colour_scale: ColourScale,
) -> None:
    """Draws the photo at the left, then one row per stream and one column per stage."""
    rows = max(1, len(dense))
    grid = part.add_gridspec(rows, columns + 1, width_ratios=[1.25, *[1] * columns])
    photo = part.add_subplot(grid[:, 0])
    photo.set_axis_off()
    if arrays.image is not None:
        photo.imshow(photo_pixels(arrays.image, aspect=arrays.aspect))
    photo.set_title(_outcome(explanation), fontsize=9, parse_math=False)
    limits = limits_of(dense, colour_scale=colour_scale)
    drawn: list[Axes] = []
    for row, (key, stages) in enumerate(dense.items()):
        for column, (stage, density) in enumerate(stages.items(), 1):
            axis = part.add_subplot(grid[row, column])
            axis.set_xticks([])
            axis.set_yticks([])
            axis.imshow(blended(arrays.image, density, limit=limits[key][stage], aspect=arrays.aspect))
            own = f"  (full at {limits[key][stage]:.2g})" if colour_scale == "map" else ""
            axis.set_title(f"{stage}  {explanation.stages[key][stage]:+.3g}{own}", fontsize=8.5)
            drawn.append(axis)
        total = sum(explanation.stages[key].values())
        drawn[-len(stages)].set_ylabel(f"{key}  {total:+.3g}", fontsize=9, fontweight="bold")
    if drawn and colour_scale == "map":
        draw_scale(part, drawn, limit=1.0, label="fraction of each map's full colour")
    elif drawn:
        shared = max(max(stages.values()) for stages in limits.values())
        draw_scale(part, drawn, limit=shared, label=f"{explanation.scale} density (the whole image has area 1)")


def draw_scale(part: Figure | SubFigure, axes: list[Axes], *, limit: float, label: str) -> None:
    """Draws the colour bar of the maps in `axes`; `limit` is the density that gets the full colour."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.ticker import MaxNLocator

    ramp = blended(None, torch.linspace(-1, 1, SIDE).expand(SIDE, SIDE), limit=1.0)[0]
    bar = part.colorbar(
        ScalarMappable(Normalize(-limit, limit), ListedColormap([tuple(row) for row in ramp.tolist()])),
        ax=axes,
        fraction=0.03,
        pad=0.01,
        aspect=30,
        extend="both",
        ticks=MaxNLocator(5),
    )
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=7.5)


def _draw_entries(part: Figure | SubFigure, explanation: Explanation, key: str) -> None:
    """Draws the entries of a vector with the largest contributions as bars."""
    axis = part.subplots()
    names = [printable(name) for name, _ in explanation.entries[key]]
    values = [value for _, value in explanation.entries[key]]
    draw_bars(axis, names, values, colours=[FOR if value > 0 else AGAINST for value in values])
    axis.set_title(f"{key}  {explanation.vectors[key]:+.3g}: the largest contributions", fontsize=9, loc="left")


def draw_bars(axis: Axes, names: list[str], values: list[float], *, colours: list[object]) -> None:
    """Draws horizontal bars with their names, the first at the top."""
    from matplotlib.ticker import MaxNLocator

    axis.barh(range(len(names)), values, color=colours, height=0.68)
    axis.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axis.invert_yaxis()
    axis.axvline(0, color="0.3", linewidth=0.8)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.tick_params(axis="x", labelsize=7)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _title(explanation: Explanation) -> str:
    return f"{short_name(explanation.path)}: attribution for {explanation.subject}"


def _outcome(explanation: Explanation) -> str:
    """Returns the prediction, the target's probability, and the label if known."""
    text = f"predicted {explanation.predicted}\np({explanation.target}) = {100 * explanation.probability:.1f} %"
    return f"{text}\nlabel {explanation.label}" if explanation.label else text


def _caption(explanation: Explanation, colour_scale: ColourScale) -> str:
    """Returns the caption: settings, colour scale, residual of the sum, and Shapley values."""
    sums = "no exact sum" if explanation.residual is None else f"residual of the sum {explanation.residual:.0e}"
    local = [key for key, kind in explanation.kinds.items() if kind == "local"]
    marks = f"; gradient x input only: {', '.join(local)}" if local else ""
    shapley = ", ".join(f"{key} {value:+.3g}" for key, value in explanation.shapley.items())
    return (
        f"{explanation.settings}; colour scale {colour_scale}; {sums}{marks}. Orange: for the class; blue: against it."
        f"\nShapley values: {shapley}"
    )
