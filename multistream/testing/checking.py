"""check: a contract without pytest."""

from __future__ import annotations

from multistream.registry import Kind
from multistream.testing.base import Contract
from multistream.testing.fusions import FusionContract
from multistream.testing.streams import StreamContract
from multistream.testing.taps import TapContract
from multistream.testing.temporals import TemporalContract

CONTRACTS: dict[str, type[Contract]] = {
    contract.kind: contract for contract in (StreamContract, TapContract, TemporalContract, FusionContract)
}
NEEDED = {"stream": {"width": 16}}
"""Options for parts that take their width from the data; a part without such an option never sees it."""


def check(kind: Kind, name: str) -> tuple[str, ...]:
    """Tests a part of the registry; returns the promises that it keeps, AssertionError tells the first that it breaks.

    >>> check("temporal", "concat")[1]
    'tokens (B, T, W) give (B, out_width), for one step too'
    """
    if kind not in CONTRACTS:
        raise AssertionError(f"there is no contract for a {kind}; there is one for {', '.join(CONTRACTS)}")
    contract = type("Checked", (CONTRACTS[kind],), {"spec": name})()
    if kind == "stream":
        contract.given = lambda: NEEDED["stream"]
    kept = []
    for attribute in sorted(dir(contract), key=_order(contract)):
        if attribute.startswith("test_"):
            promise = getattr(contract, attribute)
            promise()
            kept.append((promise.__doc__ or attribute).strip())
    return tuple(kept)


def _order(contract: Contract):  # type: ignore[no-untyped-def]
    """The order in which a contract's tests are written."""
    written = {name: place for base in type(contract).__mro__ for place, name in enumerate(vars(base))}
    return lambda name: written.get(name, -1)
