"""What a training run with the features in the cache imports: no library that it needs a few lines of."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("sklearn", "scipy", "matplotlib", "pandas")

SCRIPT = f"""
import sys
import numpy as np
from multistream import compose
from multistream.data.folds import two_parts
from multistream.inference.metrics import metrics
from multistream.training.folds import train
from multistream.training.solver import fit_probe

compose(["object", "places"], classes=["awe", "joy"])
rng = np.random.default_rng(0)
probe = fit_probe({{"one": rng.normal(size=(40, 3))}}, np.arange(40) % 2)
metrics(probe.probabilities({{"one": rng.normal(size=(40, 3))}}), np.arange(40) % 2, ["awe", "joy"])
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def test_a_training_imports_no_heavy_library() -> None:
    """scikit-learn and SciPy take as long to import as torch."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
