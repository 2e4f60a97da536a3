"""``memlab capacity`` and ``memlab predict``: how much text fits, measured and predicted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from memlab.cli.common import (
    BinOption,
    ColumnOption,
    DtypeOption,
    JsonOption,
    ManyTextsOption,
    ModelOption,
    RevisionOption,
    StoreOption,
    fail,
    grid_of,
    numbers,
    recipe_of,
    reports_errors,
    texts_of,
    update_table,
)
from memlab.cli.outputs import file_option
from memlab.experiments.tables import read_table, require_columns, stored
from memlab.results.store import Store
from memlab.texts import is_unlimited, load_texts

if TYPE_CHECKING:
    import pandas as pd

PROTOCOLS = ("exact", "paper2025", "fixed", "equal")
_RUN = ("key", "protocol", "texts", "text_id", "length", "bits_asked")
"""Columns that together name a run."""


@reports_errors
def capacity_command(
    model: ModelOption = "smollm2-135m",
    texts: ManyTextsOption = None,
    column: ColumnOption = None,
    count: Annotated[
        str, typer.Option(help="passages of each kind of text: one number, or one per k, such as 12,4,2")
    ] = "12",
    k: Annotated[str, typer.Option("-k", "--k", help="numbers of vectors before the text, such as 1,2,4")] = "1",
    protocol: Annotated[
        str,
        typer.Option(
            help="exact (longest exact prefix), paper2025 (the published estimators), fixed (passages of --lengths by "
            "--recipe), equal (passages that cost --bits); several are separated by commas"
        ),
    ] = "exact",
    grid: Annotated[
        str, typer.Option(help="exact: lengths to try with one vector, in tokens: first:last:stride")
    ] = "32:256:16",
    first: Annotated[int, typer.Option(help="exact: length to try first with one vector, in tokens")] = 128,
    attempts: Annotated[int, typer.Option(help="exact: seeds to try before a length counts as failed", min=1)] = 2,
    lengths: Annotated[str, typer.Option(help="paper2025, fixed: lengths in tokens")] = "16,32",
    bits: Annotated[str, typer.Option(help="equal: what the passages cost the model, in bits")] = "400,600",
    recipe: Annotated[str, typer.Option(help="exact, fixed, equal: a recipe by name or as JSON")] = "default",
    budget: Annotated[int | None, typer.Option(help="largest number of optimizer steps per run")] = None,
    token_budget: Annotated[
        int | None,
        typer.Option(help="exact, with a recipe that grows its text: largest number of token passes per vector"),
    ] = None,
    start: Annotated[
        str, typer.Option(help="character to begin at, or paper: the second half of the text, at a sentence")
    ] = "0",
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    allow_bin: BinOption = False,
    store: StoreOption = None,
    out: Annotated[
        Path | None,
        file_option(
            "Parquet table, one row per run; written as runs finish, read to resume, other rows stay", ".parquet"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how much text fits: exact horizons in tokens and bits, or the published estimators."""
    protocols = protocol.split(",")
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise typer.BadParameter(f"{', '.join(unknown)}; expected {' or '.join(PROTOCOLS)}", param_hint="--protocol")
    ks = numbers(k, "--k")
    counts = _counts(count, ks)
    span = grid_of(grid, first)
    begin: int | str = int(start) if start.isdigit() else start
    if begin != "paper" and not isinstance(begin, int):
        raise typer.BadParameter(f"{start!r}; expected a character's number, or paper", param_hint="--start")
    wanted, tokens = recipe_of(recipe, budget=budget, token_budget=token_budget), numbers(lengths, "--lengths")
    # All files are read, because the first ones may be too short for many vectors. Other sources have no end.
    by_kind = {
        name: load_texts(
            name,
            count=max(counts) if is_unlimited(name) else None,
            words=max(400, *tokens, *(k * span[-1] for k in ks)),
            column=column,
        )
        for name in texts or ["originals"]
    }

    import pandas as pd

    from memlab.experiments import capacity
    from memlab.experiments.session import Session
    from memlab.measures.capacity_report import summaries
    from memlab.models import load

    lm = load(model, revision=revision, dtype=dtype, allow_bin=allow_bin)
    tables: list[pd.DataFrame] = []

    def write(rows: pd.DataFrame) -> None:
        rows = pd.concat([*tables, rows], ignore_index=True)
        if out is not None and len(rows):
            update_table(rows, out, _RUN)

    session = Session(lm, Store(store), read_table(out), lambda line: typer.echo(line, err=True), write, progress=False)
    common: dict[str, Any] = dict(ks=ks, counts=counts, start=begin)
    if "exact" in protocols:
        tables.append(
            capacity.exact(session, by_kind, lengths=span, first=first, attempts=attempts, recipe=wanted, **common)
        )
    for name, trained_by in (("paper2025", recipe_of("paper2025", budget=budget)), ("fixed", wanted)):
        if name in protocols:
            tables.append(
                capacity.fixed_lengths(session, by_kind, recipe=trained_by, protocol=name, lengths=tokens, **common)
            )
    if "equal" in protocols:
        costs = numbers(bits, "--bits")
        tables.append(capacity.equal_information(session, by_kind, bits=costs, recipe=wanted, **common))
    runs = pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)
    if not len(runs):
        raise fail("Every run was left out, so nothing was measured. The reasons are above.", 2)
    write(runs.iloc[:0])
    shown = summaries(runs, lm.d, lm.vocabulary)
    if as_json:
        typer.echo(json.dumps({name: json.loads(table.to_json(orient="records")) for name, table in shown.items()}))
        return
    typer.echo(repr(lm))
    for name, table in shown.items():
        typer.echo(f"\n{name}\n{table.to_string(index=False)}")


