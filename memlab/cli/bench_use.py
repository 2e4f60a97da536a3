"""``memlab bench``: what vectors are good for, what harm they do, and vectors that are trained for use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from memlab.cli.bench_encoders import FolderOption
from memlab.cli.common import ModelOption, StoreOption, numbers, reports_errors
from memlab.cli.outputs import file_option
from memlab.experiments.tables import read_table, write_table
from memlab.measures.systems import ROWS
from memlab.measures.use import HARM_PARTS, PARTS
from memlab.results.store import Store
from memlab.texts import load_texts

CANDIDATES = 32
"""Passages among which a vector must tell its own."""

CountOption = Annotated[int, typer.Option(help="passages, the first originals", min=2, max=ROWS)]
VectorsOption = Annotated[str, typer.Option("--k", "-k", help="numbers of vectors")]
EncoderOption = Annotated[
    list[str] | None, typer.Option(help="also vectors of this trained encoder; repeatable [default: none]")
]
ShelfOption = Annotated[
    str | None, typer.Option(help="store that may have the vectors already [default: the bundled vectors]")
]
RowsOption = Annotated[
    Path | None, file_option("Parquet table; written after each part of a condition, and read to resume", ".parquet")
]


@reports_errors
def bench_use(
    part: Annotated[list[str] | None, typer.Option(help=f"{', '.join(PARTS)}; repeatable [default: all]")] = None,
    count: CountOption = ROWS,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="tokens of each passage", min=1)] = 64,
    ahead: Annotated[int, typer.Option(help="tokens of the continuation", min=1)] = 32,
    k: VectorsOption = "1,2,4",
    encoder: EncoderOption = None,
    folder: FolderOption = None,
    model: ModelOption = "smollm2-135m",
    shelf: ShelfOption = None,
    store: StoreOption = None,
    out: RowsOption = None,
) -> None:
    """Each part is asked behind the vector, another passage's, a random one, the text itself, and nothing.

    About an hour and a half on one core with all defaults; instructions take most of it.
    """
    from memlab.experiments.use import material, use
    from memlab.measures.use import CONTINUATION, use_summary
    from memlab.measures.use_predictions import use_outcomes

    parts, ks = _some(part, PARTS), numbers(k, "--k")
    texts, others = _originals(count)
    session, known, encoders = _prepared(model, shelf, store, out, encoder, folder)
    given = material(session.lm, texts, others, tokens=tokens, ahead=ahead)
    table = use(session, given, ks=ks, shelf=known, encoders=encoders, parts=parts)
    write_table(table, out)
    told = use_summary(table)
    typer.echo(f"{session.lm!r}\n{told[told.part != CONTINUATION].round(3).to_string(index=False)}")
    typer.echo(told[told.part == CONTINUATION].round(3).to_string(index=False))
    typer.echo(_outcomes(use_outcomes(table)))


@reports_errors
def bench_harm(
    part: Annotated[list[str] | None, typer.Option(help=f"{', '.join(HARM_PARTS)}; repeatable [default: all]")] = None,
    count: CountOption = ROWS,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="tokens of each passage and stranger", min=1)] = 64,
    k: VectorsOption = "1,2,4",
    encoder: EncoderOption = None,
    folder: FolderOption = None,
    model: ModelOption = "smollm2-135m",
    shelf: ShelfOption = None,
    store: StoreOption = None,
    out: RowsOption = None,
) -> None:
    """A stranger's text behind the vector and an empty line, by distance, and while layers do not see the vector.

    About half an hour on one core with all defaults; the distances alone take two minutes.
    """
    from memlab.experiments.harm import harm
    from memlab.measures.use import harm_summary, layers_that_harm
    from memlab.measures.use_predictions import harm_outcomes

    parts, ks = _some(part, HARM_PARTS), numbers(k, "--k")
    texts, others = _originals(count)
    session, known, encoders = _prepared(model, shelf, store, out, encoder, folder)
    passages = [session.lm.passage(text, tokens) for text in texts]
    strangers = [session.lm.passage(text, tokens) for text in others[:count]]
    table = harm(session, passages, strangers, ks=ks, shelf=known, encoders=encoders, parts=parts)
    write_table(table, out)
    typer.echo(f"{session.lm!r}\n{harm_summary(table).round(3).to_string(index=False)}")
    typer.echo(layers_that_harm(table).round(3).to_string(index=False))
    typer.echo(_outcomes(harm_outcomes(table)))


@reports_errors
def bench_use_training(
    count: CountOption = ROWS,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="tokens of each passage", min=1)] = 32,
    k: VectorsOption = "1,2,4",
    budget: Annotated[int, typer.Option(help="steps of a training at most", min=1)] = 400,
    model: ModelOption = "smollm2-135m",
    store: StoreOption = None,
    out: Annotated[
        Path | None, file_option("Parquet table; written after each training, and read to resume", ".parquet")
    ] = None,
) -> None:
    """Trains a vector plainly, with an instruction before it too, and with one behind it too.

    About an hour on one core with all defaults.
    """
    from memlab.experiments.session import Session
    from memlab.experiments.use_training import summary, use_training
    from memlab.models import load
    from memlab.recipes import Recipe

    ks, (texts, _) = numbers(k, "--k"), _originals(count)
    earlier, lm = read_table(out), load(model)
    session = Session(lm, Store(store), earlier, typer.echo, lambda rows: write_table(rows, out), progress=False)
    passages = [lm.passage(text, tokens) for text in texts]
    table = use_training(session, passages, ks=ks, recipe=Recipe.default(budget=budget))
    write_table(table, out)
    typer.echo(f"{lm!r}\n{summary(table).round(2).to_string(index=False)}")


def _some(names: list[str] | None, known: Iterable[str]) -> list[str]:
    known = list(known)
    if unknown := [name for name in names or [] if name not in known]:
        raise typer.BadParameter(f"{unknown[0]!r}; expected one of: {', '.join(known)}", param_hint="--part")
    return names or known


def _originals(count: int) -> tuple[list[Any], list[Any]]:
    """(passages' texts, other texts). The others are no passages of a run with all rows."""
    texts = load_texts("originals")
    return texts[:count], texts[ROWS : ROWS + CANDIDATES - count]


def _prepared(
    model: str, shelf: str | None, store: str | None, out: Path | None, names: list[str] | None, folder: Path | None
) -> tuple[Any, Store, dict[str, Any]]:
    """(session, shelf, trained encoders). The table is read before the model is loaded."""
    from memlab.experiments.session import Session
    from memlab.models import load
    from memlab.training.encoders.shelf import trained

    earlier, known = read_table(out), Store.existing(shelf) if shelf else Store.bundled()
    lm = load(model)
    encoders = {name: trained(name, lm, folder) for name in names or []}
    session = Session(lm, Store(store), earlier, typer.echo, lambda rows: write_table(rows, out), progress=False)
    return session, known, encoders


def _outcomes(told: Any) -> str:
    known = told[told.measured.notna()]
    held = int(known.held.astype(bool).sum())
    columns = ["name", "low", "high", "measured", "held"]
    return f"{held} of {len(known)} predictions held\n{known[columns].round(3).to_string(index=False)}"
