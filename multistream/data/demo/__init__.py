"""The demo set: eight emotions that combine three planted cues, for a complete run without other data or downloads."""

from multistream.data.demo.dataset import Cues, demo, demo_cues

__all__ = ["Cues", "demo", "demo_cues"]
