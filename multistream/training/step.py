"""The training objective (network and loss), and one optimizer step: backward, accumulation, clipping, all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from multistream.errors import DivergedError
from multistream.interfaces import FusionOutput
from multistream.network.network import MultiStream, Pooled
from multistream.network.present import draw_present, fuse_present
from multistream.nn.seeding import seeded
from multistream.parts.dropout import reseed_dropout
from multistream.recipe import TrainingSettings
from multistream.runtime.cuda_graphs import GraphedStreams
from multistream.runtime.device import Runtime
from multistream.runtime.distributed import ALONE, Ranks
from multistream.runtime.sharding import is_divided, whole
from multistream.training.feeds import Batch
from multistream.training.optimizers import make_optimizer, parameter_names, set_rate

Criterion = Callable[[Tensor, Tensor], Tensor]


class Objective(nn.Module):
    """Network and loss in one module, which compile and DDP wrap.

    `given` is a batch by input name, or the output of `pool` if the streams are frozen. `graphs` replays the streams in
    training, on a GPU. `stream_dropout` is the probability with which a stream is left out of an image in training; at
    least one stream always remains.
    """

    def __init__(
        self,
        network: MultiStream,
        *,
        criterion: Criterion,
        runtime: Runtime,
        pooled: bool,
        graphs: GraphedStreams | None = None,
        stream_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.network, self.criterion, self.runtime, self.pooled = network, criterion, runtime, pooled
        self.graphs, self.stream_dropout = graphs, stream_dropout

    def forward(self, given: Mapping[str, Any], labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """(given, labels) -> (loss, logits (B, K)). Streams run in the runtime's precision, the rest in float32."""
        if self.pooled:
            pooled = given
        elif self.graphs is not None and self.network.training:
            pooled = self.graphs.pool(given)
        else:
            with self.runtime.autocast:
                pooled = self.network.pool(given)
        with torch.autocast(labels_B.device.type, enabled=False):
            output = self._fused(pooled, len(labels_B))
            return self.network.fusion.loss(output, labels_B, self.criterion), output.logits

    def _fused(self, pooled: Pooled, rows: int) -> FusionOutput:
        streams = len(self.network.branches)
        if not (self.stream_dropout and self.network.training and streams > 1):
            return self.network.fuse(pooled)
        device = next(values.device for stages in pooled.values() for values in stages.values())
        return fuse_present(
            self.network, pooled, draw_present(rows, streams, dropout=self.stream_dropout, device=device)
        )


