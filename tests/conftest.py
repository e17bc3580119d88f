"""What several rooms' tests share: strangers' distributions that seem to be installed, and a small set of pictures."""

from __future__ import annotations

import signal
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from multistream.recipe import Recipe
from multistream.registry import discovery

settings.register_profile("untimed", deadline=None)  # no test depends on how busy the machine is
settings.load_profile("untimed")

ROOT = Path(__file__).parent.parent
PLUGINS = Path(__file__).parent / "plugins"

Install = Callable[..., list[str]]


def lay_metadata(project: Path, site: Path) -> None:
    """Writes what an installer leaves of a project: its dist-info with the entry points."""
    described = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    name, version = described["name"], described["version"]
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{part} = {module}" for part, module in described["entry-points"]["multistream"].items()]
    (folder / "entry_points.txt").write_text("\n".join(["[multistream]", *lines, ""]))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`installed("sketch", path)` installs trees of tests/plugins, or anywhere, beside multistream itself.

    It returns the entries of sys.path that a fresh interpreter needs for the same.
    """
    before = set(sys.modules)
    site = tmp_path / "site"
    lay_metadata(ROOT, site)
    ours = [str(path) for path in (site, ROOT, *(ROOT / "plugins" / name for name in ("object", "places", "anp")))]
    monkeypatch.delenv(discovery.DISABLED, raising=False)

    def install(*trees: str | Path) -> list[str]:
        projects = [PLUGINS / tree for tree in trees]
        for project in projects:
            lay_metadata(project, site)
        entries = [*ours, *map(str, projects)]
        for entry in reversed(entries):
            monkeypatch.syspath_prepend(entry)
        discovery.discover(refresh=True)
        return entries

    yield install
    monkeypatch.undo()
    for name in set(sys.modules) - before:
        if name.startswith("multistream_"):
            del sys.modules[name]
    discovery.forget()


COLOURS = {"awe": (40, 60, 200), "fear": (20, 20, 30), "joy": (240, 210, 60)}
PER_CLASS = 20


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of 60 pictures of 32 pixels, told apart by their colour."""
    root = tmp_path_factory.mktemp("photos")
    chance = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(PER_CLASS):
            noise = chance.normal(0, 60, (32, 32, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 90 pictures of 32 pixels whose bright channels are their tags: `red;green`."""
    root = tmp_path_factory.mktemp("tagged")
    chance, lines = np.random.default_rng(0), ["path,tags"]
    for number in range(90):
        has = [bool((1 + number % 7) >> bit & 1) for bit in range(3)]
        pixels = np.clip(np.where(has, 150, 90) + chance.normal(0, 50, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        names = [name for name, own in zip(("red", "green", "blue"), has, strict=True) if own]
        lines.append(f"{number}.png,{';'.join(names)}")
    path = root / "tags.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="session")
def vectors(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors of 6 for every picture, of which the first says a little about the class."""
    ids = [str(path.relative_to(photos)) for path in sorted(photos.rglob("*.png"))]
    chance = np.random.default_rng(1)
    features = chance.random((len(ids), 6)).astype(np.float32)
    features[:, 0] += [list(COLOURS).index(name.split("/")[0]) for name in ids]
    path = tmp_path_factory.mktemp("vectors") / "anp.npz"
    np.savez(path, ids=np.array(ids), features=features, vocabulary=np.array([f"pair {i}" for i in range(6)]))
    return path


@pytest.fixture
def recipe(photos: Path) -> Recipe:
    """One small random stream, trained in float32 on the CPU: 3 epochs of 6 steps."""
    return Recipe().updated(
        {
            "data": {"source": str(photos), "image_size": 32, "split": "80/10/10"},
            "network": {"streams": {"object": "object"}, "weights": {"object": "random"}, "freeze": ["streams"]},
            "training": {"epochs": 3, "batch_size": 8, "patience": 0},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads what another has cached."""
    monkeypatch.setenv("MULTISTREAM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, as in a terminal; a shell ignores it in what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
