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

from multistream.beside import Beside, gather
from multistream.data.images import BadImage, Decoder
from multistream.data.tables import Table
from multistream.errors import UsageError
from multistream.model import Model, require_trained
from multistream.recipe import RuntimeSettings
from multistream.runtime import Runtime, available_workers, resolve
from multistream.training.preparation import make_decoder

CHUNK = 32
"""Photos that run through the network together."""

Pixels = NDArray[np.uint8]


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
    model: Model,
    images: Iterable[str | Path | Picture],
    *,
    inputs: Mapping[str, str | Path],
    device: str = "auto",
    precision: str = "auto",
) -> Iterator[Prediction]:
    """One Prediction a photo, in input order; folders give all their files. Never raises for a bad image."""
    require_trained(model, "predict")
    items = list(expanded(images))
    beside = _beside(model, items, {name: str(path) for name, path in inputs.items()})
    runtime = resolve(RuntimeSettings(device=device, precision=precision))  # type: ignore[arg-type]  # checked inside
    network = runtime.place(model.network).eval()
    decoder = make_decoder(network, model.recipe.data)
    with ThreadPoolExecutor(available_workers()) as pool:  # Pillow lets go of the interpreter while it decodes
        for start in range(0, len(items), CHUNK):
            chunk = list(enumerate(items[start : start + CHUNK], start))
            decoded = list(pool.map(lambda entry: _decoded(decoder, entry[1]), chunk))
            usable = [i for (i, _), pixels in zip(chunk, decoded, strict=True) if not isinstance(pixels, str)]
            usable = [i for i in usable if beside.usable[i]]
            photos = {i: pixels for (i, _), pixels in zip(chunk, decoded, strict=True)}
            rows = _probabilities(model, runtime, usable, photos, beside)
            for i, item in chunk:
                yield _prediction(model, item, photos[i], rows.get(i))


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


def _beside(model: Model, items: Sequence[Path | Picture], sources: Mapping[str, str]) -> Beside:
    """The vectors and maps of these photos, joined by their paths."""
    ids = tuple(str(item) if isinstance(item, Path) else f"image {i}" for i, item in enumerate(items))
    table = Table("predict", Path(), ids, np.zeros(len(ids), dtype=np.int64), model.classes)
    return gather(table, model.inputs, sources, missing=model.recipe.data.missing_vectors)


def _decoded(decoder: Decoder | None, item: Path | Picture) -> Pixels | str | None:
    """The pixels (3, S, S), None where no stream reads photos, or why there are none."""
    if decoder is None:
        return None
    try:
        if isinstance(item, Path):
            return decoder.read(item)
        content = io.BytesIO()
        item.save(content, "PNG", compress_level=0)  # a picture in memory takes the same way as one in a file
        return decoder.decode(content.getvalue(), path=Path("image")).pixels
    except BadImage as error:
        return error.reason
    except OSError as error:
        raise UsageError(
            "predict", f"a picture of mode {getattr(item, 'mode', '?')} cannot be used: {error}."
        ) from error


@torch.no_grad()
def _probabilities(
    model: Model, runtime: Runtime, usable: Sequence[int], photos: Mapping[int, Any], beside: Beside
) -> dict[int, NDArray[np.float64]]:
    """softmax(logits) by index."""
    if not usable:
        return {}
    batch: dict[str, Tensor] = {
        **{key: torch.from_numpy(rows[list(usable)]) for key, rows in beside.vectors.items()},
        **{key: torch.from_numpy(np.stack([read(i) for i in usable])) for key, read in beside.maps.items()},
    }
    if photos[usable[0]] is not None:
        batch["image"] = torch.from_numpy(np.stack([photos[i] for i in usable]))
    with runtime.autocast:
        pooled = model.network.pool(runtime.send(batch))
    rows = model.network.classify(pooled).double().softmax(1).cpu().numpy()
    return dict(zip(usable, rows, strict=True))


def _prediction(model: Model, item: Path | Picture, pixels: Any, row: NDArray[np.float64] | None) -> Prediction:
    path = str(item) if isinstance(item, Path) else "<image>"
    if row is None:
        return Prediction(path, pixels if isinstance(pixels, str) else "no vector")
    probabilities = {name: float(p) for name, p in zip(model.classes, row, strict=True)}
    return Prediction(path, "ok", model.classes[int(row.argmax())], probabilities)
