"""A row's products have the bits that they have alone, on any number of threads, and are differentiated rightly."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from multistream.ablation.products import direct_product, dropped_product, product, shared_product

SEEDS, VARIANTS, CLASSES, WIDTH, FEATURES, IMAGES = 2, 3, 6, 64, 320, 64
PLACES = [0, 64, 0]


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def of_tokens(given: dict[str, Tensor], places: list[int]) -> Tensor:
    return dropped_product(given["columns"], given["weights"], given["bias"], given["x"], given["mask"], places)


def plainly(given: dict[str, Tensor], places: list[int]) -> Tensor:
    tokens = given["weights"] @ given["x"].mT.unsqueeze(1) + given["bias"].unsqueeze(3)
    kept = torch.stack([given["mask"][:, at : at + WIDTH] for at in places], dim=1)
    return given["columns"] @ (tokens * kept)


def undropped(given: dict[str, Tensor], _: list[int]) -> Tensor:
    return given["columns"] @ (given["weights"] @ given["x"].mT.unsqueeze(1) + given["bias"].unsqueeze(3))


FORMS: dict[str, tuple[Callable[[dict[str, Tensor], list[int]], Tensor], ...]] = {
    "product": (lambda d, _: product(d["columns"], d["weights"]), lambda d, _: d["columns"] @ d["weights"]),
    "direct": (lambda d, _: direct_product(d["columns"], d["weights"], d["bias"], d["x"]), undropped),
    "shared": (lambda d, _: shared_product(d["weights"], d["x"]), lambda d, _: d["weights"] @ d["x"].mT.unsqueeze(1)),
    "dropped": (of_tokens, plainly),
}
TRAINED = {
    "product": ("columns", "weights"),
    "direct": ("columns", "weights", "bias"),
    "shared": ("weights",),
    "dropped": ("columns", "weights", "bias"),
}


def numbers() -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(0)
    shapes = {
        "columns": (SEEDS, VARIANTS, CLASSES, WIDTH),
        "weights": (SEEDS, VARIANTS, WIDTH, FEATURES),
        "bias": (SEEDS, VARIANTS, WIDTH),
        "x": (SEEDS, IMAGES, FEATURES),
        "mask": (SEEDS, 2 * WIDTH, IMAGES),
    }
    return {name: torch.randn(shape, generator=chance) for name, shape in shapes.items()}


def run(
    form: Callable[..., Tensor], given: dict[str, Tensor], trained: tuple[str, ...], places: list[int]
) -> list[Tensor]:
    """The result, and the gradients of the sum of its squares."""
    given = {name: tensor.clone().requires_grad_(name in trained) for name, tensor in given.items()}
    result = form(given, places)
    result.square().sum().backward()
    return [result.detach(), *(gradient for name in trained if (gradient := given[name].grad) is not None)]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", FORMS)
def test_a_row_among_others_is_the_row_alone(name: str) -> None:
    ours, _ = FORMS[name]
    together = run(ours, numbers(), TRAINED[name], PLACES)
    assert len(together) == 1 + len(TRAINED[name])
    for g in range(SEEDS):
        for v in range(VARIANTS):
            row = {
                n: t[g : g + 1] if n in ("x", "mask") else t[g : g + 1, v : v + 1].contiguous()
                for n, t in numbers().items()
            }
            alone = run(ours, row, TRAINED[name], PLACES[v : v + 1])
            for whole, part in zip(together, alone, strict=True):
                assert torch.equal(whole[g, v], part[0, 0])


@pytest.mark.parametrize("name", FORMS)
def test_products_are_torchs_own(name: str) -> None:
    ours, theirs = FORMS[name]
    given = {n: t.double() for n, t in numbers().items()}
    for own, other in zip(*(run(form, given, TRAINED[name], PLACES) for form in (ours, theirs)), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-9)
