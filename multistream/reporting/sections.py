"""The page's sections, top to bottom: words and tables from what was gathered."""

from __future__ import annotations

from collections.abc import Sequence

from multistream.inference.metrics import Metrics
from multistream.profiling.counting import Count
from multistream.reporting import charts, fronts
from multistream.reporting.ablations import Ablation
from multistream.reporting.checks import Check
from multistream.reporting.facts import PARTS, Facts
from multistream.reporting.glossary import measures, part
from multistream.reporting.markup import Safe, details, interval, join, mark, pair, paragraph, percent, table, tag
from multistream.reporting.results import Line, reliability
from multistream.statistics import Interval

Costs = dict[tuple[str, str], tuple[Count, tuple[int, ...], int, int]]
"""{(stream, stage): (count, shape, parameters, trainable ones)}, as the profile counts them."""


PER_CLASS = ["class", "photos", "precision", "recall", "its 95 % interval", "F1"]


def section(identity: str, title: str, *children: str) -> Safe:
    """A section with its heading; nothing where nothing is in it."""
    given = {"id": identity, "aria-labelledby": f"{identity}-title"}
    return tag("section", tag("h2", title, attributes={"id": f"{identity}-title"}), *children, attributes=given)


def summary(facts: Facts, checks: Sequence[Check]) -> Safe:
    """The first paragraph: what a reader who reads no further should know."""
    found, name = facts.metrics, facts.result.data
    text = (
        f"On the {found.n:,} test photos of {name} the run is right in {percent(found.accuracy)} "
        f"(95 % interval {interval(found.accuracy_ci95)}); always saying the most frequent of the "
        f"{len(facts.classes)} classes is right in {percent(found.majority)}. "
    )
    failed = sum(not check.holds for check in checks)
    verdict = f"{failed} of {len(checks)} checks fail." if failed else f"All {len(checks)} checks hold."
    link = tag("a", verdict, attributes={"href": "#checks"})
    return tag("p", text, link, attributes={"class": "lead"})


def trained(facts: Facts) -> Safe:
    """What was trained on what."""
    recipe, counts = facts.result.recipe, facts.counts
    parameters = facts.result.parameters
    rows = [
        (
            "streams",
            ", ".join(f"{key} = {text}" if key != text else key for key, text in recipe.network.streams.items()),
        ),
        *((kind, part(kind, getattr(recipe.network, kind))) for kind in ("tap", "temporal", "fusion")),
        ("weights", ", ".join(f"{key} = {text}" for key, text in recipe.network.weights.items()) or "none given"),
        ("frozen", ", ".join(recipe.network.freeze) or "nothing"),
        ("parameters", f"{parameters['total']:,}, of which {parameters['trainable']:,} trained"),
        ("data", f"{facts.result.data}: {len(facts.rows):,} photos, {len(facts.classes)} classes"),
        ("sha256 of split.csv", facts.split_sha256),
        ("sha256 of the model", facts.model_sha256),
        ("seeds", f"training {recipe.training.seed}, split {recipe.data.split_seed}"),
        ("versions", ", ".join(f"{name} {number}" for name, number in facts.versions.items())),
    ]
    terms = [piece for name, text in rows for piece in (tag("dt", name), tag("dd", text))]
    counted = [[name, *(f"{counts[name][part]:,}" for part in PARTS)] for name in facts.classes]
    total = ["all", *(f"{sum(counts[name][part] for name in facts.classes):,}" for part in PARTS)]
    whole = tag("pre", tag("code", recipe.dumps()), attributes={"tabindex": "0"})
    return section(
        "trained",
        "What was trained on what",
        pair(
            tag("dl", *terms),
            table(["class", "training", "validation", "test"], [*counted, total], caption="Photos by class and part"),
        ),
        details("The whole recipe", whole),
    )


def results(facts: Facts, found: Sequence[Line], notes: Sequence[str]) -> Safe:
    """How good it is, class by class, and how far it can be trusted."""
    bins = reliability(facts.result.predictions)
    return section(
        "results",
        "Results",
        charts.comparison(found),
        *(tag("p", note, attributes={"class": "note"}) for note in notes),
        pair(
            join([tag("h3", "Measures"), *_measured(facts.metrics)]),
            join([tag("h3", "By class"), table(PER_CLASS, _by_class(facts.metrics), kind="tight")]),
        ),
        pair(
            join([tag("h3", "What was taken for what"), charts.confusion(facts.metrics)]),
            join([tag("h3", "Calibration"), charts.calibration(bins)]),
        ),
    )


def _measured(m: Metrics) -> list[Safe]:
    rows = _measures(m)
    words = measures(frozenset(row[0].partition(",")[0] for row in rows))
    numbers = table(["on the test part", "value", "95 % interval"], rows, kind="tight")
    return [numbers, tag("p", words, attributes={"class": "note"})]


