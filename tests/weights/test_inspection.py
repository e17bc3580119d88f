"""`weights inspect` and `weights convert`, as functions and as commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from multistream import compose
from multistream.cli.weights import app
from multistream.errors import UsageError, WeightsError
from multistream.weights import convert, inspect, read_tensors
from multistream.weights.inspection import guess_architecture

VGG16 = {
    f"conv{block}_{index}": width
    for block, (count, width) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1)
    for index in range(1, count + 1)
}


def run(*arguments: object) -> tuple[str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


@pytest.fixture
def mobilenet(tmp_path: Path) -> Path:
    path = tmp_path / "mobilenet_v2.safetensors"
    save_file(torchvision.models.mobilenet_v2().half().state_dict(), path)
    return path


@pytest.fixture
def vgg16(tmp_path: Path, make_caffe: Callable[..., bytes]) -> Path:
    """Caffe's layers of a VGG16, thin ones: no more than names and the three colours is looked at."""
    before, layers = 3, {}
    for name in VGG16:
        layers[name] = (torch.randn(2, before, 3, 3), torch.randn(2))
        before = 2
    path = tmp_path / "vgg16_places365.caffemodel"
    path.write_bytes(make_caffe({**layers, "fc8a": (torch.randn(4, 2), torch.randn(4))}))
    return path


def test_inspect_counts_what_is_there(mobilenet: Path) -> None:
    found = inspect(mobilenet)
    assert (found.format, found.style, found.architecture) == ("safetensors", "torchvision", "MobileNetV2")
    assert (found.tensors, found.parameters, found.bytes) == (314, 3_504_872, mobilenet.stat().st_size)
    assert found.dtypes == {"float16": 262, "int64": 52}
    assert found.shapes["features.0.0.weight"] == (32, 3, 3, 3)