def _counts(count: str, ks: list[int]) -> list[int]:
    """Passages for each k."""
    counts = numbers(count, "--count")
    if len(counts) not in (1, len(ks)):
        raise typer.BadParameter(
            f"{count!r} for k = {','.join(map(str, ks))}; expected one number, or one per k", param_hint="--count"
        )
    return counts * len(ks) if len(counts) == 1 else counts


@reports_errors
def predict_command(
    files: Annotated[list[str] | None, typer.Argument(help="text files or folders; - reads standard input")] = None,
    text: Annotated[str | None, typer.Option("--text", "-t", help="the text itself, instead of a file")] = None,
    column: ColumnOption = None,
    k: Annotated[str, typer.Option("-k", "--k", help="numbers of vectors, such as 1,2,4")] = "1,2,4,8",
    runs: Annotated[
        Path | None, typer.Option(help="table of memlab capacity to learn from [default: the bundled table]")
    ] = None,
    model: ModelOption = "smollm2-135m",
    as_json: JsonOption = False,
) -> None:
    """Predict how much of a text will fit, without training: from one forward pass and from measured horizons."""
    ks = numbers(k, "--k")
    texts = texts_of(files, text, "predict", column)

    import pandas as pd

    from memlab.experiments.attempts import longest_passage
    from memlab.measures import prediction
    from memlab.models import load

    table = _measured_runs(runs, model)
    predictor, errors = prediction.of_runs(table), prediction.reports(prediction.held_out(prediction.measured(table)))
    lm, rows = load(model), []
    # The context also needs room for a sink prefix and the vectors. The rest of a longer text is not used.
    room = lm.context - 16 if lm.context else sys.maxsize
    for one in texts:
        passage = longest_passage(lm, one, room, 0)
        if len(passage) == room:
            typer.echo(f"{one.id}: only the first {room} tokens fit into the context of {lm.name}", err=True)
        bits = lm.token_bits(passage.ids)
        for vectors in ks:
            horizon = predictor.horizon(bits, vectors)
            rows.append({
                "text": one.id, "tokens": len(bits), "bits": round(float(np.nansum(bits))), "k": vectors,
                "will_hold": round(horizon.value), "low": round(horizon.low), "high": round(horizon.high),
                "extrapolated": vectors not in predictor.ks,
                "k_needed": _needed(predictor, bits),
            })  # fmt: skip
    if as_json:
        clean = {k: {name: None if np.isnan(v) else v for name, v in error.items()} for k, error in errors.items()}
        typer.echo(json.dumps({"held_out": clean, "predictions": rows}))
        return
    typer.echo(pd.DataFrame(rows).to_string(index=False))
    for vectors, error in errors.items():
        typer.echo(_accuracy(vectors, error))
    if not errors:
        typer.echo("error unknown: too few passages were measured to leave one out")


def _measured_runs(file: Path | None, model: str) -> pd.DataFrame:
    """The rows of one model in a table of runs: enough of them to learn a prediction from."""
    from memlab.measures import prediction

    table = stored("capacity") if file is None else read_table(file)
    if table is None:
        raise fail(f"There is no file {file}. Make it with `memlab capacity --out {file}`.", 2)
    require_columns(table, ("model", "protocol", "text_id", "k", "exact_prefix", "token_bits_without"))
    table = table[table.model == model]
    passages = prediction.measured(table).passage.nunique() if len(table) else 0
    if passages < prediction.LEAST:
        raise fail(
            f"Horizons of only {passages} passages of {model} were measured, and {prediction.LEAST} are needed. "
            "Measure more with `memlab capacity --out runs.parquet`, and give --runs runs.parquet.",
            2,
        )
    return table


def _needed(predictor: Any, bits: Any) -> int | None:
    """Vectors for the complete text; None if more vectors did not hold more in the measured passages."""
    try:
        return int(predictor.vectors_needed(bits))
    except ValueError:
        return None


def _accuracy(k: int, error: dict[str, float]) -> str:
    """The leave-one-passage-out error at one k, next to that of two baselines, in a line."""
    baselines = {"mean of all others": "baseline_median_error", "mean of the same kind": "own_kind_median_error"}
    compared = [f"{name} {error[column]:.0f}" for name, column in baselines.items() if not np.isnan(error[column])]
    median = ", ".join([f"{error['median_error']:.0f} tokens", *compared])
    return (
        f"k = {k}: median error of {error['passages']} passages, each predicted from the others: {median}; "
        f"{error['inside']:.0%} inside the 90 % interval"
    )
