"""export: the file in ONNX Runtime gives what the network gives, and what cannot be exported is refused."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from torch import Tensor, nn

from multistream import Image, Map, Model, MultiStream, Stream, compose, export, streams
from multistream.data.maps import read_map
from multistream.errors import PluginError, UsageError
from multistream.runs.composition import recipe_of
from tests.cli.in_process import call

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CLASSES = ["awe", "fear", "joy"]


class Toy(Stream):
    """Two stages on the photo, or on a map of one channel."""

    def __init__(self, size: int = 12, depth: bool = False) -> None:
        stages = {"one": nn.Conv2d(1 if depth else 3, 4, 3, stride=2), "two": nn.Conv2d(4, 6, 3)}
        source = Map("depth", channels=1, size=size, read=read_map) if depth else Image(size=size)
        super().__init__(stages, channels={"one": 4, "two": 6}, input=source)


class Sorting(Toy):
    """Its second stage depends on the values, which no graph can hold."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = super().forward(x)
        return maps if float(maps["two"].sum()) > 0 else {**maps, "two": -maps["two"]}


def trained(**options: Any) -> MultiStream:
    """A network of two photo streams of different size, a map and a vector, marked as trained."""
    parts = {"a": Toy(), "b": Toy(size=16), "depth": Toy(depth=True), "anp": streams["anp"](width=5)}
    return compose(parts, classes=CLASSES, seed=0, **options).eval().mark_trained()


def batch_of(count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return {
        "image": torch.randint(256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8),
        "depth": torch.rand((count, 1, 12, 12), generator=generator),
        "anp": torch.rand((count, 5), generator=generator),
    }


def run_in_onnx(file: Path, batch: dict[str, Tensor]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    [found] = session.run(["probabilities"], {name: tensor.numpy() for name, tensor in batch.items()})
    return np.asarray(found)


@pytest.mark.parametrize(
    ("temporal", "fusion"), [("concat", "early"), ("average", "gated"), ("bigru", "late"), ("bigru+att", "early")]
)
def test_probabilities_equal_those_of_the_network(temporal: str, fusion: str, tmp_path: Path) -> None:
    network = trained(temporal=temporal, fusion=fusion).calibrate(0.3)
    exported = export(network, tmp_path / "network.onnx")
    assert exported.inputs == {"image": (3, 16, 16), "depth": (1, 12, 12), "anp": (5,)}
    assert exported.bytes == (tmp_path / "network.onnx").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]
    for count in (1, 7):
        batch = batch_of(count)
        with torch.no_grad():
            expected = network.probabilities(network(batch)).numpy()
        assert np.abs(run_in_onnx(exported.path, batch) - expected).max() < 1e-5
    assert not np.allclose(expected[0], expected[1], atol=1e-3), "the batches tell the photos apart"


def test_network_of_the_caller_keeps_its_precision(tmp_path: Path) -> None:
    network = compose({"a": Toy()}, classes=CLASSES).mark_trained().to(torch.bfloat16)
    assert export(network, tmp_path / "network.onnx").largest_difference < 1e-5
    assert {tensor.dtype for tensor in network.parameters()} == {torch.bfloat16}


def test_label_sets_have_a_probability_for_each_label(tmp_path: Path) -> None:
    network = compose({"a": Toy()}, classes=CLASSES, label_sets=True, seed=0).eval().mark_trained()
    batch = {"image": batch_of(2)["image"][:, :, :12, :12].contiguous()}
    found = run_in_onnx(export(network, tmp_path / "network.onnx").path, batch)
    with torch.no_grad():
        assert np.abs(found - network(batch).sigmoid().numpy()).max() < 1e-6


def test_metadata_says_how_photos_are_prepared(tmp_path: Path) -> None:
    network = compose({"a": Toy()}, classes=CLASSES).mark_trained()
    recipe = recipe_of(network).updated({"data": {"resize": "crop", "background": [0, 0, 0]}})
    export(Model.of(network, recipe=recipe), tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    about = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert (about["classes"], about["resize"], about["background"]) == (CLASSES, "crop", [0, 0, 0])


def test_command_exports_a_run_that_predicts_the_same(photos: Path, tmp_path: Path) -> None:
    words = "--streams object --weights object=random --freeze streams --epochs 2 --device cpu --precision fp32 --quiet"
    call("train", "--data", photos, *words.split(), "--set", "data.image_size=32", "--out", "run", cwd=tmp_path)
    out, _ = call("export", "run", "--out", "network.onnx", "--json", cwd=tmp_path)
    described = json.loads(out)
    assert described["inputs"] == {"image": [3, 32, 32]}
    assert described["largest_difference"] < 1e-4
    photo = next(photos.rglob("*.png"))
    line, _ = call("predict", "run", photo, "--precision", "fp32", "--device", "cpu", "--json", cwd=tmp_path)
    pixels = np.asarray(Picture.open(photo).convert("RGB").resize((32, 32), Picture.Resampling.BILINEAR))
    found = run_in_onnx(tmp_path / "network.onnx", {"image": torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())})
    assert np.abs(found[0] - list(json.loads(line)["probabilities"].values())).max() < 1e-4


def test_network_with_a_branch_on_values_is_refused(tmp_path: Path) -> None:
    network = compose({"a": Sorting()}, classes=CLASSES).mark_trained()
    with pytest.raises(PluginError, match="the network cannot be exported"):
        export(network, tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = compose({"a": Toy()}, classes=CLASSES)
    with pytest.raises(UsageError, match=r"unknown format. It must end in \.onnx"):
        export(network, tmp_path / "network.pt")
    with pytest.raises(UsageError, match="not marked as trained"):
        export(network, tmp_path / "network.onnx")
    original = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "onnxscript":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(PluginError, match=r"pip install 'multistream\[onnx\]'"):
        export(network.mark_trained(), tmp_path / "network.onnx")
