"""What the page's words mean, for readers who meet them here."""

from __future__ import annotations

from multistream.spec import Spec

PARTS = {
    "tap": {
        "gap": "each stage's map averaged over the photo, then projected to a few numbers",
        "last": "the last stage's map averaged over the photo",
    },
    "temporal": {
        "concat": "the stages' numbers side by side",
        "average": "the mean over the stages",
        "bigru": "read from shallow to deep and back by a recurrent network",
    },
    "fusion": {
        "early": "one linear classifier over all streams",
        "late": "each stream has a classifier; their probabilities are averaged",
        "gated": "each stream has a classifier; their probabilities are averaged with weights that depend on the photo",
    },
}
"""Our own parts in a few words; a stranger's part goes by its name."""

MEASURES = {
    "balanced accuracy": "the mean over the classes of the share that was found",
    "macro-F1": "the mean over the classes of F1, which joins precision and recall",
    "polarity": "the share in which at least positive or negative is right",
    "negative log-likelihood": "how improbable the truth was held to be; 0 is best",
    "Brier score": "squared distance between probabilities and truth, 0 (best) to 2",
    "calibration error": "the mean gap between how sure the run is and how often it is right; 0 is best",
}


def part(kind: str, text: str) -> str:
    """A part's spec with what it does, where it is one of ours.

    >>> part("fusion", "early")
    'early: one linear classifier over all streams'
    """
    about = PARTS[kind].get(Spec.parse(text, key=kind).name.partition("+")[0], "")
    return f"{text}: {about}" if about else text


def measures(names: frozenset[str]) -> str:
    """The measures that occur, in one paragraph."""
    told = [f"{name[0].upper()}{name[1:]} is {about}." for name, about in MEASURES.items() if name in names]
    return " ".join([*told, "Intervals are Wilson's for shares of photos, bootstraps over the photos elsewhere."])
