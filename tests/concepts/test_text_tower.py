"""The text tower against open_clip's own, and `multistream concepts` that runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn

from multistream.concepts.bank import read_bank
from multistream.concepts.text_tower import CLIP_TOWERS, _image_model, embed_concepts
from multistream.errors import UsageError
from tests.cli.in_process import call
from tests.concepts.clip import TOWER, write_model

NAMES = ("old_city", "happy dog", "misty woods")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clip")
    (root / "names.txt").write_text("\n".join(NAMES))
    return root


@pytest.fixture(scope="module")
def model(folder: Path) -> nn.Module:
    return write_model(folder / "model")


@torch.no_grad()
def embedded(model: nn.Module, sentences: list[str]) -> torch.Tensor:
    rows: torch.Tensor = model.encode_text(open_clip.get_tokenizer("ViT-B-32")(sentences), normalize=True)
    return rows


def test_the_command_writes_open_clips_own_embeddings(folder: Path, model: nn.Module) -> None:
    out, err = call(
        *("concepts", "names.txt", "--model", f"local-dir:{folder / 'model'}", "--image-model", TOWER),
        *("--out", "bank.safetensors", "--device", "cpu", "--json"),
        cwd=folder,
    )
    about = {"out": "bank.safetensors", "image_model": TOWER, "concepts": 3, "width": 512}
    assert json.loads(out) == {**about, "logit_scale": pytest.approx(model.logit_scale.exp().item())}
    assert "multistream train --streams concepts=text:bank.safetensors" in err
    bank = read_bank(folder / "bank.safetensors")
    assert bank.names == NAMES
    theirs = embedded(model, [f"a photo of {name}" for name in ("old city", "happy dog", "misty woods")])
    assert torch.allclose(bank.embeddings, theirs, atol=1e-5)


def test_templates_are_averaged_and_normalised(folder: Path, model: nn.Module) -> None:
    templates = ("a photo of {}", "{}, a painting")
    made = embed_concepts(NAMES, model=f"local-dir:{folder / 'model'}", image_model=TOWER, templates=templates)
    each = [embedded(model, [t.format(name.replace("_", " ")) for name in NAMES]) for t in templates]
    mean = (each[0] + each[1]) / 2
    assert torch.allclose(made.embeddings, mean / mean.norm(dim=1, keepdim=True), atol=1e-5)


def test_names_run_in_chunks(folder: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    del model
    whole = embed_concepts(NAMES, model=f"local-dir:{folder / 'model'}", image_model=TOWER)
    monkeypatch.setattr("multistream.concepts.text_tower.CHUNK", 2)
    counts: list[int] = []
    made = embed_concepts(NAMES, model=f"local-dir:{folder / 'model'}", image_model=TOWER, advance=counts.append)
    assert counts == [2, 1]
    assert torch.allclose(made.embeddings, whole.embeddings, atol=1e-6)


def test_without_open_clip_one_line_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    _, err = call("concepts", "names.txt", "--model", "ViT-B-32", "--out", "b.safetensors", cwd=folder, code=69)
    assert err == "concepts: the text tower needs open_clip. Install it: pip install 'multistream[text]'.\n"


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--model", "ViT-B-23", "--weights", "openai"), 2, "open_clip has no 'ViT-B-23'. Did you mean 'ViT-B-32'?"),
        (("--model", "ViT-B-32"), 2, "none are given for ViT-B-32. A file, or one of openai, "),
        (("--model", "ViT-B-32", "--weights", "opnai"), 2, "Did you mean 'openai'?"),
        (("--model", "hf-hub:a/b", "--weights", "openai"), 2, "brings its own weights"),
        (("--model", "ViT-B-32", "--weights", "openai", "--template", "a photo"), 2, "has no place for the name"),
        (("--model", "ViT-B-32", "--weights", "openai", "--template", "{0}"), 2, "has no place for the name"),
        (("--model", "ViT-B-32", "--weights", "names.txt"), 69, "ViT-B-32 names.txt cannot be loaded"),
        (("--model", "local-dir:nowhere"), 69, "local-dir:nowhere  cannot be loaded"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    options: tuple[str, ...], code: int, says: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if options[-1] == "names.txt":  # the model itself takes seconds to build
        monkeypatch.setattr(open_clip, "create_model", lambda *_, pretrained, **__: torch.load(pretrained))
    _, err = call("concepts", "names.txt", *options, "--out", "b.safetensors", "-q", cwd=folder, code=code)
    assert says in err
    assert err.count("\n") == 1
    assert not (folder / "b.safetensors").exists()


class Tower(nn.Module):
    """What of an open_clip model says which image tower it has."""

    def __init__(self, width: int, patch: int, side: int, *, quick: bool) -> None:
        super().__init__()
        self.visual = nn.Module()
        self.visual.conv1 = nn.Conv2d(3, width, patch, bias=False)
        self.visual.transformer = open_clip.model.QuickGELU() if quick else nn.GELU()
        self.visual.image_size = (side, side)


@pytest.mark.parametrize(
    ("tower", "weights", "found"),
    [
        (Tower(768, 16, 224, quick=True), "openai", "vit_base_patch16_clip_quickgelu_224.openai"),
        (Tower(768, 32, 224, quick=False), "laion2b_s34b_b79k", "vit_base_patch32_clip_224.laion2b"),
        (Tower(1024, 14, 224, quick=False), "datacomp_xl_s13b_b90k", "vit_large_patch14_clip_224.datacompxl"),
    ],
)
def test_the_image_tower_is_found_by_the_model(tower: nn.Module, weights: str, found: str) -> None:
    assert _image_model(tower, weights, "the model") == found


def test_an_unknown_image_tower_is_asked_for() -> None:
    with pytest.raises(UsageError, match="timm's name of the image tower of the model is not known"):
        _image_model(Tower(24, 8, 224, quick=False), "openai", "the model")
    with pytest.raises(UsageError, match="which weights of vit_base_patch16_clip_224 belong to mine"):
        _image_model(Tower(768, 16, 224, quick=False), "mine", "the model")


def test_the_known_towers_are_timms() -> None:
    import timm

    assert all(timm.list_models(f"{name}_*") for name in CLIP_TOWERS.values())
