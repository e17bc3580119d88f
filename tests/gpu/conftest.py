"""What the GPU's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def deterministic_float32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Convolutions in float32, not in TF32, whose 10 bits of mantissa are 1e-3 off; and the same kernels each time."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    cudnn.allow_tf32, cudnn.deterministic = False, True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    cudnn.allow_tf32, cudnn.deterministic = before[:2]
    torch.use_deterministic_algorithms(before[2])
