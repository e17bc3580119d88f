"""compose: what it accepts, what it refuses and how, and the way to a file and back."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from multistream import Image, MultistreamError, Stream, compose, load, streams
from multistream.network.compose import plan_of, recompose
from multistream.network.plan import NetworkPlan
from multistream.recipe import Recipe
from multistream.runs.model_file import save_model

CLASSES = ["awe", "fear"]


class Toy(Stream):
    def __init__(self, declared: int = 4) -> None:
        super().__init__({"only": nn.Conv2d(3, 4, 3)}, channels={"only": declared}, input=Image(size=8))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"streams": ["objekt"]}, "Did you mean 'object'"),
        ({"streams": []}, "At least one is needed"),
        ({"streams": ["object", "object"]}, "same key 'object'"),
        ({"streams": ["object:mobilenetv3"]}, "Did you mean"),
        ({"streams": ["object"], "tap": "gap:0.5"}, "gap"),
        ({"streams": ["object"], "tap": "last:32"}, "'width' is unknown"),
        ({"streams": ["object"], "temporal": "bigru2"}, "Did you mean 'bigru'"),
        ({"streams": ["object"], "fusion": "earl"}, "Did you mean 'early'"),
        ({"streams": ["object"], "depth": {"object": 6}}, "It has 1 to 5 stages"),
        ({"streams": ["object"], "depth": {"places": 2}}, "the network has no stream 'places'"),
        ({"streams": ["object"], "weights": {"objct": "x"}}, "Did you mean 'object'"),
        ({"streams": ["object"], "options": {"taps": {"width": 3}}}, "options: 'taps' is unknown. Did you mean 'tap'"),
        ({"streams": ["object"], "options": {"temporal": {"unit": 3}}, "temporal": "bigru"}, "Did you mean 'units'"),
        ({"streams": ["object"], "options": {"streams": {"object": {"ends": 1280}}}}, "Did you mean 'end'"),
        ({"streams": ["anp"]}, "width"),
    ],
)
def test_mistakes_are_told(arguments: dict[str, object], words: str) -> None:
    with pytest.raises((MultistreamError, ValueError), match=words):
        compose(**arguments, classes=CLASSES, image_size=32)  # type: ignore[arg-type]


def test_channels_that_are_wrong_are_told_with_the_arithmetic() -> None:
    with pytest.raises(
        MultistreamError, match=r"stage 'only' returns \('B', 4, 6, 6\) for an input of size 8, but 5 channels"
    ):
        compose({"toy": Toy(declared=5)}, classes=CLASSES)


def test_keys_that_torch_refuses_are_refused_with_words() -> None:
    with pytest.raises(MultistreamError, match="choose another name"):
        compose({"pop": Toy()}, classes=CLASSES)


@pytest.mark.parametrize("temporal", ["concat", "bigru+att"])
@pytest.mark.parametrize("fusion", ["early", "late", "gated"])
def test_a_plan_is_all_that_it_takes(temporal: str, fusion: str) -> None:
    network = compose(
        {"object": "object", "words": "anp"},
        classes=CLASSES,
        tap="gap:16",
        temporal=temporal,
        fusion=fusion,
        depth={"object": 3},
        image_size=32,
        known={"words": {"width": 5, "vocabulary": tuple("abcde")}},
    ).eval()
    plan = NetworkPlan.from_dict(plan_of(network).to_dict())
    again = recompose(plan).eval()
    again.load_state_dict(network.state_dict())
    batch = {"image": torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), "words": torch.rand(2, 5)}
    assert torch.equal(again(batch), network(batch))


def test_a_model_file_is_enough(tmp_path: Path) -> None:
    network = compose({"object": "object", "anp": streams["anp"](width=4)}, classes=CLASSES, image_size=32)
    with pytest.raises(MultistreamError, match="'anp' was given as a Python object"):
        recompose(plan_of(network))
    named = compose(["object"], classes=CLASSES, image_size=32).eval()
    named.mark_trained()
    save_model(named, tmp_path / "model.safetensors", recipe=Recipe())
    model = load(tmp_path / "model.safetensors")
    images = {"image": torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)}
    assert model.classes == ("awe", "fear")
    assert torch.equal(model.network(images), named(images))


def test_a_stream_given_as_an_instance_is_asked_for_again(tmp_path: Path) -> None:
    network = compose({"toy": Toy()}, classes=CLASSES).eval()
    network.mark_trained()
    save_model(network, tmp_path / "model.safetensors", recipe=Recipe())
    with pytest.raises(MultistreamError, match=r"load\(run, streams=\{'toy': \.\.\.\}\)"):
        load(tmp_path)
    images = {"image": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}
    assert torch.equal(load(tmp_path, streams={"toy": Toy()}).network(images), network(images))


def test_models_loaded_with_one_instance_keep_their_own_weights(tmp_path: Path) -> None:
    images, mine = {"image": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, Toy()
    loaded = []
    for name in ("a", "b"):
        network = compose({"toy": Toy()}, classes=CLASSES, seed=len(loaded)).eval().mark_trained()
        save_model(network, tmp_path / name / "model.safetensors", recipe=Recipe())
        loaded.append((network(images), load(tmp_path / name, streams={"toy": mine}).network))
    for logits, network in loaded:
        assert torch.equal(network(images), logits)
    with pytest.raises(MultistreamError, match=r"streams: the network has no stream 'toi'\. Did you mean 'toy'\?"):
        load(tmp_path / "a", streams={"toy": mine, "toi": mine})


def test_an_untrained_network_does_not_predict(tmp_path: Path) -> None:
    save_model(compose(["object"], classes=CLASSES, image_size=32), tmp_path / "model.safetensors", recipe=Recipe())
    with pytest.raises(MultistreamError, match="not marked as trained"):
        list(load(tmp_path).predict([]))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "other"])
def test_a_damaged_model_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.safetensors"
    save_model(compose(["object"], classes=CLASSES, image_size=32), path, recipe=Recipe())
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[3] ^= 0xFF
        path.write_bytes(data)
    else:
        path.write_bytes(b"not a model at all")
    with pytest.raises(MultistreamError) as error:
        load(path)
    assert error.value.exit_code == 69


def test_a_network_is_picklable() -> None:
    network = compose({"toy": Toy(), "anp": streams["anp"](width=4)}, classes=CLASSES, temporal="bigru").eval()
    batch = {"image": torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "anp": torch.ones(1, 4)}
    assert torch.equal(pickle.loads(pickle.dumps(network))(batch), network(batch))


def test_a_branch_of_a_run_brings_its_trained_head(tmp_path: Path) -> None:
    trained = compose({"toy": Toy()}, classes=CLASSES).mark_trained()
    file = tmp_path / "run" / "model.safetensors"
    file.parent.mkdir()
    save_model(compose(["object"], classes=CLASSES, image_size=32).mark_trained(), file, recipe=Recipe())
    head = load(file).network.fusion.heads["object"]
    network = compose({"object": str(file.parent), "toy": Toy()}, classes=CLASSES, fusion="late")
    assert (network.loaded_branches, network.loaded_heads) == ({"object"}, {"object"})
    assert torch.equal(network.fusion.heads["object"].weight, head.weight)
    assert not network.trained
    assert trained.trained
    assert not compose({"object": str(file.parent)}, classes=CLASSES, fusion="early").truncate({"object": 2}).trained
