"""Errors of plugin code: an exception becomes one line that names the part, its distribution and the fault."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from multistream.errors import MultistreamError, PluginError
from multistream.registry.catalogue import find
from multistream.registry.discovery import Claim, discover
from multistream.registry.loading import PLURALS, Kind, one_line
from multistream.spec import Spec


@dataclass(frozen=True)
class Owner:
    """The owner of a part: `where` the user named it, `name` with distribution and version, and what to `do`."""

    where: str
    name: str
    do: str = ""

    def broken(self, cause: str) -> PluginError:
        """The PluginError that reports that this part is broken; `cause` says why, with the value."""
        return PluginError(self.where, f"{self.name} is broken: {cause.rstrip('.')}.", do=self.do)

    @contextlib.contextmanager
    def running(self, doing: str = "") -> Iterator[None]:
        """Around code of the part: any exception except MultistreamError becomes a PluginError."""
        try:
            yield
        except MultistreamError:
            raise
        # A plugin's code may also call sys.exit(). KeyboardInterrupt is not caught.
        except (Exception, SystemExit) as error:
            raise self.broken(f"{doing} raised {one_line(error)}" if doing else one_line(error)) from error


def owner_of(kind: Kind, spec: Spec, *, where: str = "") -> Owner:
    """The owner of the part that a spec names."""
    part = find(kind, spec.name, distribution=spec.distribution)
    name = f"{part.name!r} of {part.distribution} {part.version}"
    return Owner(where or PLURALS[kind], name, f"Fix, upgrade or uninstall {part.distribution}.")


def owner_of_instance(made: object, *, where: str) -> Owner:
    """The owner of a part that was passed as an instance: its class."""
    return Owner(where, f"the instance of {type(made).__module__}.{type(made).__qualname__}", "Fix that class.")


def blamed(error: BaseException) -> PluginError | None:
    """The PluginError for an exception that a plugin's code caused; None if this package caused it.

    The innermost frame that is in this package or a plugin decides, so that an error in a library is its caller's.
    """
    homes: dict[Path, Claim | None] = {_home(claim.module): claim for claim in discover()}
    homes[_home(__name__)] = None
    files = (Path(frame.filename) for frame in reversed(traceback.extract_tb(error.__traceback__)))
    places = chain.from_iterable((file, *file.parents) for file in files)
    claim = homes[next(filter(homes.__contains__, places), _home(__name__))]
    if claim is None or claim.is_ours:
        return None
    names = ", ".join(repr(each.name) for each in discover() if each.distribution == claim.distribution)
    owner = Owner("plugins", f"{claim.owner} ({names})", f"Fix, upgrade or uninstall {claim.distribution}.")
    return owner.broken(one_line(error))


def _home(module: str) -> Path:
    """The path of the top-level package of an imported module: its folder, or its file if it is a single module."""
    path = Path(getattr(sys.modules.get(module.partition(".")[0]), "__file__", None) or "not imported")
    return path.parent if path.name == "__init__.py" else path
