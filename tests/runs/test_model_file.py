"""A model file is what was saved, or it is refused: damaged, malformed, not finite, of another version."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from multistream.errors import MultistreamError, MultistreamWarning, WeightsError
from multistream.recipe import Recipe
from multistream.runs.composition import compose
from multistream.runs.largest_tensor import LargestTensor
from multistream.runs.model_file import ABOUT, DIGEST, digest_of, load_model, save_model

RECIPE = Recipe().updated({"network": {"streams": {"anp": "anp"}}})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = compose({"anp": "anp"}, classes=["awe", "fear"], known={"anp": {"width": 5}})
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(network, path, recipe=RECIPE)
    return path


def content(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, "pt") as stored:
        return json.loads(stored.metadata()[ABOUT]), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118


def write(path: Path, about: Any, tensors: dict[str, Tensor], *, text: str | None = None) -> Path:
    """A rightly sealed file of this content."""
    text = json.dumps(about) if text is None else text
    save_file(tensors, path, metadata={ABOUT: text, DIGEST: digest_of(text, tensors)})
    return path


def test_what_is_saved_loads_without_a_word(saved: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_model(saved).classes == ("awe", "fear")


def test_one_flipped_bit_of_a_tensor_is_noticed(saved: Path, tmp_path: Path) -> None:
    about, tensors = content(saved)
    text = json.dumps(about)
    digest = digest_of(text, tensors)
    name = next(name for name, tensor in tensors.items() if tensor.numel() > 1)
    tensors[name].view(-1).view(torch.uint8)[3] ^= 1
    save_file(tensors, tmp_path / "m.safetensors", metadata={ABOUT: text, DIGEST: digest})
    with pytest.raises(WeightsError, match="damaged"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(saved: Path, tmp_path: Path, value: float) -> None:
    about, tensors = content(saved)
    name = next(name for name in tensors if name.endswith("bias"))
    tensors[name].view(-1)[0] = value
    with pytest.raises(WeightsError, match=name):
        load_model(write(tmp_path / "m.safetensors", about, tensors))


def test_another_version_of_a_plugin_is_said(saved: Path, tmp_path: Path) -> None:
    about, tensors = content(saved)
    name = next(iter(about["distributions"]))
    about["distributions"][name] = "0.0.7"
    with pytest.warns(MultistreamWarning, match=rf"trained with {name} 0\.0\.7 \(installed: "):
        load_model(write(tmp_path / "m.safetensors", about, tensors))
    about["distributions"] = {"nobody-has-this": "1"}
    with pytest.raises(WeightsError, match="it needs nobody-has-this 1, which is not installed"):
        load_model(write(tmp_path / "m.safetensors", about, tensors))


WRONG: list[Any] = [None, -1, 10**30, 1.5, "x", "", "gap:999999999", [], [1], {}, {"x": {}}, "../x", "\0", ["a", "a"]]


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(tree: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy with another value at a place; the place is removed for `...`."""
    made = copy.deepcopy(tree)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return made


def test_malformed_metadata_is_our_error_everywhere(saved: Path, tmp_path: Path) -> None:
    """Each place of the metadata removed or with another value, rightly sealed: our error, or a model that loads."""
    about, tensors = content(saved)
    codes: dict[int, Any] = {}
    found = [path for path in places(about) if path[0] != "recipe"] + [("recipe", "network", "streams"), ("recipe",)]
    for number, path in enumerate(found):
        for value in (..., WRONG[number % len(WRONG)], WRONG[(7 * number + 3) % len(WRONG)]):
            file = write(tmp_path / "m.safetensors", changed(about, path, value), tensors)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", MultistreamWarning)
                    load_model(file)
            except MultistreamError as error:
                codes[error.exit_code] = (path, value, error)
    assert list(codes) == [69], codes


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "[" * 100_000, '{"format": 2}', '{"format": 99}', "nul"])
def test_metadata_that_is_no_object(saved: Path, tmp_path: Path, text: str) -> None:
    _, tensors = content(saved)
    with pytest.raises(WeightsError):
        load_model(write(tmp_path / "m.safetensors", None, tensors, text=text))


def test_a_plan_that_asks_for_more_than_the_file_holds(tmp_path: Path) -> None:
    """gap:999999999 would take 64 GB before shapes are compared."""
    network = compose({"object": "object"}, classes=["awe", "fear"], image_size=32)
    save_model(network, tmp_path / "m.safetensors", recipe=RECIPE)
    about, tensors = content(tmp_path / "m.safetensors")
    about["plan"]["branches"]["object"]["tap"] = "gap:999999999"
    with pytest.raises(WeightsError, match="cannot be rebuilt"):
        load_model(write(tmp_path / "m.safetensors", about, tensors))


def test_the_limit_is_on_new_tensors_alone() -> None:
    with LargestTensor(100):
        assert torch.zeros(10, 10).sum() == 0
        for make in (torch.empty, torch.zeros, torch.randn, torch.ones):
            with pytest.raises(ValueError, match="101 numbers"):
                make(101)
