"""report: one self-contained HTML page that tells the whole story of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from multistream.console import Console
from multistream.errors import UsageError
from multistream.files import write_atomic
from multistream.inference.model import Model, load
from multistream.nn.eval_mode import evaluating
from multistream.profiling.profile import count_pieces
from multistream.reporting import sections
from multistream.reporting.ablations import read_ablations
from multistream.reporting.attributed import by_stream, planted
from multistream.reporting.checks import Check, run_checks
from multistream.reporting.choosing import choose
from multistream.reporting.cues import Cue, measure_cues
from multistream.reporting.evidence import Evidence, gather_evidence
from multistream.reporting.facts import Facts, read_facts
from multistream.reporting.gallery import gallery
from multistream.reporting.markup import Safe
from multistream.reporting.measuring import Measured, measure
from multistream.reporting.page import assemble
from multistream.reporting.results import Line, lines
from multistream.runs.model_file import require_trained
from multistream.statistics import paired_bootstrap

PAGE = "report.html"


@dataclass(frozen=True)
class Report:
    """A page that was written, and what it holds in numbers."""

    path: Path
    bytes: int
    photos: int
    results: Sequence[Line]
    cues: Sequence[Cue]
    """On the demo set: what is known of the planted evidence."""
    checks: Sequence[Check]

    def to_dict(self) -> dict[str, Any]:
        """What `report --json` prints."""
        checks = [{**asdict(check), "holds": check.holds} for check in self.checks]
        return {**asdict(self), "path": str(self.path), "checks": checks}


def report(
    run: str | Path,
    *,
    photos: int = 24,
    against: Sequence[str | Path] = (),
    out: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    console: Console | None = None,
) -> Report:
    """Writes RUN/report.html, or `out`: the same page for the same run, byte by byte.

    `photos` of the test part are explained; with 0 none is looked at, and the data need not be here. `against` are
    runs with the same test part, which the results are held against. Raises DataError for a run without a test part,
    or whose photos are gone, UsageError for runs that cannot be compared.
    """
    console = console or Console(quiet=True)
    if photos < 0:
        raise UsageError("--photos", f"{photos} is negative.", right="0 leaves the gallery out.")
    model = load(run)
    require_trained(model, "report")
    facts = read_facts(model.path.parent, model.path)
    with evaluating(model.network):
        costs = count_pieces(model.network.cpu())
    seen = (
        _look(model, facts, photos=photos, device=device, precision=precision, console=console) if photos else _Seen()
    )
    own, masked = (seen.measured.streams, seen.measured.masked) if seen.measured else ({}, {})
    found, notes = lines(facts, own=own, masked=masked, against=against)
    checks = run_checks(facts, seen.measured, seen.evidence)
    name = facts.folder.resolve().name
    parts = {
        "trained": sections.trained(facts),
        "results": sections.results(facts, found, notes),
        "learning": sections.learned(facts),
        "ablation": sections.ablated(read_ablations(facts.folder), name=name),
        "cost": sections.cost(costs, name=name),
        "checks": sections.checked(checks),
        "repeat": sections.repeated(facts, name=name),
        **seen.sections(),
    }
    page = assemble(title=facts.title, name=name, summary=sections.summary(facts, checks), sections=parts).encode()
    path = Path(out).expanduser() if out else facts.folder / PAGE
    write_atomic(path, page)
    return Report(path, len(page), seen.photos, found, seen.cues, checks)


@dataclass(frozen=True)
class _Seen:
    """What the photos showed; nothing where none were looked at."""

    measured: Measured | None = None
    evidence: Evidence | None = None
    cues: Sequence[Cue] = ()

    @property
    def photos(self) -> int:
        """How many are explained one by one."""
        return len(self.evidence.data["photos"]) if self.evidence else 0

    def sections(self) -> dict[str, Safe]:
        """The sections that need photos."""
        found = {}
        if self.measured and self.evidence:
            found["evidence"] = gallery(self.evidence, _by_stream(self.measured))
        if self.cues:
            found["cues"] = planted(self.cues)
        return found


def _look(model: Model, facts: Facts, *, photos: int, device: str, precision: str, console: Console) -> _Seen:
    """Runs the network over the test part, and explains some of it."""
    told = facts.result.predictions
    measured = measure(model, told, facts.rows, device=device, precision=precision, console=console)
    evidence = gather_evidence(measured, choose(told, photos=photos))
    return _Seen(measured, evidence, measure_cues(measured) if not facts.result.recipe.data.source else ())


def _by_stream(measured: Measured) -> Safe:
    """Each stream's mean Shapley value for the photos' own classes; nothing to tell of one stream."""
    keys = list(measured.model.network.branches)
    if len(keys) < 2:
        return Safe("")
    labels = measured.table.labels
    values = measured.attribution().streams.cpu().numpy()[np.arange(len(labels)), labels]
    given = [(key, float(v.mean()), paired_bootstrap(v)) for key, v in zip(keys, values.T, strict=True)]
    return by_stream(given, n=len(labels))


__all__ = ["Evidence", "Facts", "Report", "report"]
