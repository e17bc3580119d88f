"""multistream export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multistream.cli import options, output


def export(
    run: options.Run,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Output file (.onnx).")],
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Export a run's network to ONNX, and compare the file with the network in ONNX Runtime.

    The file reads resized photos (uint8 RGB) and vectors, and returns the class probabilities. Requires pip install
    'multistream[onnx]'.
    """
    from multistream.console import Console
    from multistream.inference.onnx_export import ExportedModel
    from multistream.inference.onnx_export import export as export_run

    def text(exported: ExportedModel) -> str:
        inputs = "  ".join(f"{name} {('B', *shape)}".replace("'", "") for name, shape in exported.inputs.items())
        return (
            f"{exported.path}  {exported.bytes / 1e6:.2f} MB\n"
            f"inputs   {inputs}\n"
            f"output   probabilities (B, {len(exported.classes)})\n"
            f"verified: probabilities differ by at most {exported.largest_difference:.1e} from the network"
        )

    Console(quiet=quiet).say("export: tracing the network takes 10 to 60 seconds")
    output.print_result(export_run(run, out), text, json=json)
