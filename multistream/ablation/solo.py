"""One row trained alone: by the loop of all rows, and by the loop of `train` over the same pooled features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from multistream.ablation.pool import Pool
from multistream.ablation.results import Verified
from multistream.ablation.starts import Starts
from multistream.ablation.together import train_together
from multistream.ablation.variants import Variant
from multistream.network.network import MultiStream
from multistream.recipe import TrainingSettings
from multistream.runtime.device import Runtime
from multistream.training.feeds import PooledFeed
from multistream.training.loop import Listener, Trainer
from multistream.training.objective import Objective
from multistream.training.stop import Stop


def verify(
    trained: MultiStream,
    variant: Variant,
    *,
    whole: Variant,
    starts: Starts,
    pool: Pool,
    seed: int,
    settings: TrainingSettings,
    runtime: Runtime,
) -> Verified:
    """Trains a row again from its start, alone, in both ways, and holds all its weights against `trained`'s.

    The first must give the same bits. The second sums numbers in another order where rows were stacked, and agrees
    up to float32's rounding; where they were not, it gives the same bits too.
    """
    settings = replace(settings, seed=seed)
    alone = starts.network(variant, seed=seed)
    train_together([[alone]], pool, seeds=[seed], settings=settings, runtime=runtime, tick=lambda _: None)
    by_train = starts.network(variant, seed=seed)
    with TemporaryDirectory(prefix="multistream-verify-") as folder:
        train_by_itself(by_train, pool, settings=settings, runtime=runtime, folder=Path(folder))
    return Verified(variant.label(whole), seed, _difference(alone, trained), _difference(by_train, trained))


def train_by_itself(
    network: MultiStream, pool: Pool, *, settings: TrainingSettings, runtime: Runtime, folder: Path
) -> None:
    """What `train` does with pooled features; `folder` takes its checkpoints."""
    if not any(parameter.requires_grad for parameter in network.parameters()):
        return
    Trainer(
        network,
        PooledFeed(pool.features, pool.labels, pool.valid, settings),
        pool.parts,
        objective=Objective(network, criterion=pool.criterion, runtime=runtime, pooled=True),
        settings=settings,
        runtime=runtime,
        folder=folder,
        about={},
        names=str,
        listener=Listener(epoch=lambda _: None, batch=lambda: None),
        stop=Stop(),
    ).run()


def _difference(first: MultiStream, second: MultiStream) -> float:
    """The largest difference of any weight."""
    theirs = second.state_dict()
    pairs = ((t.double(), theirs[n].double()) for n, t in first.state_dict().items() if t.numel())
    return max(float((own - other).abs().max()) for own, other in pairs)
