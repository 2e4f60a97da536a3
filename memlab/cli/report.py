"""``memlab bench report``: the tables of ``data/bench/README.md``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memlab.cli.common import reports_errors


@reports_errors
def bench_report(
    check: Annotated[
        bool, typer.Option("--check", help="change nothing; exit with 1 if a table is not up to date")
    ] = False,
    file: Annotated[
        Path | None, typer.Option(help="report to update [default: data/bench/README.md]", exists=True, dir_okay=False)
    ] = None,
) -> None:
    """Write the tables of the results report from the stored tables next to it. No model is loaded."""
    from memlab.experiments.report import write_report

    changed = write_report(file, check=check)
    for name in changed:
        typer.echo(f"{'not up to date' if check else 'written'}: {name}")
    if not changed:
        typer.echo("all tables are up to date")
    if check and changed:
        raise typer.Exit(1)
