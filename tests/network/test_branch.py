"""What a network says of a batch that it cannot read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from multistream import MultiStream, compose, streams
from multistream.errors import UsageError

IMAGES = torch.arange(2 * 3 * 32 * 32).remainder(256).byte().view(2, 3, 32, 32)
VECTORS = torch.ones(2, 4)


@pytest.fixture(scope="module")
def photo_only() -> MultiStream:
    return compose({"one": "object", "two": "object"}, classes=["awe", "fear"], image_size=32, seed=0).eval()


@pytest.fixture(scope="module")
def both() -> MultiStream:
    given = {"object": "object", "anp": streams["anp"](width=4)}
    return compose(given, classes=["awe", "fear"], image_size=32, seed=0).eval()


def test_a_tensor_alone_is_the_one_input(photo_only: MultiStream) -> None:
    assert torch.equal(photo_only(IMAGES), photo_only({"image": IMAGES}))


WRONG = {
    "a tensor for two inputs": (lambda: IMAGES, "'image': uint8 .B, 3, H, W., 'anp': float32 .B, 4."),
    "no entry": (dict, "'image' is missing"),
    "another name": (lambda: {"img": IMAGES, "anp": VECTORS}, "'image' is missing. It has 'img', 'anp'"),
    "a list": (lambda: [IMAGES, VECTORS], "a list was given"),
    "an array": (lambda: {"image": np.zeros((2, 3, 8, 8), np.uint8), "anp": VECTORS}, "it is a ndarray"),
    "one image without a batch": (lambda: {"image": IMAGES[0], "anp": VECTORS}, "its shape is .3, 32, 32."),
    "channels last": (lambda: {"image": IMAGES.permute(0, 2, 3, 1), "anp": VECTORS}, "uint8 .B, 3, H, W."),
    "vectors of another width": (lambda: {"image": IMAGES, "anp": torch.ones(2, 5)}, "float32 .B, 4."),
    "fewer vectors than images": (lambda: {"image": IMAGES, "anp": VECTORS[:1]}, "{'image': 2, 'anp': 1} rows"),
    "images in 0..1": (lambda: {"image": IMAGES.float() / 255, "anp": VECTORS}, "it is float32. Images must be uint8"),
    "half precision": (lambda: {"image": IMAGES.half(), "anp": VECTORS}, "it is float16"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_batch_that_does_not_fit_is_refused(both: MultiStream, kind: str) -> None:
    make, message = WRONG[kind]
    with pytest.raises(UsageError, match=message):
        both(make())


def test_images_that_require_gradients_may_be_floats(both: MultiStream) -> None:
    image = IMAGES.float().requires_grad_()
    logits = both({"image": image, "anp": VECTORS})
    assert torch.allclose(logits, both({"image": IMAGES, "anp": VECTORS}), atol=1e-5)
    logits.sum().backward()
    assert image.grad is not None


def test_pool_reads_floats_from_0_to_255(both: MultiStream) -> None:
    floats = {"image": IMAGES.float(), "anp": VECTORS}
    assert torch.allclose(both.classify(both.pool(floats)), both({"image": IMAGES, "anp": VECTORS}), atol=1e-5)


@pytest.mark.parametrize("wrong", [lambda net: net.freeze(["object"]), lambda net: net.freeze(1)])
def test_freeze_takes_text(both: MultiStream, wrong: Callable[[MultiStream], object]) -> None:
    with pytest.raises(UsageError, match="separate arguments"):
        wrong(both)
