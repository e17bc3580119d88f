"""Torch's generators as a function of (seed, step)."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from multistream.nn.seeding import seeded


def _mask(seed: int, step: int, rank: int = 0) -> list[float]:
    with seeded(seed, step=step, rank=rank, device=torch.device("cpu")):
        return nn.Dropout(0.5)(torch.ones(64)).tolist()


def test_a_modules_mask_follows_from_seed_step_and_rank_alone() -> None:
    first = _mask(0, 3)
    torch.rand(5)
    assert _mask(0, 3) == first
    others = [_mask(1, 3), _mask(0, 4), _mask(0, 3, rank=1)]
    assert all(other != first for other in others)


def test_the_callers_generator_is_left_as_it_was() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with seeded(0, step=0):
        torch.rand(9)
    assert torch.equal(torch.rand(3), expected)


def test_threads_draw_what_each_would_draw_alone() -> None:
    def weights(step: int) -> torch.Tensor:
        with seeded(0, step=step):
            return torch.cat([nn.Linear(200, 200).weight.detach().flatten() for _ in range(8)])

    torch.manual_seed(7)
    expected, before = [weights(step) for step in range(8)], torch.get_rng_state()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(weights, range(8)))
    assert all(map(torch.equal, found, expected))
    assert torch.equal(torch.get_rng_state(), before)
