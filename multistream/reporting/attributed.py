"""The page's tables and figures of who gave how much: over the test part, and for the demo set's planted cues."""

from __future__ import annotations

from collections.abc import Sequence

from multistream.reporting.cues import Cue, Share
from multistream.reporting.dots import Entry, dot_plot
from multistream.reporting.figures import axis, figure
from multistream.reporting.markup import Safe, details, interval, mark, paragraph, percent, signed, table
from multistream.reporting.sections import plain, section
from multistream.statistics import Interval


def by_stream(given: Sequence[tuple[str, float, Interval]], *, n: int) -> Safe:
    """What each stream gives to the logit of the right class, on average over the test part."""
    ends = [0.0, *(end for _, _, pair in given for end in pair)]
    scale = axis("logits", ends)
    entries = [Entry(key, mean, pair, "first") for key, mean, pair in given]
    label = "Mean Shapley values: " + "; ".join(f"{key} {signed(mean, 2)}" for key, mean, _ in given)
    plot = dot_plot(entries, scale=scale, label=label, write=lambda v: signed(v, 2), mark=0.0)
    rows = [[key, signed(mean), plain(pair)] for key, mean, pair in given]
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
        [cue.name, *(f"{signed(mean, 2)} ({plain(ends, 2)})" for mean, ends in cue.shapley.values())] for cue in found
    ]
    places = [[cue.name, words, *_shares(share)] for cue in found for words, share in _placed(cue)]
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
        table(["cue", *keys], rows, caption=shapley, kind="tight"),
        table(["cue", "evidence", "share", "95 % interval", "chance"], places, words=2, caption=place, kind="tight"),
        paragraph(
            "Strongest place is the pointing game: the share of photos in which the largest cell of all stages' maps "
            "together lies in the box of the sun or drop, or for the texture outside it, where most of the photo is; "
            "evidence for it is what is positive in these maps. Of a vector's pairs 24 have a mood and ten of them are "
            "high in a photo. Net evidence counts signs, so that what the other pairs give by chance cancels over the "
            "photos and the share may pass 100 %; all evidence does not. Chance is the share of pixels, or of pairs."
        ),
        *_verdicts(found),
    )


def _verdicts(found: Sequence[Cue]) -> list[Safe]:
    """What must come out where pairs and pictures know of one cue each; nothing for a run without both."""
    pairs = found[-1]
    pictures = [abs(mean) for key, (mean, _) in pairs.shapley.items() if key not in pairs.carried]
    if not (pictures and pairs.carried):
        return []
    worst = min(share.value for share in pairs.carried.values())
    rows = [
        _verdict("Pictures say nothing of the pairs' cue: Shapley value, logits", max(pictures), "≤", 0.01),
        _verdict("The pairs' net evidence lies on pairs with a mood: share", worst, "≥", 0.95),
    ]
    note = paragraph(
        "The test part shows each picture with either mood, so that in the mean a picture alone cannot speak for one: "
        "the first number would be larger if pictures and pairs acted on each other. Its interval above shows how "
        "much single photos waver."
    )
    return [table(["what must come out", "measured", "limit", "verdict"], rows, kind="tight"), note]


def _verdict(what: str, value: float, sign: str, limit: float) -> list[str]:
    holds = value <= limit if sign == "≤" else value >= limit
    return [what, f"{value:.2g}".replace("-", "−") if limit < 0.1 else f"{value:.3f}", f"{sign} {limit:g}", mark(holds)]


def _placed(cue: Cue) -> list[tuple[str, Share]]:
    """Each stream's answer to where the cue lies, in words."""
    return [
        (f"{key}: {words}", share)
        for words, shares in (
            ("strongest place", cue.pointing),
            ("evidence for it, in place", cue.energy),
            ("net evidence, on pairs with a mood", cue.carried),
            ("all evidence, on pairs with a mood", cue.weighed),
            ("all evidence, on the photo's own pairs", cue.planted),
        )
        for key, share in shares.items()
    ]


def _shares(share: Share) -> list[str]:
    return [percent(share.value), interval(share.ci95), percent(share.chance)]
