"""What ``memlab bench`` measures of the machine and the store: step times, crashes, large stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memlab.cli.common import ModelOption, OutOption, reports_errors
from memlab.cli.outputs import file_option, folder_option
from memlab.experiments.tables import read_table, write_table
from memlab.results.store import Store, StoreError


@reports_errors
def bench_step_profile(
    shapes: Annotated[
        list[str] | None,
        typer.Argument(help="passages x tokens, such as 16x64 [default: 16x32 16x64 16x128; with --like: 4x1568]"),
    ] = None,
    model: ModelOption = "smollm2-135m",
    like: Annotated[
        str | None, typer.Option(help="instead of --model: random weights in the shape of llama-3.1-8b")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="leave bfloat16 weights as they are, for comparison")] = False,
    out: OutOption = None,
) -> None:
    """Times a step, and its bare matrix products in the same run."""
    wanted = [_shape(shape) for shape in shapes or (["4x1568"] if like else ["16x32", "16x64", "16x128"])]

    from memlab.experiments.step_profile import profile_steps, random_weights
    from memlab.models import load, packed
    from memlab.scoring.memory import measure_budget

    if plain:
        packed.SHARE = 0.0
    lm = random_weights(like) if like else load(model)
    if lm.context and (longest := max(tokens for _, tokens in wanted)) > lm.context:
        raise typer.BadParameter(f"{longest} tokens; {lm.name} has a context of {lm.context}", param_hint="SHAPES")
    budget = measure_budget(lm)
    for passages, tokens in wanted:
        needed = passages * tokens * (budget.bytes_per_position + tokens * budget.bytes_per_pair)
        if needed > budget.free:
            sizes = f"{passages}x{tokens} needs {needed / 2**30:.0f} GiB, and {budget.free / 2**30:.0f} GiB are free"
            raise typer.BadParameter(sizes, param_hint="SHAPES")
    table = profile_steps(lm, wanted)
    write_table(table, out)
    typer.echo(f"{lm!r}\n{table.round(3).to_string(index=False)}")


@reports_errors
def bench_store_crash(
    count: Annotated[int, typer.Option(help="writers to kill, one at a time", min=1)] = 200,
    folder: Annotated[Path, folder_option("store to write into; must not exist")] = Path("killed-store"),
) -> None:
    """Kills writers at random moments. Takes minutes, needs no model."""
    from memlab.experiments.store_stress import crash_writers

    if folder.exists():
        raise typer.BadParameter(f"{folder} exists; give a new folder", param_hint="--folder")
    report = crash_writers(folder, count)
    typer.echo(
        f"{report.kills} kills, {report.writes} keys, begun {report.begun} times, {report.seconds:.0f} s; "
        f"lost {len(report.lost)}, unreadable {len(report.unreadable)}, damaged {len(report.damaged)}, "
        f"temporary files left {report.temporary_files}"
    )
    if report.lost or report.unreadable or report.damaged:
        raise typer.Exit(1)


@reports_errors
def bench_store_scale(
    entries: Annotated[int, typer.Option(help="number of random results in the store", min=1)] = 100_000,
    folder: Annotated[
        Path, folder_option("store to write into; it is kept, and the next run adds what is missing")
    ] = Path("large-store"),
) -> None:
    """Fills a store with random results. Needs no model."""
    from memlab.experiments.store_stress import time_large_store

    for name, value in time_large_store(folder, entries).items():
        typer.echo(f"{name}: {value}")


def _shape(text: str) -> tuple[int, int]:
    rows, _, tokens = text.partition("x")
    if not (rows.isdigit() and tokens.isdigit() and int(rows) and int(tokens)):
        raise typer.BadParameter(f"{text!r}; expected passages x tokens, such as 16x64", param_hint="SHAPES")
    return int(rows), int(tokens)


@reports_errors
def bench_one_pass(
    model: ModelOption = "smollm2-135m",
    store: Annotated[str | None, typer.Option(help="store of exact vectors [default: the bundled vectors]")] = None,
    out: Annotated[
        Path | None, file_option("Parquet table; written after each vector, and read to resume", ".parquet")
    ] = None,
) -> None:
    """Decodes every exact vector of a store token by token, and compares. Fails if one disagrees with its pass."""
    from memlab.experiments.one_pass import one_pass, summary
    from memlab.experiments.session import Session
    from memlab.models import load

    shelf = Store.existing(store) if store else Store.bundled()
    lm = load(model)
    table = one_pass(Session(lm, shelf, read_table(out), typer.echo, lambda rows: write_table(rows, out)))
    if not len(table):
        raise StoreError(f"{shelf.path} has no exact vectors of {lm.name}. Make some with `memlab cram`.")
    found = summary(table)
    typer.echo(f"{lm!r}\n{found.round(5).to_string(index=False)}")
    if found.disagree.any():
        typer.echo("A pass and a decode disagree. Train and check with one_pass=False on this machine.", err=True)
        raise typer.Exit(1)
