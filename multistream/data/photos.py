"""From the settings of a recipe and a network's inputs to photos that can be read."""

from __future__ import annotations

from collections.abc import Mapping

from multistream.data.decoding import Decoder
from multistream.data.loading import Photos
from multistream.data.side_inputs import SideInputs
from multistream.data.table import Table
from multistream.inputs import Image, Input
from multistream.recipe import DataSettings


def make_photos(table: Table, inputs: Mapping[str, Input], side_inputs: SideInputs, settings: DataSettings) -> Photos:
    """The photos of a table with their vectors and maps, as these inputs (by stream key) ask for them."""
    return Photos(
        table,
        make_decoder(inputs, settings),
        vectors=side_inputs.vectors,
        maps=side_inputs.maps,
        on_bad_image=settings.on_bad_image,
    )


def make_decoder(inputs: Mapping[str, Input], settings: DataSettings) -> Decoder | None:
    """Decodes once for all streams, at the largest size that one asks for; None where no stream reads photos."""
    sizes = [each.size for each in inputs.values() if isinstance(each, Image)]
    if not sizes:
        return None
    return Decoder(
        size=max(sizes),
        resize=settings.resize,
        max_pixels=settings.max_pixels,
        min_side=settings.min_side,
        background=settings.background,
        draft=settings.draft,
    )
