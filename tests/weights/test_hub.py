"""The hub: asked only when somebody asks, quick to give up, and the weights are timm's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from multistream import compose, streams
from multistream.errors import WeightsError
from multistream.weights import from_hub

NAME = "timm/mobilenetv2_100.ra_in1k"


class Hub:
    """A hub with one file, which may be cached, and may be out of reach."""

    def __init__(self, file: Path, *, cached: bool = False, reachable: bool = True) -> None:
        self.file, self.cached, self.reachable = file, cached, reachable
        self.asked: list[str] = []

    def hf_hub_download(self, name: str, file: str, local_files_only: bool = False) -> str:
        if local_files_only and not self.cached:
            raise LocalEntryNotFoundError("not cached")
        assert (name, file) == (NAME, "model.safetensors")
        self.asked.append("cache" if local_files_only else "download")
        return str(self.file)

    def get_hf_file_metadata(self, url: str, timeout: float) -> None:
        self.asked.append("question")
        assert NAME in url
        assert timeout <= 10
        if not self.reachable:
            raise ConnectionError("no route to host\nand much more")

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("hf_hub_download", "get_hf_file_metadata"):
            monkeypatch.setattr(huggingface_hub, name, getattr(self, name))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    save_file(timm.create_model("mobilenetv2_100").state_dict(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(("cached", "asked"), [(True, ["cache"]), (False, ["question", "download"])])
def test_weights_are_those_of_the_file(
    cached: bool, asked: list[str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(file, cached=cached)
    hub.use(monkeypatch)
    tensors = from_hub(NAME)
    assert hub.asked == asked
    torch.manual_seed(5)
    expected = timm.create_model("mobilenetv2_100").state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
    assert streams["object"]().load_weights(tensors).ignored


def test_an_unreachable_hub_is_asked_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(file, reachable=False)
    hub.use(monkeypatch)
    with pytest.raises(WeightsError, match=rf"{NAME} cannot be downloaded from the hub: no route to host\. Check the"):
        from_hub(NAME)
    assert hub.asked == ["question"]


def test_a_damaged_file_in_the_cache_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(file, cached=True).use(monkeypatch)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"timm cannot load .*model\.safetensors"):
        from_hub(NAME)


@pytest.mark.parametrize("name", ["timm/nonsense", "someone/mobilenetv2_100", "mobilenetv2_100"])
def test_other_names_never_reach_the_hub(name: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(file)
    hub.use(monkeypatch)
    with pytest.raises(WeightsError, match="is not a timm model on the hub"):
        from_hub(name)
    assert hub.asked == []


def test_nothing_is_fetched_unless_hub_is_said(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"the hub was asked: {arguments} {options}")

    for name in ("hf_hub_download", "get_hf_file_metadata"):
        monkeypatch.setattr(huggingface_hub, name, refuse)
    compose({"object": "object"}, classes=["a", "b"], weights={"object": "random"})
    compose({"object": "object"}, classes=["a", "b"], weights={"object": str(file)})
    with pytest.raises(WeightsError, match="cannot be downloaded"):
        compose({"object": "object"}, classes=["a", "b"], weights={"object": "hub"})
