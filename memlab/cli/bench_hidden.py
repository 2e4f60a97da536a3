"""``memlab bench hidden-states``: what happens at a vector's position, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memlab.cli.common import ModelOption, StoreOption, fail, reports_errors
from memlab.cli.outputs import file_option
from memlab.experiments.tables import read_table, write_table
from memlab.results.store import Store
from memlab.texts import load_texts


@reports_errors
def bench_hidden_states(
    texts: Annotated[
        list[str] | None,
        typer.Option(help="texts, as in other commands; repeatable [default: originals and random]"),
    ] = None,
    count: Annotated[int, typer.Option(help="passages of each of them", min=1)] = 6,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="tokens of each passage", min=2)] = 32,
    model: ModelOption = "smollm2-135m",
    shelf: Annotated[
        str | None, typer.Option(help="store that may have the vectors already [default: the bundled vectors]")
    ] = None,
    store: StoreOption = None,
    out: Annotated[
        Path | None, file_option("Parquet table; written after each passage, and read to resume", ".parquet")
    ] = None,
) -> None:
    """Hidden states, the logit lens and exchanged states of two solutions per passage, with controls.

    Takes about five minutes on one core; the bundled store has the vectors of most default passages.
    """
    from memlab.experiments.hidden_states import hidden_states
    from memlab.experiments.session import Session
    from memlab.measures.hidden_states import hidden_outcomes
    from memlab.models import load

    some = [text for name in texts or ["originals", "random"] for text in load_texts(name, count=count)]
    if len(some) < 2:
        raise fail("One text is too few: each is compared with another. Give --count 2 or more.", 2)
    earlier, known = read_table(out), Store.existing(shelf) if shelf else Store.bundled()
    lm = load(model)
    session = Session(lm, Store(store), earlier, typer.echo, lambda rows: write_table(rows, out), progress=False)
    table = hidden_states(session, some, tokens=tokens, shelf=known)
    write_table(table, out)
    told = hidden_outcomes(table)
    held = int(told.held.fillna(False).astype(bool).sum())
    typer.echo(f"{lm!r}\n{held} of {len(told)} predictions held\n{told.round(3).to_string(index=False)}")
