"""Deletion and insertion (check E9), and that they do not change the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from multistream.explaining.faithfulness import (
    FaithfulnessMeter,
    answering,
    perturbation_curves,
    photo_streams,
    without_detail,
)
from multistream.runtime.device import Runtime
from tests.explaining.conftest import Make, example

CPU = Runtime(torch.device("cpu"))


def total(pictures: Tensor, rows: Tensor) -> Tensor:
    del rows
    return pictures.sum((1, 2, 3))


@pytest.mark.parametrize(
    ("values", "steps", "deletion", "insertion"),
    [([[0.4, 0.3, 0.2, 0.1]], 2, 0.4, 0.6), ([[0.3, 0.25, 0.2, 0.15, 0.1]], 3, 0.41, 0.59)],
)
@pytest.mark.parametrize("chunk", [1, 3, 32])
def test_curve_areas_of_a_sum(
    values: list[list[float]], steps: int, deletion: float, insertion: float, chunk: int
) -> None:
    """Check E9."""
    x = torch.tensor(values)[None, None]
    found = perturbation_curves(total, x, maps_BHW=x[:, 0], absent_BCHW=torch.zeros_like(x), steps=steps, chunk=chunk)
    assert found.deletion_area.item() == pytest.approx(deletion, abs=1e-6)
    assert found.insertion_area.item() == pytest.approx(insertion, abs=1e-6)


def test_curve_areas_equal_torch_cam() -> None:
    """The probabilities of a small network along its own Grad-CAM, photo by photo."""
    metrics, methods = pytest.importorskip("torchcam.metrics"), pytest.importorskip("torchcam.methods")
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = nn.Sequential(*layers, nn.Linear(4, 3)).eval()
    x = torch.rand(3, 3, 9, 9)
    targets = net(x).argmax(1).tolist()
    baseline = torch.full_like(x, 0.5)

    def answer(pictures: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            return net(pictures).softmax(1)[torch.arange(len(rows)), torch.tensor(targets)[rows]]

    with methods.GradCAM(net, net[1]) as extractor:
        for row in range(3):
            one = x[row : row + 1].clone().requires_grad_()
            cam = extractor.fuse_cams(extractor(targets[row], net(one).softmax(1))).detach()
            ours = perturbation_curves(
                lambda pictures, rows, row=row: answer(pictures, rows + row),
                one.detach(), maps_BHW=cam, absent_BCHW=baseline[:1], steps=7, chunk=5,
            )  # fmt: skip
            metric = metrics.DeletionInsertionMetric(
                extractor, lambda y: y.softmax(1), steps=7, baseline=baseline[:1], batch_size=4
            )
            metric.update(one, targets[row])
            theirs = metric.summary()
            assert ours.deletion_area.item() == pytest.approx(theirs["deletion_auc"], abs=1e-6)
            assert ours.insertion_area.item() == pytest.approx(theirs["insertion_auc"], abs=1e-6)


def test_replaced_pixels_keep_dtype_and_brightness() -> None:
    pictures = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    for kind in ("blur", "mean"):
        gone = without_detail(pictures, kind)  # type: ignore[arg-type]
        assert gone.dtype == torch.uint8
        assert gone.float().std() < 0.5 * pictures.float().std()
        assert (gone.float().mean((2, 3)) - pictures.float().mean((2, 3))).abs().max() < 5


def test_maps_of_another_size_raise() -> None:
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match="one size"):
        perturbation_curves(total, x, maps_BHW=torch.zeros(1, 2, 2), absent_BCHW=x)


def test_memory_is_bounded_by_the_chunk() -> None:
    sizes: list[int] = []

    def answer(pictures: Tensor, rows: Tensor) -> Tensor:
        sizes.append(len(pictures))
        return rows.float()

    x = torch.rand(5, 1, 8, 8)
    perturbation_curves(answer, x, maps_BHW=x[:, 0], absent_BCHW=x * 0, steps=8, chunk=6)
    assert max(sizes) == 6
    assert sum(sizes) == 5 * (2 + 2 * 7)  # the ends of both curves are evaluated once


def test_true_map_is_better_than_noise_and_its_inverse_is_worse() -> None:
    """For a model that sums a bright spot, the interval of the paired difference excludes 0."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.zeros(32, 32)
    weights[4:12, 20:28] = 1.0
    x = torch.rand(30, 1, 32, 32, generator=generator)
    meter = FaithfulnessMeter(absent="mean", steps=8)
    maps = (x[:, 0] * weights + weights).double()

    def answer(pictures: Tensor, rows: Tensor) -> Tensor:
        del rows
        return (pictures[:, 0] * weights).flatten(1).std(1)

    meter.add(answer, x, {"true": maps, "opposite": -maps})
    true, opposite = meter.results()
    assert (true.name, opposite.name, true.n) == ("true", "opposite", 30)
    assert true.insertion.difference_ci95[0] > 0
    assert opposite.insertion.difference_ci95[1] < 0
    assert true.insertion.difference == pytest.approx(true.insertion.value - true.insertion.noise)


def test_score_depends_only_on_the_replaced_photo(make: Make) -> None:
    network, batch = make(fusion="late"), example(3)
    targets = torch.tensor([0, 1, 2])

    def score(rows: Tensor):  # type: ignore[no-untyped-def]
        return lambda logits: logits.softmax(1)[torch.arange(len(rows)), targets[rows]]

    assert photo_streams(network) == ("left", "right")
    rows = torch.tensor([2, 0, 1, 1])
    answer = answering(network, batch, keys=["left", "right"], score=score, runtime=CPU)
    expected = network(batch).softmax(1)[torch.arange(3), targets]
    assert torch.allclose(answer(batch["image"][rows], rows), expected[rows], atol=1e-6)
    # one stream alone, through its own key
    other = example(4, seed=9)["image"]
    answer = answering(network, batch, keys=["left"], score=score, runtime=CPU)
    changed = {"left": other, "image": batch["image"][rows], "words": batch["words"][rows]}
    expected = network(changed).softmax(1)[torch.arange(4), targets[rows]]
    assert torch.allclose(answer(other, rows), expected, atol=1e-6)
