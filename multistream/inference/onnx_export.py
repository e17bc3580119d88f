"""Exports a trained network to ONNX: one file that runs without Python, from pixels and vectors to probabilities."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from multistream._version import __version__
from multistream.data.loading import make_decoder
from multistream.errors import PluginError, UsageError, extra
from multistream.files import temporary, writing
from multistream.inference.model import Model, as_model
from multistream.inputs import Image, Input, side_inputs_of
from multistream.interfaces import Stream
from multistream.network.network import MultiStream
from multistream.records import JsonRecord
from multistream.runs.model_file import require_trained

SUFFIX: Final = ".onnx"

OUTPUT: Final = "probabilities"

TOLERANCE: Final = 1e-3
"""The largest difference of a probability that is accepted. Rounding in float32 leaves 1e-6 to 1e-4."""

BATCHES: Final = (1, 3, 8)
"""Batch sizes in which the file is compared with the network."""


@dataclass(frozen=True)
class ExportedModel(JsonRecord):
    """An ONNX file: its inputs {name: shape for one photo}, and the largest difference from the network."""

    path: Path
    bytes: int
    inputs: Mapping[str, tuple[int, ...]]
    classes: tuple[str, ...]
    largest_difference: float
    """Over the probabilities of random inputs, in batches of several sizes."""


class _Classifier(nn.Module):
    """A network with positional inputs (B, ...) and the output (B, K) float32, as ONNX needs them."""

    def __init__(self, network: MultiStream, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *arrays: Tensor) -> Tensor:
        logits = self.network(dict(zip(self.names, arrays, strict=True)))
        return self.network.probabilities(logits).float()


def export(
    model: Model | MultiStream | str | os.PathLike[str],
    out: str | Path,
    *,
    streams: Mapping[str, Stream] | None = None,
) -> ExportedModel:
    """Writes a trained network as an ONNX file, and compares it with the network in ONNX Runtime.

    The file reads "image" (B, 3, S, S) uint8 RGB, vectors (B, D) and maps (B, C, S, S) float32 by name, and returns
    "probabilities" (B, K) float32, after temperature scaling; the batch size B is free. Its metadata hold the classes
    and how photos are resized. A network above 2 GB has its weights in `OUT.data` next to it. `streams` are the streams
    that were given as instances.

    Raises UsageError for another suffix or an untrained network, and PluginError (exit 69) if a library of the extra
    `onnx` is not installed, if an operation of the network does not exist in ONNX, or if results differ.
    """
    file = Path(out).expanduser()
    if file.suffix != SUFFIX:
        raise UsageError("--out", f"{file} has an unknown format.", right=f"It must end in {SUFFIX}.")
    with extra("onnx", "export", "it needs the libraries onnx, onnxscript and onnxruntime."):
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx imports it only when it is half done
    loaded = as_model(model, streams=streams)
    require_trained(loaded, "export")
    inputs = _inputs(loaded)
    # A copy, so that the caller's network keeps its device and precision.
    classifier = _Classifier(copy.deepcopy(loaded.network).cpu().float(), tuple(inputs)).eval()
    with _exportable():
        program = _program(classifier, inputs)
    program.model.metadata_props.update(_about(loaded, inputs))
    with temporary(file.parent) as folder:
        folder.mkdir()
        program.save(folder / file.name)
        with _exportable():  # ONNX Runtime has not every operation of ONNX
            session = onnxruntime.InferenceSession(folder / file.name, providers=["CPUExecutionProvider"])
        difference = max(_difference(session, classifier, _random_batch(inputs, size=size)) for size in BATCHES)
        if not difference <= TOLERANCE:
            what = f"a probability of the ONNX file differs by {difference:.2g} from the network."
            raise PluginError("export", what, right=f"At most {TOLERANCE:g} is allowed.", do="Please report it.")
        size = sum(path.stat().st_size for path in folder.iterdir())
        with writing(file.parent):
            for path in sorted(folder.iterdir()):
                path.replace(file.parent / path.name)
    shapes = {name: _shape(each) for name, each in inputs.items()}
    return ExportedModel(file, size, shapes, loaded.classes, difference)


def _inputs(model: Model) -> dict[str, Input]:
    """The entries of a batch by name: one photo for all streams that read it, and the side inputs by stream key."""
    decoder = make_decoder(model.inputs, model.recipe.data)
    photo = {Image.name: Image(decoder.size)} if decoder else {}
    return {**photo, **side_inputs_of(model.inputs)}


def _program(classifier: _Classifier, inputs: Mapping[str, Input]) -> Any:
    """The network as an ONNX program with a free batch size."""
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter to its own developers
        return torch.onnx.export(
            classifier,
            tuple(_random_batch(inputs, size=2).values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=[OUTPUT],
            dynamic_shapes={"arrays": tuple({0: batch} for _ in inputs)},
            verbose=False,
        )


@contextmanager
def _exportable() -> Iterator[None]:
    """Turns what the exporter, ONNX Runtime and the code of plugins raise into a PluginError, except out of memory."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # they may raise any kind
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        right = "Every part must consist of operations that torch.export and ONNX have."
        raise PluginError("export", f"the network cannot be exported ({reason}).", right=right) from error


def _about(model: Model, inputs: Mapping[str, Input]) -> dict[str, str]:
    """The file's metadata: what a program needs to prepare photos and to name the classes, as JSON."""
    about = {
        "multistream": __version__,
        "classes": list(model.classes),
        "label_sets": model.network.label_sets,
        "vocabulary": {name: list(getattr(each, "vocabulary", ())) for name, each in inputs.items()},
        "resize": model.recipe.data.resize,
        "background": list(model.recipe.data.background),
    }
    return {name: json.dumps(value) for name, value in about.items()}


def _shape(entry: Input) -> tuple[int, ...]:
    return (3, entry.size, entry.size) if isinstance(entry, Image) else entry.shape


def _random_batch(inputs: Mapping[str, Input], *, size: int) -> dict[str, Tensor]:
    """Random pixels and numbers in [0, 1), `size` photos; the same at each call."""
    generator = torch.Generator().manual_seed(size)
    return {
        name: torch.randint(256, (size, *_shape(each)), generator=generator, dtype=torch.uint8)
        if isinstance(each, Image)
        else torch.rand((size, *_shape(each)), generator=generator)
        for name, each in inputs.items()
    }


@torch.no_grad()
def _difference(session: Any, classifier: _Classifier, batch: Mapping[str, Tensor]) -> float:
    expected = classifier(*batch.values()).numpy()
    [found] = session.run([OUTPUT], {name: tensor.numpy() for name, tensor in batch.items()})
    difference: NDArray[np.float32] = np.abs(found - expected)
    return float(difference.max())
