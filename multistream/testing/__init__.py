"""Contract tests for components of plugins.

    from multistream.testing import StreamContract

    class TestSketch(StreamContract):
        spec = "sketch"          # or: def make(self): return Sketch()

pytest collects the class and runs one test per requirement; the built-in components are tested in the same way.
"""

from multistream.testing.checking import BrokenPromise, check
from multistream.testing.datasets import DatasetContract
from multistream.testing.fusions import FusionContract
from multistream.testing.losses import LossContract
from multistream.testing.streams import StreamContract
from multistream.testing.taps import TapContract
from multistream.testing.temporals import TemporalContract

__all__ = [
    "BrokenPromise",
    "DatasetContract",
    "FusionContract",
    "LossContract",
    "StreamContract",
    "TapContract",
    "TemporalContract",
    "check",
]