class Stepper:
    """Updates the weights of an objective's network, batch by batch.

    All images of a batch have the same weight in the gradient, however the batch is divided among the ranks.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        settings: TrainingSettings,
        runtime: Runtime,
        names: Callable[[int], str],
        ranks: Ranks = ALONE,
    ) -> None:
        self.network, self.criterion = objective.network, objective.criterion
        self.settings, self.runtime, self.names, self.ranks = settings, runtime, names, ranks
        self.trained = parameter_names(objective.network)
        self.optimizer = make_optimizer(objective.network, settings, runtime)
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.precision == "fp16")
        # FSDP2 averages the gradients of a divided objective.
        self.parallel = objective if is_divided(objective) else ranks.parallel(objective, runtime.device)
        compiles = runtime.compile and objective.graphs is None  # graphs compile the streams themselves
        self.module = torch.compile(self.parallel) if compiles else self.parallel
        self.pending, self.seen = 0.0, 0
        """This rank's part of the losses since `collect`, and the number of images of all ranks."""
        self.bad = ""
        """Files whose loss is not finite."""

    def __call__(self, batch: Batch, *, draw: int, pieces: float, last: bool, rate: float, step: int) -> None:
        """Runs forward and backward of one batch; the last batch of an accumulation also takes the optimizer step.

        `draw` numbers the batch within the training; a step has `pieces` such batches; `rate` multiplies the learning
        rates. Raises DivergedError on every rank if a loss or the gradient's norm is not finite.
        """
        set_rate(self.optimizer, rate)
        self._backward(batch, draw=draw, pieces=pieces, last=last)
        alone_and_bad = self.bad and self.ranks.size == 1  # with several ranks, all must reach the step's end
        if last or alone_and_bad:
            self._check_finite(self._gradient_norm(), step)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)

    def collect(self, signal: int, *, due: bool) -> tuple[float, int, int, bool]:
        """Returns totals of all ranks since the last call.

        (loss summed over images, number of images, the highest `signal`, whether a checkpoint is `due` on any rank)
        """
        rows = self.ranks.table(self.pending, signal, due)
        loss, seen = float(rows[:, 0].sum()), self.seen
        self.pending, self.seen = 0.0, 0
        return loss, seen, int(rows[:, 1].max()), bool(rows[:, 2].any())

    def _backward(self, batch: Batch, *, draw: int, pieces: float, last: bool) -> None:
        """Adds the gradients of a batch; a rank without images of the batch takes part with a loss of zero."""
        count = len(batch.labels)
        total, first, share, fewest = self._share(batch.labels)
        if not total and self.ranks.size == 1:  # no photo of the batch could be decoded
            return
        reseed_dropout(self.network, seed=self.settings.seed, step=draw, rows=(first if count else 0, max(1, total)))
        if fewest <= 1 and self.ranks.size > 1:
            # A rank with one image uses running statistics. They differ between ranks; a resumed run has rank 0's.
            self.ranks.copy_from_first(dict(self.network.named_buffers()))
        labels = stand_in(batch.labels)
        with (
            seeded(self.settings.seed, step=draw, rank=self.ranks.rank, device=self.runtime.device),
            _running_statistics(self.network, when=len(labels) == 1),
            self._synchronised(last),
        ):
            loss, _ = self.module(batch.given, labels)
            self.scaler.scale(loss * (share / pieces)).backward()
        value = loss.item() if count else 0.0
        if not math.isfinite(value):
            self.bad = ", ".join(self.names(int(i)) for i in batch.indices[:3])
        self.pending += value * share / self.ranks.size * total
        self.seen += total

    def _share(self, labels: Tensor) -> tuple[int, int, float, int]:
        """Returns this rank's share of a batch.

        (images of the batch on all ranks, images on lower ranks, factor that turns the mean of the ranks' means into
        the mean over images, images on the rank with the fewest)
        """
        if self.ranks.size == 1:
            return len(labels), 0, 1.0, len(labels)
        weights = getattr(self.criterion, "weights", None)
        alike = torch.ones(len(labels)) if weights is None or labels.ndim == 2 else weights[labels]
        divisor = float(alike.sum())  # of the criterion's mean
        counts = self.ranks.table(len(labels), divisor)
        total, first = counts[:, 0].sum(), counts[: self.ranks.rank, 0].sum()
        factor = divisor * self.ranks.size / counts[:, 1].sum() if total else 0.0
        return int(total), int(first), factor, int(counts[:, 0].min())

    def _synchronised(self, last: bool) -> AbstractContextManager[object]:
        """Restricts the gradients' synchronisation to the last batch of an accumulation."""
        if last or not isinstance(self.parallel, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self.parallel.no_sync()

    def _gradient_norm(self) -> Tensor:
        """Returns the norm of all gradients, which are clipped to `clip_norm` if it is set."""
        if self.settings.clip_norm > 0:
            self.scaler.unscale_(self.optimizer)
            return whole(nn.utils.clip_grad_norm_(list(self.trained.values()), self.settings.clip_norm))
        if self.scaler.is_enabled():  # scaled gradients may overflow; the scaler then skips the step
            return torch.tensor(0.0)
        return whole(nn.utils.get_total_norm([p.grad for p in self.trained.values() if p.grad is not None]))

    def _check_finite(self, norm: Tensor, step: int) -> None:
        """Raises DivergedError on every rank before the step, with the files of the rank whose loss was not finite."""
        overflow = not torch.isfinite(norm) and not self.scaler.is_enabled()
        if not self.ranks.sums(overflow or bool(self.bad))[0]:
            return
        files = next(filter(None, self.ranks.gather(self.bad)), "")
        rates = ", ".join(f"{group['lr']:.3g}" for group in self.optimizer.param_groups)
        what = f"the loss of {files}, ... is not finite" if files else f"the gradient's norm is {norm.item():.3g}"
        raise DivergedError(
            "training",
            f"{what} in step {step} (learning rate {rates}).",
            right="It must be finite, as it was at the last checkpoint.",
            do="Lower training.learning_rate, set training.clip_norm=1, or use --precision fp32.",
        )


def stand_in(labels: Tensor) -> Tensor:
    """Returns the labels of a batch; for an empty batch on this rank, a label for its image of zeros (see `Batch`)."""
    return labels if len(labels) else torch.zeros(1, dtype=torch.int64, device=labels.device)


@contextmanager
def _running_statistics(network: nn.Module, *, when: bool) -> Iterator[None]:
    """Makes trainable batch norms use running statistics: one image with a 1 x 1 map has no variance."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training] if when else []
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
