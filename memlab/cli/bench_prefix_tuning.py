"""``memlab bench prefix-tuning``: one position with a vector in every layer, next to an input vector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memlab.cli.common import ColumnOption, ModelOption, StoreOption, TextsOption, reports_errors
from memlab.cli.outputs import file_option
from memlab.experiments.tables import read_table, write_table
from memlab.results.store import Store
from memlab.texts import load_texts


@reports_errors
def bench_prefix_tuning(
    texts: TextsOption = "originals",
    column: ColumnOption = None,
    count: Annotated[int, typer.Option(help="passages, one from each text", min=1)] = 8,
    where: Annotated[
        list[str] | None,
        typer.Option(help="place of the vector: input, every layer, layer 7; repeatable [default: input, every layer]"),
    ] = None,
    longest: Annotated[int, typer.Option(help="longest length to try, tokens", min=16)] = 1024,
    budget: Annotated[int, typer.Option(help="steps of a training at most", min=1)] = 400,
    model: ModelOption = "smollm2-135m",
    store: StoreOption = None,
    out: Annotated[
        Path | None, file_option("Parquet table; written after each round, and read to resume", ".parquet")
    ] = None,
) -> None:
    """Tries lengths of each passage until one fails. Long lengths take minutes per passage and place."""
    from memlab.experiments.landscape.prefix_tuning import LENGTHS, prefix_tuning, recipes, summary
    from memlab.experiments.session import Session
    from memlab.models import load

    chosen = {place: recipe.replace(budget=budget) for place, recipe in recipes(where or RUN).items()}
    some = load_texts(texts, count=count, column=column)
    lm = load(model)
    for place in chosen:
        lm.layers.at(place)
    session = Session(lm, Store(store), read_table(out), typer.echo, lambda rows: write_table(rows, out))
    table = prefix_tuning(session, some, chosen, lengths=[n for n in LENGTHS if n <= longest])
    write_table(table, out)
    typer.echo(f"{lm!r}\n{summary(table).round(2).to_string(index=False)}")


RUN = ("input", "every layer")
"""The places that are compared by default."""
