"""Groups of photos on a GPU: streams replayed from CUDA graphs or compiled, fused kernels, JPEGs decoded there."""

from __future__ import annotations

import pickle
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import multistream as ms
from multistream import Stream
from multistream.errors import MultistreamWarning
from multistream.features.pooled_groups import GROUP
from multistream.network.branch import Branch
from multistream.recipe import Recipe, RuntimeSettings
from multistream.runtime.cuda_graphs import PooledGroups
from multistream.runtime.device import Runtime, resolve

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]

PRECISIONS = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 2e-3}
"""Of the largest feature: how far two ways of computing a group may be apart."""


def placed(name: str, precision: str) -> tuple[Branch, Runtime, Tensor]:
    """A random stream on the GPU, frozen, and a group of pictures."""
    torch.manual_seed(0)
    runtime = resolve(RuntimeSettings(device="cuda", precision=precision))  # type: ignore[arg-type]
    network = ms.compose([name], classes=["awe", "fear"], image_size=64).freeze("streams").eval()
    branch = next(iter(runtime.place(network).branches.values()))
    images = torch.randint(0, 256, (GROUP, 3, 64, 64), dtype=torch.uint8)
    return branch, runtime, runtime.send({"image": images})["image"]


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], share: float) -> None:
    for stage, values in found.items():
        theirs = expected[stage].to(values.device)
        assert float((values - theirs).abs().max()) <= share * float(theirs.abs().max()), stage


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["object", "places"])
@torch.no_grad()
def test_a_replay_gives_the_same_bits(name: str, precision: str, recwarn: pytest.WarningsRecorder) -> None:
    branch, runtime, images = placed(name, precision)
    graphs = PooledGroups(runtime, size=GROUP)
    first = graphs.pool(branch, images)
    kept = {stage: values.clone() for stage, values in first.items()}
    second = graphs.pool(branch, images.flip(0))
    plain = PooledGroups(replace(runtime, cuda_graphs=False), size=GROUP).pool(branch, images)
    assert all(torch.equal(first[stage], plain[stage]) for stage in plain)
    assert all(torch.equal(first[stage], kept[stage]) for stage in plain)  # the next replay did not overwrite it
    assert_close(second, {stage: values.flip(0) for stage, values in plain.items()}, PRECISIONS[precision])
    assert not [str(each.message) for each in recwarn if "CUDA graphs" in str(each.message)]


@pytest.mark.parametrize("precision", PRECISIONS)
@torch.no_grad()
def test_vgg16_is_the_cpus(precision: str) -> None:
    """Convolution, bias and ReLU in one kernel, against three in float32."""
    branch, runtime, images = placed("places", precision)
    fused = PooledGroups(runtime, size=GROUP).pool(branch, images)
    exact = branch.cpu().pool(images.cpu())
    assert_close(fused, exact, PRECISIONS[precision])


def test_vgg16_has_gradients() -> None:
    """They come from the plain kernels, which give what the fused ones give."""
    branch, _, images = placed("places", "fp32")
    x = branch.stream.prepare(images).requires_grad_()
    maps = branch.stream.stages["block1"](x)
    maps.sum().backward()
    with torch.no_grad():
        fused = branch.stream.stages["block1"](x)
    assert x.grad is not None
    torch.testing.assert_close(maps.detach(), fused, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_compiled_groups() -> None:
    branch, runtime, images = placed("places", "bf16")
    compiled = PooledGroups(replace(runtime, compile=True), size=GROUP).pool(branch, images)
    plain = PooledGroups(runtime, size=GROUP).pool(branch, images)
    assert_close(compiled, plain, PRECISIONS["bf16"])


class Moody(Stream):
    """A stream that draws from Python's generator, which no graph records."""

    def __init__(self) -> None:
        super().__init__({"only": nn.Conv2d(3, 4, 3)}, channels={"only": 4}, input=ms.Image(size=64))

    def to_map(self, state: Tensor, stage: str) -> Tensor:
        del stage
        return state * random.uniform(1, 2)


@torch.no_grad()
def test_what_cannot_be_replayed_runs_without() -> None:
    random.seed(0)
    runtime = resolve(RuntimeSettings(device="cuda", precision="fp32"))
    network = runtime.place(ms.compose({"moody": Moody()}, classes=["awe", "fear"])).eval()
    images = torch.randint(0, 256, (GROUP, 3, 64, 64), dtype=torch.uint8, device="cuda")
    with pytest.warns(MultistreamWarning, match="CUDA graphs: not used for Moody"):
        pooled = PooledGroups(runtime, size=GROUP).pool(network.branches["moody"], images)
    assert pooled["only"].shape == (GROUP, 4)


def test_predictor_can_be_pickled_after_a_call(recipe: Recipe, photos: Path, tmp_path: Path) -> None:
    run = ms.train(recipe, out=tmp_path / "run").folder
    predictor = ms.batch.Predictor(run, device="cuda")
    batch = {"path": np.array(sorted(map(str, photos.rglob("*.png"))))}
    once = predictor(batch)
    again = pickle.loads(pickle.dumps(predictor))(batch)
    assert np.array_equal(once["probabilities"], again["probabilities"])


def write_jpegs(folder: Path, *, count: int) -> Path:
    """Smooth pictures of several sizes in two class folders, a damaged file, and a PNG."""
    chance = np.random.default_rng(0)
    for number in range(count):
        place = folder / ("awe", "fear")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(chance.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        big = small.resize((320 + 16 * (number % 5), 240), Image.Resampling.BICUBIC)
        big.save(place / f"{number:03}.{'png' if number == 7 else 'jpg'}")
    whole = (folder / "awe" / "000.jpg").read_bytes()
    (folder / "awe" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


def test_jpegs_decoded_on_the_gpu(recipe: Recipe, tmp_path: Path) -> None:
    """Extraction, training and prediction; features are near those of Pillow's photos, under a key of their own."""
    folder = write_jpegs(tmp_path / "photos", count=80)
    settings = ["runtime.device='cuda'", "runtime.workers=-1", "data.image_size=64"]
    runs = {}
    for decoder in ("pillow", "nvjpeg"):
        own = recipe.with_settings([*settings, f"data.source='{folder}'", f"data.decoder='{decoder}'"])
        extraction = ms.extract(own)
        assert extraction.streams[0].computed == 80
        assert list(extraction.bad.values()) == ["truncated"]
        runs[decoder] = ms.train(own, out=tmp_path / decoder).folder
    files = sorted(folder.rglob("*.jpg"))
    found = {name: list(ms.load(run).predict(files, device="cuda")) for name, run in runs.items()}
    assert [each.status for each in found["nvjpeg"]] == [each.status for each in found["pillow"]]
    ours, theirs = (
        np.array([list(each.probabilities.values()) for each in found[name] if each.status == "ok"])
        for name in ("nvjpeg", "pillow")
    )
    assert np.abs(ours - theirs).mean() < 0.05
