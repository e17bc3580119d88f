"""`concepts=text:BANK`: parity with open_clip, scores by hand, explanations by concept, zero-shot without training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch import nn
from torch.nn import functional

from multistream import compose
from multistream.concepts.bank import ConceptBank, write_bank
from multistream.concepts.text_tower import embed_concepts
from multistream.errors import UsageError, WeightsError
from multistream.explaining.gradients import grad_cam
from multistream.inference.model import load
from multistream.interfaces import VECTOR
from multistream.parts.text_concepts import TextConcepts
from multistream.recipe import Recipe
from multistream.testing import StreamContract
from multistream.training.train import train
from tests.cli.in_process import call
from tests.concepts.clip import SIGLIP, SIGLIP_TOWER, TOWER, write_model

SIZE = 32
CONCEPTS = ("awe", "fear", "joy", "happy_dog")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("concepts")


@pytest.fixture(scope="module")
def bank(folder: Path) -> Path:
    """A bank made by hand: unit vectors of the embedding's space, and their sum."""
    rows = torch.cat([torch.eye(512)[:3], torch.eye(512)[:3].sum(0, keepdim=True)])
    path = folder / "hand.safetensors"
    write_bank(ConceptBank(CONCEPTS, rows, image_model=TOWER, logit_scale=20.0, logit_bias=-3.0), path)
    return path


@pytest.fixture(scope="module")
def clip(folder: Path) -> nn.Module:
    return write_model(folder / "clip")


def test_towers_and_similarities_equal_open_clips(clip: nn.Module, folder: Path) -> None:
    compare_with_open_clip(clip, folder / "clip", TOWER, bias=0.0)


@pytest.mark.slow
def test_siglips_towers_and_similarities_equal_open_clips(tmp_path: Path) -> None:
    """Attention pools, a sigmoid's bias, and an image tower that open_clip has from timm."""
    compare_with_open_clip(write_model(tmp_path / "siglip", SIGLIP), tmp_path / "siglip", SIGLIP_TOWER, bias=-10.0)


@torch.no_grad()
def compare_with_open_clip(model: nn.Module, folder: Path, tower: str, *, bias: float) -> None:
    """Text and image embeddings, similarities and zero-shot logits of the model's folder."""
    bank = embed_concepts(CONCEPTS, model=f"local-dir:{folder}", image_model=tower)
    sentences = [f"a photo of {name.replace('_', ' ')}" for name in CONCEPTS]
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(sentences)
    assert torch.allclose(bank.embeddings, model.encode_text(tokens, normalize=True), atol=1e-5)
    assert bank.logit_bias == pytest.approx(bias, abs=0.1)
    write_bank(bank, folder / "bank.safetensors")
    weights = {"concepts": str(folder / "open_clip_model.safetensors")}
    spec = {"concepts": f"text:{folder / 'bank.safetensors'}"}
    network = compose(spec, classes=["awe", "fear", "joy"], weights=weights).eval()
    images = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
    stream = network.branches["concepts"].stream
    maps = stream(images)
    theirs = model.encode_image(stream.prepare(images))
    assert torch.allclose(maps["embed"].flatten(1), theirs, atol=1e-5)
    similarities = functional.normalize(theirs, dim=1) @ bank.embeddings.T
    assert float(similarities.std()) > 1e-3
    assert torch.allclose(maps[VECTOR], similarities, atol=1e-5)
    logits = model.logit_scale.exp() * similarities[:, :3] + bank.logit_bias
    assert torch.allclose(network({"image": images}), logits, atol=1e-4)


@torch.no_grad()
def test_a_bank_made_by_hand_gives_the_scores_computed_by_hand(bank: Path) -> None:
    stream = TextConcepts(variant=str(bank), size=SIZE).eval()
    maps = stream(torch.randint(256, (3, 3, SIZE, SIZE), dtype=torch.uint8))
    embedding = maps["embed"].flatten(1)
    first = embedding[:, :3] / embedding.norm(dim=1, keepdim=True)
    by_hand = torch.cat([first, first.sum(1, keepdim=True) / 3**0.5], 1)
    assert torch.allclose(maps[VECTOR], by_hand, atol=1e-6)
    head = stream.zero_shot_head(["Joy", "happy dog"])
    assert head is not None
    assert torch.allclose(head(maps[VECTOR]), 20 * by_hand[:, 2:] - 3, atol=1e-5)
    assert stream.zero_shot_head(["joy", "anger"]) is None


class TestContract(StreamContract):
    @pytest.fixture(autouse=True)
    def _bank(self, bank: Path) -> None:
        type(self).variant = str(bank)

    def make(self) -> TextConcepts:
        return TextConcepts(variant=type(self).variant, size=SIZE)


def settings(recipe: Recipe, bank: Path, **network: object) -> Recipe:
    named = {"streams": {"concepts": f"text:{bank}"}, "weights": {"concepts": "random"}, "freeze": ["streams"]}
    return recipe.updated({"network": {**named, **network}})


