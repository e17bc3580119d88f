"""predict: class probabilities for photos, in their order; a photo that cannot be used gets a status."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image as Picture
from torch import Tensor

from multistream.data.decoding import BadImage, Decoder
from multistream.data.photos import make_decoder
from multistream.data.side_inputs import SideInputs, gather
from multistream.data.table import Table
from multistream.data.vectors import MissingPolicy
from multistream.errors import UsageError
from multistream.runs.model_file import LoadedModel, require_trained
from multistream.runtime.device import Runtime, available_workers, resolve_again

CHUNK = 32
"""Photos that run through the network together."""

Arrays = dict[str, NDArray[Any]]
"""What one photo gives, by input name."""


@dataclass(frozen=True)
class Prediction:
    """One photo's outcome: `status` is "ok" or why the file could not be used (then there is no label)."""

    path: str
    status: str
    label: str | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A line of `predict --json`."""
        return {
            "path": self.path,
            "status": self.status,
            "label": self.label,
            "probabilities": dict(self.probabilities),
        }


def predict(
    model: LoadedModel,
    images: Iterable[str | Path | Picture],
    *,
    inputs: Mapping[str, str | Path],
    device: str = "auto",
    precision: str = "auto",
) -> Iterator[Prediction]:
    """One Prediction a photo, in input order; folders give all their files. Never raises for a bad image."""
    require_trained(model, "predict")
    items = list(expanded(images))
    side_inputs = _side_inputs(model, items, {name: str(path) for name, path in inputs.items()})
    runtime = resolve_again(model.recipe, device=device, precision=precision)
    network = runtime.place(model.network).eval()
    decoder = make_decoder(network.inputs, model.recipe.data)
    with ThreadPoolExecutor(available_workers()) as pool:  # Pillow lets go of the interpreter while it decodes
        for start in range(0, len(items), CHUNK):
            chunk = list(enumerate(items[start : start + CHUNK], start))
            read = list(pool.map(lambda entry: _read(decoder, side_inputs, *entry), chunk))
            usable = {i: found for (i, _), found in zip(chunk, read, strict=True) if not isinstance(found, str)}
            rows = _probabilities(model, runtime, usable, side_inputs)
            for (i, item), found in zip(chunk, read, strict=True):
                yield _prediction(model, item, found if isinstance(found, str) else "ok", rows.get(i))


def expanded(images: Iterable[str | Path | Picture]) -> Iterator[Path | Picture]:
    """The files and pictures; a folder gives its regular files, sorted, hidden ones left out."""
    for image in images:
        if isinstance(image, Picture):
            yield image
            continue
        path = Path(image).expanduser()
        if path.is_dir():
            files = (file for file in sorted(path.rglob("*")) if file.is_file())
            yield from (f for f in files if not any(part.startswith(".") for part in f.relative_to(path).parts))
        else:
            yield path


def _side_inputs(model: LoadedModel, items: Sequence[Path | Picture], sources: Mapping[str, str]) -> SideInputs:
    """The vectors and maps of these photos, joined by their paths; a photo without a vector costs a status."""
    ids = tuple(str(item) if isinstance(item, Path) else f"image {i}" for i, item in enumerate(items))
    table = Table("predict", Path(), ids, np.zeros(len(ids), dtype=np.int64), model.classes)
    policy = model.recipe.data.missing_vectors
    missing: MissingPolicy = "drop" if policy == "error" else policy
    return gather(table, model.inputs, sources, missing=missing, resize=model.recipe.data.resize)


def _read(decoder: Decoder | None, side_inputs: SideInputs, index: int, item: Path | Picture) -> Arrays | str:
    """What one photo gives, by input name: pixels (3, S, S) and maps (C, S, S); or why it cannot be used."""
    if not side_inputs.usable[index]:
        return "no vector"
    try:
        found: Arrays = {} if decoder is None else {"image": _pixels(decoder, item)}
    except BadImage as error:
        return error.reason
    try:
        return found | {key: read(index) for key, read in side_inputs.maps.items()}
    except BadImage as error:
        return f"map {error.reason}"


def _pixels(decoder: Decoder, item: Path | Picture) -> NDArray[np.uint8]:
    """The pixels (3, S, S); BadImage where there are none."""
    if isinstance(item, Path):
        return decoder.read(item)
    content = io.BytesIO()
    try:
        item.save(content, "PNG", compress_level=0)  # a picture in memory takes the same way as one in a file
    except OSError as error:
        raise UsageError("predict", f"a picture of mode {item.mode} cannot be used: {error}.") from error
    return decoder.decode(content.getvalue(), path=Path("image")).pixels


@torch.no_grad()
def _probabilities(
    model: LoadedModel, runtime: Runtime, usable: Mapping[int, Arrays], side_inputs: SideInputs
) -> dict[int, NDArray[np.float64]]:
    """softmax(logits) by index."""
    if not usable:
        return {}
    names = next(iter(usable.values()))
    batch: dict[str, Tensor] = {
        **{key: torch.from_numpy(rows[list(usable)]) for key, rows in side_inputs.vectors.items()},
        **{name: torch.from_numpy(np.stack([found[name] for found in usable.values()])) for name in names},
    }
    with runtime.autocast:
        pooled = model.network.pool(runtime.send(batch))
    rows = model.network.classify(pooled).double().softmax(1).cpu().numpy()
    return dict(zip(usable, rows, strict=True))


def _prediction(model: LoadedModel, item: Path | Picture, status: str, row: NDArray[np.float64] | None) -> Prediction:
    path = str(item) if isinstance(item, Path) else "<image>"
    if row is None:
        return Prediction(path, status)
    probabilities = {name: float(p) for name, p in zip(model.classes, row, strict=True)}
    return Prediction(path, "ok", model.classes[int(row.argmax())], probabilities)
