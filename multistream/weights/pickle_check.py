"""The outline of a pickle: the objects that it would build, determined without building them.

torch's `weights_only` reader runs no arbitrary code, but it trusts the sizes in a file. In torch 2.14.1 the zip form
refuses all false sizes except a stride of 0 that expands 4 bytes to terabytes; in the older form a false count is
allocated before anything is read. This project also runs on torch 2.11. Therefore the instructions are read first, on
plain values (by pickletools, which executes none). This also detects other objects that a training script saved with
the tensors: those of known harmless kinds are skipped, any other is reported.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, islice
from math import prod
from mmap import mmap
from pickletools import genops
from typing import IO, Any, cast

import torch

from multistream.weights.tensors import Malformed, MoreThanTensors, expect, malformed

Readable = BytesIO | mmap

MOST_INSTRUCTIONS = 1_000_000
"""A state dict of 1,000 tensors needs about 20,000."""

DTYPES = {
    f"torch {name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Double": torch.float64,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}  # fmt: skip

REBUILD = ("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2")
PARAMETER = "torch._utils _rebuild_parameter"
ORDERED = "collections OrderedDict"
HARMLESS = ("torch Size", "torch device", *(str(dtype).replace(".", " ") for dtype in DTYPES.values()))
ALLOWED = frozenset({*DTYPES, *REBUILD, PARAMETER, ORDERED, *HARMLESS})

DICTS = frozenset({"collections defaultdict", "collections Counter"})
PLAIN_TYPES = ("set", "frozenset", "object", "list", "dict", "int", "long", "float", "bool", "complex", "slice")
RECORDS = frozenset(
    {
        *("argparse Namespace", "types SimpleNamespace", *DICTS),
        *("_codecs encode", "copyreg _reconstructor", "copy_reg _reconstructor", "numpy dtype", "numpy ndarray"),
        *(f"numpy.{core}.multiarray {name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
        *(f"{module} {name}" for module in ("builtins", "__builtin__") for name in PLAIN_TYPES),
        *(f"pathlib {name}" for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
        *(f"pathlib._local {name}" for name in ("Path", "PosixPath", "WindowsPath")),
        *(f"datetime {name}" for name in ("datetime", "date", "timedelta")),
    }
)
"""Objects that training scripts save with tensors: arguments, NumPy numbers, paths. They are skipped, never created."""

NUMPY_TYPES = "numpy.dtypes "

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"})
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, eq=False)
class Named:
    """A global by its name, or an object of a harmless global whose content is not needed."""

    name: str


@dataclass(frozen=True, eq=False)
class Storage:
    """`count` numbers of one type, stored elsewhere in the file under `key`."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True, eq=False)
class View:
    """A tensor: a view of a storage with offset, sizes and strides, all within the storage."""

    storage: Storage
    size: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Record:
    """An object of one of the RECORDS, without its content."""

    name: str


