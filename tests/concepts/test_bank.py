"""A bank's file: what is written is read, and what is not a bank is refused with what to type."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from multistream.concepts.bank import ConceptBank, read_bank, write_bank
from multistream.errors import WeightsError


def test_a_bank_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = ConceptBank(
        ("old_city", "café noir"),
        torch.tensor([[1.0, 0.0], [0.5, -0.25]]),
        image_model="resnet50_clip.openai",
        logit_scale=100.0,
        logit_bias=-12.5,
        model="RN50",
        weights="openai",
        templates=("a photo of {}", "{}"),
    )
    write_bank(made, tmp_path / "bank.safetensors")
    read = read_bank(tmp_path / "bank.safetensors")
    assert torch.equal(read.embeddings, made.embeddings)
    assert {**vars(read), "embeddings": None} == {**vars(made), "embeddings": None}


def test_what_is_no_bank_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    with pytest.raises(WeightsError, match="there is no concept bank"):
        read_bank(path)
    path.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_bank(path)
    save_file({"embeddings": torch.zeros(2, 2)}, path)
    with pytest.raises(WeightsError, match="it is not a concept bank"):
        read_bank(path)
    save_file({"embeddings": torch.zeros(2, 2)}, path, metadata={"multistream.concepts": '{"format": 7}'})
    with pytest.raises(WeightsError, match="its format is '7'"):
        read_bank(path)
    save_file({"embeddings": torch.zeros(2, 2)}, path, metadata={"multistream.concepts": '{"format": 1}'})
    with pytest.raises(WeightsError, match="it is malformed"):
        read_bank(path)


@pytest.mark.parametrize(
    ("names", "embeddings", "says"),
    [
        (("a",), torch.ones(2, 3), "1 names and embeddings of shape"),
        (("a", "a"), torch.ones(2, 3), "twice"),
        (("a", "b"), torch.tensor([[1.0], [0.0]]), "zero"),
        (("a", "b"), torch.tensor([[1.0], [float("nan")]]), "NaN"),
    ],
)
def test_impossible_numbers_are_refused(names: tuple[str, ...], embeddings: torch.Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ConceptBank(names, embeddings, image_model="resnet50_clip")
