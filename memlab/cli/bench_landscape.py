"""``memlab bench landscape``: every way of storing a text, measured on the same passages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memlab.cli.common import ModelOption, reports_errors
from memlab.cli.outputs import file_option
from memlab.experiments.tables import read_table, write_table
from memlab.measures.systems import ROWS, SAMPLED
from memlab.results.store import Store
from memlab.texts import load_texts

if TYPE_CHECKING:
    import pandas as pd


@reports_errors
def bench_landscape(
    family: Annotated[list[str] | None, typer.Option(help="family of methods; repeatable [default: all]")] = None,
    only: Annotated[list[str] | None, typer.Option(help="a method by name; repeatable [default: all]")] = None,
    texts: Annotated[
        list[str] | None, typer.Option(help="texts, as in other commands; repeatable [default: originals, random]")
    ] = None,
    count: Annotated[int, typer.Option(help="passages of each of them", min=2)] = ROWS,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="tokens of each passage", min=1)] = 64,
    sampled: Annotated[
        int, typer.Option(help="measure this many passages that the model itself wrote instead of texts", min=0)
    ] = 0,
    model: ModelOption = "smollm2-135m",
    store: Annotated[
        str | None, typer.Option(help="store with the vectors of these passages [default: the bundled vectors]")
    ] = None,
    out: Annotated[
        Path | None, file_option("Parquet table; written after each method, and read to resume", ".parquet")
    ] = None,
) -> None:
    """Writes one row per method and passage. The control reads what was stored of another passage.

    With --sampled the passages come from the model itself. On those, no method can recover more than it stores, and
    the command fails if one does. Their vectors are trained first, into the default store or --store. Each method's
    distance from that bound is written beside --out, as CSV.
    """
    from memlab.experiments.landscape.measure import choose_cue, landscape, sampled_passages, sampled_shelf
    from memlab.experiments.landscape.registry import methods, of_length
    from memlab.experiments.session import Session
    from memlab.measures.landscape import above_the_bound, summary
    from memlab.models import load

    shelf = Store(store) if sampled else Store.existing(store) if store else Store.bundled()
    chosen = methods(shelf, family, only)
    kinds = {name: load_texts(name, count=count) for name in texts or ["originals", "random"]} if not sampled else {}
    lm = load(model)
    if lm.tokenizer is None:
        others = []
    else:
        others = [lm.passage(text, tokens) for text in load_texts("originals", count=ROWS + 6)[ROWS:]]
    passages = {name: [lm.passage(text, tokens) for text in some] for name, some in kinds.items()}
    if sampled:
        passages = {SAMPLED: sampled_passages(lm, sampled, tokens)}
        sampled_shelf(lm, passages[SAMPLED], shelf)
    chosen = of_length(chosen, tokens)
    cue = choose_cue(lm, others) if others else ""
    typer.echo(f"{lm!r}\n{len(chosen)} methods, cue {cue!r}")

    def save(rows: pd.DataFrame) -> None:
        write_table(rows, out)

    session = Session(lm, shelf, read_table(out), typer.echo, save)
    table = landscape(session, passages, chosen, cue=cue, write=not sampled)
    if not len(table):
        raise typer.Exit(1)
    columns = ["family", "method", "texts", "passages", "stored_share", "recovered_share", "low", "high", "net_share"]
    typer.echo(summary(table)[[*columns, "exact"]].round(3).to_string(index=False))
    if sampled:
        bound = above_the_bound(table)
        if out:
            bound.round(3).to_csv(out.with_suffix(".csv"), index=False)
        typer.echo(bound.round(2).to_string(index=False))
        if bound.above.any():
            typer.echo("A method recovers more bits than it stores. It sees more than its bytes.", err=True)
            raise typer.Exit(1)
