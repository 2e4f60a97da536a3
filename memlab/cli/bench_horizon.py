"""``memlab bench horizon``: how long a prefix of each passage can be made exact."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memlab.cli.common import (
    ColumnOption,
    DtypeOption,
    ManyTextsOption,
    ModelOption,
    StoreOption,
    grid_of,
    recipe_of,
    reports_errors,
    update_table,
)
from memlab.cli.outputs import file_option
from memlab.experiments.tables import read_table
from memlab.results.store import Store
from memlab.texts import load_texts, with_unique_ids

if TYPE_CHECKING:
    import pandas as pd

    from memlab.experiments.session import Session


@reports_errors
def bench_horizon(
    texts: ManyTextsOption = None,
    column: ColumnOption = None,
    count: Annotated[int, typer.Option(help="passages of each of them", min=1)] = 12,
    lengths: Annotated[str, typer.Option(help="lengths to try, in tokens: first:last:stride")] = "32:256:16",
    first: Annotated[int, typer.Option(help="length to try first, in tokens")] = 128,
    attempts: Annotated[int, typer.Option(help="seeds to try before a length counts as failed", min=1)] = 3,
    recipe: Annotated[str, typer.Option(help="a recipe by name or as JSON")] = "default",
    budget: Annotated[int | None, typer.Option(help="largest number of optimizer steps per attempt")] = None,
    compare_with: Annotated[
        str | None, typer.Option(help="a growing recipe to run on the same passages with equal token passes")
    ] = None,
    target: Annotated[
        int,
        typer.Option(
            help="retry passages whose horizon is below this many tokens with stronger settings (0: off)", min=0
        ),
    ] = 0,
    model: ModelOption = "smollm2-135m",
    dtype: DtypeOption = None,
    store: StoreOption = None,
    resume_from: Annotated[
        Path | None,
        typer.Option(help="table of this command or of memlab capacity; runs in it are not repeated", exists=True),
    ] = None,
    out: Annotated[
        Path | None, file_option("Parquet table; written after each round, and read to resume", ".parquet")
    ] = None,
) -> None:
    """With --target, also retries failures with stronger settings."""
    import pandas as pd

    from memlab.experiments.growing import growing
    from memlab.experiments.horizon import horizon
    from memlab.experiments.retries import extend_growth, retry_failures
    from memlab.experiments.session import Session
    from memlab.measures.capacity import horizons
    from memlab.models import load

    span = grid_of(lengths, first)
    wanted, other = recipe_of(recipe, budget=budget), recipe_of(compare_with) if compare_with else None
    lm = load(model, dtype=dtype)
    named = (load_texts(name, count=count, column=column) for name in texts or ["originals"])
    chosen = with_unique_ids(itertools.chain(*named))
    earlier = [table for table in (read_table(out), read_table(resume_from)) if table is not None]
    method = "growing" if wanted.grow else "ladder"

    def write(rows: pd.DataFrame) -> None:
        update_table(rows, out, ["key", "way", "text_id"])

    session = Session(
        lm, Store(store), pd.concat(earlier, ignore_index=True) if earlier else None, typer.echo, write, progress=False
    )

    def labelled(method: str) -> Session:
        """The session, with its rows marked by the method that found them."""
        return replace(session, on_rows=lambda rows: write(rows.assign(way=method)))

    if wanted.grow:
        table = growing(labelled(method), chosen, recipe=wanted, token_passes=wanted.token_budget, longest=span[-1])
    else:
        table = horizon(labelled(method), chosen, lengths=span, first=first, attempts=attempts, recipe=wanted)
    reached = horizons(table)
    tables = {method: table.assign(way=method)}
    if compare_with and other:
        typer.echo(f"{compare_with}, with equal token passes")
        passes = dict(zip(reached.text_id, reached.token_passes, strict=True))
        grown = growing(labelled(compare_with), chosen, recipe=other, token_passes=passes, longest=span[-1])
        tables[compare_with] = grown.assign(way=compare_with)
    if target:
        typer.echo(f"retrying passages whose horizon is below {target} tokens")
        if wanted.grow:
            retries = extend_growth(session, chosen, table, target=target, recipe=wanted, longest=span[-1])
        else:
            retries = retry_failures(session, chosen, table, target=target, recipe=wanted)
        tables |= dict(list(retries.groupby("way", sort=False))) if len(retries) else {}
    write(pd.concat(tables.values(), ignore_index=True))
    typer.echo(repr(lm))
    for name, rows in tables.items():
        line = _horizons(name, rows) if name in (method, compare_with) else _retry(name, rows, bool(wanted.grow))
        typer.echo(line)
    if compare_with:
        typer.echo(_comparison(reached, horizons(tables[compare_with]), compare_with))


def _horizons(method: str, rows: Any) -> str:
    """The horizons that one method reached, as a table and a median."""
    from memlab.measures.capacity import horizons
    from memlab.measures.statistics import median_interval

    reached = horizons(rows)
    median, low, high = median_interval(reached.horizon)
    return (
        f"{method}\n{reached.to_string(index=False)}\n"
        f"median horizon {median:g} tokens, 95 % [{low:g}, {high:g}], {len(reached)} passages"
    )


def _retry(setting: str, rows: Any, grown: bool) -> str:
    """What one stronger setting reached, in a line."""
    if grown:
        return f"{setting}: {len(rows)} passages, exact prefix: median {rows.exact_prefix.median():g} tokens"
    return f"{setting}: {rows.exact.sum()} of {len(rows)} exact, median loss {rows.bits.median():.4f} bits per token"


def _comparison(reached: Any, theirs: Any, name: str) -> str:
    from memlab.measures.capacity_report import ratio_of_horizons

    ratio = ratio_of_horizons(reached, theirs)
    return (
        f"horizon over that of {name}, per passage: "
        f"median {ratio.value:.1f} times, 95 % [{ratio.low:.1f}, {ratio.high:.1f}]"
    )
