"""A stranger's scene network with real weights: installed in its own place, it trains beside object on real photos."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from multistream import compose, streams
from multistream.registry import discover
from multistream.testing import check
from multistream.weights import read_tensors

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared"
WEIGHTS = SHARED / "weights" / "squeezenet_places365.safetensors"

pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the real weights are not here (../shared/weights)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The distribution, installed by pip into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    tree = ROOT / "tests" / "plugins" / "scenes"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(folder), str(tree)], check=True)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    discover(refresh=True)
    yield folder
    sys.path.remove(str(folder))
    discover(refresh=True)


@pytest.mark.usefixtures("site")
def test_keeps_the_contract() -> None:
    assert len(check("stream", "scenes")) >= 12


@pytest.mark.usefixtures("site")
def test_real_weights_fit_and_see_places() -> None:
    """Its own last layer on top of our maps names the places of real photos with some confidence."""
    stream = compose({"scenes": "scenes"}, classes=["a"], weights={"scenes": str(WEIGHTS)}).branches["scenes"].stream
    from multistream.data.decoding import Decoder

    tensors = read_tensors(WEIGHTS).tensors
    last = nn.Conv2d(512, 365, 1)
    last.load_state_dict({name: tensors[f"conv10.{name}"].float() for name in ("weight", "bias")})
    photos = sorted((SHARED / "data" / "emotion6" / "images").rglob("*.jpg"))[::100]
    images = torch.stack([torch.from_numpy(Decoder(224).read(path)) for path in photos])
    with torch.no_grad():
        logits = last(stream.eval()(images)["fire8_9"]).mean((2, 3))
    confidence = logits.softmax(1).amax(1)
    assert confidence.mean() > 5 / 365
    assert len(set(logits.argmax(1).tolist())) > len(photos) // 3


@pytest.mark.slow
def test_trains_on_real_photos_beside_object(site: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "multistream", "train", "--data", f"emotion6:{SHARED}/data/emotion6"]
    command += [
        "--streams",
        "object,scenes",
        "--set",
        "data.label=keyword",
        "--epochs",
        "8",
        "--out",
        str(tmp_path / "run"),
    ]
    command += [
        "--weights",
        f"object={SHARED}/weights/mobilenet_v2_imagenet.safetensors",
        "--weights",
        f"scenes={WEIGHTS}",
    ]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, check=False
    )
    assert done.returncode == 0
    from multistream.runs import read_summary

    assert read_summary(tmp_path / "run")["test"]["accuracy"] > 0.4
    assert "scenes" in streams