@pytest.mark.parametrize(
    ("state", "style", "architecture"),
    [
        (lambda: timm.create_model("mobilenetv2_100").state_dict(), "timm", "MobileNet or EfficientNet"),
        (lambda: timm.create_model("resnet18").state_dict(), "torchvision or timm", "ResNet (18 or 34 layers)"),
        (lambda: timm.create_model("test_vit").state_dict(), "timm", "a vision transformer"),
        (lambda: {"some.weight": torch.ones(1)}, "", ""),
    ],
)
def test_inspect_guesses(state: Callable[[], dict[str, Tensor]], style: str, architecture: str, tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    found = inspect(tmp_path / "a.pth")
    assert (found.style, found.architecture) == (style, architecture)


def test_inspect_knows_our_own_models(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors", metadata={"multistream": "{}"})
    assert inspect(tmp_path / "model.safetensors").style == "multistream"


def test_the_command_prints_json_or_lines(mobilenet: Path) -> None:
    printed, messages = run("inspect", mobilenet, "--json")
    assert json.loads(printed) == json.loads(json.dumps(inspect(mobilenet).to_dict()))
    assert messages == ""
    lines = run("inspect", mobilenet)[0].splitlines()
    assert lines[0] == f"{mobilenet}: safetensors, MobileNetV2 with the tensor names of torchvision"
    assert lines[-1] == "  and 308 more (--all)"
    assert len(run("inspect", mobilenet, "--all")[0].splitlines()) == 3 + 314


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    save_file({"a\x1b[2Jb\nc": torch.ones(1)}, tmp_path / "a.safetensors")
    printed, _ = run("inspect", tmp_path / "a.safetensors")
    assert "a?[2Jb?c" in printed


def test_convert_keeps_numbers_types_and_names(tmp_path: Path) -> None:
    base = torch.randn(4, 4)
    state = {
        "module.a": base.half(),
        "module.tied": base,
        "module.same": base,
        "module.t": base.t(),
        "module.n": torch.tensor(3),
    }
    torch.save({"state_dict": state}, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=False)
    found = convert(tmp_path / "a.pth.tar", tmp_path / "out" / "a.safetensors")
    written = load_file(tmp_path / "out" / "a.safetensors")
    assert found.tensors == 5
    assert found.metadata["converted_from"] == inspect(tmp_path / "a.pth.tar").sha256
    for name, tensor in state.items():
        assert written[name.removeprefix("module.")].dtype == tensor.dtype
        assert torch.equal(written[name.removeprefix("module.")], tensor)


@pytest.mark.parametrize("rgb", [False, True])
def test_caffes_vgg16_gets_torchvisions_names(rgb: bool, vgg16: Path, tmp_path: Path) -> None:
    out = tmp_path / "vgg16.safetensors"
    _, messages = run("convert", vgg16, out, *["--rgb"] * rgb)
    assert messages.startswith(f"The converted network expects {'R, G, B' if rgb else 'B, G, R'}, 0 to 255")
    before, after = read_tensors(vgg16).tensors, load_file(out)
    own = {
        name
        for name in torchvision.models.vgg16().state_dict()
        if not name.startswith(("classifier.0", "classifier.3"))
    }
    assert set(after) == own
    first = before["conv1_1.weight"].flip(1) if rgb else before["conv1_1.weight"]
    assert torch.equal(after["features.0.weight"], first)
    assert torch.equal(after["features.28.weight"], before["conv5_3.weight"])
    assert inspect(out).metadata["channels"] == ("RGB" if rgb else "BGR")


def test_weights_turned_to_rgb_are_refused_where_blue_comes_first(vgg16: Path, tmp_path: Path) -> None:
    out = tmp_path / "rgb.safetensors"
    convert(vgg16, out, rgb=True)
    with pytest.raises(WeightsError, match=r"^weights\.places: .* was converted to RGB, but"):
        compose({"places": "places"}, classes=["a", "b"], weights={"places": str(out)})


def test_convert_to_timms_names(mobilenet: Path, tmp_path: Path) -> None:
    out = tmp_path / "timm.safetensors"
    printed, _ = run("convert", mobilenet, out, "--names", "timm", "--json")
    assert json.loads(printed)["style"] == "timm"
    timm.create_model("mobilenetv2_100").load_state_dict(load_file(out))


def test_a_file_may_be_converted_onto_itself(mobilenet: Path) -> None:
    before = read_tensors(mobilenet).tensors
    convert(mobilenet, mobilenet, names="timm")
    convert(mobilenet, mobilenet, names="torchvision")
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(mobilenet).items())


def test_what_cannot_be_converted(mobilenet: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"The output is always safetensors"):
        convert(mobilenet, tmp_path / "out.pth")
    with pytest.raises(UsageError, match="not a Caffe VGG16"):
        convert(mobilenet, tmp_path / "out.safetensors", rgb=True)
    with pytest.raises(WeightsError, match="no such file"):
        convert(tmp_path / "missing.pth", tmp_path / "out.safetensors")
    assert sorted(tmp_path.iterdir()) == [mobilenet]


def test_source_and_the_command_need_no_torch() -> None:
    imports = "import sys; from multistream.weights import Source; import multistream.cli.weights"
    code = f"{imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


GUESSES = {
    "torchvision": {
        "mobilenet_v2": "MobileNetV2", "mobilenet_v3_small": "MobileNetV3", "efficientnet_b0": "EfficientNet",
        "convnext_tiny": "ConvNeXt", "swin_t": "Swin transformer", "vit_b_16": "a vision transformer", "vgg16": "VGG16",
        "vgg19": "", "vgg16_bn": "", "alexnet": "", "squeezenet1_1": "SqueezeNet", "densenet121": "DenseNet",
        "resnet18": "ResNet (18 or 34 layers)", "resnet50": "ResNet with bottlenecks (50 layers or more)",
        "googlenet": "", "shufflenet_v2_x1_0": "", "mnasnet0_5": "",
    },
    "timm": {
        "mobilenetv2_100": "MobileNet or EfficientNet", "tf_efficientnet_lite0": "MobileNet or EfficientNet",
        "convnext_atto": "ConvNeXt", "swin_tiny_patch4_window7_224": "Swin transformer", "vgg16": "VGG16",
        "vit_tiny_patch16_224": "a vision transformer", "resnet18": "ResNet (18 or 34 layers)", "levit_128s": "",
    },
}  # fmt: skip


@pytest.mark.parametrize(("library", "name"), [(lib, name) for lib, models in GUESSES.items() for name in models])
def test_architectures_are_named_rightly_or_not_at_all(library: str, name: str) -> None:
    with torch.device("meta"):
        make = timm.create_model if library == "timm" else torchvision.models.get_model
        names = make(name, **({"init_weights": False} if name == "googlenet" else {})).state_dict()
    style, architecture = guess_architecture(names)
    assert architecture == GUESSES[library][name]
    assert library in style or not architecture


def test_what_would_keep_a_file_from_being_used_is_noted(tmp_path: Path) -> None:
    save_file({"model.a": torch.ones(2), "model.b": torch.tensor([1.0, float("nan")])}, tmp_path / "odd.safetensors")
    notes = inspect(tmp_path / "odd.safetensors").notes
    assert notes[0] == "1 tensors hold a NaN or an infinity, for example model.b"
    assert "prefix 'model.'" in notes[1]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off_in_every_format(tmp_path: Path, prefix: str) -> None:
    save_file({f"{prefix}a": torch.ones(2), f"{prefix}b": torch.ones(1)}, tmp_path / "w.safetensors")
    file = read_tensors(tmp_path / "w.safetensors")
    assert list(file.tensors) == ["a", "b"]
    assert file.notes[0].startswith("prefix")
