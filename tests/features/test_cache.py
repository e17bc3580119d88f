"""What comes out of the cache is what the streams give; what is wrong never comes out of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from multistream.data.decoding import Decoder
from multistream.data.layouts.data_source import open_table
from multistream.data.loading import Photos
from multistream.data.prefetch import AHEAD, MeasuredPrefetch
from multistream.features import GROUP, pooled_groups
from multistream.interfaces import Stream, Tap
from multistream.network.network import MultiStream
from multistream.nn.threads import threads
from multistream.runs.composition import compose
from multistream.runtime.device import Runtime
from tests.features.conftest import CLASSES, ON_CPU, SIZE, Ask, make_network, make_photos

PHOTOS = 60


def same(a: object, b: object) -> bool:
    return all(torch.equal(x, b[key][stage]) for key in a for stage, x in a[key].items())  # type: ignore[attr-defined,index]


def test_a_second_asking_runs_nothing_and_gives_the_same_bits(ask: Ask) -> None:
    first, _, ran = ask(make_network())
    again, said, runs = ask(make_network())
    assert ran == -(-PHOTOS // GROUP) * GROUP
    assert runs == 0
    assert said == [f"features: object loaded from cache, {PHOTOS} images"]
    assert same(first.features, again.features)
    assert bool(first.valid.all())
    assert bool(again.valid.all())


@pytest.mark.parametrize("depth", [1, 3, 5])
@torch.no_grad()
def test_cached_features_are_those_of_the_truncated_network(ask: Ask, folder: Path, depth: int) -> None:
    """Check B5, bit for bit: the same images in the same groups."""
    network = make_network()
    ask(network)
    cached = ask(network)[0].features["object"]
    branch = network.branches["object"].truncate(depth).eval()
    images = torch.stack([torch.from_numpy(make_photos(folder)[i]["image"]) for i in range(GROUP)])
    pooled = branch.pool(images)
    assert list(pooled) == [f"block{number}" for number in range(1, depth + 1)]
    for stage, values in pooled.items():
        assert torch.equal(values, cached[stage][:GROUP]), stage


def test_a_row_does_not_depend_on_its_neighbours(folder: Path, ask: Ask) -> None:
    """Groups are filled up: a photo alone, and each in another place among others, have the same bits."""
    network = make_network()
    whole = ask(network, cache=False)[0].features["object"]
    order = np.random.default_rng(0).permutation(PHOTOS)
    network.eval()
    for rows in ([7], order[:5], order):
        for chosen, pooled in pooled_groups.pooled_groups(
            {("identity", "object"): network.branches["object"]},
            make_photos(folder),
            np.asarray(rows),
            runtime=ON_CPU,
            workers=0,
        ):
            for stage, values in pooled["identity", "object"].items():
                assert torch.equal(values, whole[stage][chosen]), (stage, rows)


def test_a_row_does_not_depend_on_the_threads_that_compute_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that one thread computes while others are decoded, against groups that all threads compute by turns."""
    network = make_network().eval()

    def extracted(groups: int) -> list[Tensor]:
        with threads(2):
            prefetch = MeasuredPrefetch(workers=2)
            prefetch.groups = groups
            prefetch.decoded = Mock()  # type: ignore[method-assign]
            monkeypatch.setattr(pooled_groups, "prefetch_for", Mock(return_value=prefetch))
            branches = {("identity", "object"): network.branches["object"]}
            every = np.arange(PHOTOS)
            found = pooled_groups.pooled_groups(branches, make_photos(folder), every, runtime=ON_CPU, workers=2)
            return [values for _, pooled in found for values in pooled["identity", "object"].values()]

    assert all(torch.equal(one, all_) for one, all_ in zip(extracted(AHEAD), extracted(0), strict=True))