class Outline:
    """Interprets one pickle. `value` is its result; `storages` are all that it refers to, `records` names of RECORDS.

    The bytes are in memory or in a mapped file, because a plain file's `read` allocates any length that the file
    claims.
    """

    def __init__(self, file: Readable) -> None:
        self.storages: dict[str, Storage] = {}
        self.records: set[str] = set()
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self.value = self._read(file)

    def _read(self, file: Readable) -> Any:
        with warnings.catch_warnings(), malformed("its pickle is damaged", ValueError, IndexError, KeyError):
            warnings.simplefilter("ignore")  # pickletools warns of unusual escapes in old texts
            for opcode, argument, _ in islice(genops(cast(IO[bytes], file)), MOST_INSTRUCTIONS):
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode.name, argument)
        raise Malformed(f"it has more than {MOST_INSTRUCTIONS:,} instructions")

    def _step(self, name: str, argument: Any) -> None:
        """Interprets instructions that push one value."""
        stack = self._stack
        match name:
            case _ if name in VALUES:
                stack.append(argument)
            case _ if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case _ if name in TUPLES:
                stack.append(tuple(reversed([self._stack.pop() for _ in range(TUPLES[name])])))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "PROTO":
                expect(argument == 2, f"its pickle protocol is {argument}; torch.save writes 2")
            case "GLOBAL":
                stack.append(self._global(argument))
            case "BINPERSID":
                stack.append(self._storage(self._stack.pop()))
            case "REDUCE" | "NEWOBJ" | "BUILD":
                self._make(name)
            case _:
                self._collect(name)

    def _make(self, name: str) -> None:
        """Interprets instructions that call a function, create an object, or set its state."""
        stack, argument = self._stack, self._stack.pop()
        match name:
            case "REDUCE":
                stack.append(_called(self._stack.pop(), argument))
            case "NEWOBJ":
                expect(isinstance(stack[-1], Named) and isinstance(argument, tuple), "it creates an unexpected object")
                stack[-1] = Record(stack[-1].name)
            case "BUILD":  # an OrderedDict's own attributes, or a record's content
                is_plain = isinstance(argument, dict) and isinstance(stack[-1], dict)
                expect(is_plain or isinstance(stack[-1], Record), "it sets an object's state")

    def _collect(self, name: str) -> None:
        """Interprets instructions that fill containers."""
        match name:
            case "MARK":
                self._marks.append(self._stack)
                self._stack = []
            case "EMPTY_LIST":
                self._stack.append([])
            case "EMPTY_DICT":
                self._stack.append({})
            case "TUPLE":
                items = self._since_mark()
                self._stack.append(tuple(items))
            case "APPEND" | "APPENDS":
                items = self._since_mark() if name == "APPENDS" else [self._stack.pop()]
                expect(type(self._stack[-1]) is list, "it appends to what is not a list")
                self._stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = (
                    self._since_mark() if name == "SETITEMS" else [*reversed([self._stack.pop(), self._stack.pop()])]
                )
                expect(type(self._stack[-1]) is dict and len(items) % 2 == 0, "it sets items of what is not a dict")
                self._stack[-1].update(_pairs(zip(items[::2], items[1::2], strict=True)))
            case _:
                raise Malformed(f"its instruction {name} does not belong in a state dict")

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _global(self, argument: str) -> Named:
        if _is_record(argument):
            self.records.add(argument)
        elif argument not in ALLOWED:
            raise MoreThanTensors(f"{argument.replace(' ', '.')[:80]!r}, which is not a tensor")
        return Named(argument)

    def _storage(self, identity: Any) -> Storage:
        """Returns a storage by its identity: ("storage", type, key, device, count), in old files also a view of one."""
        match identity:
            case ("storage", Named(name=kind), str(key), str(), int(count), *view) if kind in DTYPES and count >= 0:
                expect(view in ([], [None]), "it has views of storages")
                storage = self.storages.setdefault(key, Storage(DTYPES[kind], key, count))
                expect((storage.dtype, storage.count) == (DTYPES[kind], count), f"it describes storage {key!r} twice")
                return storage
        raise Malformed("it refers to something outside that is not a storage")


def _called(function: Any, arguments: Any) -> Any:
    """Returns the result of a call: a tensor's outline, a dict, or a skipped object."""
    expect(isinstance(function, Named) and isinstance(arguments, tuple), "it calls what is not a function")
    name = function.name
    if name in CALLS:
        return CALLS[name](arguments)
    if _is_record(name):
        return Record(name)
    expect(name in HARMLESS, f"it calls {name.replace(' ', '.')}")
    return Named(name)


def _is_record(name: str) -> bool:
    return name in RECORDS or name.startswith(NUMPY_TYPES)


def _parameter(arguments: tuple[Any, ...]) -> View:
    match arguments:
        case (View() as view, *_):
            return view
    raise Malformed("it makes a parameter of something that is not a tensor")


def _ordered(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    match arguments:
        case () | (list(),):
            return _pairs(chain(*arguments))
    raise Malformed("it creates an unexpected dict")


def _pairs(pairs: Iterable[Any]) -> dict[Any, Any]:
    """Returns a dict with plain keys only: hashing a deeply nested tuple would crash the process."""
    made = {}
    for pair in pairs:
        expect(isinstance(pair, tuple | list) and len(pair) == 2, "it creates an unexpected dict")
        expect(isinstance(pair[0], str | int | float), "a key of a dict is neither text nor a number")
        made[pair[0]] = pair[1]
    return made


def _view(arguments: tuple[Any, ...]) -> View:
    match arguments:
        case (Storage() as storage, int(offset), tuple(size), tuple(stride), *_) if len(size) == len(stride) <= 32:
            numbers = (offset, *size, *stride)
            expect(all(type(n) is int and 0 <= n <= 2**62 for n in numbers), "a tensor's size is not a number")
            count = prod(size)
            last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
            inside = count == 0 or max(count, last + 1) <= storage.count
            expect(inside, f"a tensor of shape {size} exceeds its storage of {storage.count:,}")
            return View(storage, size)
    raise Malformed("it makes a tensor of something that is not a storage")


CALLS: Mapping[str, Callable[[tuple[Any, ...]], Any]] = {
    **dict.fromkeys(REBUILD, _view),
    **dict.fromkeys(DICTS, lambda _: {}),
    PARAMETER: _parameter,
    ORDERED: _ordered,
}
"""Functions that compute a call's result from its arguments, by the name of the called function."""
