"""Checks of a batch before a network runs on it: names, types, shapes and the scale of images."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from multistream.errors import UsageError
from multistream.inputs import Image, Input, Vector
from multistream.network.branch import Batch, Branch

SCALE = "Images must be uint8, with values from 0 to 255."


def checked_batch(batch: Batch | Tensor, branches: Mapping[str, Branch]) -> Batch:
    """Returns the batch by input name; a tensor is accepted if all streams read the same input.

    Checks only types and shapes. Raises UsageError if they do not fit.
    """
    names = list(dict.fromkeys(branch.stream.input.name for branch in branches.values()))
    if isinstance(batch, Tensor) and len(names) == 1:
        batch = {names[0]: batch}
    if not isinstance(batch, Mapping):
        raise UsageError("batch", f"a {type(batch).__name__} was given.", right=_wanted(branches))
    rows: dict[str, int] = {}
    for key, branch in branches.items():
        entry = branch.entry(key, batch)
        if entry not in batch:
            found = f" It has {', '.join(map(repr, batch))}." if batch else ""
            raise UsageError("batch", f"{entry!r} is missing.{found}", right=_wanted(branches))
        given = batch[entry]
        if not isinstance(given, Mapping):  # a mapping holds pooled features
            _check_entry(entry, given, branch.stream.input)
            rows[entry] = given.shape[0]  # not len(), which torch.export takes for a constant
    if any(count != next(iter(rows.values())) for count in rows.values()):
        raise UsageError("batch", f"its entries have {rows} rows.", right="All must have the same number of rows.")
    return batch


def _wanted(branches: Mapping[str, Branch]) -> str:
    inputs = {branch.stream.input.name: branch.stream.input for branch in branches.values()}
    entries = ", ".join(f"{name!r}: {_form(each)}" for name, each in inputs.items())
    return f"It must be a mapping of tensors: {{{entries}}}."


def _form(wanted: Input) -> str:
    if isinstance(wanted, Image):
        return "uint8 (B, 3, H, W)"
    return f"float32 (B, {wanted.width})" if isinstance(wanted, Vector) else f"float32 (B, {wanted.channels}, H, W)"


def _check_entry(name: str, entry: object, wanted: Input) -> None:
    """Raises UsageError for an entry that is not a tensor of the input's shape, and for images that are not integers.

    Floating-point images are accepted if they require gradients, because uint8 cannot be differentiated.
    """
    where = f"batch[{name!r}]"
    if not isinstance(entry, Tensor):
        raise UsageError(where, f"it is a {type(entry).__name__}.", right=f"It must be a tensor, {_form(wanted)}.")
    width = wanted.width if isinstance(wanted, Vector) else 3 if isinstance(wanted, Image) else wanted.channels
    if entry.ndim != (2 if isinstance(wanted, Vector) else 4) or entry.shape[1] != width:
        raise UsageError(where, f"its shape is {tuple(entry.shape)}.", right=f"It must be {_form(wanted)}.")
    if isinstance(wanted, Image) and entry.is_floating_point() and not entry.requires_grad:
        do = (
            "For [0, 1] pass (x * 255).round().byte(), or load without ToTensor's scaling; for floating-point numbers "
            "from 0 to 255 call net.classify(net.pool(batch))."
        )
        raise UsageError(where, f"it is {str(entry.dtype).removeprefix('torch.')}.", right=SCALE, do=do)
