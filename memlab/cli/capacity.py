"""``memlab capacity``: how much fits, by both protocols, with intervals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from memlab.cli.common import (
    BinOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    RevisionOption,
    StoreOption,
    fail,
    grid_of,
    numbers,
    recipe_of,
    texts_of,
    told,
)
from memlab.experiments.tables import read_table, require_columns, stored, write_table
from memlab.results.store import Store
from memlab.texts import load_texts

PROTOCOLS = ("exact", "paper2025", "fixed", "equal")


@told
def capacity_command(
    model: ModelOption = "smollm2-135m",
    texts: Annotated[
        list[str] | None,
        typer.Option(help="originals, random, classics, pg19, hf:DATASET, or a path; several times [originals]"),
    ] = None,
    count: Annotated[str, typer.Option(help="passages of each kind; one number, or one for each k: 12,4,2")] = "12",
    k: Annotated[str, typer.Option("-k", "--k", help="vectors before the text: 1,2,4")] = "1",
    protocol: Annotated[
        str,
        typer.Option(
            help="exact; paper2025; fixed (the same lengths, trained by --recipe); equal (as many --bits); or several"
        ),
    ] = "exact",
    grid: Annotated[str, typer.Option(help="exact: lengths for one vector, first:last:stride, tokens")] = "32:256:16",
    first: Annotated[int, typer.Option(help="exact: length tried first with one vector")] = 128,
    attempts: Annotated[int, typer.Option(help="exact: seeds a length gets before it counts as failed", min=1)] = 2,
    lengths: Annotated[str, typer.Option(help="paper2025, fixed: lengths, tokens")] = "16,32",
    bits: Annotated[str, typer.Option(help="equal: what the passages cost the model, bits")] = "400,600",
    recipe: Annotated[str, typer.Option(help="exact, fixed, equal: a recipe by name or as JSON")] = "default",
    budget: Annotated[int | None, typer.Option(help="optimiser steps at most, each run")] = None,
    passes: Annotated[
        int | None,
        typer.Option(help="exact: token passes at most, each vector of a run; of recipes that grow their text"),
    ] = None,
    start: Annotated[str, typer.Option(help="character to begin at, or paper: the second half, by sentence")] = "0",
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    allow_bin: BinOption = False,
    store: StoreOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="one row a run, Parquet: written as they come, read on resuming; others' rows stay"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """How much text the vectors hold: exact horizons in tokens and bits; or, if asked, the published estimators."""
    chosen = protocol.split(",")
    if strange := [name for name in chosen if name not in PROTOCOLS]:
        raise typer.BadParameter(f"{', '.join(strange)}; expected {' or '.join(PROTOCOLS)}", param_hint="--protocol")
    ks = numbers(k, "--k")
    counts = _counts(count, ks)
    span = grid_of(grid, first)
    begin: int | str = int(start) if start.isdigit() else start
    if begin != "paper" and not isinstance(begin, int):
        raise typer.BadParameter(f"{start!r}; expected a character's number, or paper", param_hint="--start")
    wanted, at = recipe_of(recipe, budget=budget, token_budget=passes), numbers(lengths, "--lengths")
    # Of files all are read, since the first ones may be too short for many vectors; random words are made as needed.
    drawn = {"random", "pg19"}
    by_kind = {
        name: load_texts(
            name,
            count=max(counts) if name in drawn or name.startswith("hf:") else None,
            words=max(400, *at, *(k * span[-1] for k in ks)),
        )
        for name in texts or ["originals"]
    }

    import pandas as pd

    from memlab.experiments import capacity as capacity_experiment
    from memlab.experiments.session import Session
    from memlab.measures.capacity_report import summaries
    from memlab.models import load

    lm = load(model, revision=revision, dtype=dtype, allow_bin=allow_bin)

    def log(line: str) -> None:
        typer.echo(line, err=True)

    tables: list[pd.DataFrame] = []

    def write_with(now: pd.DataFrame) -> None:
        """What is in the file and has not come up, of other kinds and models too, stays there."""
        if out is None:
            return
        rows = pd.concat([*tables, now], ignore_index=True)
        if (there := read_table(out)) is not None:  # read again: another program may have added to it
            rows = pd.concat([rows, there])
            run = [name for name in ("key", "protocol", "texts", "text_id", "length", "bits_asked") if name in rows]
            rows = rows.drop_duplicates(run, ignore_index=True)
        write_table(rows, out)

    session = Session(lm, Store(store), read_table(out), log, write_with, progress=False)
    common: dict[str, Any] = dict(ks=ks, counts=counts, start=begin)
    if "exact" in chosen:
        made = capacity_experiment.exact(
            session, by_kind, lengths=span, first=first, attempts=attempts, recipe=wanted, **common
        )
        tables.append(made)
    for name, way in (("paper2025", recipe_of("paper2025", budget=budget)), ("fixed", wanted)):
        if name in chosen:
            tables.append(
                capacity_experiment.fixed_lengths(session, by_kind, recipe=way, protocol=name, lengths=at, **common)
            )
    if "equal" in chosen:
        asked = numbers(bits, "--bits")
        tables.append(capacity_experiment.equal_information(session, by_kind, bits=asked, recipe=wanted, **common))
    runs = pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)
    write_with(runs.iloc[:0])
    told = summaries(runs, lm.d, lm.vocabulary)
    if as_json:
        typer.echo(json.dumps({name: json.loads(table.to_json(orient="records")) for name, table in told.items()}))
        return
    typer.echo(repr(lm))
    for name, table in told.items():
        typer.echo(f"\n{name}\n{table.to_string(index=False)}")


def _counts(count: str, ks: list[int]) -> list[int]:
    counts = numbers(count, "--count")
    if len(counts) not in (1, len(ks)):
        many = ",".join(map(str, ks))
        raise typer.BadParameter(
            f"{count!r} for k = {many}; expected one number, or one for each k", param_hint="--count"
        )
    return counts * len(ks) if len(counts) == 1 else counts


@told
def predict_command(
    files: Annotated[list[str] | None, typer.Argument(help="text files or folders; - reads standard input")] = None,
    text: Annotated[str | None, typer.Option("--text", "-t", help="a text on the command line")] = None,
    k: Annotated[str, typer.Option("-k", "--k", help="vectors: 1,2,4")] = "1,2,4,8",
    runs: Annotated[
        Path | None, typer.Option(help="table of memlab capacity to learn from [default: the one that comes with it]")
    ] = None,
    model: ModelOption = "smollm2-135m",
    as_json: JsonOption = False,
) -> None:
    """How much of a text will fit, said before any training: from one forward pass, and horizons measured before."""
    ks = numbers(k, "--k")
    texts = texts_of(files, text, "predict")

    import pandas as pd

    from memlab.experiments.attempts import longest_passage
    from memlab.measures import prediction
    from memlab.models import load

    table: pd.DataFrame = stored("capacity") if runs is None else read_table(runs)
    if table is None:
        raise fail(f"{runs} is not there: make it with memlab capacity --out {runs}", 2)
    require_columns(table, ("model", "protocol", "text_id", "k", "exact_prefix", "token_bits_without"))
    table = table[table.model == model]
    measured = prediction.measured(table) if len(table) else table
    if (passages := measured.passage.nunique() if len(measured) else 0) < prediction.LEAST:
        least = prediction.LEAST
        raise fail(f"horizons of {passages} passages of {model} were measured; expected {least}: memlab capacity", 2)
    predictor, told = prediction.of_runs(table), prediction.reports(prediction.held_out(measured))
    lm, rows = load(model), []
    # Room for a sink prefix and the vectors; what is longer is read as far as the model can read at once.
    room = lm.context - 16 if lm.context else sys.maxsize
    for one in texts:
        passage = longest_passage(lm, one, room, 0)
        if len(passage) == room:
            typer.echo(f"{one.id}: its first {room} tokens, as many as {lm.name} reads at once", err=True)
        bits = lm.token_bits(passage.ids)
        for vectors in ks:
            found = predictor.horizon(bits, vectors)
            rows.append({
                "text": one.id, "tokens": len(bits), "bits": round(float(np.nansum(bits))), "k": vectors,
                "will_hold": round(found.value), "low": round(found.low), "high": round(found.high),
                "extrapolated": vectors not in predictor.ks,
                "k_needed": _needed(predictor, bits),
            })  # fmt: skip
    if as_json:
        clean = {k: {name: None if np.isnan(v) else v for name, v in error.items()} for k, error in told.items()}
        typer.echo(json.dumps({"held_out": clean, "predictions": rows}))
        return
    typer.echo(pd.DataFrame(rows).to_string(index=False))
    for vectors, error in told.items():
        typer.echo(_accuracy(vectors, error))
    if not told:
        typer.echo("no passage could be left out: with so few, how far off this is cannot be said")


def _needed(predictor: Any, bits: Any) -> int | None:
    """Vectors for all of a text; None where those measured do not say."""
    try:
        return int(predictor.vectors_needed(bits))
    except ValueError:
        return None


def _accuracy(k: int, error: dict[str, float]) -> str:
    """What leaving out came to at one k, in a line."""
    means = {"the mean of the others": "baseline_median_error", "that of its kind": "own_kind_median_error"}
    beside = [f"{name} by {error[column]:.0f}" for name, column in means.items() if not np.isnan(error[column])]
    off = ", ".join([f"off by {error['median_error']:.0f} tokens (median)", *beside])
    passages = error["passages"]
    return f"k = {k}: {passages} passages, each left out in turn: {off}; {error['inside']:.0%} inside the 90 % interval"
