"""Folders: one for each class; or train, val and test, with one for each class in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from multistream.data.image_files import Listing, list_images
from multistream.data.layouts.assemble import PARTS, Entry, assemble
from multistream.data.table import Table
from multistream.errors import DataError, printable

METADATA = ("metadata.csv", "metadata.jsonl")
"""What Hugging Face's imagefolder keeps labels in."""

_DO = "Put the photos of each class into a folder with its name, or give a CSV with the columns path and label."
_SHOWN = 3


def folders(path: Path, *, allow_outside: bool = False, strict: bool = False, name: str = "") -> Table:
    """A Table of the images in class folders, or in train/val/test folders of class folders, at any depth.

    Hidden folders, empty classes and files next to the folders are ignored and reported; with `strict` an empty class
    is an error.
    """
    listing = list_images(path, allow_outside=allow_outside)
    name = name or printable(path.resolve().name)
    _check_level(path, listing)
    parts = _part_folders(listing)
    if parts:
        entries, notes = _of_parts(listing, parts)
    else:
        entries, notes = _of_classes(listing)
    if not entries:
        _refuse(listing, notes)
    empty = [note for note in notes if note.startswith("class ")]
    if strict and empty:
        raise DataError(path, f"{empty[0]}.", do="Remove the folder, or set data.strict to false.")
    return assemble(name, path, entries, notes=(*listing.notes, *notes))


def _part_folders(listing: Listing) -> Mapping[str, str]:
    """{folder: part} where the top folders are parts: by name, with images in subfolders and none next to them."""
    tops = [folder for folder in listing.folders if "/" not in folder]
    direct = {image_id.split("/")[0] for image_id in listing.ids if image_id.count("/") == 1}
    nested = {image_id.split("/")[0] for image_id in listing.ids if image_id.count("/") > 1}
    parts = {top: PARTS[top.lower()] for top in tops if top.lower() in PARTS and top in nested - direct}
    others = sorted((direct | nested) - set(parts))
    if parts and others:
        raise DataError(
            listing.root,
            f"{', '.join(map(printable, parts))} look like splits, but there are images in {printable(others[0])} too.",
            right="Either all folders with images are splits (train, val, test), or all are classes.",
            do="Move that folder elsewhere.",
        )
    return parts


def _check_level(path: Path, listing: Listing) -> None:
    """Refuses photos directly in part folders, and a folder that holds the folders of the classes."""
    where = printable(str(path))
    direct = {image_id.split("/")[0] for image_id in listing.ids if image_id.count("/") == 1}
    inner: dict[str, set[str]] = {}
    for image_id in listing.ids:
        if image_id.count("/") > 1:
            top, below, _ = image_id.split("/", 2)
            inner.setdefault(top, set()).add(below)
    if direct and not inner and all(top.lower() in PARTS for top in direct):
        what = f"photos lie directly in {' and '.join(sorted(map(printable, direct)))}, which are splits, not classes."
        has_metadata = any((path / top / name).is_file() for top in direct for name in METADATA)
        do = f"Write imagefolder:{where} if a metadata file has the labels." if has_metadata else _DO
        raise DataError(where, what, right="A split contains one folder per class.", do=do)
    if direct or not inner or set(map(str.lower, inner)) <= set(PARTS):
        return
    shown = ", ".join(sorted(map(printable, set().union(*inner.values())))[:_SHOWN])
    if len(inner) == 1:
        (only,) = inner
        what = f"one folder, {only}, holds all photos, in folders inside it ({shown})."
        right = "Give the folder that holds the classes."
        raise DataError(where, what, right=right, do=f"Write {where}/{only}.")
    if len({frozenset(names) for names in inner.values()}) == 1 and len(next(iter(inner.values()))) > 1:
        tops = " and ".join(sorted(map(printable, inner))[:_SHOWN])
        what = f"{tops} contain the same folders ({shown}), so these look like the classes."
        do = "Name the outer folders train, val and test, or give one of them."
        raise DataError(where, what, right="The folders of the classes lie one level deeper.", do=do)


def _of_classes(listing: Listing) -> tuple[list[Entry], list[str]]:
    entries = [Entry(i, i.split("/")[0]) for i in listing.ids if "/" in i]
    notes = _beside(len(listing.ids) - len(entries), "the class folders")
    deeper = sorted({"/".join(i.split("/")[:2]) for i in listing.ids if i.count("/") > 1})
    if deeper:
        shown = ", ".join(map(printable, deeper[:_SHOWN]))
        notes.append(f"{len(deeper):,} folders inside class folders are counted as that class: {shown}")
    filled = {entry.label for entry in entries}
    tops = [folder for folder in listing.folders if "/" not in folder]
    return entries, notes + [f"class {t!r} has no images and is ignored" for t in tops if t not in filled]


def _of_parts(listing: Listing, parts: Mapping[str, str]) -> tuple[list[Entry], list[str]]:
    split = [(image_id, image_id.split("/")) for image_id in listing.ids]
    entries = [Entry(i, pieces[1], parts[pieces[0]]) for i, pieces in split if len(pieces) > 2]
    notes = _beside(len(listing.ids) - len(entries), "the class folders")
    filled = {(entry.part, entry.label) for entry in entries}
    for folder in (folder for folder in listing.folders if folder.count("/") == 1):
        top, label = folder.split("/")
        if top in parts and (parts[top], label) not in filled:
            notes.append(f"class {label!r} has no images in {printable(top)}")
    return entries, notes


def _beside(count: int, what: str) -> list[str]:
    return [f"images outside {what}: {count:,} ignored"] if count else []


def _refuse(listing: Listing, notes: Sequence[str]) -> None:
    where = printable(str(listing.root))
    do = _DO
    if listing.ids:
        raise DataError(where, f"{len(listing.ids):,} images are not in a class folder.", do=do)
    message = "; ".join((*listing.notes, *notes))
    raise DataError(where, f"there are no images{f' ({message})' if message else ''}.", do=do)
