"""The parts by name: their owners, which are broken, and read-only mappings of their factories."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from multistream.errors import MultistreamError, PluginError, UsageError, nearest
from multistream.hookspecs import Factory
from multistream.records import JsonRecord
from multistream.registry.discovery import DISABLED, Claim, discover, normalised
from multistream.registry.loading import KINDS, PLURALS, Kind, fault_in_source, load, one_line, quiet_stdout


class UnknownPart(UsageError, KeyError):
    """No plugin offers this name. Also a KeyError, so that `get` of the mappings works."""

    __str__ = Exception.__str__  # KeyError.__str__ would put the message in quotes


@dataclass(frozen=True)
class Part:
    """One part as offered by its plugin, not yet imported."""

    kind: Kind
    name: str
    distribution: str
    version: str
    factory: Factory

    def resolve(self) -> Callable[..., Any]:
        """Returns the factory, and imports it if it was offered as "module:attribute"; PluginError if that fails."""
        if not isinstance(self.factory, str):
            return self.factory
        module, _, attribute = self.factory.partition(":")
        try:
            with quiet_stdout():
                factory = operator.attrgetter(attribute)(importlib.import_module(module))
        # The plugin's own code runs here: see registry.loading for why SystemExit is caught and Ctrl-C is not.
        except (Exception, SystemExit) as error:
            raise self.broken(one_line(error)) from error
        if not callable(factory):
            raise self.broken(f"it is a {type(factory).__name__}, which cannot be called")
        return factory  # type: ignore[no-any-return]

    def broken(self, cause: str) -> PluginError:
        """The PluginError that reports that this part's factory cannot be used."""
        what = f"{self.name!r} of {self.distribution} {self.version} ({self.factory}) is broken: {cause}."
        return PluginError(PLURALS[self.kind], what, do=f"Fix, upgrade or uninstall {self.distribution}.")


@dataclass(frozen=True)
class PartInfo(JsonRecord):
    """A row of `multistream plugins`; `kind` is None for a broken or disabled plugin, whose kind is unknown."""

    name: str
    kind: Kind | None
    distribution: str
    version: str
    status: Literal["ok", "broken", "disabled"]
    error: str = ""


class PartCatalogue(Mapping[str, Callable[..., Any]]):
    """All parts of one kind, name -> factory. Looking up `NAME` or `NAME@DISTRIBUTION` imports only that plugin."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def __getitem__(self, name: str) -> Callable[..., Any]:
        name, _, distribution = name.partition("@")
        return find(self.kind, name, distribution=distribution or None).resolve()

    def __contains__(self, name: object) -> bool:
        return self.kind in kinds_of_name(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(claim.name for claim in discover() if self.kind in kinds_of(claim)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<{PLURALS[self.kind]}: {', '.join(self)}>"


streams, taps, temporals, fusions, losses, datasets = (PartCatalogue(kind) for kind in KINDS)


def find(kind: Kind, name: str, *, distribution: str | None = None) -> Part:
    """Returns the part of this kind and name; UsageError if unknown, PluginError if broken, disabled or ambiguous.

    The name of one of this project's parts always refers to it, even if another plugin offers the name, so that the
    recipe of a run keeps its meaning.
    """
    claims = claims_of(name)
    if distribution is not None:
        claims = _of_distribution(kind, name, claims, distribution)
    chosen = _meant(claims, kind)
    if not chosen:
        raise _refusal(PLURALS[kind], name, claims, kinds=(kind,))
    if len(chosen) > 1:
        raise PluginError(PLURALS[kind], _ambiguity(name, chosen))
    return _part(chosen[0], kind)


def _meant(claims: list[Claim], kind: Kind) -> list[Claim]:
    """The claims that a name without a distribution refers to: this project's if it offers this kind, else all."""
    # Claims with the same module are the same code: multistream and multistream-object both install plugins/object.
    offering = {claim.module: claim for claim in reversed(claims) if kind in kinds_of(claim)}
    each = list(offering.values())[::-1]
    return [claim for claim in each if claim.is_ours] or each


