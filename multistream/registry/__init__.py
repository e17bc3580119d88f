"""Registry of plugins: discovery, loading, and building parts from their specs.

>>> from multistream.registry import fusions
>>> "early" in fusions
True
"""

from multistream.registry.building import build, pinned, signature, variants
from multistream.registry.catalogue import (
    Part,
    PartCatalogue,
    PartInfo,
    UnknownPart,
    datasets,
    find,
    find_any,
    fusions,
    losses,
    parts,
    streams,
    taps,
    temporals,
)
from multistream.registry.discovery import Claim, discover
from multistream.registry.failures import Owner, owner_of, owner_of_instance
from multistream.registry.loading import KINDS, PLURALS, Kind
from multistream.spec import Spec, check_key, parse_specs

__all__ = [
    "KINDS",
    "PLURALS",
    "Claim",
    "Kind",
    "Owner",
    "Part",
    "PartCatalogue",
    "PartInfo",
    "Spec",
    "UnknownPart",
    "build",
    "check_key",
    "datasets",
    "discover",
    "find",
    "find_any",
    "fusions",
    "losses",
    "owner_of",
    "owner_of_instance",
    "parse_specs",
    "parts",
    "pinned",
    "signature",
    "streams",
    "taps",
    "temporals",
    "variants",
]
