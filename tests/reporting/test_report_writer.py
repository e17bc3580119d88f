"""The page as a file: its content, reproducibility, and escaping of names."""

from __future__ import annotations

import base64
import csv
import errno
import hashlib
import html
import json
import os
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import multistream
from multistream.cli import app
from multistream.console import Console
from multistream.data.decoding import Decoder
from multistream.errors import DataError, DiskFull, MultistreamError, UsageError
from multistream.inputs import Image
from multistream.interfaces import Stream
from multistream.parts.taps import GlobalAverage
from multistream.recipe import Recipe
from multistream.reporting import report
from multistream.reporting.outputs import run_network
from multistream.reporting.run_details import read_run_details
from multistream.runs.predictions_file import read_predictions
from multistream.training.train import train
from tests.reporting.conftest import recipe

VOID = {"br", "col", "hr", "img", "input", "link", "meta", "line", "circle", "polyline"}


class Reader(HTMLParser):
    """Collects every element of a page with its attributes, and checks that all elements are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: dict[str, str] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attrs)))
        if name not in VOID - {"line", "circle", "polyline"}:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.text[self.open[-1] if self.open else ""] = data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for element, attributes in self.elements if element == name]


def embedded(page: str) -> Any:
    """Returns the gallery's data of a page."""
    found = re.search(r'<script type="application/json" id="attribution-data">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


@pytest.fixture(scope="module")
def page(early: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("out") / "page.html"
    report(early, out=out, device="cpu", precision="fp32")
    return out.read_text(encoding="utf-8")


def test_report_is_reproducible(early: Path, tmp_path: Path) -> None:
    first = report(early, out=tmp_path / "a.html", device="cpu")
    second = report(early, out=tmp_path / "b.html", device="cpu")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.bytes == first.path.stat().st_size < 2_000_000


def test_report_is_in_the_run_and_well_formed(early: Path, page: str) -> None:
    found = multistream.report(early, photos=2, device="cpu")
    assert found.path == early / "report.html"
    reader = Reader(page)
    assert reader.open == []
    ids = [a["id"] for _, a in reader.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a.get("alt") for a in reader.all("img"))
    assert all(a.get("aria-label") and a.get("role") == "img" for a in reader.all("svg"))
    assert {a["href"][1:] for a in reader.all("a") if a["href"]} <= set(ids)


def test_page_fetches_nothing_and_runs_only_its_own_script(page: str) -> None:
    reader = Reader(page)
    for _, attributes in reader.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    (policy,) = [a["content"] for a in reader.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'; ")
    assert "unsafe" not in str(policy)
    for kind, element in (("script", r"<script>(.*?)</script>"), ("style", r"<style>(.*?)</style>")):
        (text,) = re.findall(element, page, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in str(policy)


def test_names_are_escaped(page: str) -> None:
    reader = Reader(page)
    assert len(reader.all("script")) == 2
    assert not [a for a in reader.all("img") if a.get("src") == "x"]
    assert "window.broken=1</script>" not in page
    assert "&lt;/script&gt;&lt;script&gt;window.broken=1&lt;/script&gt;" in page
    assert "${style}" in page


def test_stored_maps_and_entries_sum_to_the_logit(page: str) -> None:
    data = embedded(page)
    (stages,) = [s["stages"] for s in data["streams"] if s["key"] == "object"]
    assert len(data["photos"]) == 24
    for photo in data["photos"]:
        k = len(photo["classes"])
        total = np.array(photo["bias"][""]) + np.array(photo["vectors"]["anp"]["sum"])
        for stage, (rows, columns) in stages.items():
            scale, text = photo["maps"]["object"][stage]
            cells = np.frombuffer(base64.b64decode(text), dtype=np.int8).reshape(k, rows, columns) * scale
            assert cells.sum((1, 2)) == pytest.approx(photo["sums"]["object"][stage], abs=scale * rows * columns / 2)
            total += photo["sums"]["object"][stage]
        assert total == pytest.approx(photo["logits"][""], abs=2e-4)


def test_baseline_is_the_mean_of_the_training_split(early: Path, page: str) -> None:
    """Closed form: the contribution of the training mean is J . baseline, with J from the layers (check A3)."""
    network = multistream.load(early).network
    stages = embedded(page)["baseline"]["object"]
    weight, width = network.fusion.classifier.weight.detach(), 64
    for i, (stage, tap) in enumerate(network.branches["object"].taps.items()):
        part = weight[:, i * width : (i + 1) * width] @ tap.projection.weight.detach()
        closed = part @ (tap.baseline * tap.scale)
        assert torch.tensor(stages[stage]) == pytest.approx(closed.numpy(), abs=1e-4)


def test_results_equal_the_predictions(early: Path, page: str) -> None:
    told = read_predictions(early / "predictions.csv")
    assert f"{100 * told.correct.mean():.1f} %" in page
    assert hashlib.sha256((early / "split.csv").read_bytes()).hexdigest() in page
    assert "Ablation by depth" in page
    assert "object 3" in page


def section(page: str, identity: str) -> str:
    """Returns the text of one section of the page."""
    found = re.search(rf'<section id="{identity}".*?</section>', page, re.S)
    assert found, identity
    return html.unescape(re.sub(r"<[^>]+>", " ", found[0]))


def test_page_has_all_sections(early: Path, page: str) -> None:
    """Every section agrees with the run's files."""
    recipe, split = Recipe.load(early), list(csv.DictReader((early / "split.csv").open(newline="")))
    trained = section(page, "setup")
    model = hashlib.sha256((early / "model.safetensors").read_bytes()).hexdigest()
    for text in (recipe.network.tap, recipe.network.fusion, version("torch"), f"{len(split)} images", model):
        assert text in trained
    for line in recipe.dumps().splitlines():
        assert line in trained
    counts = Counter((row["label"], row["part"]) for row in split)
    labels = {row["label"] for row in split}
    for label in labels:
        numbers = [str(counts[label, part]) for part in ("train", "val", "test")]
        assert re.search(r"\s+".join([re.escape(label), *numbers]) + r"\s", trained)
    told = read_predictions(early / "predictions.csv")
    results = section(page, "results")
    majority = max(counts[label, "test"] for label in labels) / len(told)
    assert re.search(rf"most frequent class\s+{100 * majority:.1f} %\s+[\d.]+ to [\d.]+", results)
    for words in ("balanced accuracy", "Brier score", "Confusion matrix", "Calibration", "precision"):
        assert words in results
    epochs = [json.loads(line) for line in (early / "metrics.jsonl").read_text().splitlines()]
    assert all(f"{epoch['val_loss']:.4g}" in section(page, "learning") for epoch in epochs)
    cost = section(page, "cost")
    assert [stage for stage in multistream.load(early).network.branches["object"].taps if f"object {stage}" in cost]
    assert f"{sum(p.numel() for p in multistream.load(early).network.parameters()):,}" in cost
    for command in ("train --recipe early/recipe.toml", "evaluate early", "explain early", "report early"):
        assert f"multistream {command}" in section(page, "reproduce")


def test_streams_of_an_early_fusion_are_compared(early: Path, page: str, tmp_path: Path) -> None:
    """Row "object, others at mean", computed by the layers with the training mean in place of the vector."""
    found = report(early, photos=1, out=tmp_path / "p.html", device="cpu", precision="fp32")
    assert [line.name for line in found.results] == [
        "this run",
        "object, others at mean",
        "anp, others at mean",
        "most frequent class",
    ]
    model = multistream.load(early)
    told = read_predictions(early / "predictions.csv")
    photos = [Path(model.recipe.data.source).parent / name for name in told.paths]
    network = model.network.eval()
    (tap,) = network.branches["anp"].taps.values()
    with torch.no_grad():
        decoder = Decoder(32)
        seen = torch.stack([torch.from_numpy(decoder.read(path)) for path in photos])
        pooled = network.pool({"image": seen, "anp": torch.zeros(len(seen), 12)})
        pooled = {**pooled, "anp": {"vector": tap.baseline.expand(len(seen), -1)}}
        expected = network.classify(pooled).softmax(1).numpy()
    details = read_run_details(early, early / "model.safetensors")
    measured = run_network(model, told, details.rows, device="cpu", precision="fp32", console=Console(quiet=True))
    np.testing.assert_allclose(measured.masked["object"], expected, atol=1e-5)
    assert np.abs(measured.probabilities - expected).max() > 1e-3
    labels = zip(expected.argmax(1), told.labels or (), strict=True)
    right = np.mean([told.classes[k] == label for k, label in labels])
    assert found.results[1].accuracy == pytest.approx(right)
    assert "object, others at mean" in section(page, "results")


def test_other_runs_are_compared(early: Path, late: Path, tmp_path: Path) -> None:
    found = report(early, photos=0, against=[late], out=tmp_path / "p.html")
    (line,) = [line for line in found.results if line.name == "late"]
    ours, theirs = (read_predictions(run / "predictions.csv").correct for run in (early, late))
    assert line.accuracy == theirs.mean()
    assert line.difference == pytest.approx(theirs.mean() - ours.mean())  # this run is the reference
    compared = multistream.compare([early, late]).rows[1].difference
    assert compared is not None
    assert line.p_value == pytest.approx(compared.p_value)
    assert line.difference == pytest.approx(compared.value)  # the same sign as in `compare`
    with pytest.raises(UsageError, match="--against"):
        report(early, photos=0, against=[tmp_path / "nothing"], out=tmp_path / "p.html")


def test_frozen_streams_come_from_the_cache(early: Path, tmp_path: Path) -> None:
    """Features pooled in training are not pooled again."""
    told = CliRunner().invoke(app, ["report", str(early), "--photos", "1", "--out", str(tmp_path / "p.html")])
    assert told.exit_code == 0
    assert "object loaded from cache" in told.stderr
    assert "runs" not in told.stderr


def test_ablations_are_shown_as_saved_by_ablate(early: Path, tmp_path: Path) -> None:
    run = shutil.copytree(early, tmp_path / "a run; twice")
    shutil.rmtree(run / "ablations")
    for axis in ("depth", "taps", "streams"):
        multistream.ablate(run, axis=axis)
    found = report(run, photos=0).path.read_text()
    assert "multistream ablate 'a run; twice'" in section(found, "reproduce")
    ablation = section(found, "ablation")
    for path in (run / "ablations").glob("*.json"):
        for row in json.loads(path.read_text())["rows"]:
            assert f"{100 * row['accuracy']:.1f} %" in ablation
    assert "Pareto front" in found
    assert "Shapley value of each tap" in ablation
    assert "at least one correct" in ablation


def test_all_checks_pass_and_late_streams_are_rows(early: Path, late: Path, tmp_path: Path) -> None:
    for run in (early, late):
        found = report(run, photos=6, out=tmp_path / "p.html", device="cpu", precision="fp32")
        assert [check.name for check in found.checks if not check.passed] == []
    names = [line.name for line in found.results]
    assert names == ["this run", "object alone", "anp alone", "most frequent class"]
    assert "The fused probability is the mean of the streams' probabilities" in [check.name for check in found.checks]
    assert "The contributions of anp do not sum exactly to the logit: its head is not linear" in found.path.read_text()


def nonlinear(self: GlobalAverage, pooled_BP: torch.Tensor) -> torch.Tensor:
    """A plugin's tap with a nonlinear projection."""
    return torch.relu(self.projection(self.standardise(pooled_BP)))


def test_nonlinear_tap_has_no_exact_sum(early: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GlobalAverage, "project", nonlinear)
    monkeypatch.setattr(GlobalAverage, "linear", False)
    found = report(early, photos=2, out=tmp_path / "p.html", device="cpu", precision="fp32")
    assert "Contributions and bias sum to the logit" not in [check.name for check in found.checks]
    text = section(found.path.read_text(), "attribution")
    assert "do not sum exactly to the logit: the tap gap:64 is not linear" in text
    data = embedded(found.path.read_text())
    assert not data["baseline"]
    for photo in data["photos"]:
        total = np.array(photo["bias"][""]) + np.array(photo["vectors"]["anp"]["sum"])
        total += sum(np.array(values) for values in photo["sums"]["object"].values())
        assert total == pytest.approx(photo["logits"][""], abs=2e-4)


def test_tap_wrongly_declared_linear_fails_a_check(
    early: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GlobalAverage, "project", nonlinear)
    found = report(early, photos=2, out=tmp_path / "p.html", device="cpu", precision="fp32")
    (check,) = [check for check in found.checks if check.name == "Contributions and bias sum to the logit"]
    assert not check.passed
    text = section(found.path.read_text(), "attribution")
    assert "The contributions of object do not sum exactly to the logit: the error is up to" in text
    assert "Each logit is the sum of" not in text


@pytest.mark.parametrize(("place", "code"), [("folder", 2), ("file/report.html", 74)])
def test_unwritable_page_raises_one_line(early: Path, tmp_path: Path, place: str, code: int) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(MultistreamError) as told:
        report(early, photos=0, out=tmp_path / place)
    assert told.value.exit_code == code
    assert str(tmp_path) in str(told.value)


def test_a_full_disk_leaves_no_page(early: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        report(early, photos=0, out=tmp_path / "p.html")
    assert not list(tmp_path.iterdir())


def test_changed_photo_fails_a_check(early: Path, photos: Path, tmp_path: Path) -> None:
    name = read_predictions(early / "predictions.csv").paths[0]
    kept = (photos.parent / name).read_bytes()
    try:
        (photos.parent / name).write_bytes(kept + b"more")
        found = report(early, photos=2, out=tmp_path / "p.html", device="cpu")
    finally:
        (photos.parent / name).write_bytes(kept)
    (check,) = [check for check in found.checks if not check.passed]
    assert check.name == "The test images are unchanged"
    assert check.measured == 1


def test_missing_photos_raise_unless_no_photos_are_requested(early: Path, photos: Path, tmp_path: Path) -> None:
    away = photos.parent.with_name("away")
    photos.parent.rename(away)
    try:
        with pytest.raises(DataError):
            report(early, out=tmp_path / "p.html", device="cpu")
        found = report(early, photos=0, out=tmp_path / "p.html")
    finally:
        away.rename(photos.parent)
    assert found.photos == 0
    assert 'id="attribution"' not in found.path.read_text()
    with pytest.raises(UsageError):
        report(early, photos=-1)


class Toy(Stream):
    """One convolution."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            super().__init__({"edges": nn.Conv2d(3, 6, 3)}, channels={"edges": 6}, input=Image(size=32))


def test_a_stream_given_as_an_instance_and_fitted_by_lbfgs(photos: Path, vectors: Path, tmp_path: Path) -> None:
    wanted = recipe(photos, vectors, streams=(), fusion="early").updated(
        {"network": {"freeze": ["streams"]}, "training": {"solver": "lbfgs"}}
    )
    train(wanted, out=tmp_path / "run", streams={"toy": Toy()})
    page = report(tmp_path / "run", photos=2, streams={"toy": Toy()}, device="cpu").path.read_text()
    assert "<title>toy</title>" in page
    assert "toy (a Python object)" in section(page, "setup")
    assert re.search(r"with L-BFGS\. L2 penalties: toy [\d.e-]+\.", section(page, "learning"))


@pytest.mark.parametrize("calibration", ["none", "temperature"])
def test_odds_of_a_logit_include_the_temperature(photos: Path, vectors: Path, tmp_path: Path, calibration: str) -> None:
    made = recipe(photos, vectors, streams=("object", "anp"), fusion="early")
    run = train(made.updated({"training": {"calibration": calibration}}), out=tmp_path / "run").folder
    temperature = json.loads((run / "summary.json").read_text()).get("temperature", 1.0)
    report(run, photos=1, out=tmp_path / "p.html", device="cpu", precision="fp32")
    told = section((tmp_path / "p.html").read_text(), "attribution")
    assert f"against every other class by {np.exp(1 / temperature):.3g} (e" in told
    assert (f"T = {temperature:.3g}" in told) == (calibration == "temperature")
    shown = embedded((tmp_path / "p.html").read_text())["photos"][0]
    logits = np.array(shown["logits"][""])[np.argsort(shown["classes"])]
    scaled = np.exp(logits / temperature)
    assert scaled / scaled.sum() == pytest.approx(shown["probabilities"], abs=1e-3)


def test_run_on_folds_raises_with_the_name_of_a_fold(early: Path, tmp_path: Path) -> None:
    shutil.copytree(early, tmp_path / "run" / "folds" / "1")
    with pytest.raises(UsageError, match=r"multistream report .*run/folds/1$"):
        report(tmp_path / "run", photos=0)


def test_a_run_without_photos(vectors_alone: Path, tmp_path: Path) -> None:
    found = report(vectors_alone, photos=4, out=tmp_path / "p.html", device="cpu", precision="fp32")
    page = found.path.read_text()
    assert embedded(page)["streams"][0]["stages"] == {}
    assert "<img" not in page


def test_damaged_ablation_raises_with_file_name(early: Path, tmp_path: Path) -> None:
    run = shutil.copytree(early, tmp_path / "run")
    (run / "ablations" / "taps.json").write_text('{"axis": "taps"}')
    with pytest.raises(DataError, match=r"taps\.json"):
        report(run, photos=0)


def test_the_command(early: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.html"
    told = CliRunner().invoke(app, ["report", str(early), "--photos", "2", "--out", str(out), "--json", "--quiet"])
    assert told.exit_code == 0
    found = json.loads(told.stdout)
    assert found["path"] == str(out)
    assert found["photos"] == 2
    assert all(check["passed"] for check in found["checks"])
