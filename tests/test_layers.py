"""Imports point one way: each room imports rooms of lower layers only, whether at the top of a module or in a function.

`python tests/test_layers.py` writes the table of rooms in docs/design.md again.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "multistream"
DESIGN = ROOT / "docs" / "design.md"

LAYERS = (
    ("_version", "commands", "errors", "inputs", "hookspecs", "nn", "console", "records", "bootstrap"),
    ("statistics", "local_processes"),
    ("spec", "system_errors", "vote_distances", "label_set_metrics"),
    ("files",),
    ("checksums", "figures", "folder_lock"),
    ("concepts", "recipe", "registry", "weights"),
    ("stream",),
    ("interfaces",),
    ("parts", "data"),
    ("network", "testing"),
    ("runs", "runtime"),
    ("features", "profiling", "comparison", "environment"),
    ("inference",),
    ("batch",),
    ("training",),
    ("explaining",),
    ("ablation", "reproduction"),
    ("reporting",),
    ("cli",),
    ("__main__",),
)
"""The rooms from the lowest layer to the highest. Rooms of one layer do not import each other."""

UPWARD: dict[tuple[str, str], str] = {}
"""Imports against the layers, each with its reason: there should be none."""

LATE = {
    "cli": "A command imports what it runs: `--help` stays fast and imports no torch.",
    "registry.discovery": "`forget` clears the cache of loading, which itself reads what discovery found.",
    "data.loading": "torchvision takes a second to import, and only decoding on a GPU needs it.",
    "inference.model": "Model.predict is a method of what `load` returns, and prediction takes a Model.",
    "training.engines": "Only the engine ray needs the modules of prediction: a training run starts without them.",
    "environment": "A torch that cannot be imported is a fault to report, not an error of the report.",
    "reproduction.reproduce": "What only reads finished runs needs no torch: a second call ends in seconds.",
    "reproduction.plan": "Only figure 4 asks for the stages of a stream, and so builds it.",
}
"""Modules (or rooms) that may import inside functions, each with its reason."""

PART_ROOMS = {
    "network": "Composition puts in VectorTap, Solo and MaskedTap itself; nobody asks for them by name.",
    "ablation": "Batched rows compute our own taps, temporals and fusions, matched by exact type.",
}
"""Rooms that may import our own parts: all others know a part by its interface."""


@dataclass(frozen=True)
class Import:
    """One import inside the package: `importer` and `imported` are modules without the leading `multistream.`."""

    importer: str
    imported: str
    in_function: bool

    @property
    def rooms(self) -> tuple[str, str]:
        return self.importer.split(".")[0], self.imported.split(".")[0]


def module_name(path: Path) -> str:
    names = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports() -> Iterator[Import]:
    for name, path in MODULES.items():
        if name:  # the package's front door names what all rooms export
            yield from imports_of(name, ast.parse(path.read_text()))


def imports_of(name: str, tree: ast.Module) -> Iterator[Import]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            if target.split(".")[0] == "multistream":
                yield Import(name, known_module(target.partition(".")[2]), id(node) in inside)


def known_module(target: str) -> str:
    """`network.plan.Options` -> `network.plan`: an import may name a module or what is in it."""
    while target not in MODULES:
        target = target.rpartition(".")[0]
    return target


def layer_of(room: str) -> int:
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms)


def table() -> str:
    """The rooms as a table, from the first sentence of each room's docstring."""
    lines = ["| layer | package | purpose |", "|---|---|---|"]
    for number, rooms in enumerate(LAYERS[:-1], start=1):
        for room in rooms:
            path = MODULES[room]
            text = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].replace("\n", " ")
            shown = f"{room}/" if path.name == "__init__.py" else f"{room}.py"
            lines.append(f"| {number} | `{shown}` | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


TABLE = re.compile(r"^\| layer \|.*?(?=\n\n)", re.M | re.S)


def test_every_room_has_a_layer() -> None:
    rooms = [room for rooms in LAYERS for room in rooms]
    assert sorted(rooms) == sorted({name.split(".")[0] for name in MODULES if name})


def test_rooms_import_lower_layers_only() -> None:
    upward = [
        each
        for each in imports()
        if len(set(each.rooms)) == 2
        and layer_of(each.rooms[1]) >= layer_of(each.rooms[0])
        and (each.importer, each.imported) not in UPWARD
    ]
    assert not upward


def test_the_front_door_is_imported_by_nobody_inside() -> None:
    assert not [each for each in imports() if each.imported == ""]


def test_imports_inside_functions_have_a_reason() -> None:
    late = {each.importer for each in imports() if each.in_function}
    assert not {name for name in late if name not in LATE and name.split(".")[0] not in LATE}


def test_every_exception_is_still_needed() -> None:
    found = list(imports())
    assert set(UPWARD) <= {(each.importer, each.imported) for each in found}
    late = {name for each in found if each.in_function for name in (each.importer, each.importer.split(".")[0])}
    assert set(LATE) <= late
    assert set(PART_ROOMS) <= {each.rooms[0] for each in found if each.rooms[1] == "parts"}


def test_parts_are_known_by_their_interface() -> None:
    """Nobody outside asks whether a part is one of ours: a stranger's part gets the same service."""
    named = [each for each in imports() if each.rooms[1] == "parts" and each.rooms[0] not in {"parts", *PART_ROOMS}]
    assert {each.imported for each in named} <= {"parts.dropout"}  # seeds every SteppedDropout, whoever's part it is in


STATE = {"trained", "fusion_plan", "loaded_branches", "loaded_heads", "make_fusion", "make_temporal", "out_width"}
"""Attributes of MultiStream and Branch that their constructors set."""


def test_a_network_is_complete_when_its_constructor_returns() -> None:
    outside = []
    for name, path in MODULES.items():
        if name.split(".")[0] in ("network", "stream", "interfaces"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in (t for each in targets for t in (each.elts if isinstance(each, ast.Tuple) else [each])):
                own = isinstance(target, ast.Attribute) and getattr(target.value, "id", "") == "self"
                if isinstance(target, ast.Attribute) and target.attr in STATE and not own:
                    outside.append(f"{name}:{node.lineno}")
    assert not outside


@pytest.mark.parametrize(
    "code",
    [
        "from multistream.network.compose import recompose",
        "from multistream import network",
        "import multistream.network.plan",
        "def function():\n    from multistream.network import plan",
    ],
)
def test_every_way_to_import_is_seen(code: str) -> None:
    (found,) = imports_of("data.table", ast.parse(code))
    assert found.rooms == ("data", "network")
    assert layer_of("network") > layer_of("data")
    assert found.in_function == code.startswith("def")


def test_the_table_of_rooms_is_the_code() -> None:
    (written,) = TABLE.findall(DESIGN.read_text())
    assert written == table(), "write it again: python tests/test_layers.py"


if __name__ == "__main__":
    DESIGN.write_text(TABLE.sub(lambda _: table(), DESIGN.read_text()))
