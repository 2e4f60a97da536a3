"""``memlab bench families``: which model types memlab works on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memlab.cli.common import reports_errors
from memlab.cli.outputs import file_option
from memlab.experiments.tables import read_table, write_table


@reports_errors
def bench_families(
    types: Annotated[
        list[str] | None, typer.Argument(help="model types to measure again [default: missing ones]")
    ] = None,
    out: Annotated[
        Path | None, file_option("Parquet table; written after each type, and read to resume", ".parquet")
    ] = None,
) -> None:
    """Builds a tiny random model of each type, and trains six vectors for it. Needs no model."""
    from memlab.experiments.families import families

    table = families(
        types or (), resume_from=read_table(out), log=typer.echo, on_rows=lambda rows: write_table(rows, out)
    )
    typer.echo(table.groupby("verdict").size().to_string())
    if (table.verdict == "failed").any():
        raise typer.Exit(1)
