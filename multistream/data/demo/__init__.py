"""The demo set: eight emotions made of three planted cues, to see a whole run without data or network of one's own."""

from multistream.data.demo.dataset import Cues, demo, demo_cues

__all__ = ["Cues", "demo", "demo_cues"]