@torch.no_grad()
def test_every_view_is_that_of_the_turned_photo(ask: Ask, folder: Path) -> None:
    network = make_network()
    every = np.arange(PHOTOS)
    first, _, ran = ask(network, turned={"hflip": every, "hvflip": every[:40]})
    again, _, runs = ask(network, turned={"hflip": every, "hvflip": every[:40]})
    assert (ran, runs) == (2 * 3 * GROUP + 2 * GROUP, 0)  # 40 photos in three views, 20 in two
    for view in ("hflip", "hvflip"):
        assert same(first.turned[view], again.turned[view])
    images = torch.stack([torch.from_numpy(make_photos(folder)[i]["image"]) for i in range(GROUP)])
    branch = network.branches["object"].eval()
    for view, axes in {"hflip": [3], "hvflip": [2, 3]}.items():
        for stage, values in branch.pool(images.flip(axes)).items():
            assert torch.allclose(values, first.turned[view]["object"][stage][:GROUP], atol=1e-6), view
            assert not torch.allclose(values, first.features["object"][stage][:GROUP], atol=1e-6), view


def test_a_photo_is_decoded_once_for_all_views(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    plain = Decoder.decode
    monkeypatch.setattr(Decoder, "decode", lambda self, data, path: read.append(path) or plain(self, data, path=path))
    ask(make_network(), turned={"hflip": np.arange(50)})
    assert len(read) == len(set(read)) == PHOTOS


def test_added_photos_alone_are_computed(ask: Ask, folder: Path) -> None:
    ask(make_network())
    for number in range(3):
        Image.fromarray(np.full((SIZE, SIZE, 3), 80 * number, np.uint8)).save(folder / "joy" / f"new{number}.png")
    (folder / "joy" / "copy.png").write_bytes((folder / "joy" / "02.png").read_bytes())
    (folder / "awe" / "00.png").rename(folder / "awe" / "renamed.png")
    found, said, ran = ask(make_network())
    assert ran == GROUP
    assert said == ["features: computing object for 3 images, 61 loaded from cache"]
    assert same(found.features, ask(make_network(), cache=False)[0].features)


def test_a_changed_byte_of_a_photo_is_another_photo(ask: Ask, folder: Path) -> None:
    before = ask(make_network())[0].features["object"]["block5"]
    path = sorted(folder.rglob("*.png"))[17]
    with Image.open(path) as image:
        pixels = np.array(image)
    pixels[0, 0, 0] ^= 128
    Image.fromarray(pixels).save(path)
    found, said, _ = ask(make_network())
    assert said == ["features: computing object for 1 images, 59 loaded from cache"]
    changed = (found.features["object"]["block5"] != before).any(1).nonzero().flatten().tolist()
    assert changed == [17]


def other_weight() -> MultiStream:
    network = make_network()
    with torch.no_grad():
        next(network.branches["object"].stream.parameters()).view(-1)[0] += 1e-3
    return network


def other_buffer() -> MultiStream:
    """A normalisation constant, which no weight file holds."""
    network = make_network()
    network.branches["object"].stream.std[0] *= 1.01
    return network


CHANGES = {
    "weight": {"network": other_weight},
    "buffer": {"network": other_buffer},
    "precision": {"runtime": replace(ON_CPU, precision="bf16")},
    "layout": {"runtime": replace(ON_CPU, channels_last=True)},
    "background": {"decoder": Decoder(size=SIZE, background=(0, 0, 0))},
    "resize": {"decoder": Decoder(size=SIZE, resize="crop")},
    "draft": {"decoder": Decoder(size=SIZE, draft=False)},
    "torch": {"patch": ("torch.__version__", "99")},
    "pillow": {"patch": ("PIL.__version__", "99")},
    "processor": {"patch": ("multistream.features.key.device_kind", lambda device: f"another {device}")},
    "code": {"patch": ("multistream.features.key.code_of", lambda _: {"stream": "edited"})},
    "group": {"patch": ("multistream.features.key.GROUP", 16)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_part_of_the_key_leads_elsewhere(
    ask: Ask, folder: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(make_network())
    what = CHANGES[change]
    network = what["network"]() if "network" in what else make_network()
    if "patch" in what:
        monkeypatch.setattr(*what["patch"])
    photos = Photos(open_table(str(folder)), what.get("decoder", Decoder(size=SIZE)))
    _, said, ran = ask(network, runtime=what.get("runtime", ON_CPU), photos=photos)
    assert ran > 0
    assert said == [f"features: computing object for {PHOTOS} images, 0 loaded from cache"]
    monkeypatch.undo()


def test_another_version_of_the_plugin_leads_elsewhere(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    from multistream.features import key

    ask(make_network())
    find = key.find
    with monkeypatch.context() as patch:
        patch.setattr(key, "find", lambda *names, **more: replace(find(*names, **more), version="99"))
        assert ask(make_network())[2] > 0
    assert ask(make_network())[2] == 0


def test_the_code_in_the_key_is_that_of_the_streams_package_and_its_libraries() -> None:
    from multistream.features.key import code_of

    network = compose({"object": "object", "theirs": "timm:resnet10t"}, classes=CLASSES, image_size=SIZE)
    assert set(code_of(network.branches["object"])) == {"multistream_object", "timm"}
    assert set(code_of(network.branches["theirs"])) == {"timm"}


class Power(Tap):
    """Pools by a power mean, whose power is an option."""

    def pool(self, map_BChw: torch.Tensor) -> torch.Tensor:
        return super().pool(map_BChw**2)


def test_how_a_tap_pools_is_in_the_key() -> None:
    """Widths of the token do not matter to the global average; what another way of pooling was made with may."""
    from multistream.features.key import pooling_of

    branch = make_network().branches["object"]
    assert branch.plan is not None
    assert {pooling_of(tap, branch) for tap in branch.taps.values()} == {"global average"}
    found = set()
    for power in (2, 3):
        branch.plan = replace(branch.plan, tap="power", tap_options={"power": power})
        found.add(pooling_of(Power(4, width=4), branch))
    assert len(found) == 2


class Own(Stream):
    def __init__(self) -> None:
        from multistream.inputs import Image as Photo

        super().__init__({"one": torch.nn.Conv2d(3, 4, 3, stride=2)}, channels={"one": 4}, input=Photo(size=SIZE))


def test_an_instance_is_not_cached_and_it_is_said(ask: Ask, own_cache: Path) -> None:
    network = compose({"mine": Own()}, classes=CLASSES).freeze("streams")
    for _ in range(2):
        _, said, ran = ask(network)
        assert ran > 0
        assert said == ["features: mine is not cached: it was given as a Python object, so its settings are unknown"]
    assert not own_cache.exists()


def test_a_stream_that_trains_is_not_cached(ask: Ask) -> None:
    network = make_network()
    network.branches["object"].stream.requires_grad_(True)
    _, said, _ = ask(network)
    assert said == ["features: object is not cached: it is not frozen"]


def test_what_cannot_be_decoded_is_left_out(ask: Ask, folder: Path) -> None:
    path = sorted(folder.rglob("*.png"))[5]
    path.write_bytes(path.read_bytes()[:60])
    for _ in range(2):
        photos = make_photos(folder)
        found, _, _ = ask(make_network(), photos=photos)
        assert (~found.valid).nonzero().flatten().tolist() == [5]
        assert list(photos.bad) == [5]


def test_streams_share_a_decode_and_a_vector_needs_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    read: list[Path] = []
    plain = Decoder.decode
    monkeypatch.setattr(Decoder, "decode", lambda self, data, path: read.append(path) or plain(self, data, path=path))
    torch.manual_seed(0)
    network = compose(
        {"object": "object", "other": "object", "anp": "anp"},
        classes=CLASSES,
        image_size=SIZE,
        known={"anp": {"width": 4, "vocabulary": ()}},
    ).freeze("streams")
    vectors = np.arange(4 * PHOTOS, dtype=np.float32).reshape(PHOTOS, 4)
    photos = Photos(open_table(str(folder)), Decoder(size=SIZE), vectors={"anp": vectors})
    found, _, _ = ask(network, photos=photos)
    assert len(read) == PHOTOS
    again, _, _ = ask(network, photos=photos)
    assert len(read) == PHOTOS
    assert same(found.features, again.features)
    assert list(found.features) == ["object", "other", "anp"]
    assert torch.equal(
        found.features["anp"]["vector"], network.branches["anp"].pool(torch.from_numpy(vectors))["vector"]
    )


def test_runtime_is_compared_whole() -> None:
    """A new field of Runtime that changes numbers must find its way into the key: this names those that are there."""
    assert {*Runtime.__dataclass_fields__} == {"device", "precision", "channels_last", "compile", "cuda_graphs"}
    # CUDA graphs replay training steps alone: extraction runs without them
