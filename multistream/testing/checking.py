"""check: runs a contract without pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from multistream.errors import MultistreamError
from multistream.registry import Kind
from multistream.registry.loading import one_line
from multistream.testing.base import Contract
from multistream.testing.datasets import DatasetContract
from multistream.testing.fusions import FusionContract
from multistream.testing.losses import LossContract
from multistream.testing.streams import StreamContract
from multistream.testing.taps import TapContract
from multistream.testing.temporals import TemporalContract

CONTRACTS: dict[str, type[Contract]] = {
    contract.kind: contract
    for contract in (StreamContract, TapContract, TemporalContract, FusionContract, LossContract, DatasetContract)
}
NEEDED = {"width": 16}
"""Arguments of streams that get their width from the data; they are not passed to other streams."""


class BrokenPromise(AssertionError):
    """A requirement that a component violates; `kept` are the requirements that it met before."""

    def __init__(self, promise: str, cause: str, kept: tuple[str, ...]) -> None:
        super().__init__(f"{promise}: {cause}")
        self.kept = kept


def check(kind: Kind, spec: str, *, options: Mapping[str, Any] | None = None, path: str = "") -> tuple[str, ...]:
    """Tests a component of the registry, NAME[:VARIANT][@DISTRIBUTION], with `options`; a data set layout opens `path`.

    Returns the requirements that it meets. Raises BrokenPromise, an AssertionError, for the first that it violates.

    >>> check("temporal", "concat")[1]
    'tokens (B, T, W) give (B, out_width), for one step too'
    """
    contract = type("Checked", (CONTRACTS[kind],), {"spec": spec, "options": dict(options or {}), "path": path})()
    if kind == "stream":
        contract.given = lambda: NEEDED
    kept: list[str] = []
    for attribute in sorted(dir(contract), key=_order(contract)):
        if not attribute.startswith("test_"):
            continue
        promise = getattr(contract, attribute)
        words = (promise.__doc__ or attribute).strip()
        try:
            promise()
        except MultistreamError:  # its message names the faulty component or option
            raise
        except AssertionError as error:
            raise BrokenPromise(words, str(error), tuple(kept)) from error
        except Exception as error:  # code of a plugin runs here
            raise BrokenPromise(words, one_line(error), tuple(kept)) from error
        kept.append(words)
    return tuple(kept)


def _order(contract: Contract) -> Callable[[str], int]:
    """Returns a sort key: the order in which a contract's tests are written."""
    written = {name: place for base in type(contract).__mro__ for place, name in enumerate(vars(base))}
    return lambda name: written.get(name, -1)
