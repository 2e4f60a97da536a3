"""``memlab models``: the models with a short name."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from memlab.cli.common import JsonOption, reports_errors


@reports_errors
def models_command(
    get: Annotated[
        str | None, typer.Option("--get", help="download and convert this model now, and print where it is")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the models that have a short name."""
    if get:
        _get(get)
        return
    from memlab.models.families import TOY_FAMILIES
    from memlab.models.presets import DEFAULT, PRESETS

    if as_json:
        rows = [{"name": p.name, "source": p.source, "dtype": p.dtype, "note": p.note} for p in PRESETS.values()]
        typer.echo(json.dumps(rows, indent=1))
        return
    for preset in PRESETS.values():
        note = f"{preset.note}, {preset.dtype}" if preset.dtype else preset.note
        typer.echo(f"{preset.name:20}{preset.source:40}{note}{' (default)' if preset.name == DEFAULT else ''}")
    for family in TOY_FAMILIES:
        typer.echo(
            f"{'toy:' + family:20}{'made on this machine':40}small, random weights that can be crammed, for tests"
        )
    typer.echo("Also: a Hugging Face id, a folder of safetensors, a .gguf file.")


def _get(name: str) -> None:
    """Load a model, and measure its preconditioner now, so that the first cram does not have to."""
    from memlab.models import load
    from memlab.training.preconditioner import preconditioner_of

    lm = load(name)
    digest = preconditioner_of(lm, progress=True).digest
    typer.echo(f"{lm!r}\nfolder {lm.folder}\nweights {lm.fingerprint}")
    typer.echo(f"sink prefix {list(lm.sink_prefix)}\npreconditioner {digest}")
