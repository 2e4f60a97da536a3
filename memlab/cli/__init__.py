"""The command line. This file only assembles it: one file a command group; ``README.md`` here lists every option.

Exit codes: 0 done, and all exact; 1 something failed; 2 bad input; 3 done, but not all exact; 130 interrupted.
"""

from __future__ import annotations

from typing import Annotated

import typer

from memlab import __version__
from memlab.cli.bench import bench_app
from memlab.cli.capacity import capacity_command, predict_command
from memlab.cli.cram import cram_command, decode_command
from memlab.cli.models import models_command
from memlab.cli.old_names import RenamedGroup
from memlab.cli.run import run_command
from memlab.cli.store import store_app

app = typer.Typer(
    name="memlab",
    cls=RenamedGroup,
    help="How much text fits into a few input vectors of a frozen language model?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would drop "[default: ...]" from help texts
)
app.command("cram")(cram_command)
app.command("decode")(decode_command)
app.add_typer(store_app, name="store")
app.command("models")(models_command)
app.command("predict")(predict_command)
app.command("capacity")(capacity_command)
app.command("run")(run_command)
app.add_typer(bench_app, name="bench")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        typer.echo(f"memlab {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point."""
    app()