def _part(claim: Claim, kind: Kind) -> Part:
    factory = load(claim.module).offers[kind][claim.name]
    return Part(kind, claim.name, claim.distribution, claim.version, factory)


def find_any(name: str, *, distribution: str | None = None) -> tuple[Part, ...]:
    """The parts of this name, one for each kind that has it; raises the errors of `find` if there is none."""
    offered = kinds_of_name(name)
    if not offered:
        raise _refusal("plugins", name, claims_of(name), kinds=KINDS)
    return tuple(find(kind, name, distribution=distribution) for kind in KINDS if kind in offered)


def parts(*, imported: bool = False) -> tuple[PartInfo, ...]:
    """All parts of all installed distributions, sorted by kind and name.

    Imports the plugins' modules, but not the factories: it reads their source, which shows a missing module, a missing
    name and a syntax error. With `imported` it also imports every factory (and thus torch), which finds every error.
    """
    rows = [row for claim in discover() for row in _rows(claim, imported=imported)] + unnamed()
    order = {kind: place for place, kind in enumerate((*KINDS, None))}
    return tuple(sorted(rows, key=lambda row: (order[row.kind], row.name, normalised(row.distribution))))


def claims_of(name: object) -> list[Claim]:
    """The entry points of this name, disabled ones included."""
    return [claim for claim in discover() if claim.name == name]


def kinds_of(claim: Claim) -> tuple[Kind, ...]:
    """Imports a claim's module; returns the kinds of part offered under its name, () if it is broken or disabled."""
    if claim.disabled:
        return ()
    return tuple(kind for kind, offered in load(claim.module).offers.items() if claim.name in offered)


def kinds_of_name(name: object) -> set[Kind]:
    """The kinds of part that any plugin offers under this name."""
    return {kind for claim in claims_of(name) for kind in kinds_of(claim)}


def unnamed() -> list[PartInfo]:
    """Parts that a module offers without an entry point, so that they cannot be found by name."""
    live = [claim for claim in discover() if not claim.disabled]
    named = {(claim.module, claim.name) for claim in live}
    modules = {claim.module: claim for claim in reversed(live)}
    return [
        _without_entry_point(claim, kind, name)
        for claim in modules.values()
        for kind, offered in load(claim.module).offers.items()
        for name in offered
        if (claim.module, name) not in named
    ]


def _without_entry_point(claim: Claim, kind: Kind, name: str) -> PartInfo:
    key = name if name.replace("_", "").replace("-", "").isalnum() else f'"{name}"'
    line = f'{key} = "{claim.module}"'
    error = f"no entry point names it: add the line {line} to [project.entry-points.multistream]"
    return PartInfo(name, kind, claim.distribution, claim.version, "broken", error)


def _rows(claim: Claim, *, imported: bool) -> Iterator[PartInfo]:
    """The rows of one claim: one for each kind, because one name may be both a tap and a fusion."""
    if error := _failure(claim):
        status: Literal["broken", "disabled"] = "disabled" if claim.disabled else "broken"
        yield PartInfo(claim.name, None, claim.distribution, claim.version, status, error.removeprefix("broken: "))
    for kind in kinds_of(claim):
        yield PartInfo(claim.name, kind, claim.distribution, claim.version, *_verdict(claim, kind, imported=imported))


def _verdict(claim: Claim, kind: Kind, *, imported: bool) -> tuple[Literal["ok", "broken"], str]:
    """The status of a claim's part of this kind, and the note or error to print with it."""
    meant = _meant(claims_of(claim.name), kind)
    if meant[0].is_ours and not claim.is_ours:
        return "ok", f"{claim.name!r} is {meant[0].owner}; for this one write {claim.name}@{claim.distribution}"
    if len(meant) > 1:
        return "broken", _ambiguity(claim.name, meant)
    error = _factory_fault(claim, kind, imported=imported)
    return ("broken", error) if error else ("ok", "")


