"""Runs on images whose names and classes contain markup and script."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multistream.recipe import Recipe
from multistream.training.train import train

COLOURS = {
    "</script><script>window.broken=1</script>": (40, 60, 200),
    "<img src=x onerror='window.broken=1'>": (20, 20, 30),
    "joy & \"love\" 'n' ${style}": (240, 210, 60),
}
PER_CLASS = 20


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 60 images, 40 wide and 32 high, whose colour is their class; names and labels contain markup."""
    root = tmp_path_factory.mktemp("photos")
    chance = np.random.default_rng(0)
    rows = []
    for i, (label, colour) in enumerate(COLOURS.items()):
        for number in range(PER_CLASS):
            pixels = np.clip(np.array(colour) + chance.normal(0, 90, (32, 40, 3)), 0, 255).astype(np.uint8)
            name = f'{i}"><img src=x onerror=window.broken=1>{number}.png'
            Image.fromarray(pixels).save(root / name)
            rows.append((name, label))
    with (root / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return root / "photos.csv"


@pytest.fixture(scope="session")
def vectors(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors of width 12 for every image, whose vocabulary is markup."""
    ids = sorted(path.name for path in photos.parent.glob("*.png"))
    features = np.random.default_rng(1).random((len(ids), 12)).astype(np.float32)
    features[:, 0] += [int(name[0]) for name in ids]
    path = tmp_path_factory.mktemp("vectors") / "anp.npz"
    np.savez(path, ids=np.array(ids), features=features, vocabulary=np.array([f"<b>pair {i}</b>" for i in range(12)]))
    return path


def recipe(
    photos: Path, vectors: Path, *, streams: tuple[str, ...], fusion: str, parts: dict[str, str] | None = None
) -> Recipe:
    """A recipe of a few epochs on the CPU in float32, with random frozen streams; `parts` {key: spec}, else the key."""
    images = [key for key in streams if key != "anp"]
    return Recipe().updated(
        {
            "data": {"source": str(photos), "image_size": 32, "split": "50/10/40"},
            "network": {
                "streams": {key: (parts or {}).get(key, key) for key in streams},
                "fusion": fusion,
                "weights": dict.fromkeys(images, "random"),
                "freeze": ["streams"] if images else ["none"],
                "inputs": {"anp": str(vectors)} if "anp" in streams else {},
            },
            "training": {"epochs": 3, "batch_size": 8, "patience": 0},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Isolates the feature cache of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTISTREAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def early(photos: Path, vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of object + anp with early fusion and an ablation."""
    folder = tmp_path_factory.mktemp("runs") / "early"
    train(recipe(photos, vectors, streams=("object", "anp"), fusion="early"), out=folder)
    rows = [
        {"keep": {"object": n}, "accuracy": 0.4 + 0.1 * n, "accuracy_ci95": [0.3, 0.9], "delta": 0.1 * n - 0.5}
        | {"p_value": 0.2, "params": 1000 * n, "macs": 10**6 * n, "label": f"object {n}", "pareto": True}
        for n in range(1, 6)
    ]
    (folder / "ablations").mkdir()
    (folder / "ablations" / "depth.json").write_text(json.dumps({"axis": "depth", "rows": rows, "seconds": 1.0}))
    return folder


@pytest.fixture(scope="session")
def late(photos: Path, vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of object + anp with late fusion."""
    folder = tmp_path_factory.mktemp("runs") / "late"
    train(recipe(photos, vectors, streams=("object", "anp"), fusion="late"), out=folder)
    return folder


@pytest.fixture(scope="session")
def two(photos: Path, vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two image streams with early fusion, so that a stream can be selected."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    parts = {"other": "object:mobilenetv1"}
    train(recipe(photos, vectors, streams=("object", "other"), fusion="early", parts=parts), out=folder)
    return folder


@pytest.fixture(scope="session")
def vectors_alone(photos: Path, vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of anp only, which decodes no photo."""
    folder = tmp_path_factory.mktemp("runs") / "anp"
    train(recipe(photos, vectors, streams=("anp",), fusion="early"), out=folder)
    return folder
