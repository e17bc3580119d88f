"""Folders: one for each class; or train, val and test, with one for each class in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from multistream.data.filenames import printable
from multistream.data.image_files import Listing, list_images
from multistream.data.layouts.assemble import PARTS, Entry, assemble
from multistream.data.table import Table
from multistream.errors import DataError


def folders(path: Path, *, allow_outside: bool = False, strict: bool = False, name: str = "") -> Table:
    """A Table of the images in class folders, or in train/val/test folders of class folders, at any depth.

    Hidden folders, empty classes and files beside the folders are left out and told; `strict` refuses empty classes.
    """
    listing = list_images(path, allow_outside=allow_outside)
    name = name or printable(path.resolve().name)
    parts = _part_folders(listing)
    if parts:
        entries, notes = _of_parts(listing, parts)
    else:
        entries, notes = _of_classes(listing)
    if not entries:
        _refuse(listing, notes)
    empty = [note for note in notes if note.startswith("class ")]
    if strict and empty:
        raise DataError(printable(str(path)), f"{empty[0]}.", do="Remove the folder, or set data.strict to false.")
    return assemble(name, path, entries, notes=(*listing.notes, *notes))


def _part_folders(listing: Listing) -> Mapping[str, str]:
    """{folder: part} where the top folders are parts: so named, with images in folders inside and none beside them."""
    tops = [folder for folder in listing.folders if "/" not in folder]
    direct = {image_id.split("/")[0] for image_id in listing.ids if image_id.count("/") == 1}
    nested = {image_id.split("/")[0] for image_id in listing.ids if image_id.count("/") > 1}
    parts = {top: PARTS[top.lower()] for top in tops if top.lower() in PARTS and top in nested - direct}
    others = sorted((direct | nested) - set(parts))
    if parts and others:
        raise DataError(
            printable(str(listing.root)),
            f"{', '.join(map(printable, parts))} look like parts, but images lie in {printable(others[0])} too.",
            right="Either all folders with images are parts (train, val, test), or all are classes.",
            do="Move the folder out.",
        )
    return parts


def _of_classes(listing: Listing) -> tuple[list[Entry], list[str]]:
    entries = [Entry(i, i.split("/")[0]) for i in listing.ids if "/" in i]
    notes = _beside(len(listing.ids) - len(entries), "the class folders")
    filled = {entry.label for entry in entries}
    tops = [folder for folder in listing.folders if "/" not in folder]
    return entries, notes + [f"class {printable(t)!r} has no images and is left out" for t in tops if t not in filled]


def _of_parts(listing: Listing, parts: Mapping[str, str]) -> tuple[list[Entry], list[str]]:
    split = [(image_id, image_id.split("/")) for image_id in listing.ids]
    entries = [Entry(i, pieces[1], parts[pieces[0]]) for i, pieces in split if len(pieces) > 2]
    notes = _beside(len(listing.ids) - len(entries), "the class folders")
    filled = {(entry.part, entry.label) for entry in entries}
    for folder in (folder for folder in listing.folders if folder.count("/") == 1):
        top, label = folder.split("/")
        if top in parts and (parts[top], label) not in filled:
            notes.append(f"class {printable(label)!r} has no images in {printable(top)}")
    return entries, notes


def _beside(count: int, what: str) -> list[str]:
    return [f"ignored {count:,} images that lie beside {what}, not in one"] if count else []


def _refuse(listing: Listing, notes: Sequence[str]) -> None:
    where = printable(str(listing.root))
    do = "Put the photos of each class into a folder of its name, or give a CSV with the columns path and label."
    if listing.ids:
        raise DataError(where, f"{len(listing.ids):,} images lie in no class folder.", do=do)
    told = "; ".join((*listing.notes, *notes))
    raise DataError(where, f"there are no images{f' ({told})' if told else ''}.", do=do)