def _factory_fault(claim: Claim, kind: Kind, *, imported: bool) -> str:
    """Why a claim's factory cannot be imported, found by importing it or by reading its source; "" if it can."""
    part = _part(claim, kind)
    if not imported:
        return fault_in_source(part.factory) if isinstance(part.factory, str) else ""
    try:
        part.resolve()
    except PluginError as error:
        return one_line(error.__cause__) if error.__cause__ else str(error)
    return ""


def _failure(claim: Claim) -> str:
    """Why a claim cannot be used, as the words after "is"; "" if it can."""
    if claim.disabled:
        return f"disabled by {DISABLED}"
    plugin = load(claim.module)
    if plugin.error:
        return f"broken: {plugin.error}"
    if not kinds_of(claim):
        return f"broken: an entry point names it, but no hook of {claim.module} provides it"
    return ""


def _of_distribution(kind: Kind, name: str, claims: list[Claim], distribution: str) -> list[Claim]:
    found = [claim for claim in claims if normalised(claim.distribution) == normalised(distribution)]
    if claims and not found:
        owners = ", ".join(f"{name}@{claim.distribution}" for claim in claims)
        raise UnknownPart(
            PLURALS[kind], f"{distribution!r} provides no {name!r}.", right=f"It is provided by {owners}."
        )
    if normalised(distribution) not in {normalised(claim.distribution) for claim in discover()}:
        raise PluginError(
            PLURALS[kind], f"{name!r} needs {distribution}, which is not installed.", do="Install it with pip."
        )
    return found


def _ambiguity(name: str, claims: list[Claim]) -> str:
    owners = " and ".join(claim.owner for claim in claims)
    settled = " or ".join(f"{name}@{claim.distribution}" for claim in claims)
    return f"{name!r} is provided by {owners}. Write {settled}, or name one of them in {DISABLED}."


def _refusal(where: str, name: str, claims: list[Claim], *, kinds: tuple[Kind, ...]) -> MultistreamError:
    """The error for a name without a part of these kinds; loads all plugins if those of that name do not explain it."""
    if claim := next(filter(_failure, claims), None):
        do = f"Unset {DISABLED}." if claim.disabled else f"Fix, upgrade or uninstall {claim.distribution}."
        return PluginError(where, f"{name!r} of {claim.owner} is {_failure(claim)}.", do=do)
    for row in unnamed():
        if row.name == name and row.kind in kinds:
            return PluginError(where, f"{name!r} of {row.distribution} {row.version} is broken: {row.error}.")
    return _unknown(where, name, kinds)


def _unknown(where: str, name: str, kinds: tuple[Kind, ...]) -> UnknownPart:
    rows = parts()
    right = f"Known: {', '.join(_known(rows, kinds)) or 'none'}."
    of_other_kind = next((row.kind for row in rows if row.name == name and row.kind), None)
    if of_other_kind:
        return UnknownPart(where, f"{name!r} is a {of_other_kind}, not a {' or '.join(kinds)}.", right=right)
    guess = nearest(name, [row.name for row in rows if row.kind in (*kinds, None)])
    is_run = "stream" in kinds and (Path(name) / "recipe.toml").is_file()
    do = f"A run's path has a slash: ./{name}." if is_run else ""
    return UnknownPart(where, f"{name!r} is unknown.", right=f"{guess}{right}", do=do)


def _known(rows: Iterable[PartInfo], kinds: tuple[Kind, ...]) -> list[str]:
    """The names of parts of these kinds, with the status of those that do not work."""
    words = {"ok": "", "broken": " (broken)", "disabled": " (disabled)"}
    return list({row.name: row.name + words[row.status] for row in rows if row.kind in kinds}.values())
