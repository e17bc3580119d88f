"""Specs: what a user types for a part."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multistream.errors import UsageError
from multistream.spec import OUR_NAMES, TORCH_NAMES, Spec, check_key, parse_specs

KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True).filter(lambda key: key not in TORCH_NAMES | OUR_NAMES)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,12}", fullmatch=True)
VARIANTS = st.none() | st.text(min_size=1).filter(lambda text: not re.search(r"[\s:@=,/~]", text))
PATHS = st.text(min_size=1).filter(lambda text: "\0" not in text).map(Path)


@given(st.builds(Spec, KEYS, NAMES, VARIANTS, st.none() | NAMES))
def test_a_part_round_trips(spec):
    assert Spec.parse(str(spec)) == spec
    assert Spec.parse(spec.part, key=spec.key) == spec


@given(st.builds(Spec, KEYS, run=PATHS))
def test_a_run_round_trips(spec):
    assert Spec.parse(str(spec)) == spec
    assert Spec.parse(spec.part, key=spec.key) == spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("object", Spec("object", "object")),
        ("object:mobilenetv1", Spec("object", "object", "mobilenetv1")),
        ("o=object@multistream-object", Spec("o", "object", None, "multistream-object")),
        ("net=timm:resnet18.a1_in1k", Spec("net", "timm", "resnet18.a1_in1k")),
        ("object=runs/o", Spec("object", run=Path("runs/o"))),
        ("object=./o", Spec("object", run=Path("o"))),
        ("object=./~", Spec("object", run=Path("~"))),
        ("object=~/o", Spec("object", run=Path.home() / "o")),
        ("object=runs/o=p", Spec("object", run=Path("runs/o=p"))),
        ("c=text:bank.safetensors", Spec("c", "text", "bank.safetensors")),
        ("c=text:../my banks/b=1.safetensors", Spec("c", "text", "../my banks/b=1.safetensors")),
        ("c=text:~/b@mine", Spec("c", "text", "~/b", "mine")),
        ("c=C:/runs/o", Spec("c", run=Path("C:/runs/o"))),
    ],
)
def test_reads(text, spec):
    assert Spec.parse(text) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a spec. It must read [KEY=]NAME[:VARIANT][@DISTRIBUTION]"),
        ("object:", "'object:' is not a spec"),
        ("=object", "'=object' is not a spec"),
        ("object:a:b", "is not a spec"),
        ("runs/o", "'runs/o' is the path of a run and has no key. A branch of a run needs a key: KEY=runs/o."),
        ("bigru+att", "'bigru+att' cannot be a key. Write KEY=bigru+att."),
        ("Object=object", "'Object' cannot be a key. It must be a-z, 0-9 and _, and start with a letter."),
        ("pop=object", "'pop' is an attribute of torch.nn.ModuleDict"),
        ("branches=object", "'branches' is reserved"),
        ("o=~nobody-of-this-name/o", "contains an unknown home folder"),
    ],
)
def test_refuses(text, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        Spec.parse(text)


def test_a_list_has_each_key_once():
    assert [spec.key for spec in parse_specs(" object, net=timm:resnet18 ")] == ["object", "net"]
    with pytest.raises(
        UsageError, match=r"'timm:a' and 'timm:b' have the same key 'timm'. Use another key for one of them: KEY=ti"
    ):
        parse_specs(["timm:a", "timm:b"])


def test_torch_refuses_no_other_key():
    nn = pytest.importorskip("torch.nn")
    words = {name for name in dir(nn.ModuleDict()) if re.fullmatch("[a-z][a-z0-9_]*", name)}
    assert words <= TORCH_NAMES, "torch has got new names"
    modules = nn.ModuleDict()
    for key in ("object", "append", "extend"):
        modules[check_key(key)] = nn.Identity()
    for key in words & {"pop", "train", "cpu", "keys", "training"}:
        with pytest.raises(KeyError):
            modules[key] = nn.Identity()
