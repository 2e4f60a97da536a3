"""``memlab bench kinds``: do bits foretell steps and horizons on kinds of text that the predictor never saw?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memlab.cli.common import ModelOption, StoreOption, reports_errors
from memlab.cli.outputs import file_option
from memlab.experiments.tables import read_table, stored, write_table
from memlab.results.store import Store
from memlab.texts import load_texts
from memlab.texts.kinds import BEGINNING, NAMES


@reports_errors
def bench_kinds(
    texts: Annotated[
        list[str] | None,
        typer.Option(
            help=f"kind of text: {', '.join(NAMES)}, or texts as in other commands; repeatable [default: all]"
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="passages of each kind whose steps are counted", min=1)] = 6,
    horizons: Annotated[int, typer.Option(help="passages of each kind whose horizon is searched", min=0)] = 3,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="tokens of the passages that are counted", min=2)] = 32,
    attempts: Annotated[int, typer.Option(help="seeds to try before a length counts as failed", min=1)] = 1,
    budget: Annotated[int, typer.Option(help="steps of a training at most", min=1)] = 400,
    model: ModelOption = "smollm2-135m",
    store: StoreOption = None,
    out: Annotated[
        Path | None, file_option("Parquet table; written after each round, and read to resume", ".parquet")
    ] = None,
) -> None:
    """Says first what the predictor expects of each passage, then trains. About an hour on one core."""
    from memlab.experiments.kinds import kinds
    from memlab.experiments.session import Session
    from memlab.measures.forecast import of_runs
    from memlab.measures.kinds import by_kind, order_kept
    from memlab.models import load
    from memlab.recipes import Recipe

    some = {name: load_texts(BEGINNING + name if name in NAMES else name, count=count) for name in texts or NAMES}
    forecaster = of_runs(stored("capacity"))
    lm = load(model)
    session = Session(
        lm, Store(store), read_table(out), typer.echo, lambda rows: write_table(rows, out), progress=False
    )
    table = kinds(
        session, some, forecaster, horizons=horizons, tokens=tokens, attempts=attempts,
        recipe=Recipe.default(budget=budget),
    )  # fmt: skip
    write_table(table, out)
    points = by_kind(table)
    typer.echo(f"{lm!r}\n{points.round(2).to_string(index=False)}")
    typer.echo(f"rank correlation of bits a token with steps: {order_kept(points, 'bits', 'steps'):.2f}")
