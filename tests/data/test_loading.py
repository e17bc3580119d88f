"""Loading: batches in the order asked for, whatever the workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from multistream.data.decoding import BadImage, Decoder
from multistream.data.layouts.data_source import open_table
from multistream.data.loading import Photos, loaded
from multistream.errors import DataError


@pytest.fixture
def made(photos: Callable[..., Path]) -> Photos:
    """Ten photos, a vector and a map for each."""
    table = open_table(str(photos(*(f"{'ab'[n % 2]}/{n}.png" for n in range(10)))))
    rows = np.arange(30, dtype=np.float32).reshape(10, 3)
    return Photos(table, Decoder(8), vectors={"anp": rows}, maps={"depth": lambda i: np.full((1, 8, 8), i, np.float32)})


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches(made: Photos, workers: int) -> None:
    indices = np.array([7, 3, 9, 0, 1, 2, 8])
    batches = list(loaded(made, indices, batch_size=3, workers=workers))
    assert [len(batch["index"]) for batch in batches] == [3, 3, 1]
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    assert whole["index"].tolist() == indices.tolist()
    assert {name: (t.dtype, tuple(t.shape)) for name, t in whole.items()} == {
        "image": (torch.uint8, (7, 3, 8, 8)),
        "depth": (torch.float32, (7, 1, 8, 8)),
        "anp": (torch.float32, (7, 3)),
        "index": (torch.int64, (7,)),
    }
    for row, index in enumerate(indices):
        assert made.decoder is not None
        np.testing.assert_array_equal(whole["image"][row], made.decoder.read(made.table.path(index)))
        assert (whole["depth"][row] == index).all()
        np.testing.assert_array_equal(whole["anp"][row], made.vectors["anp"][index])


def test_no_workers_means_no_threads(made: Photos) -> None:
    seen = set()

    def depth(index: int) -> NDArray[np.float32]:
        seen.add(threading.current_thread())
        return np.full((1, 8, 8), index, np.float32)

    photos = Photos(made.table, None, maps={"depth": depth})
    before = threading.active_count()
    for batch in loaded(photos, range(10), batch_size=4):
        assert set(batch) == {"depth", "index"}
        assert threading.active_count() <= before
    assert seen == {threading.main_thread()}


def test_threads_end_with_the_loading(made: Photos) -> None:
    before = threading.active_count()
    batches = loaded(made, range(10), batch_size=1, workers=3)
    next(batches)
    assert threading.active_count() <= before + 3
    batches.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def spoil(photos: Photos, *indices: int) -> None:
    for index in indices:
        photos.table.path(index).write_bytes(b"")


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_by_policy(made: Photos, workers: int) -> None:
    spoil(made, 2, 4, 5)
    with pytest.raises(BadImage, match="empty"):
        list(loaded(made, range(10), batch_size=2, workers=workers))
    for policy, remembered in (("report", {2: "empty", 4: "empty", 5: "empty"}), ("skip", {})):
        photos = Photos(made.table, made.decoder, vectors=made.vectors, on_bad_image=policy)  # type: ignore[arg-type]
        batches = list(loaded(photos, range(10), batch_size=2, workers=workers))
        assert [batch["index"].tolist() for batch in batches] == [[0, 1], [3], [], [6, 7], [8, 9]]
        assert batches[1]["image"].shape == (1, 3, 8, 8)
        assert photos.bad == remembered


@pytest.mark.parametrize("workers", [0, 2])
def test_other_errors_are_nobodys_policy(made: Photos, workers: int) -> None:
    def broken(index: int) -> NDArray[np.float32]:
        raise DataError("depth", f"image {index} has none.")

    photos = Photos(made.table, None, maps={"depth": broken}, on_bad_image="report")
    with pytest.raises(DataError, match="image 0 has none"):
        list(loaded(photos, range(10), batch_size=2, workers=workers))


def test_a_file_that_hangs_is_named(made: Photos) -> None:
    done = threading.Event()

    def hanging(index: int) -> NDArray[np.float32]:
        if index == 3:
            done.wait(30)
        return np.zeros((1, 8, 8), np.float32)

    photos = Photos(made.table, None, maps={"depth": hanging})
    with pytest.raises(DataError) as caught:
        list(loaded(photos, range(10), batch_size=2, workers=2, timeout=0.2))
    done.set()
    assert str(photos.table.path(3)) in str(caught.value)
    assert "still being read after 0.2 s" in str(caught.value)


def test_vectors_must_fit_the_table(made: Photos) -> None:
    with pytest.raises(ValueError, match="4 rows for 10 images"):
        Photos(made.table, None, vectors={"anp": np.zeros((4, 2), np.float32)})


def test_it_is_a_torch_dataset(made: Photos) -> None:
    batch = next(iter(torch.utils.data.DataLoader(made, batch_size=5)))
    assert batch["image"].shape == (5, 3, 8, 8)


@pytest.mark.gpu
def test_batches_for_a_gpu_are_pinned(made: Photos) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    (batch,) = loaded(made, range(10), batch_size=10, workers=2, pin=True)
    assert batch["image"].is_pinned()
