"""Figure 5 of the paper: photos that all, some or no streams classify correctly, with maps and vector entries."""

from __future__ import annotations

from pathlib import Path

from multistream import runs
from multistream.console import Console
from multistream.explaining import Explainer, ExplanationRequest, Target
from multistream.explaining.gallery import make_gallery
from multistream.files import json_object
from multistream.inference.model import load
from multistream.reproduction.results import ReproducedGallery

FILE = "gallery.json"
KIND = "pdf"


def reproduce_gallery(run: Path, folder: Path, *, console: Console) -> ReproducedGallery:
    """Writes the galleries of a run's test photos as PDFs to `folder`; of a run with folds, those of the first fold.

    Existing galleries of the same model are kept.
    """
    folds = sorted((run / runs.FOLDS).glob("*"))
    model = load(folds[0] if folds else run)
    if (gallery := _kept(folder, model.sha256)) is not None:
        return gallery
    request = ExplanationRequest(Target("predicted"), method="fused", every_class=False)
    explainer = Explainer(model, None, request=request, labelled=True, console=console)
    with console.progress(len(explainer.selection), "photos") as bar:
        drawn = make_gallery(explainer, folder, kind=KIND, tick=bar.advance)
    names = tuple(path.name for path in drawn.files)
    gallery = ReproducedGallery(drawn.n, {str(name): count for name, count in drawn.outcomes.items()}, names)
    runs.write_json(folder / FILE, {"model": model.sha256, **gallery.to_dict()})
    return gallery


def _kept(folder: Path, sha256: str) -> ReproducedGallery | None:
    """Returns the existing galleries if they are complete and of this model, else None."""
    file = folder / FILE
    if not file.is_file():
        return None
    about = json_object(file.read_text(encoding="utf-8"), where=str(file))
    names = tuple(about.get("files", ()))
    if about.get("model") != sha256 or not all((folder / name).is_file() for name in names):
        return None
    return ReproducedGallery(int(about["n"]), dict(about["outcomes"]), names)
