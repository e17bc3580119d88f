"""The page's sections, top to bottom: words and tables from what was gathered."""

from __future__ import annotations

from collections.abc import Sequence

from multistream.data.names import printable
from multistream.evaluation import Metrics
from multistream.profiling.counting import Count
from multistream.reporting import charts
from multistream.reporting.ablations import Ablation
from multistream.reporting.checks import Check
from multistream.reporting.cues import Cue, Share
from multistream.reporting.dots import Entry, dot_plot
from multistream.reporting.facts import PARTS, Facts
from multistream.reporting.figures import axis, figure
from multistream.reporting.markup import Safe, details, interval, join, paragraph, percent, signed, table, tag
from multistream.reporting.results import Line, reliability
from multistream.statistics import Interval

Costs = dict[tuple[str, str], tuple[Count, tuple[int, ...], int, int]]
"""{(stream, stage): (count, shape, parameters, trainable ones)}, as the profile counts them."""


def section(identity: str, title: str, *children: str) -> Safe:
    """A section with its heading; nothing where nothing is in it."""
    given = {"id": identity, "aria-labelledby": f"{identity}-title"}
    return tag("section", tag("h2", title, attributes={"id": f"{identity}-title"}), *children, attributes=given)


def summary(facts: Facts) -> Safe:
    """The first paragraph: what a reader who reads no further should know."""
    found, name = facts.metrics, facts.result.data
    text = (
        f"On the {found.n:,} test photos of {name} the run is right in {percent(found.accuracy)} "
        f"(95 % interval {interval(found.accuracy_ci95)}); always saying the most frequent of the "
        f"{len(facts.classes)} classes is right in {percent(found.majority)}."
    )
    return tag("p", text, attributes={"class": "lead"})


def trained(facts: Facts) -> Safe:
    """What was trained on what."""
    recipe, counts = facts.result.recipe, facts.counts
    parameters = facts.result.parameters
    rows = [
        (
            "streams",
            ", ".join(f"{key} = {text}" if key != text else key for key, text in recipe.network.streams.items()),
        ),
        ("tap, temporal, fusion", f"{recipe.network.tap}, {recipe.network.temporal}, {recipe.network.fusion}"),
        ("weights", ", ".join(f"{key} = {text}" for key, text in recipe.network.weights.items()) or "none given"),
        ("frozen", ", ".join(recipe.network.freeze) or "nothing"),
        ("parameters", f"{parameters['total']:,}, of which {parameters['trainable']:,} trained"),
        ("data", f"{facts.result.data}: {len(facts.rows):,} photos, {len(facts.classes)} classes"),
        ("split.csv, sha256", facts.split_sha256),
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
        tag("dl", *terms),
        table(["class", "training", "validation", "test"], [*counted, total], caption="Photos by class and part"),
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
        table(["measure", "value", "95 % interval"], _measures(facts.metrics), caption="On the test part"),
        tag("h3", "By class"),
        table(["class", "photos", "precision", "recall", "95 % interval", "F1"], _by_class(facts.metrics)),
        tag("h3", "What was taken for what"),
        charts.confusion(facts.metrics),
        tag("h3", "Calibration"),
        charts.calibration(bins),
    )


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
        rows.append([name, f"{value:.3f}", _plain(ends)])
    return rows


def _plain(ends: Interval, digits: int = 3) -> str:
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
    return section("ablation", "Ablation", *(charts.ablation(each) for each in found))


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
    head = ["stage", "gives", "parameters", "M multiply-adds", "share", "peak MiB"]
    note = paragraph(
        "For one photo, counted. For times on your machine: ", tag("code", f"multistream profile {name}"), "."
    )
    return section("cost", "Cost by stage", table(head, rows), note)


def by_stream(given: Sequence[tuple[str, float, Interval]], *, n: int) -> Safe:
    """What each stream gives to the logit of the right class, on average over the test part."""
    ends = [0.0, *(end for _, _, pair in given for end in pair)]
    scale = axis("logits", ends)
    entries = [Entry(key, mean, pair, "first") for key, mean, pair in given]
    label = "Mean Shapley values: " + "; ".join(f"{key} {signed(mean, 2)}" for key, mean, _ in given)
    plot = dot_plot(entries, scale=scale, label=label, write=lambda v: signed(v, 2), mark=0.0)
    rows = [[key, signed(mean), _plain(pair)] for key, mean, pair in given]
    caption = (
        f"Shapley value of each stream for the logit of the photo's own class, mean over the {n:,} test photos with "
        "95 % interval. A stream that is absent gives its mean over the training photos instead."
    )
    return figure(
        plot, caption=caption, numbers=details("Numbers", table(["stream", "Shapley value", "95 % interval"], rows))
    )


def planted(found: Sequence[Cue]) -> Safe:
    """The demo set's cues, where the right answer is known."""
    keys = list(found[0].shapley)
    rows = [
        [cue.name, *(f"{signed(mean, 2)} ({_plain(ends, 2)})" for mean, ends in cue.shapley.values())] for cue in found
    ]
    places = [
        [f"{cue.name}; {key} points at it", *_shares(share)] for cue in found for key, share in cue.pointing.items()
    ]
    for cue in found:
        places += [
            [f"{cue.name}; {key}, net evidence on pairs with a mood", *_shares(s)] for key, s in cue.carried.items()
        ]
        places += [
            [f"{cue.name}; {key}, all evidence on the photo's own", *_shares(s)] for key, s in cue.planted.items()
        ]
    intro = (
        f"In this set it is known what makes the class: three cues, one bit each. For each of the {found[0].n:,} test "
        "photos the evidence is that for its class against the class that differs in this bit alone."
    )
    shapley = "Mean Shapley value of each stream, in logits, with 95 % interval; chance level 0"
    place = "Does the evidence lie where the cue was planted?"
    return section(
        "cues",
        "The planted cues",
        paragraph(intro),
        table(["cue", *keys], rows, caption=shapley),
        table(["cue and stream", "share", "95 % interval", "chance"], places, caption=place),
        paragraph(
            "Pointing game: the share of photos in which the strongest place of all stages' maps lies in the object's "
            "box, or for the texture outside it. Net evidence counts signs, so that what the other entries give by "
            "chance cancels."
        ),
    )


def _shares(share: Share) -> list[str]:
    return [percent(share.value), interval(share.ci95), percent(share.chance)]


def checked(found: Sequence[Check]) -> Safe:
    """The checks with their residuals."""
    rows = [
        [check.promise, f"{check.measured:.2g}", f"{check.limit:.2g}", "holds" if check.holds else "FAILS", check.about]
        for check in found
    ]
    return section("checks", "Checks", table(["promise", "measured", "at most", "", "of what"], rows, kind="checks"))


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


def photo_name(name: str) -> str:
    """A photo's name on one line."""
    return printable(name)


__all__ = ["Costs", "join"]