def _measures(m: Metrics) -> list[list[str]]:
    rows = [
        ["accuracy", percent(m.accuracy), interval(m.accuracy_ci95)],
        ["balanced accuracy", percent(m.balanced_accuracy), interval(m.balanced_accuracy_ci95)],
        ["macro-F1", percent(m.macro_f1), interval(m.macro_f1_ci95)],
    ]
    if m.polarity_accuracy is not None and m.polarity_accuracy_ci95 is not None:
        rows.append(["polarity", percent(m.polarity_accuracy), interval(m.polarity_accuracy_ci95)])
    for name, value, ends in (
        ("negative log-likelihood, nats", m.nll, m.nll_ci95),
        ("Brier score", m.brier, m.brier_ci95),
        ("calibration error", m.ece, m.ece_ci95),
    ):
        rows.append([name, f"{value:.3f}", plain(ends)])
    return rows


def plain(ends: Interval, digits: int = 3) -> str:
    """An interval of numbers that are no shares."""
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}".replace("-", "−")


def _by_class(m: Metrics) -> list[list[str]]:
    return [
        [
            name,
            f"{r['n']:,}",
            percent(r["precision"]),
            percent(r["recall"]),
            interval(r["recall_ci95"]),
            f"{r['f1']:.3f}",
        ]
        for name, r in m.per_class.items()
    ]


def learned(facts: Facts) -> Safe:
    """The learning curves, if anything was learned."""
    if not facts.epochs:
        return section("learning", "Learning", paragraph("Nothing was left to train: the streams came trained."))
    best = facts.summary.get("best_epoch")
    kept = int(best) + 1 if isinstance(best, int | float) and 0 <= best < len(facts.epochs) else None
    return section("learning", "Learning", charts.learning(facts.epochs, best=kept))


def ablated(found: Sequence[Ablation], *, name: str) -> Safe:
    """Ablations and their Pareto front, or how to get them."""
    if not found:
        advice = paragraph("No ablation was made. ", tag("code", f"multistream ablate {name}"), " makes one.")
        return section("ablation", "Ablation", advice)
    return section("ablation", "Ablation", paragraph(fronts.INTRO), *(fronts.ablation(each) for each in found))


def cost(found: Costs, *, name: str) -> Safe:
    """Multiply-adds, parameters and memory, a row for each stage: counts, which are the same on every machine."""
    total = sum(entry[0].macs for entry in found.values()) or 1
    rows = [
        [
            " ".join(part for part in place if part),
            " × ".join(str(n) for n in shape[1:]),
            f"{params:,}",
            f"{counted.macs / 1e6:,.2f}",
            percent(counted.macs / total),
            f"{counted.peak_bytes / 2**20:,.1f}",
        ]
        for place, (counted, shape, params, _) in found.items()
    ]
    params = sum(entry[2] for entry in found.values())
    peak = max(entry[0].peak_bytes for entry in found.values())
    rows.append(["all", "", f"{params:,}", f"{total / 1e6:,.2f}", "100.0 %", f"{peak / 2**20:,.1f}"])
    head = ["stage", "gives", "parameters", "multiply-adds, M", "share", "peak, MiB"]
    note = paragraph(
        "For one photo, counted; the same on every machine. A stage gives channels × rows × columns, the taps stages × "
        "numbers; multiply-adds are in millions, the peak is what its activations take in memory at most. For times on "
        "your machine: ",
        tag("code", f"multistream profile {name}"),
        ".",
    )
    return section("cost", "Cost by stage", table(head, rows, kind="tight"), note)


def checked(found: Sequence[Check]) -> Safe:
    """The checks with their residuals."""
    rows = [
        [
            join([check.promise, tag("small", check.about)]),
            f"{check.measured:.3g}".replace("-", "−"),
            f"{check.limit:.3g}".replace("-", "−"),
            mark(check.holds),
        ]
        for check in found
    ]
    note = paragraph("Measured on this run while the page was made. What is measured must be at most the limit.")
    numbers = table(["promise", "measured", "limit", "verdict"], rows, kind="checks")
    return section("checks", "Checks", note, numbers)


def repeated(facts: Facts, *, name: str) -> Safe:
    """How to get all of this again."""
    commands = [
        f"multistream train --recipe {name}/recipe.toml --out again",
        f"multistream evaluate {name}",
        f"multistream compare {name} again",
        f"multistream explain {name} PHOTO",
        f"multistream ablate {name}",
        f"multistream profile {name}",
        f"multistream report {name}",
    ]
    text = paragraph(
        "From the folder that holds the run. The data must be those whose split.csv has the sha256 ",
        tag("code", facts.split_sha256),
        ".",
    )
    return section(
        "repeat", "How to repeat it", text, tag("pre", tag("code", "\n".join(commands)), attributes={"tabindex": "0"})
    )
