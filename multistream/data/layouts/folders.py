"""Class folders: one folder per class, or folders train, val and test that each contain one folder per class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from multistream.commands import quoted
from multistream.data.image_files import Listing, list_images
from multistream.data.layouts.assemble import PARTS, Entry, assemble
from multistream.data.layouts.imagefolder import METADATA
from multistream.data.table import Table
from multistream.errors import DataError, printable, some_of

_DO = "Put the photos of each class into a folder with its name, or pass a CSV with the columns path and label."


def folders(path: Path, *, allow_outside: bool = False, strict: bool = False, name: str = "") -> Table:
    """Reads a Table of the images in class folders, or in class folders in train/val/test folders, at any depth.

    Hidden folders, empty classes and files next to the folders are ignored and reported; with `strict` an empty class
    raises DataError.
    """
    listing = list_images(path, allow_outside=allow_outside)
    direct, inner = _levels(listing)
    match bool(direct), bool(inner), {*map(str.lower, inner or direct)} <= set(PARTS):
        case True, False, True:
            raise _photos_in_parts(path, direct)
        case False, True, False:
            _refuse_folder_above(path, inner)
    parts = _part_folders(path, direct, inner)
    depth = 2 if parts else 1  # folders above an image: its part and class, or its class alone
    outside = sum(image_id.count("/") < depth for image_id in listing.ids)
    empty = [*_empty_classes(listing, parts, depth)]
    notes = [*_ignored(outside, {} if parts else inner), *empty]
    if outside == len(listing.ids):
        raise _without_images(listing, notes)
    if strict and empty:
        raise DataError(path, f"{empty[0]}.", do="Remove the folder, or set data.strict to false.")
    split = ((image_id, image_id.split("/", depth)) for image_id in listing.ids)
    entries = (Entry(i, pieces[depth - 1], parts.get(pieces[0])) for i, pieces in split if len(pieces) > depth)
    return assemble(name or printable(path.resolve().name), path, entries, notes=(*listing.notes, *notes))


def _levels(listing: Listing) -> tuple[set[str], dict[str, set[str]]]:
    """The top folders with images directly in them, and {top folder: names of its subfolders with images}."""
    direct: set[str] = set()
    inner: dict[str, set[str]] = defaultdict(set)
    for image_id in listing.ids:
        match image_id.split("/", 2):
            case [top, _]:
                direct.add(top)
            case [top, below, _]:
                inner[top].add(below)
    return direct, inner


def _part_folders(path: Path, direct: set[str], inner: Mapping[str, set[str]]) -> dict[str, str]:
    """{folder: split} if the top folders are splits: named so, with images in subfolders only; else {}."""
    parts = {top: PARTS[top.lower()] for top in sorted(inner.keys() - direct) if top.lower() in PARTS}
    others = sorted((direct | set(inner)) - set(parts))
    if parts and others:
        raise DataError(
            path,
            f"{', '.join(parts)} look like splits, but there are images in {others[0]} too.",
            right="Either all folders with images are splits (train, val, test), or all are classes.",
            do="Move that folder elsewhere.",
        )
    return parts


def _photos_in_parts(path: Path, parts: set[str]) -> DataError:
    """The error for photos that are directly in folders named after splits."""
    what = f"photos are directly in {' and '.join(sorted(parts))}, which are splits, not classes."
    has_metadata = any((path / top / name).is_file() for top in parts for name in METADATA)
    do = f"Write imagefolder:{path} if a metadata file has the labels." if has_metadata else _DO
    return DataError(path, what, right="A split contains one folder per class.", do=do)


def _refuse_folder_above(path: Path, inner: Mapping[str, set[str]]) -> None:
    """Raises DataError if the class folders seem to be one level deeper: all in one folder, or the same in each."""
    first, *others = inner.values()
    shown = some_of(sorted(set().union(*inner.values())))
    if not others:
        (only,) = inner
        what = f"one folder, {only}, holds all photos, in folders inside it ({shown})."
        raise DataError(path, what, right="Pass the folder that holds the classes.", do=f"Write {quoted(path / only)}.")
    if len(first) > 1 and all(map(first.__eq__, others)):
        what = f"{some_of(sorted(inner))} contain the same folders ({shown}), so these look like the classes."
        do = "Name the outer folders train, val and test, or pass one of them."
        raise DataError(path, what, right="The folders of the classes are one level deeper.", do=do)


def _without_images(listing: Listing, notes: Sequence[str]) -> DataError:
    if listing.ids:
        return DataError(listing.root, f"{len(listing.ids):,} images are not in a class folder.", do=_DO)
    detail = "; ".join((*listing.notes, *notes))
    return DataError(listing.root, f"there are no images{f' ({detail})' if detail else ''}.", do=_DO)


def _ignored(outside: int, inner: Mapping[str, set[str]]) -> Iterator[str]:
    """Notes on images outside the class folders, and on folders inside them."""
    if outside:
        yield f"images outside the class folders: {outside:,} ignored"
    deeper = sorted(f"{top}/{below}" for top, names in inner.items() for below in names)
    if deeper:
        yield f"{len(deeper):,} folders inside class folders are counted as that class: {some_of(deeper)}"


def _empty_classes(listing: Listing, parts: Mapping[str, str], depth: int) -> Iterator[str]:
    """Notes on class folders without images."""
    filled = {"/".join(image_id.split("/", depth)[:depth]) for image_id in listing.ids}
    for pieces in [folder.split("/") for folder in listing.folders if folder not in filled]:
        match pieces:
            case [name] if not parts:
                yield f"class {name!r} has no images and is ignored"
            case [top, name] if top in parts:
                yield f"class {name!r} has no images in {printable(top)}"
