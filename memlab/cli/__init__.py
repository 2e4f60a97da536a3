"""The command line. This file only assembles it: one file a command group; ``README.md`` here lists every option.

Exit codes: 0 done, and all exact; 1 something failed; 2 bad input; 3 done, but not all exact; 130 interrupted.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from memlab import __version__
from memlab.cli.bench import bench_app
from memlab.cli.capacity import capacity_command, predict_command
from memlab.cli.common import fail
from memlab.cli.cram import cram_command, decode_command
from memlab.cli.encoder import encoder_app
from memlab.cli.import_vectors import import_command
from memlab.cli.models import models_command
from memlab.cli.old_names import RenamedGroup
from memlab.cli.report_pages import report_command
from memlab.cli.run import run_command
from memlab.cli.store import store_app


class Root(RenamedGroup):
    """The top group. No command can use an empty argument: as a path, it would be the current folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for before, arg in zip(["", *args], args, strict=False):
            option, equals, value = arg.partition("=")
            if not arg or (option.startswith("--") and equals and not value):
                name = option or (before if before.startswith("-") else "an argument")
                raise fail(f"{name} is empty. Give a value, or leave {name if name[0] == '-' else 'it'} out.", 2)
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="memlab",
    cls=Root,
    help="How much text fits into a few input vectors of a frozen language model?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would drop "[default: ...]" from help texts
)
app.command("cram")(cram_command)
app.command("decode")(decode_command)
app.command("import")(import_command)
app.add_typer(store_app, name="store")
app.command("models")(models_command)
app.command("predict")(predict_command)
app.command("capacity")(capacity_command)
app.command("run")(run_command)
app.command("report")(report_command)
app.add_typer(encoder_app, name="encoder")
app.add_typer(bench_app, name="bench")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        typer.echo(f"memlab {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point."""
    app()
