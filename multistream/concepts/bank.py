"""Concepts: lists of names (one per line, JSON, or SentiBank's), and banks of names with their text embeddings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from multistream.errors import DataError, WeightsError
from multistream.files import json_object, write_atomic

ABOUT = "multistream.concepts"
"""The key of the safetensors metadata for a bank's description, as JSON."""
FORMAT = 1
MAKE = "Write one: multistream concepts NAMES.txt --model MODEL --out BANK.safetensors."


@dataclass(frozen=True)
class ConceptBank:
    """D concepts in the space of a vision-language model: `embeddings` (D, E), one row for each of the `names`.

    `image_model` is timm's name, with tag, of the matching image tower. `logit_scale` and `logit_bias` convert cosine
    similarities to the model's own logits. `model` and `weights` name the text tower, `templates` the sentences that
    the names were inserted into. Raises ValueError for shapes, names or embeddings that are invalid.

    >>> bank = ConceptBank(("a dog", "a cat"), torch.eye(2), image_model="resnet50_clip.openai")
    >>> len(bank.names), bank.logit_scale
    (2, 1.0)
    """

    names: tuple[str, ...]
    embeddings: Tensor
    image_model: str
    logit_scale: float = 1.0
    logit_bias: float = 0.0
    model: str = ""
    weights: str = ""
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2 or len(self.embeddings) != len(self.names):
            raise ValueError(f"{len(self.names):,} names and embeddings of shape {tuple(self.embeddings.shape)}")
        if len(set(self.names)) < len(self.names):
            raise ValueError("a name occurs twice")
        if not bool(self.embeddings.isfinite().all()) or not bool(self.embeddings.norm(dim=1).gt(0).all()):
            raise ValueError("an embedding is zero, or holds a NaN or an infinity")


def write_bank(bank: ConceptBank, path: str | Path) -> None:
    """Writes a bank to one file, atomically."""
    about = {
        "format": FORMAT,
        "names": list(bank.names),
        "image_model": bank.image_model,
        "model": bank.model,
        "weights": bank.weights,
        "templates": list(bank.templates),
    }
    tensors = {
        "embeddings": bank.embeddings.detach().float().cpu().contiguous(),
        "logit_scale": torch.tensor(bank.logit_scale),
        "logit_bias": torch.tensor(bank.logit_bias),
    }
    write_atomic(Path(path).expanduser(), save(tensors, metadata={ABOUT: json.dumps(about)}))


def read_bank(path: str | Path) -> ConceptBank:
    """Reads the output of `write_bank`. Raises WeightsError (exit 69) if it is missing, damaged or not a bank."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(path, "there is no concept bank.", do=MAKE)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(path, f"it cannot be read: {error}.", do=MAKE) from error
    about = _about(metadata, path)
    try:
        return ConceptBank(
            names=_texts(about["names"]),
            embeddings=tensors["embeddings"].float(),
            image_model=str(about["image_model"]),
            logit_scale=float(tensors["logit_scale"]),
            logit_bias=float(tensors["logit_bias"]),
            model=str(about["model"]),
            weights=str(about["weights"]),
            templates=_texts(about["templates"]),
        )
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(path, f"it is malformed ({type(error).__name__}: {error}).", do=MAKE) from error


def _about(metadata: Mapping[str, str], path: Path) -> Mapping[str, Any]:
    """Returns a bank's description. Raises WeightsError if the file is not a bank, or of another format."""
    if ABOUT not in metadata:
        raise WeightsError(path, "it is not a concept bank.", do=MAKE)
    about = json_object(metadata[ABOUT], where=str(path), error=WeightsError)
    if about.get("format") != FORMAT:
        what = f"its format is {str(about.get('format'))[:20]!r}."
        raise WeightsError(path, what, right=f"This version reads {FORMAT}.", do=MAKE)
    return about


def _texts(values: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("a list of names holds something that is not text")
    return tuple(values)


SENTIBANK = re.compile(r"^\t(\S+) \[sentiment: ", re.MULTILINE)
"""A pair in SentiBank's 3244ANPs.txt: indented under its adjective, with its sentiment and number of images."""

RIGHT = "One name per line, or a JSON list of names."


def read_names(path: str | Path) -> tuple[str, ...]:
    """Reads the names in a file, in its order. Raises DataError if it cannot be read, is empty, or repeats a name."""
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = _names_in(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(path, f"it cannot be read: {error}.", right=RIGHT) from error
    if not names:
        raise DataError(path, "it holds no names.", right=RIGHT)
    _check_once(names, path)
    return names


def _check_once(names: Sequence[str], path: Path) -> None:
    places: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        first = places.setdefault(shown(name).casefold(), number)
        if first != number:
            raise DataError(path, f"{name!r} occurs twice, as names {first} and {number}.", do="Remove one.")


def shown(name: str) -> str:
    """Formats a name for a sentence.

    >>> shown("misty_woods")
    'misty woods'
    """
    return " ".join(name.replace("_", " ").split())


def _names_in(text: str) -> tuple[str, ...]:
    if text.lstrip().startswith("["):
        names = json.loads(text)
        if not all(isinstance(name, str) and name.strip() for name in names):
            raise ValueError("it is a JSON list that does not only hold names")
        return tuple(map(str.strip, names))
    return tuple(SENTIBANK.findall(text) or filter(None, map(str.strip, text.splitlines())))
