"""torch.save's files: tensors come out as torch's own reader gives them, and nothing else gets in."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from multistream.errors import WeightsError
from multistream.weights import read_tensors
from multistream.weights.pickle_check import Outline

Write = Callable[[str, bytes], Path]

FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])


def saved(value: Any, *, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def varied() -> dict[str, Tensor]:
    """Tensors of every type, some transposed, strided, empty, scalar, tied."""
    base = torch.randn(4, 6)
    kinds = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8)
    typed = {str(kind): torch.arange(5).to(kind) for kind in (*kinds, torch.uint8, torch.bool)}
    views = {"whole": base, "transposed": base.t(), "strided": base[::2, 1:], "tied": base, "row": base[2]}
    return {**typed, **views, "empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5), "p": nn.Parameter(base.clone())}


@FORMS
def test_all_tensors_come_out_as_torch_reads_them(zipped: bool, write: Write) -> None:
    path = write("a.pth", saved(varied(), zipped=zipped))
    expected = torch.load(path, weights_only=True)
    file = read_tensors(path)
    assert (file.format, list(file.tensors), file.notes) == ("PyTorch", list(expected), ())
    for name, tensor in expected.items():
        found = file.tensors[name]
        assert (found.dtype, found.requires_grad) == (tensor.dtype, False)
        assert torch.equal(found, tensor), name


@FORMS
def test_csails_form_is_unwrapped(zipped: bool, write: Write) -> None:
    net = torchvision.models.resnet18()
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    whole = {"epoch": 90, "arch": "resnet18", "state_dict": state, "best_prec1": torch.tensor(54.0)}
    file = read_tensors(write("resnet18_places365.pth.tar", saved(whole, zipped=zipped)))
    assert file.notes == ("taken from 'state_dict'", "prefix 'module.' removed")
    net.load_state_dict(dict(file.tensors))


ONE = torch.ones(1)
OPTIMIZER = {"state": {0: {"step": 1.5, "betas": (0.9, 0.99)}}}


@pytest.mark.parametrize(
    ("value", "names", "notes"),
    [
        ({"model": {"a": ONE}}, ["a"], ["taken from 'model'"]),
        ({"model": {"state_dict": {"a": ONE}}}, ["a"], ["taken from 'model'", "taken from 'state_dict'"]),
        ({"net": {"module.a": ONE, "b": ONE}}, ["module.a", "b"], ["taken from 'net'"]),
        ({"a": ONE, "epoch": 3}, ["a"], ["1 entries that are not tensors left out"]),
        ({"optimizer": OPTIMIZER, "net": {"a": ONE}}, ["a"], ["taken from 'net'"]),
        (OrderedDict(a=ONE), ["a"], []),
        (nn.Linear(2, 2).state_dict(), ["weight", "bias"], []),
    ],
)
def test_wrappers(value: Any, names: list[str], notes: list[str], write: Write) -> None:
    file = read_tensors(write("w.pt", saved(value, zipped=True)))
    assert (list(file.tensors), list(file.notes)) == (names, notes)


def test_old_files_of_python_2_and_of_another_device_are_read(write: Write) -> None:
    """Python 2 wrote text as SHORT_BINSTRING and tensors by _rebuild_tensor, from cuda:0."""
    name, storage = b"U\x06weight", b"(U\x07storageq\x00ctorch\nFloatStorage\nU\x03123U\x06cuda:0K\x02NtQ"
    state = b"\x80\x02}(" + name + b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\x00K\x02\x85K\x01\x85tRu."
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    data = head + state + b"\x80\x02]U\x03123a." + struct.pack("<q2f", 2, 1.5, -2.5)
    assert read_tensors(write("old.pth.tar", data)).tensors["weight"].tolist() == [1.5, -2.5]


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "old", "bare"])
def test_nothing_in_a_file_is_run(form: str, write: Write, tmp_path: Path) -> None:
    attack = {"a": torch.ones(1), "b": Attack(tmp_path / "harm")}
    data = pickle.dumps(attack["b"], 2) if form == "bare" else saved(attack, zipped=form == "zip")
    path = write("a.pth", data)
    says = "other pickles can run arbitrary code" if form == "bare" else r"'(posix|nt)\.mkdir', which is not a tensor"
    with pytest.raises(WeightsError, match=says):
        read_tensors(path)
    assert not (tmp_path / "harm").exists()
    if form != "bare":  # the attack does work
        torch.load(path, weights_only=False)
        assert (tmp_path / "harm").exists()


@FORMS
def test_whole_models_are_refused_with_the_remedy(zipped: bool, write: Write) -> None:
    path = write("whole.pth", saved(nn.Linear(2, 2), zipped=zipped))
    with pytest.raises(WeightsError, match=r"'torch\.nn\.modules\.linear\.Linear', which is not.*torch\.save\(model"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": 1}, "it contains no tensor"),
        ([torch.ones(1)], "a list, not a dict"),
        (torch.ones(1), "a Tensor, not a dict"),
        ({(1, 2): torch.ones(1)}, "neither text nor a number"),
        ({"a": {1, 2}}, "it contains no tensor"),
        ({"a": bytearray(3)}, "not a tensor"),
        ({"a": torch.ones(2).to_sparse()}, "not a tensor"),
    ],
)
def test_what_is_no_dict_of_tensors(value: Any, says: str, write: Write) -> None:
    with pytest.raises(WeightsError, match=says):
        read_tensors(write("odd.pt", saved(value, zipped=True)))


def rezipped(data: bytes, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The same zip with changed parts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return buffer.getvalue()


def in_pickle(old: bytes, new: bytes) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if name.endswith("data.pkl"):
            assert data.count(old) == 1, data
            return data.replace(old, new)
        return data

    return change


# A tensor of 7 numbers: its count is K\x07 before the storage's end, its size K\x07\x85 and its stride K\x01\x85.
COUNT, SIZE, STRIDE = b"K\x07tq\x07Q", b"K\x07\x85", b"K\x01\x85"
TERA = b"\x8a\x06\x00\x00\x00\x00\x00\x01"  # 2**40, as LONG1


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (COUNT, TERA + b"tq\x07Q", "does not have the 4,398,046,511,104 bytes"),
        (COUNT, b"K\x08tq\x07Q", "does not have the 32 bytes"),
        (COUNT, b"J\xff\xff\xff\xfftq\x07Q", "not a storage"),
        (SIZE, TERA + b"\x85", "exceeds its storage of 7"),
        (SIZE, b"K\x08\x85", "exceeds its storage of 7"),
        (SIZE, b"J\xff\xff\xff\xff\x85", "not a number"),
        (SIZE, b"\x88\x85", "not a number"),
        (STRIDE, TERA + b"\x85", "exceeds its storage of 7"),
        (STRIDE, b"J\xff\xff\xff\xff\x85", "not a number"),
        (STRIDE, b")", "of something that is not a storage"),
    ],
)
def test_sizes_that_lie_are_found_before_torch_believes_them(old: bytes, new: bytes, says: str, write: Write) -> None:
    data = saved({"a": torch.arange(7.0)}, zipped=True)
    assert torch.equal(read_tensors(write("good.pt", rezipped(data, lambda _, d: d))).tensors["a"], torch.arange(7.0))
    with pytest.raises(WeightsError, match=says):
        read_tensors(write("bad.pt", rezipped(data, in_pickle(old, new))))


def test_a_tensor_spread_over_one_number_is_refused(write: Write) -> None:
    """Stride 0 claims any size from four bytes: nothing is allocated until somebody copies it."""
    data = saved({"a": torch.ones(1).expand(10**12)}, zipped=True)
    assert len(data) < 2000
    with pytest.raises(WeightsError, match="exceeds its storage of 1"):
        read_tensors(write("wide.pt", data))


def test_many_tensors_of_one_storage_are_counted_together(write: Write) -> None:
    base = torch.randn(20_000)
    data = saved({str(number): base for number in range(50)}, zipped=True)
    with pytest.raises(WeightsError, match="its tensors have 4,000,000 bytes, but"):
        read_tensors(write("many.pt", data))


def test_zips_that_are_not_torchs(write: Write) -> None:
    data = saved({"a": torch.arange(7.0)}, zipped=True)
    whole = rezipped(data, lambda _, d: d)
    for bad, says in [
        (rezipped(data, lambda _, d: d, zipfile.ZIP_DEFLATED), "compressed"),
        (rezipped(data, lambda n, d: b"" if n.endswith("data.pkl") else d), "its pickle"),
        (whole[:-30], "damaged"),
        (whole.replace(b"data.pkl", b"data.pkx"), "not a zip file from torch.save"),
        (whole.replace(b"byteorder", b"data/0\x00\x00\x00"), "one name|damaged|has not"),
    ]:
        with pytest.raises(WeightsError, match=says):
            read_tensors(write("bad.pt", bad))


def test_torchscript_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.pt", "w") as archive:
        archive.writestr("s/data.pkl", b"\x80\x02}.")
        archive.writestr("s/constants.pkl", b"\x80\x02).")
    with pytest.raises(WeightsError, match="TorchScript is not supported"):
        read_tensors(tmp_path / "s.pt")


def old_form(state: bytes, keys: bytes, storages: bytes, *, little: bool = True) -> bytes:
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": little}, 2)
    return head + state + keys + storages


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d[:-1], "ends inside storage"),
        (lambda d: d[:-36] + struct.pack("<q", 8) + d[-28:], "does not have the size that it claims"),
        (lambda d: d[30:], "not written by torch.save;"),
        (lambda d: d.replace(b"\x80\x02}", b"\x80\x04}"), "protocol is 4"),
        (lambda d: d.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"), "big-endian"),
        (lambda d: d[:100], "its pickle is damaged"),
    ],
)
def test_damaged_old_files(change: Callable[[bytes], bytes], says: str, write: Write) -> None:
    data = saved({"a": torch.arange(7.0)}, zipped=False)
    changed = change(data)
    assert changed != data
    with pytest.raises(WeightsError, match=says):
        read_tensors(write("old.pth", changed))


def test_an_old_file_that_claims_terabytes_allocates_nothing(write: Write) -> None:
    data = saved({"a": torch.arange(7.0)}, zipped=False)
    at = data.index(b"K\x07Ntq")
    with pytest.raises(WeightsError, match="does not have the size that it claims"):
        read_tensors(write("tera.pth", data[:at] + TERA + data[at + 2 :]))


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (b"(" * 3 + b".", "its pickle is damaged"),
        (b"q\x00.", "its pickle is damaged"),
        (b"h\x07.", "its pickle is damaged"),
        (b"\x80\x02)R.", "its pickle is damaged"),
        (b"K\x01)R.", "calls what is not a function"),
        (b"K\x01K\x02a.", "appends to what is not a list"),
        (b"]K\x01K\x02s.", "sets items of what is not a dict"),
        (b"}(K\x01u.", "sets items of what is not a dict"),
        (b"K\x01Q.", "not a storage"),
        (b"ccollections\nOrderedDict\nK\x01\x85R.", "an unexpected dict"),
        (b"ccollections\nOrderedDict\n]K\x01a\x85R.", "an unexpected dict"),
        (b"ctorch\nFloatStorage\n)R.", "calls torch.FloatStorage"),
        (b"ctorch._utils\n_rebuild_parameter\n)R.", "a parameter of something that is not a tensor"),
        (b"\x8f.", "does not belong"),
        (b"cbuiltins\neval\n.", "'builtins.eval', which is not"),
        (b"]}b.", "an object's state"),
        (b"N" * 50, "its pickle"),
    ],
)
def test_programs_that_are_no_state_dict(program: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Outline(io.BytesIO(program))


def test_dicts_that_hold_themselves_and_deep_nests_end(write: Write) -> None:
    loop = b"\x80\x02}q\x00U\x05modelh\x00s."
    deep = b"\x80\x02}(U\x01a" + b"(" * 200_000 + b"t" * 200_000 + b"u."
    keyed = b"\x80\x02}(" + b"(" * 200_000 + b"t" * 200_000 + b"K\x01u."
    for program in (loop, deep, keyed):
        path = write("loop.pth", old_form(program, b"\x80\x02].", b""))
        with pytest.raises(WeightsError, match=r"it contains no tensor|neither text nor a number"):
            read_tensors(path)


def test_endless_programs_are_given_up(write: Write) -> None:
    with pytest.raises(WeightsError, match="more than 1,000,000 instructions"):
        read_tensors(write("long.pth", old_form(b"\x80\x02" + b"N" * 1_100_000 + b".", b"", b"")))


@FORMS
def test_what_training_scripts_save_besides_tensors_is_passed_over(zipped: bool, write: Write) -> None:
    """argparse's arguments, NumPy numbers and arrays, paths, sets: nothing of it is made, the tensors load."""
    state = varied()
    numbers = {"best": np.float64(71.2), "history": np.arange(3), "kind": np.dtype("float32")}
    others = {"args": argparse.Namespace(lr=0.1, seen={1, 2}), "out": Path("x"), "at": datetime(2026, 1, 2)}
    whole = {"state_dict": state, **numbers, **others, "counts": defaultdict(int, a=1)}
    file = read_tensors(write("checkpoint.pth", saved(whole, zipped=zipped)))
    assert list(file.tensors) == list(state)
    assert all(torch.equal(file.tensors[name], tensor) for name, tensor in state.items())


def test_another_set_of_weights_is_named(write: Write) -> None:
    whole = {"state_dict": {"a": ONE}, "state_dict_ema": {"a": 2 * ONE}, "optimizer": OPTIMIZER}
    file = read_tensors(write("both.pth.tar", saved(whole, zipped=True)))
    assert file.tensors["a"] == 1
    assert file.unused == ("state_dict_ema",)
    assert file.notes[1] == "'state_dict_ema' is a second set of weights in the file and is not used"
