"""Extraction through the cache: what is there is read, what is missing is computed and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from multistream.data.loading import Photos
from multistream.data.splits import sha256_of_files
from multistream.features.extraction import GROUP, Extracted, Features, empty_features, pooled_groups
from multistream.features.store import SHARD, FeatureStore, weights_hash
from multistream.files import cache_root
from multistream.inputs import Image
from multistream.modes import evaluating
from multistream.network import Branch, MultiStream
from multistream.registry import Spec, find
from multistream.runtime import Runtime

Say = Callable[[str], None]


def extract(
    network: MultiStream,
    photos: Photos,
    indices: NDArray[np.int64],
    *,
    runtime: Runtime,
    workers: int,
    tick: Callable[[int], object],
    say: Say,
    cache: bool = True,
) -> Extracted:
    """What `network.pool` gives for these images, (N, P) with N = len(photos); rows of other images stay empty.

    Streams whose features the cache holds do not run. `tick` gets the number of images done, `say` what was found.
    """
    branches: dict[str, Branch] = dict(network.branches.items())
    features = empty_features(branches, len(photos))
    missing = {key: np.sort(indices) for key in branches}
    stores: dict[str, FeatureStore] = {}
    hashes: dict[int, str] = {}
    cached = {key: branch for key, branch in branches.items() if cache and not why_not_cached(branch)}
    if cached:
        hashes = dict(zip(indices.tolist(), sha256_of_files([photos.table.path(int(i)) for i in indices]), strict=True))
        for key, branch in cached.items():
            stores[key] = FeatureStore.open(cache_root() / "features", identity(branch, photos, runtime))
            missing[key] = _read(stores[key], hashes, features[key], np.sort(indices))
            say(_told(key, stores[key], found=len(indices) - len(missing[key]), missing=len(missing[key])))
    for key, branch in branches.items():
        if key not in stores and not branch.is_vector and cache:
            say(f"features: {key} runs anew: {why_not_cached(branch)}")
    valid = torch.zeros(len(photos), dtype=torch.bool)
    valid[torch.from_numpy(indices)] = True
    with evaluating(network):
        for keys, rows in _together(missing).items():
            some = {key: branches[key] for key in keys}
            kept = {key: stores[key] for key in keys if key in stores}
            filled = _compute(some, photos, rows, features, kept, hashes, runtime=runtime, workers=workers, tick=tick)
            valid[torch.from_numpy(np.setdiff1d(rows, filled))] = False
    done = len(indices) - len(np.unique(np.concatenate([*missing.values(), np.zeros(0, dtype=np.int64)])))
    tick(done)
    return Extracted(features, valid)


def identity(branch: Branch, photos: Photos, runtime: Runtime) -> dict[str, Any]:
    """All that a stream's pooled features depend on, but the photo."""
    assert branch.plan is not None
    assert photos.decoder is not None
    part = find("stream", Spec.parse(branch.plan.stream, key="part").name)
    return {
        "stream": branch.plan.stream,
        "options": dict(branch.plan.stream_options),
        "distribution": f"{part.distribution} {part.version}",
        "weights": weights_hash(branch.stream),
        "input": {name: value for name, value in asdict(branch.stream.input).items() if name != "read"},
        "pooling": {
            stage: f"{type(tap).__module__}.{type(tap).pool.__qualname__}" for stage, tap in branch.taps.items()
        },
        "view": "identity",
        "precision": runtime.precision,
        "device": runtime.device.type,
        "channels_last": runtime.channels_last,
        "torch": torch.__version__,
        "decoder": photos.decoder.version,
        "group": GROUP,
    }


def why_not_cached(branch: Branch) -> str:
    """Why a branch's features cannot be taken from the cache; empty where they can."""
    if branch.is_vector:
        return "its vector is at hand"
    if not isinstance(branch.stream.input, Image):
        return "it reads maps, and the cache knows photos only"
    if not branch.stream.is_frozen:
        return "it trains"
    if branch.plan is None or not branch.plan.stream:
        return "it was given as an instance, whose code the cache cannot tell"
    return ""


def _read(
    store: FeatureStore, hashes: Mapping[int, str], into: Mapping[str, Any], rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Fills the rows that the store has; returns those that it lacks."""
    wanted = rows.tolist()
    lacking = store.read([hashes[i] for i in wanted], into, wanted)
    return rows[lacking]


def _together(missing: Mapping[str, NDArray[np.int64]]) -> dict[tuple[str, ...], NDArray[np.int64]]:
    """Streams that lack the same images run together, so that each photo is decoded once for all of them."""
    groups: dict[bytes, list[str]] = {}
    for key, rows in missing.items():
        if len(rows):
            groups.setdefault(rows.tobytes(), []).append(key)
    return {tuple(keys): missing[keys[0]] for keys in groups.values()}


def _compute(
    branches: Mapping[str, Branch],
    photos: Photos,
    rows: NDArray[np.int64],
    features: Features,
    stores: Mapping[str, FeatureStore],
    hashes: Mapping[int, str],
    *,
    runtime: Runtime,
    workers: int,
    tick: Callable[[int], object],
) -> NDArray[np.int64]:
    """Runs the streams over these rows, fills `features` and the stores; returns the rows that could be decoded."""
    filled: list[int] = []
    unsaved: list[int] = []
    for chosen, pooled in pooled_groups(branches, photos, rows, runtime=runtime, workers=workers):
        for key, stages in pooled.items():
            for stage, values in stages.items():
                features[key][stage][chosen] = values
        filled += chosen.tolist()
        unsaved += chosen.tolist()
        if len(unsaved) >= SHARD:
            unsaved = _save(stores, features, hashes, unsaved)
        tick(len(chosen))
    _save(stores, features, hashes, unsaved)
    return np.array(filled, dtype=np.int64)


def _save(
    stores: Mapping[str, FeatureStore], features: Features, hashes: Mapping[int, str], rows: list[int]
) -> list[int]:
    """Writes these rows as one shard of every store; nothing is left unsaved."""
    for key, store in stores.items():
        if rows:
            store.add([hashes[i] for i in rows], {stage: values[rows] for stage, values in features[key].items()})
    return []


def _told(key: str, store: FeatureStore, *, found: int, missing: int) -> str:
    damaged = f"; {len(store.damaged)} damaged shards are not used" if store.damaged else ""
    if not missing:
        return f"features: {key} from the cache, {found:,} images{damaged}"
    return f"features: {key} runs over {missing:,} images, {found:,} are in the cache{damaged}"
