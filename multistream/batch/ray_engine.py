"""Ray Data: prediction and extraction on a cluster, from files, folders, or parquet that Ray can read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from multistream.batch.callables import PATH, STATUS, Extractor, Predictor
from multistream.data.file_formats import is_image
from multistream.data.given_photos import IN_MEMORY, given_photos
from multistream.data.urls import is_url
from multistream.errors import DataError, extra
from multistream.inference.groups import GROUP
from multistream.inference.predict import Prediction

ROWS = 4 * GROUP
"""Rows per call of a worker: whole groups, so that no group is padded."""

PARQUET = (".parquet", ".pq")


def start_ray() -> Any:
    """Returns Ray, connected to a cluster or started locally. Raises PluginError (exit 69) if it is not installed."""
    with extra("ray", "--engine", "Ray is not installed."):
        import ray
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    return ray


def ray_data() -> Any:
    """Returns Ray's data module, configured to keep the order of rows."""
    start_ray()
    import ray.data

    ray.data.DataContext.get_current().execution_options.preserve_order = True
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data


def predict_with_ray(
    run: str | Path, paths: Iterable[str], *, missing: str, without: Collection[str], say: Callable[[str], object]
) -> Iterator[Prediction]:
    """Yields one Prediction per photo in order, like `Model.predict`; `paths` are files, folders, parquet or URLs."""
    options = {"missing": missing, "without": tuple(without), "device": "cpu"}
    predictor = Predictor(run, **options)  # type: ignore[arg-type]  # checks the run once, before the workers start
    rows = _mapped(_dataset(paths, say), Predictor, str(Path(run).expanduser().resolve()), options).iter_rows()
    for row in rows:
        if row[STATUS] == "ok":
            probabilities = dict(zip(predictor.classes, map(float, row["probabilities"]), strict=True))
            yield Prediction(str(row[PATH]), "ok", str(row["label"]), probabilities)
        else:
            yield Prediction(str(row[PATH]), str(row[STATUS]))


def extract_with_ray(
    source: str | Path, data: str, out: Path, *, options: Mapping[str, Any], say: Callable[[str], object]
) -> Counter[str]:
    """Writes the features of all photos of `data` (a folder, parquet or a URL) to parquet files in the folder `out`.

    A row has the photo's path, its status and a column KEY/STAGE for each stage, as in `Extractor`. Photos whose path
    is already in `out` are not computed again. Returns the number of photos in `out` by status.
    """
    out = out.expanduser()
    options = {**options, "device": "cpu"}
    path = Path(source).expanduser()
    where = str(path.resolve()) if path.exists() else str(source)
    Extractor(where, **options)  # checks the source once, before the workers start
    dataset, done = _dataset([data], say), {path for path, _ in _statuses_in(out)}
    if IN_MEMORY in done:
        what = "its photos have no paths, by which a call could continue."
        raise DataError(out, what, right="Such data have a column `path`.", do="Pass another --out folder.")
    if done:
        say(f"extract: {len(done):,} photos are already done")
        dataset = dataset.filter(lambda row: str(row[PATH]) not in done)
    if not done or dataset.limit(1).count():
        _mapped(dataset, Extractor, where, options).write_parquet(str(out.absolute()))
    return Counter(status for _, status in _statuses_in(out))


def _statuses_in(out: Path) -> list[tuple[str, str]]:
    """Returns (path, status) of the rows in a folder's parquet files. Raises DataError for a damaged one."""
    import pyarrow
    from pyarrow import parquet

    found: list[tuple[str, str]] = []
    for file in sorted(out.glob("*.parquet")):
        try:
            held = parquet.read_table(file, columns=[PATH, STATUS]).to_pydict()
        except (pyarrow.ArrowException, OSError, KeyError) as error:
            raise DataError(file, "it is damaged, or not written by extract.", do="Remove it.") from error
        found += zip(held[PATH], held[STATUS], strict=True)
    return found


def _mapped(dataset: Any, kind: type[Any], source: str, options: Mapping[str, Any]) -> Any:
    """Maps the data set's batches through a callable, which each worker constructs once."""
    return dataset.map_batches(
        kind,
        fn_constructor_args=(source,),
        fn_constructor_kwargs=dict(options),
        batch_size=ROWS,
        batch_format="numpy",
        concurrency=(1, max(1, _cores())),
        num_cpus=1,
    )


def _cores() -> int:
    import ray

    resources: Mapping[str, float] = ray.cluster_resources()
    return int(resources.get("CPU", 1))


def _dataset(paths: Iterable[str], say: Callable[[str], object]) -> Any:
    """Returns photos as a Ray data set: parquet with a column of bytes, or one row per path, which workers open."""
    data = ray_data()
    listed = list(paths)
    if listed and all(map(_is_parquet, listed)):
        found = data.read_parquet(listed)
        return found if PATH in found.schema().names else found.map_batches(_numbered, batch_format="numpy")
    return data.from_items([{PATH: photo.path} for photo in given_photos(listed, limit=0, say=say)])


def _is_parquet(path: str) -> bool:
    """Returns whether a path or URL is parquet, or a folder of it; a URL without a suffix counts as parquet."""
    if path.endswith(PARQUET) or is_url(path):
        return not is_image(path)
    folder = Path(path).expanduser()
    return folder.is_dir() and any(file.suffix in PARQUET for file in folder.iterdir())


def _numbered(batch: dict[str, Any]) -> dict[str, Any]:
    """Adds paths to a batch without them: the path that Hugging Face stores with the bytes, or <image>."""
    column: Iterable[Any] = next((batch[name] for name in ("image", "bytes", "photo") if name in batch), [])
    names = [str(value.get("path") or IN_MEMORY) if isinstance(value, Mapping) else IN_MEMORY for value in column]
    return {**batch, PATH: np.array(names, dtype=object)}
