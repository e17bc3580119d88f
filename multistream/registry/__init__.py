"""The registry: which plugins there are, what they offer, and how a part is built from its spec.

>>> from multistream.registry import fusions
>>> "early" in fusions
True
"""

from multistream.registry.building import build, signature, variants
from multistream.registry.catalogue import (
    Part,
    PartInfo,
    Parts,
    UnknownPart,
    datasets,
    find,
    find_any,
    fusions,
    parts,
    streams,
    taps,
    temporals,
)
from multistream.registry.discovery import Claim, discover
from multistream.registry.loading import KINDS, Kind
from multistream.spec import Spec, check_key, parse_specs

__all__ = [
    "KINDS",
    "Claim",
    "Kind",
    "Part",
    "PartInfo",
    "Parts",
    "Spec",
    "UnknownPart",
    "build",
    "check_key",
    "datasets",
    "discover",
    "find",
    "find_any",
    "fusions",
    "parse_specs",
    "parts",
    "signature",
    "streams",
    "taps",
    "temporals",
    "variants",
]
