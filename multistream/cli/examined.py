"""`explain --self-test`, `--faithfulness`, `--masks` and `--gallery`: what they call and print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from multistream.cli.options import print_json
from multistream.errors import UsageError

if TYPE_CHECKING:
    from multistream.console import Console
    from multistream.explaining import Target
    from multistream.explaining.examination import Results
    from multistream.explaining.faithfulness import Area
    from multistream.explaining.selftest import SelfTest
    from multistream.inference.model import Model


@dataclass(frozen=True)
class Asked:
    """What is asked of many photos at once."""

    faithfulness: bool = False
    masks: str = ""
    gallery: Path | None = None
    self_test: bool = False

    def __bool__(self) -> bool:
        return bool(self.faithfulness or self.masks or self.gallery or self.self_test)

    def refuse(self, given: Mapping[str, bool]) -> None:
        """Refuses options that would be without effect beside what is asked; UsageError names them."""
        idle = [option for option, is_given in given.items() if is_given]
        if not idle:
            return
        if self.self_test:
            raise UsageError("--self-test", f"it plants its own photos; {', '.join(idle)} would be without effect.")
        what = "they speak of one photo; many are examined here." if len(idle) > 1 else "it speaks of one photo."
        raise UsageError(", ".join(idle), what, do="Give that in a call of its own.")


def print_self_test(model: Model, *, device: str, json: bool, console: Console) -> None:
    """Runs the self-test on a model's composition and prints its table; exit code 1 where a check fails."""
    from multistream.explaining.selftest import self_test
    from multistream.recipe import RuntimeSettings
    from multistream.runtime.device import resolve

    runtime = resolve(RuntimeSettings(device=device, precision="fp32"))
    found = self_test(model.network, runtime=runtime, say=console.say)
    if json:
        print_json(found.to_dict())
    else:
        typer.echo(tested(found))
    if not found.passed:
        raise typer.Exit(1)


def print_examination(
    model: Model,
    paths: Sequence[str] | None,
    *,
    asked: Asked,
    target: Target,
    data: str,
    label: str,
    inputs: Mapping[str, str],
    device: str,
    json: bool,
    console: Console,
) -> None:
    """Examines the photos, writes the galleries, prints the tables."""
    from multistream.explaining.examination import Examination, examine
    from multistream.explaining.faithfulness import FaithfulnessMeter
    from multistream.explaining.gallery import Collector
    from multistream.explaining.gallery_figures import write_galleries
    from multistream.explaining.masks import masks_of
    from multistream.explaining.subjects import find_subjects
    from multistream.recipe import RuntimeSettings
    from multistream.runs.model_file import require_trained
    from multistream.runtime.device import resolve

    require_trained(model, "explain")
    target.check(model.classes)
    if target.against or target.scale != "logit":
        option = "--against" if target.against else "--scale"
        raise UsageError(option, "many photos are examined for one class's logit.", do=f"Leave {option} out.")
    labelled = target.needs_labels or asked.gallery is not None
    try:
        subjects = find_subjects(model, paths, data=data, label=label, inputs=inputs, labelled=labelled)
    except UsageError as error:
        if target.needs_labels or error.where != "--target":
            raise
        what = "it shows which streams were right, and these photos have no labels."
        raise UsageError("--gallery", what, do="Leave PATHS out, or give --data.") from error
    examination = Examination(
        model,
        subjects.table,
        sources=subjects.sources,
        choose=lambda fused, labels: target.of(fused, labels, model.classes).rows,
        runtime=resolve(RuntimeSettings(device=device, precision="fp32")),
    )
    masks = (
        masks_of(subjects.table, asked.masks, size=examination.size, resize=model.recipe.data.resize)
        if asked.masks
        else None
    )
    gallery = Collector(model.classes) if asked.gallery else None
    meter = FaithfulnessMeter() if asked.faithfulness else None
    with console.progress(len(subjects.table), "photos") as bar:
        found = examine(examination, meter=meter, masks=masks, gallery=gallery, tick=bar.advance)
    if gallery and asked.gallery:
        for path in write_galleries(gallery, asked.gallery.expanduser(), how=found.how):
            console.say(str(path))
    if json:
        print_json(found.to_dict())
    else:
        typer.echo(examined(found))


def examined(found: Results) -> str:
    """The tables of an examination, as lines to read."""
    left = f", {found.left_out:,} left out" if found.left_out else ""
    lines = [f"{found.n:,} photos{left}; maps: {found.method}"]
    for each in found.faithfulness:
        lines += [
            "",
            f"{each.name}: probability of the class as pixels change, {each.steps} steps, absent: {each.absent}",
            f"  deletion   {_area(each.deletion)}   below noise is better",
            f"  insertion  {_area(each.insertion)}   above noise is better",
        ]
    if found.places:
        lines += ["", f"{'stream':12} {'pointing game':>24} {'energy in the mask':>24} {'chance':>8}"]
    for place in found.places:
        pointing, energy = _share(place.pointing, place.pointing_ci95), _share(place.energy, place.energy_ci95)
        lines.append(f"{place.stream:12} {pointing:>24} {energy:>24} {100 * place.chance:>6.1f} %")
    if found.outcomes:
        counts = ", ".join(f"{name} {count:,}" for name, count in found.outcomes.items())
        lines += ["", f"streams right by themselves: {counts}"]
    return "\n".join(lines)


def tested(found: SelfTest) -> str:
    """The self-test's table, as lines to read."""
    lines = [f"{'evidence in':12} {'check':40} {'measured':>10}   bound"]
    for check in found.checks:
        bound = f"{'>=' if check.at_least else '<='} {check.bound:g}"
        verdict = "pass" if check.passed else "FAIL"
        lines.append(f"{check.stream:12} {check.name:40} {check.value:>10.3g}   {bound:8} {verdict}")
    end = "passed" if found.passed else "FAILED"
    return "\n".join([*lines, f"{end}, maps: {found.method}, {found.seconds:.0f} s"])


def _area(area: Area) -> str:
    low, high = area.difference_ci95
    return f"{area.value:.3f}, noise {area.noise:.3f}, difference {area.difference:+.3f} [{low:+.3f}, {high:+.3f}]"


def _share(value: float, ends: tuple[float, float]) -> str:
    return f"{100 * value:.1f} % [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"
