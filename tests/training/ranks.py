"""What the processes of test_distributed do; a module of its own, so that they import no test tool."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import nn

from multistream import Image, Stream
from multistream.console import Console
from multistream.errors import MultistreamError
from multistream.features.fill_cache import extract
from multistream.recipe import Recipe
from multistream.spec import INSTANCE
from multistream.training.stop import Interrupted, Stop, stoppable
from multistream.training.train import train


class Plain(Stream):
    """Two stages without batch norm, whose statistics would be each rank's own."""

    def __init__(self) -> None:
        stages = {
            "edges": nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU()),
            "whole": nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()),
        }
        super().__init__(stages, channels={"edges": 8, "whole": 8}, input=Image(size=32))


def join(rank: int, size: int, port: int, place: Path) -> None:
    """Sets what torchrun would; what is printed goes to a file, for their common parent has the first test's stderr."""
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    launcher = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    os.environ.update({name: str(value) for name, value in environment.items()} | launcher)
    sys.stderr = (place / f"stderr-{rank}").open("a")
    torch.set_num_threads(1)


def work_extract(rank: int, size: int, port: int, recipe: str, out: Path, cache: str) -> None:
    """One rank of an extraction to a file."""
    os.environ["MULTISTREAM_CACHE"] = cache
    join(rank, size, port, out.parent)
    extraction = extract(Recipe.loads(recipe), out=out, console=Console(quiet=False))
    (out.parent / f"computed-{rank}").write_text(str(extraction.streams[0].computed))


def work(rank: int, size: int, port: int, recipe: str, out: Path, cache: str, resume: bool, steps: int) -> None:
    """One rank of a training; `steps` looks at the stop flag later rank 0 is told to stop (-1: never)."""
    os.environ["MULTISTREAM_CACHE"] = cache
    join(rank, size, port, out.parent)
    looks = iter(range(10**6))
    if rank == 0 and steps >= 0:

        def asked(self: Stop) -> bool:
            self.signal = 15 if next(looks) >= steps else 0
            return self.signal != 0

        Stop.__call__ = asked  # type: ignore[method-assign]
    torch.manual_seed(0)
    settled = Recipe() if resume else Recipe.loads(recipe)
    streams = {"n": Plain()} if (Recipe.load(out) if resume else settled).network.streams.get("n") == INSTANCE else None
    place = {"resume": out} if resume else {"out": out}
    try:
        with stoppable() as stop:
            train(settled, **place, streams=streams, console=Console(quiet=False), stop=stop)  # type: ignore[arg-type]
    except MultistreamError as error:
        print(f"SAID {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Interrupted as stopped:
        sys.exit(128 + stopped.signal)
