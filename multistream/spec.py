"""Specs: how a user names a part, `[KEY=]NAME[:VARIANT][@DISTRIBUTION]`, or a branch of a run, `KEY=PATH`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from multistream.errors import UsageError

KEY = re.compile(r"[a-z][a-z0-9_]*")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
PART = re.compile(rf"(?P<name>{NAME.pattern})(?::(?P<variant>[^\s:@=,/]+))?(?:@(?P<distribution>{NAME.pattern}))?")

FILE_PART = re.compile(
    rf"(?P<name>{NAME.pattern}(?<=..)):(?P<variant>[^:@,]*[/\\][^:@,]*)(?:@(?P<distribution>{NAME.pattern}))?"
)
"""A part whose variant is a file's path. A name of one letter does not match: `C:/runs/x` is the path of a run."""

GRAMMAR = "It must read [KEY=]NAME[:VARIANT][@DISTRIBUTION], or KEY=PATH for a branch of a run."

# The attributes of torch.nn.ModuleDict, which it refuses as keys. Listed here because this module does not import
# torch; a test compares the list with the installed torch. Likely mistakes are `cpu`, `train` and `values`.
TORCH_NAMES = frozenset(
    """
    add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double dump_patches eval
    extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu items keys
    load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters pop
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
    register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to to_empty
    train training type update values xpu zero_grad
    """.split()  # noqa: SIM905  a list would take a screen
)
INSTANCE = "<instance>"
"""The text in recipes and plans for a stream that was passed as an instance, which a file cannot hold."""

OUR_NAMES = frozenset({"none", "streams", "branches", "index", "fused"})
"""Reserved keys: `--freeze` reads `none`, `streams` and `branches`; a batch's `index` holds the images' row numbers; an
explanation's `fused` holds the logits of the whole network."""


@dataclass(frozen=True)
class Spec:
    """A parsed spec: a part's `name` with its `variant` and `distribution`, or a branch of a `run`.

    `is_instance` marks a stream that was passed as an instance.

    >>> spec = Spec.parse("scenes=places:resnet18@multistream-places")
    >>> spec.key, spec.name, spec.variant, spec.distribution
    ('scenes', 'places', 'resnet18', 'multistream-places')
    >>> print(spec, Spec.parse("object"), Spec.parse("object=runs/o"))
    scenes=places:resnet18@multistream-places object object=runs/o
    """

    key: str
    name: str = ""
    variant: str | None = None
    distribution: str | None = None
    run: Path | None = None
    is_instance: bool = False

    @classmethod
    def parse(cls, text: str, *, key: str | None = None, where: str = "streams") -> Spec:
        """Parses a spec; if `key` is passed, `text` is the spec without it. Raises UsageError for an invalid spec."""
        if key is None:
            key, rest = _split_key(text)
        else:
            key, rest = check_key(key, where=where), text
        if rest == INSTANCE and key:
            return cls(key, is_instance=True)
        match = FILE_PART.fullmatch(rest)
        if is_path(rest) and match is None:
            if not key:
                right = f"A branch of a run needs a key: KEY={rest}."
                raise UsageError(where, f"{rest!r} is the path of a run and has no key.", right=right)
            return cls(check_key(key, where=where), run=expanded(rest, where=where))
        match = match or PART.fullmatch(rest)
        if match is None:
            raise UsageError(where, f"{text!r} is not a spec.", right=GRAMMAR)
        return cls(_key_of(key, match["name"], where=where), match["name"], match["variant"], match["distribution"])

    @property
    def variant_path(self) -> Path | None:
        """The variant as a path if it names a file, such as `text:banks/anp.safetensors`; otherwise None.

        >>> Spec.parse("text:banks/anp.safetensors").variant_path is None, Spec.parse("places:vgg16").variant_path
        (False, None)
        """
        is_file = self.variant and (is_path(self.variant) or self.variant.endswith(".safetensors"))
        return expanded(str(self.variant), where="streams") if is_file else None

    @property
    def part(self) -> str:
        """The spec without its key, as written in a recipe's table."""
        if self.is_instance:
            return INSTANCE
        if self.run is not None:
            path = str(self.run)
            return path if "/" in path and not path.startswith("~") else f"./{path}"
        variant = f":{self.variant}" if self.variant else ""
        return f"{self.name}{variant}" + (f"@{self.distribution}" if self.distribution else "")

    def __str__(self) -> str:
        return self.part if self.key == self.name else f"{self.key}={self.part}"


def parse_specs(texts: str | Iterable[str], *, where: str = "streams") -> tuple[Spec, ...]:
    """Parses several specs, each with a different key; a string is split at its commas.

    >>> [str(spec) for spec in parse_specs("object,places,net=timm:resnet18")]
    ['object', 'places', 'net=timm:resnet18']
    """
    parts = [part.strip() for part in texts.split(",")] if isinstance(texts, str) else texts
    specs = tuple(Spec.parse(part, where=where) for part in parts)
    seen: dict[str, Spec] = {}
    for spec in specs:
        if spec.key in seen:
            what = f"'{seen[spec.key]}' and '{spec}' have the same key {spec.key!r}."
            raise UsageError(where, what, right=f"Use another key for one of them: KEY={spec.part}.")
        seen[spec.key] = spec
    return specs


def check_key(key: str, *, where: str = "streams", noun: str = "key") -> str:
    """Returns `key`; raises UsageError if it cannot name a stream or stage (`noun`) in files and torch modules."""
    if not KEY.fullmatch(key):
        raise UsageError(
            where, f"{key!r} cannot be a {noun}.", right="It must be a-z, 0-9 and _, and start with a letter."
        )
    if key in TORCH_NAMES:
        right = f"{key!r} is an attribute of torch.nn.ModuleDict: choose another name."
        raise UsageError(where, f"{key!r} cannot be a {noun}.", right=right)
    if key in OUR_NAMES:
        right = f"{key!r} is reserved: choose another name."
        raise UsageError(where, f"{key!r} cannot be a {noun}.", right=right)
    return key


def is_path(text: str) -> bool:
    """Whether a spec is the path of a run: it contains a `/`, is `.` or `..`, or starts with `~`."""
    return "/" in text or os.sep in text or text in (".", "..") or text.startswith("~")


def expanded(path: str | os.PathLike[str], *, where: str) -> Path:
    """The path with `~` replaced by the home folder; raises UsageError if that home folder does not exist."""
    try:
        # Tested before conversion: Path drops the `./` that distinguishes a folder named `~` from the home folder.
        return Path(path).expanduser() if os.fspath(path).startswith("~") else Path(path)
    except RuntimeError as error:
        raise UsageError(where, f"{str(path)!r} contains an unknown home folder.") from error


def _split_key(text: str) -> tuple[str, str]:
    """`KEY=REST` -> (KEY, REST); ("", text) without a key. A `=` inside a path does not end a key."""
    key, equals, rest = text.partition("=")
    return (key, rest) if equals and key and not is_path(key) else ("", text)


def _key_of(key: str, name: str, *, where: str) -> str:
    """The key, by default the part's name; if that cannot be a key, the UsageError says how to write one."""
    if key:
        return check_key(key, where=where)
    try:
        return check_key(name, where=where)
    except UsageError as error:
        raise UsageError(where, f"{name!r} cannot be a key.", right="Write KEY=" + name + ".") from error
