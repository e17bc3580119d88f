"""Every composition against a reference written out by hand, and what truncate, mask and freeze promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from multistream import Image, Map, MultiStream, MultistreamError, Stream, Vector, compose
from multistream.data.maps import read_map
from multistream.parts.taps import GlobalAverage

CLASSES = ["awe", "fear", "joy"]


class Photo(Stream):
    def __init__(self, channels: str = "RGB") -> None:
        def block(a: int, b: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU())

        stages = {"low": block(3, 6), "middle": block(6, 8), "high": block(8, 10)}
        image = Image(size=16, mean=(10.0, 20.0, 30.0), std=(40.0, 50.0, 60.0), channels=channels)  # type: ignore[arg-type]
        super().__init__(stages, channels={"low": 6, "middle": 8, "high": 10}, input=image)


class Depth(Stream):
    def __init__(self) -> None:
        stages = {"near": nn.Conv2d(1, 5, 3), "far": nn.Conv2d(5, 7, 3)}
        depth = Map("depth", channels=1, size=16, read=read_map)
        super().__init__(stages, channels={"near": 5, "far": 7}, input=depth)


class Words(Stream):
    def __init__(self) -> None:
        super().__init__({}, channels={}, input=Vector("words", width=9))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"vector": x.float()}


STREAMS = {
    "photo": {"photo": Photo},
    "two photos": {"photo": Photo, "other": lambda: Photo("BGR")},
    "photo and words": {"photo": Photo, "words": Words},
    "photo, depth and words": {"photo": Photo, "depth": Depth, "words": Words},
}
TEMPORALS = {
    "concat": {},
    "average": {},
    "bigru": {"units": 4},
    "bigru+att": {"units": 4},
}
VARIATIONS = [
    ("bigru", {"units": 4, "directions": "sum"}),
    ("bigru", {"units": 4, "readout": "last"}),
    ("bigru+att", {"units": 4, "weights": "shared", "gate": "scalar", "readout": "sum"}),
    ("bigru+att", {"units": 4, "directions": "sum", "readout": "last"}),
]


def batch_of(size: int = 4, seed: int = 0) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(0, 256, (size, 3, 16, 16), generator=chance, dtype=torch.uint8),
        "depth": torch.rand(size, 1, 16, 16, generator=chance),
        "words": torch.rand(size, 9, generator=chance),
    }


def composed(names: str, temporal: str, fusion: str, options: dict[str, object] | None = None) -> MultiStream:
    torch.manual_seed(0)
    parts = {key: make() for key, make in STREAMS[names].items()}
    options = TEMPORALS[temporal] if options is None else options
    network = compose(parts, classes=CLASSES, temporal=temporal, fusion=fusion, options={"temporal": options})
    network.freeze("streams").eval()
    with torch.no_grad():
        network.fit(network.pool(batch_of(16, seed=1)))
    return network


def gru(cell: nn.GRU, tokens: Tensor, reverse: bool) -> list[Tensor]:
    """A GRU stepped by hand (Cho et al. 2014, in torch's form)."""
    end = "_reverse" if reverse else ""
    wi, wh = getattr(cell, f"weight_ih_l0{end}"), getattr(cell, f"weight_hh_l0{end}")
    bi, bh = getattr(cell, f"bias_ih_l0{end}"), getattr(cell, f"bias_hh_l0{end}")
    h = torch.zeros(len(tokens), cell.hidden_size)
    states = []
    for x in tokens.flip(1).unbind(1) if reverse else tokens.unbind(1):
        ir, iz, inn = (x @ wi.T + bi).chunk(3, 1)
        hr, hz, hn = (h @ wh.T + bh).chunk(3, 1)
        r, z = torch.sigmoid(ir + hr), torch.sigmoid(iz + hz)
        h = (1 - z) * torch.tanh(inn + r * hn) + z * h
        states.append(h)
    return states[::-1] if reverse else states


def reference_temporal(temporal: nn.Module, tokens: Tensor, name: str) -> Tensor:
    if name == "concat":
        return torch.cat(tokens.unbind(1), 1)
    if name == "average":
        return torch.einsum("btw->bw", tokens) / tokens.shape[1]
    forward, backward = gru(temporal.gru, tokens, False), gru(temporal.gru, tokens, True)
    states = [torch.cat([f, b], 1) for f, b in zip(forward, backward, strict=True)]
    if name == "bigru+att":
        shared = temporal.weights == "shared"
        gates = [(temporal.weight[0 if shared else t], temporal.bias[0 if shared else t]) for t in range(len(states))]
        states = [x * torch.tanh(x @ w.T + b) ** 2 for x, (w, b) in zip(states, gates, strict=True)]
    units = temporal.units
    join = (lambda s: s[:, :units] + s[:, units:]) if temporal.directions == "sum" else (lambda s: s)
    if temporal.readout == "last":
        return join(torch.cat([states[-1][:, :units], states[0][:, units:]], 1))
    joined = [join(s) for s in states]
    return torch.cat(joined, 1) if temporal.readout == "flatten" else sum(joined)  # type: ignore[return-value]


def reference(network: MultiStream, batch: dict[str, Tensor], temporal: str, fusion: str) -> Tensor:
    """The whole network, plainly."""
    vectors = {}
    for key, branch in network.branches.items():
        if branch.is_vector:
            vectors[key] = batch["words"]
            continue
        stream = branch.stream
        if isinstance(stream.input, Image):
            x = batch["image"].float()
            x = x[:, [2, 1, 0]] if stream.input.channels == "BGR" else x
            x = (x - torch.tensor(stream.input.mean)[:, None, None]) / torch.tensor(stream.input.std)[:, None, None]
        else:
            x = batch["depth"]
        tokens = []
        for name, stage in stream.stages.items():
            x = stage(x)
            tap = branch.taps[name]
            pooled = torch.einsum("bchw->bc", x) / (x.shape[2] * x.shape[3])
            standard = (pooled - tap.mean) * tap.scale
            tokens.append(torch.einsum("bp,wp->bw", standard, tap.projection.weight) + tap.projection.bias)
        vectors[key] = reference_temporal(branch.temporal, torch.stack(tokens, 1), temporal)
    if len(vectors) == 1:
        ((key, vector),) = vectors.items()
        return network.fusion.heads[key](vector)
    if fusion == "early":
        joined = torch.cat(list(vectors.values()), 1)
        return torch.einsum("be,ke->bk", joined, network.fusion.classifier.weight) + network.fusion.classifier.bias
    own = torch.stack([network.fusion.heads[key](vector).softmax(1) for key, vector in vectors.items()])
    if fusion == "late":
        return own.mean(0).log()
    joined = torch.cat(list(vectors.values()), 1)
    trust = network.fusion.gate(joined).softmax(1)
    return torch.einsum("sbk,bs->bk", own, trust).log()


@torch.no_grad()
@pytest.mark.parametrize("names", STREAMS)
@pytest.mark.parametrize("temporal", TEMPORALS)
@pytest.mark.parametrize("fusion", ["early", "late", "gated"])
def test_forward_equals_the_reference(names: str, temporal: str, fusion: str) -> None:
    network, batch = composed(names, temporal, fusion), batch_of()
    torch.testing.assert_close(network(batch), reference(network, batch, temporal, fusion), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("temporal", "options"), VARIATIONS)
def test_options_of_the_temporals_equal_the_reference(temporal: str, options: dict[str, object]) -> None:
    network, batch = composed("photo and words", temporal, "early", options), batch_of()
    torch.testing.assert_close(network(batch), reference(network, batch, temporal, "early"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_pooling_and_projecting_commute(kind: torch.dtype, tolerance: float) -> None:
    """Check E1: GAP(conv1x1(x)) = Linear(GAP(x))."""
    torch.manual_seed(0)
    tap = GlobalAverage(24, width=64).to(kind)
    convolution = nn.Conv2d(24, 64, 1).to(kind)
    with torch.no_grad():
        convolution.weight.copy_(tap.projection.weight[:, :, None, None])
        convolution.bias.copy_(tap.projection.bias)  # type: ignore[union-attr]
        x = torch.randn(3, 24, 14, 14, dtype=kind)
        pooled = x.mean((2, 3)) if kind == torch.float64 else tap.pool(x)  # pool reduces in float32 by contract
        difference = (convolution(x).mean((2, 3)) - tap.project(pooled)).abs().max()
    assert difference < tolerance


def test_truncation_shares_drops_and_is_untrained() -> None:
    """Check B5: the truncated network's pooled features are those of the whole, bit by bit."""
    network, batch = composed("photo and words", "concat", "early"), batch_of()
    network.mark_trained()
    cut = network.truncate({"photo": 2}).eval()
    assert not cut.trained
    whole, kept = network.pool(batch)["photo"], cut.pool(batch)["photo"]
    assert list(kept) == ["low", "middle"]
    assert all(torch.equal(kept[stage], whole[stage]) for stage in kept)
    assert cut.branches["photo"].taps["low"] is network.branches["photo"].taps["low"]
    own = {id(p) for p in cut.parameters()}
    assert not own & {id(p) for p in network.branches["photo"].stream.stages["high"].parameters()}
    assert cut(batch).shape == (4, 3)
    with pytest.raises(MultistreamError, match="Did you mean 'photo'"):
        network.truncate({"foto": 2})


@torch.no_grad()
def test_a_masked_tap_gives_the_training_mean() -> None:
    network, batch = composed("photo and words", "concat", "early"), batch_of()
    masked = network.mask({"photo": ["high"], "words": ["vector"]})
    pooled = network.pool(batch)
    taps = network.branches["photo"].taps
    pooled["photo"]["high"] = taps["high"].baseline.expand(4, -1)
    pooled["words"]["vector"] = network.branches["words"].taps["vector"].baseline.expand(4, -1)
    torch.testing.assert_close(masked(batch), network.classify(pooled))
    assert not torch.equal(masked(batch), network(batch))
    with pytest.raises(MultistreamError, match="no tap 'hihg'"):
        network.mask({"photo": ["hihg"]})


@pytest.mark.parametrize(("what", "trains"), [("streams", {"taps", "temporal", "fusion"}), ("branches", {"fusion"})])
def test_freezing_leaves_no_trace_below(what: str, trains: set[str]) -> None:
    network, batch = composed("photo and words", "bigru+att", "early"), batch_of()
    network.requires_grad_(True)
    network.freeze(what).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(batch), torch.arange(4) % 3).backward()
        optimizer.step()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"fusion" if name.startswith("fusion") else name.split(".")[2] for name in changed} == trains


def test_unfreezing_reverses_freezing() -> None:
    network = composed("photo and words", "bigru+att", "early")
    every = {name for name, _ in network.requires_grad_(True).named_parameters()}
    network.freeze("branches").unfreeze("branches").train()
    assert {name for name, weight in network.named_parameters() if weight.requires_grad} == every
    assert not [name for name, module in network.named_modules() if not module.training]
    network.freeze("streams").unfreeze("photo").freeze("photo:2").train()
    frozen = {name.split(".")[4] for name, weight in network.named_parameters() if not weight.requires_grad}
    assert frozen == {"low", "middle"}
    assert network.branches["photo"].stream.stages["high"].training
    assert not network.branches["photo"].stream.stages["low"].training
    with pytest.raises(MultistreamError, match="unfreeze: no stream 'phot'"):
        network.unfreeze("phot")


@torch.no_grad()
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("fusion", ["early", "late", "gated"])
def test_a_network_of_another_precision_reads_the_same_batch(kind: torch.dtype, fusion: str) -> None:
    network, batch = composed("photo, depth and words", "bigru+att", fusion), batch_of()
    expected = network(batch)
    found = network.to(kind)(batch)
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)


def test_a_streams_own_key_goes_before_the_shared_input() -> None:
    network, batch = composed("two photos", "concat", "early"), batch_of()
    with torch.no_grad():
        shared, own = network(batch), network({**batch, "other": batch_of(seed=5)["image"]})
    assert not torch.equal(shared, own)


def test_other_sizes_are_brought_down_on_the_device_and_a_matching_one_adds_nothing() -> None:
    stream = Photo().eval()
    large = batch_of()["image"].repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad():
        assert stream(large)["low"].shape == stream(batch_of()["image"])["low"].shape
        tall = torch.cat([batch_of()["image"]] * 2, 2)
        assert stream(tall)["low"].shape == stream(batch_of()["image"])["low"].shape
    exact = stream.prepare(batch_of()["image"])
    x = (batch_of()["image"].float() - stream.mean) / stream.std
    assert torch.equal(exact, x)
