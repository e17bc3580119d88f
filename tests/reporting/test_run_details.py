"""Damaged files of a run give one line instead of a traceback; non-finite values are left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from multistream.checksums import COVERED, SUMS
from multistream.errors import DataError, MultistreamError
from multistream.reporting.ablations import read_ablations
from multistream.reporting.run_details import read_run_details

FILES = ("summary.json", "metrics.jsonl", "split.csv", "predictions.csv", "recipe.toml", "ablations/depth.json")


def damaged(content: bytes, chance: np.random.Generator) -> bytes:
    """Flips one bit, or truncates the content."""
    place = int(chance.integers(len(content)))
    if chance.random() < 0.25:
        return content[:place]
    flipped = content[place] ^ (1 << int(chance.integers(8)))
    return content[:place] + bytes([flipped]) + content[place + 1 :]


def copied(early: Path, folder: Path) -> Path:
    """Copies the run without its checksums, so that the readers get the damaged content."""
    run = shutil.copytree(early, folder / "run")
    (run / SUMS).unlink()
    return run


@pytest.mark.parametrize("name", FILES)
def test_damaged_file_raises_one_line(early: Path, tmp_path: Path, name: str) -> None:
    run = copied(early, tmp_path)
    content = (run / name).read_bytes()
    chance = np.random.default_rng(0)
    messages = []
    for _ in range(40):
        (run / name).write_bytes(damaged(content, chance))
        try:
            read_run_details(run, run / "model.safetensors")
            read_ablations(run)
        except MultistreamError as error:
            messages.append(str(error))
    assert messages
    assert not [message for message in messages if "\n" in message]


@pytest.mark.parametrize("name", COVERED)
def test_flipped_bit_is_always_detected(early: Path, tmp_path: Path, name: str) -> None:
    run = shutil.copytree(early, tmp_path / "run")
    content, chance = (run / name).read_bytes(), np.random.default_rng(1)
    for _ in range(10):
        (run / name).write_bytes(damaged(content, chance))
        with pytest.raises(MultistreamError):
            read_run_details(run, run / "model.safetensors")


@pytest.mark.parametrize("row", ["5", "[]", '{"epoch": "one"}', '{"epoch": 1e999}', '{"epoch": 0, "val_loss": []}'])
def test_invalid_line_of_the_log_raises_with_file_name(early: Path, tmp_path: Path, row: str) -> None:
    run = copied(early, tmp_path)
    (run / "metrics.jsonl").write_text(row + "\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl"):
        read_run_details(run, run / "model.safetensors")


def test_non_finite_loss_is_left_out(early: Path, tmp_path: Path) -> None:
    run = copied(early, tmp_path)
    (run / "metrics.jsonl").write_text('{"epoch": 0, "train_loss": NaN, "val_loss": 1.5, "val_accuracy": null}\n')
    assert read_run_details(run, run / "model.safetensors").epochs == [{"epoch": 1, "val_loss": 1.5}]


@pytest.mark.parametrize("changed", [{"macs": float("inf")}, {"accuracy": None}, {"label": "x", "macs": []}])
def test_invalid_ablation_row_raises_with_file_name(early: Path, tmp_path: Path, changed: dict[str, object]) -> None:
    run = copied(early, tmp_path)
    path = run / "ablations" / "depth.json"
    content = json.loads(path.read_text())
    content["rows"][0] |= changed
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"depth\.json"):
        read_ablations(run)