def test_without_training_it_is_the_models_own_classifier(
    recipe: Recipe, bank: Path, folder: Path, photos: Path
) -> None:
    """All trains by itself: the run evaluates, its model file needs no bank, and its logits are scale x similarity."""
    moved = folder / "moved.safetensors"
    moved.write_bytes(bank.read_bytes())
    train(settings(recipe, moved, freeze=["branches"]), out=folder / "zero")
    moved.unlink()
    model = load(folder / "zero")
    assert model.network.trained
    row = next(iter(model.predict([photos / "joy" / "0.png"])))
    explained, _ = call("explain", folder / "zero", photos / "joy" / "0.png", "--json", "--device", "cpu", cwd=folder)
    (found,) = json.loads(explained)
    assert found["residual"] < 1e-5
    entries = dict(found["entries"]["concepts"])
    assert set(entries) == set(CONCEPTS)
    assert entries[row.label] == pytest.approx(found["logits"]["fused"] - found["bias"]["fused"], abs=1e-4)


def test_pretrained_it_is_zero_shot_by_default(recipe: Recipe, bank: Path, clip: nn.Module, folder: Path) -> None:
    del clip
    weights = {"concepts": str(folder / "clip" / "open_clip_model.safetensors")}
    run = train(settings(recipe, bank, weights=weights, freeze=[]), out=folder / "default")
    assert run.recipe.network.freeze == ("branches",)
    assert run.epochs == 0


def test_explanations_name_the_concepts_and_sum_to_the_logit(
    recipe: Recipe, bank: Path, folder: Path, photos: Path
) -> None:
    streams = {"object": "object", "concepts": f"text:{bank}"}
    changed = settings(recipe, bank, streams=streams, weights=dict.fromkeys(streams, "random"))
    train(changed.updated({"training": {"epochs": 1}}), out=folder / "early")
    call("explain", folder / "early", photos / "joy", "--npz", "e.npz", "-q", "--device", "cpu", cwd=folder)
    arrays = np.load(folder / "e.npz")
    total = sum(arrays[name].sum((2, 3)) for name in arrays.files if name.startswith("map/object"))
    assert arrays["vector/concepts"].shape == (20, 3, 4)
    assert np.allclose(total + arrays["vector/concepts"].sum(2) + arrays["bias"], arrays["logits"], atol=1e-4)
    text, _ = call("explain", folder / "early", photos / "awe" / "0.png", "--device", "cpu", cwd=folder)
    assert all(name in text for name in CONCEPTS)


@torch.no_grad()
def test_a_zero_shot_head_gives_the_same_logits_when_its_tap_standardises(bank: Path) -> None:
    network = compose({"concepts": f"text:{bank}"}, classes=["awe", "fear"], image_size=SIZE).freeze("branches").eval()
    pooled = network.pool({"image": torch.randint(256, (8, 3, SIZE, SIZE), dtype=torch.uint8)})
    before = network.classify(pooled)
    network.fit(pooled)
    assert float(network.branches["concepts"].taps[VECTOR].scale.min()) > 1.5
    assert torch.allclose(network.classify(pooled), before, atol=1e-4)
    network.fit(pooled)
    assert torch.allclose(network.classify(pooled), before, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_grad_cam_through_the_tower_shows_places(bank: Path) -> None:
    network = compose({"concepts": f"text:{bank}"}, classes=["awe", "fear"], image_size=SIZE)
    batch = {"image": torch.randint(256, (2, 3, SIZE, SIZE), dtype=torch.uint8)}
    cams = grad_cam(network, batch, score=lambda logits: logits[:, 1], flow="total")["concepts"]
    assert list(cams) == ["stage1", "stage2", "stage3", "stage4", "embed", VECTOR]
    assert cams["stage1"].shape == (2, 2, 2)
    assert float(cams["stage1"].abs().sum()) > 0
    similarity = network.branches["concepts"].stream.eval()(batch["image"])[VECTOR].detach()
    assert torch.allclose(cams[VECTOR].sum(1), 20 * similarity[:, 1], atol=1e-4)


def test_what_does_not_fit_is_refused(bank: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no concept bank"):
        TextConcepts(variant=str(tmp_path / "none.safetensors"))
    narrow = tmp_path / "narrow.safetensors"
    write_bank(ConceptBank(("a", "b"), torch.eye(2), image_model=TOWER), narrow)
    with pytest.raises(UsageError, match="embeddings have 2 numbers"):
        TextConcepts(variant=str(narrow))
    with pytest.raises(UsageError, match="names no variant"):
        compose(["text"], classes=["a", "b"])
    with pytest.raises(UsageError, match="ends in a vector"):
        compose({"c": f"text:{bank}"}, classes=["a", "b"], depth={"c": 2}, image_size=SIZE)


def test_its_path_is_absolute_in_the_run(recipe: Recipe, bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from multistream.training.train import with_absolute_paths

    monkeypatch.chdir(bank.parent)
    changed = recipe.updated({"network": {"streams": {"concepts": "text:hand.safetensors"}}})
    assert with_absolute_paths(changed).network.streams["concepts"] == f"text:{bank}"
