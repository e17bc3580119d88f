"""The page's tables and figures of who gave how much: over the test part, and for the demo set's planted cues."""

from __future__ import annotations

from collections.abc import Sequence

from multistream.reporting.cues import Cue, Share
from multistream.reporting.dots import Entry, dot_plot
from multistream.reporting.figures import axis, figure
from multistream.reporting.markup import Safe, details, interval, paragraph, percent, signed, table
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
            "together lies in the box of the sun or drop, or for the texture outside it. Net evidence counts signs, so "
            "that what the other entries give by chance cancels. Chance is the share of the pixels, or of the entries."
        ),
    )


def _placed(cue: Cue) -> list[tuple[str, Share]]:
    """Each stream's answer to where the cue lies, in words."""
    found = [(f"{key}: strongest place", share) for key, share in cue.pointing.items()]
    found += [(f"{key}: net, on pairs with a mood", share) for key, share in cue.carried.items()]
    return found + [(f"{key}: all, on the photo's own pairs", share) for key, share in cue.planted.items()]


def _shares(share: Share) -> list[str]:
    return [percent(share.value), interval(share.ci95), percent(share.chance)]
