"""Reading and writing files of vectors; what every form must fulfil is checked here, once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from multistream.data.table import VectorTable
from multistream.data.vectors.formats import FORMS
from multistream.errors import DataError
from multistream.files import replacing


def read_vectors(path: Path) -> VectorTable:
    """The vectors in a file of any form that people keep them in (paper section 5); never runs a pickle.

    .npz and .safetensors hold ids, features (N, D) and perhaps a vocabulary; .csv and .tsv an id and D numbers a line;
    .npy and Caffe's .dat (raw float32) only the numbers, with the ids in a file next to them; DeepSentiBank's .json
    the scores by name; .parquet an id and a list, or a column a number. DataError where the file is none of these, is
    damaged or does not fit itself.
    """
    read = FORMS.get(path.suffix.lower())
    if path.is_dir() or read is None:
        ending = f"its ending {path.suffix} is not a known vector format" if path.suffix else "it has no ending"
        what = "it is a folder" if path.is_dir() else ending
        raise DataError(path, f"{what}.", right=f"Vectors are read from {', '.join(FORMS)} files.")
    if not path.is_file():
        raise DataError(path, "no such file.", do="Check the path.")
    found = read(path)
    _check(found, path)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes Inf, which `join` counts
        return replace(found, features=np.ascontiguousarray(found.features, dtype=np.float32))


def write_vectors(path: Path, vectors: VectorTable) -> None:
    """Writes an .npz that `read_vectors` reads, whole or not at all."""
    if path.suffix.lower() != ".npz":
        raise DataError(path, f"{path.suffix!r} is not written.", right="It must be .npz.")
    with replacing(path, needed=vectors.features.nbytes) as file:
        np.savez(
            file,
            ids=np.array(vectors.ids, dtype=np.str_),
            features=vectors.features.astype(np.float32, copy=False),
            vocabulary=np.array(vectors.vocabulary, dtype=np.str_),
        )


def _check(found: VectorTable, where: Path) -> None:
    """Refuses arrays that do not belong together."""
    features = found.features
    if features.dtype.kind not in "fiub":
        raise DataError(where, f"the features are {features.dtype}.", right="They must be numbers.")
    if features.ndim != 2 or len(features) != len(found.ids) or not features.size:
        right = f"With {len(found.ids):,} ids they must be ({len(found.ids)}, D)."
        raise DataError(where, f"the features have the shape {features.shape}.", right=right)
    if found.vocabulary and len(found.vocabulary) != features.shape[1]:
        what = f"the vocabulary has {len(found.vocabulary):,} names for {features.shape[1]:,} numbers per image."
        raise DataError(where, what, right="They must be equal.")
