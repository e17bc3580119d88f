"""The gallery: photos to pick from, controls, and the places where the page's script writes."""

from __future__ import annotations

from multistream.reporting.evidence import Evidence
from multistream.reporting.markup import Safe, embedded_json, paragraph, tag
from multistream.reporting.sections import section

SUM = (
    "Each logit is a sum: what every stage of every stream gives at every place of the photo, what each entry of a "
    "vector gives, and a bias. "
)
INTRO = (
    "A logit is a class's score before scores become probabilities: one more makes the class 2.7 times as likely "
    "against the others. Orange speaks for the class, blue against it; colours are logits for each percent of the "
    "photo's area, so that coarse and fine stages compare. The photos were drawn by their hashes, half of them wrong "
    "where there are so many."
)


def gallery(evidence: Evidence, by_stream: Safe) -> Safe:
    """The section with everything that explains single photos."""
    local = [key for key, exact in evidence.exact.items() if not exact]
    notes = []
    if local:
        text = (
            f"Of {', '.join(local)} no exact sum exists, for a part is not linear: "
            "gradient × input, near this photo only."
        )
        notes.append(tag("p", text, attributes={"class": "note"}))
    data = tag("script", embedded_json(evidence.data), attributes={"type": "application/json", "id": "evidence-data"})
    return section(
        "evidence",
        "Where the evidence is",
        by_stream,
        paragraph((SUM if any(evidence.exact.values()) else "") + INTRO),
        *notes,
        tag("noscript", paragraph("The maps are drawn by a script, which this browser does not run.")),
        _thumbnails(evidence),
        tag("div", _stage(), _numbers(), attributes={"class": "viewer", "id": "viewer"}),
        data,
    )


def _thumbnails(evidence: Evidence) -> Safe:
    classes, photos = evidence.data["classes"], evidence.data["photos"]
    buttons = []
    for i, photo in enumerate(photos):
        label, predicted = classes[photo["label"]], classes[photo["predicted"]]
        right = photo["label"] == photo["predicted"]
        said = label if right else f"{label}, said {predicted}"
        verdict = ("✓" if right else "✗") + "\N{NO-BREAK SPACE}"
        inner = [tag("span", verdict + said, attributes={"class": "said"})]
        if evidence.pictures:
            seen = evidence.pictures[i]
            size = {"src": seen.uri, "width": seen.width, "height": seen.height}
            inner.insert(0, tag("img", attributes={**size, "alt": f"Photo {photo['name']}"}))
        given = {
            "type": "button",
            "data-photo": i,
            "aria-pressed": "false",
            "class": "photo right" if right else "photo wrong",
        }
        buttons.append(tag("button", *inner, attributes={**given, "title": photo["name"]}))
    return tag("div", *buttons, attributes={"class": "photos", "role": "group", "aria-label": "Choose a photo"})


def _stage() -> Safe:
    canvas = tag("canvas", attributes={"id": "canvas", "role": "img", "aria-label": "", "width": 448, "height": 448})
    legend = tag(
        "div",
        tag("span", attributes={"id": "low"}),
        tag("canvas", attributes={"id": "ramp", "width": 256, "height": 10, "aria-hidden": "true"}),
        tag("span", attributes={"id": "high"}),
        attributes={"class": "legend"},
    )
    told = tag("figcaption", attributes={"id": "told", "aria-live": "polite"})
    return tag("div", tag("figure", canvas, legend, told), _controls(), attributes={"class": "stage"})


def _controls() -> Safe:
    steps = tag(
        "div",
        tag("button", "← Previous photo", attributes={"type": "button", "id": "previous"}),
        tag("button", "Next photo →", attributes={"type": "button", "id": "next"}),
        attributes={"class": "steps"},
    )
    selects = [
        tag("label", tag("span", title), tag("select", attributes={"id": name}))
        for name, title in (("class", "Class"), ("stream", "Stream"), ("stage", "Stage"))
    ]
    scales = tag(
        "fieldset",
        tag("legend", "Colour scale"),
        _radio("scale", "shared", "shared by all streams and stages", chosen=True),
        _radio("scale", "own", "own, of this map alone", chosen=False),
    )
    # Its label also holds the value, which browsers take for no name.
    slider = {"id": "opacity", "aria-label": "Opacity", "type": "range", "min": 0, "max": 100, "value": 80, "step": 5}
    zeros = tag(
        "fieldset",
        tag("legend", "Zero is"),
        _radio("zero", "average", "what the average training photo gives", chosen=True),
        _radio("zero", "nothing", "nothing: the sum as it stands", chosen=False),
    )
    opacity = tag(
        "label",
        tag("span", "Opacity ", tag("output", "80 %", attributes={"id": "opaque", "for": "opacity"})),
        tag("input", attributes=slider),
    )
    return tag("form", steps, *selects, scales, zeros, opacity, attributes={"class": "controls", "id": "controls"})


def _radio(name: str, value: str, text: str, *, chosen: bool) -> Safe:
    given = {"type": "radio", "name": name, "value": value, "checked": "checked" if chosen else None}
    return tag("label", tag("input", attributes=given), tag("span", text))


def _numbers() -> Safe:
    names = ("probabilities", "contributions", "shapley", "entries")
    return tag(
        "div",
        *(tag("div", attributes={"id": name, "class": "wide"}) for name in names),
        attributes={"class": "numbers"},
    )
