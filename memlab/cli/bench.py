"""``memlab bench``: measurements that anyone can run again. What is in the store or the table is not done twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from memlab.cli.common import DtypeOption, ModelOption, OutOption, StoreOption, fail, grid_of, recipe_of, told
from memlab.experiments.tables import read_table, write_table
from memlab.results.store import Store
from memlab.texts import load_texts

bench_app = typer.Typer(
    help="Measurements, resumable: what is in the store is not trained again.", no_args_is_help=True
)


@bench_app.command("recovery")
@told
def bench_recovery(
    texts: Annotated[str, typer.Option(help="originals, random, classics, pg19, hf:DATASET, or a path")] = "originals",
    count: Annotated[int, typer.Option(help="passages, one from each text", min=1)] = 8,
    tokens: Annotated[int, typer.Option("--tokens", "-n")] = 32,
    recipe: Annotated[list[str] | None, typer.Option("--recipe", help="may be given several times")] = None,
    model: ModelOption = "smollm2-135m",
    store: StoreOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="also write the table of passages as CSV")] = None,
) -> None:
    """Recipes side by side: teacher-forced, first token given, and from the vector alone."""
    recipes = [recipe_of(name) for name in recipe or ["default", "paper2025"]]
    chosen = load_texts(texts, count=count)

    from memlab.experiments.recovery import recovery, summary
    from memlab.experiments.session import Session
    from memlab.models import load

    lm = load(model)
    found = recovery(Session(lm, Store(store)), chosen, recipes, tokens=tokens)
    table = found.table
    for what, why in found.lost.items():
        typer.echo(f"left out: {what}: {why}", err=True)
    if not len(table):
        raise fail("no run came to an end: there is no table", 1)
    write_table(table, out)
    measured = f"{table.text_id.nunique()} of {len(chosen)} texts ({texts})"
    typer.echo(f"{lm!r}\n{measured}, first {tokens} tokens, 95 % Wilson intervals")
    typer.echo(f"{found.trained} trained now, in {found.seconds:.0f} s; the others were in the store")
    typer.echo(summary(table).to_string())


@bench_app.command("step")
@told
def bench_step(
    shapes: Annotated[list[str] | None, typer.Argument(help="passages x tokens, such as 16x64")] = None,
    model: ModelOption = "smollm2-135m",
    like: Annotated[str | None, typer.Option(help="random weights in the shape of llama-3.1-8b, instead")] = None,
    out: OutOption = None,
) -> None:
    """Where a training step's time goes: its bare matrix products, timed in the same run, and its peak memory."""
    wanted = [_shape(shape) for shape in shapes or (["4x1568"] if like else ["16x32", "16x64", "16x128"])]

    from memlab.experiments.step_profile import profile_steps, random_weights
    from memlab.models import load

    lm = random_weights(like) if like else load(model)
    table = profile_steps(lm, wanted)
    write_table(table, out)
    typer.echo(f"{lm!r}\n{table.round(3).to_string(index=False)}")


@bench_app.command("speed")
@told
def bench_speed(
    texts: Annotated[str, typer.Option(help="originals, random, classics, pg19, hf:DATASET, or a path")] = "originals",
    count: Annotated[int, typer.Option(help="passages of each length, one from each text", min=1)] = 6,
    tokens: Annotated[list[int] | None, typer.Option("--tokens", "-n", help="may be given several times")] = None,
    against: Annotated[list[str] | None, typer.Option(help="paper2025, progressive2026; several times")] = None,
    model: ModelOption = "smollm2-135m",
    out: Annotated[Path, typer.Option(help="table, Parquet: written after each passage, read on resuming")] = Path(
        "bench-speed.parquet"
    ),
    picture: Annotated[Path | None, typer.Option(help="also draw it: .png or .svg")] = None,
) -> None:
    """Ours against the published ways, run as published: batch 1, float32, their stop rules. Takes hours."""
    from memlab.charts import save, speed_chart
    from memlab.experiments.speed import by_method, ratios, speed
    from memlab.models import load

    lm = load(model)
    chosen = load_texts(texts, count=count)
    passages = [lm.passage(text, n) for n in tokens or [32, 16] for text in chosen]
    table = speed(lm, passages, out=out, against=against or ["paper2025", "progressive2026"], log=typer.echo)
    found = ratios(table)[["method", "over", "ratio", "low", "high", "passages"]].round(1)  # all of this machine
    typer.echo(f"{lm!r}\n{by_method(table).to_string(index=False)}\n{found.to_string(index=False)}")
    if picture:
        save(speed_chart(table), picture)


@bench_app.command("recipe")
@told
def bench_recipe(
    stage: Annotated[str, typer.Argument(help="screen, or final")],
    texts: Annotated[
        list[str] | None, typer.Option(help="for final; several times [default: classics, random]")
    ] = None,
    model: ModelOption = "smollm2-135m",
    store: StoreOption = None,
    only: Annotated[list[str] | None, typer.Option(help="contenders by name, several times")] = None,
    out: Annotated[Path | None, typer.Option(help="table, Parquet: written after each contender")] = None,
) -> None:
    """The optimiser study: contenders for the default recipe at equal compute."""
    from memlab.experiments.optimizer_study import STAGES, ranking, stage_passages, study
    from memlab.experiments.session import Session
    from memlab.models import load

    if stage not in STAGES:
        raise typer.BadParameter(f"{stage!r}; expected {' or '.join(STAGES)}", param_hint="STAGE")
    lm = load(model)
    plan = STAGES[stage]
    chosen = {
        question: {name: changes for name, changes in group.items() if not only or name in only}
        for question, group in plan.contenders.items()
    }
    table = study(
        Session(lm, Store(store), log=typer.echo, progress=False), stage_passages(lm, plan, texts), chosen,
        budget=plan.budget, seeds=plan.seeds, out=out,
    )  # fmt: skip
    typer.echo(f"{lm!r}\n{ranking(table).to_string(index=False)}")


@bench_app.command("sink")
@told
def bench_sink(
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="several times")] = None,
    texts: Annotated[str, typer.Option(help="originals, random, classics, pg19, hf:DATASET, or a path")] = "originals",
    count: Annotated[int, typer.Option(help="passages, one from each text", min=1)] = 8,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="a toy gets a quarter of them, at random")] = 32,
    store: StoreOption = None,
    out: Annotated[Path | None, typer.Option(help="table, Parquet: written after each model, read on resuming")] = None,
) -> None:
    """Where a special token helps: before the vectors, behind them, or nowhere."""
    import pandas as pd

    from memlab.experiments.session import Session
    from memlab.experiments.sink_position import sink, sink_passages, summary
    from memlab.models import load

    names = model or ["smollm2-135m", "gemma-3-270m", *(f"toy:{family}" for family in _toys())]
    chosen = load_texts(texts, count=count)
    known = read_table(out)
    tables = [] if known is None else [known]
    for name in names:
        lm = load(name)
        made = sink(Session(lm, Store(store), known, progress=False), sink_passages(lm, chosen, tokens))
        tables.append(made)
        write_table(pd.concat(tables).drop_duplicates(["key", "text_id"], ignore_index=True), out)
        typer.echo(summary(made).to_string(index=False))


@bench_app.command("horizon")
@told
def bench_horizon(
    texts: Annotated[list[str] | None, typer.Option(help="several times [default: originals]")] = None,
    count: Annotated[int, typer.Option(help="passages of each", min=1)] = 12,
    lengths: Annotated[str, typer.Option(help="grid: first:last:stride, in tokens")] = "32:256:16",
    first: Annotated[int, typer.Option(help="length tried first")] = 128,
    attempts: Annotated[int, typer.Option(help="seeds a length gets before it counts as failed", min=1)] = 3,
    recipe: Annotated[str, typer.Option(help="a recipe by name or as JSON")] = "default",
    budget: Annotated[int | None, typer.Option(help="optimiser steps at most, each attempt")] = None,
    beside: Annotated[str | None, typer.Option(help="a growing recipe, at equal token passes")] = None,
    aim: Annotated[int, typer.Option(help="passages that end below it are pressed further; 0: none")] = 0,
    model: ModelOption = "smollm2-135m",
    dtype: DtypeOption = None,
    store: StoreOption = None,
    earlier: Annotated[
        Path | None,
        typer.Option("--known", help="a table of memlab capacity or of this command: what it has is not run again"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="table, Parquet: written after each round, read on resuming")] = None,
) -> None:
    """The longest prefix of each passage that is exact, and what it takes to go further."""
    import pandas as pd

    from memlab.experiments.growing import growing
    from memlab.experiments.horizon import horizon
    from memlab.experiments.retries import extend_growth, retry_failures
    from memlab.experiments.session import Session
    from memlab.measures.capacity import horizons
    from memlab.measures.capacity_report import ratio_of_horizons
    from memlab.models import load

    span = grid_of(lengths, first)
    lm = load(model, dtype=dtype)
    chosen = [text for name in texts or ["originals"] for text in load_texts(name, count=count)]
    wanted = recipe_of(recipe, budget=budget)
    there = [table for table in (read_table(out), read_table(earlier)) if table is not None]
    known = pd.concat(there, ignore_index=True) if there else None

    name = "growing" if wanted.grow else "ladder"

    def write(rows: pd.DataFrame) -> None:
        """With what is known and has not come up: a run that is stopped here, or is of other texts, loses nothing."""
        if (there := read_table(out)) is not None:  # read again: another program may have added to it
            rows = pd.concat([rows, there]).drop_duplicates(["key", "way", "text_id"], ignore_index=True)
        write_table(rows, out)

    session = Session(lm, Store(store), known, typer.echo, write, progress=False)

    def under(way: str) -> Session:
        return replace(session, on_rows=lambda rows: write(rows.assign(way=way)))

    if wanted.grow:
        table = growing(under(name), chosen, recipe=wanted, token_passes=wanted.token_budget, longest=span[-1])
    else:
        table = horizon(under(name), chosen, lengths=span, first=first, attempts=attempts, recipe=wanted)
    found = horizons(table)
    tables = {name: table.assign(way=name)}
    if beside:
        typer.echo(f"{beside}, with as many token passes")
        passes = dict(zip(found.text_id, found.token_passes, strict=True))
        grown = growing(under(beside), chosen, recipe=recipe_of(beside), token_passes=passes, longest=span[-1])
        tables[beside] = grown.assign(way=beside)
    if aim:
        typer.echo(f"pressing the passages that end below {aim} tokens")
        if wanted.grow:
            further = extend_growth(session, chosen, table, target=aim, recipe=wanted, longest=span[-1])
        else:
            further = retry_failures(session, chosen, table, target=aim, recipe=wanted)
        tables |= dict(list(further.groupby("way", sort=False))) if len(further) else {}
    write(pd.concat(tables.values(), ignore_index=True))
    typer.echo(repr(lm))
    for way, rows in tables.items():
        typer.echo(_reached(way, rows) if way in (name, beside) else _pressed(way, rows, bool(wanted.grow)))
    if beside:
        ratio = ratio_of_horizons(found, horizons(tables[beside]))
        typer.echo(
            f"times as many tokens as {beside}, passage by passage: "
            f"median {ratio.value:.1f}, 95 % [{ratio.low:.1f}, {ratio.high:.1f}]"
        )


@bench_app.command("kills")
@told
def bench_kills(
    count: Annotated[int, typer.Option(help="writers killed, one at a time", min=1)] = 200,
    folder: Annotated[Path, typer.Option(help="store to write into; must not exist")] = Path("killed-store"),
) -> None:
    """Kill writers at random moments and see what their store still holds. Takes minutes, needs no model."""
    from memlab.experiments.store_stress import crash_writers

    if folder.exists():
        raise typer.BadParameter(f"{folder} exists", param_hint="--folder")
    found = crash_writers(folder, count)
    typer.echo(
        f"{found.kills} kills, {found.writes} keys, begun {found.begun} times, {found.seconds:.0f} s; "
        f"lost {len(found.lost)}, unreadable {len(found.unreadable)}, damaged {len(found.wrong)}, "
        f"temporary files left {found.left}"
    )
    if found.lost or found.unreadable or found.wrong:
        raise typer.Exit(1)


@bench_app.command("store")
@told
def bench_store(
    entries: Annotated[int, typer.Option(help="results to make up")] = 100_000,
    folder: Annotated[Path, typer.Option(help="store to write into; kept, and filled up")] = Path("large-store"),
) -> None:
    """How long a large store takes to list, filter and verify in part. Needs no model."""
    from memlab.experiments.store_stress import large

    for name, value in large(folder, entries).items():
        typer.echo(f"{name}: {value}")


def _reached(way: str, rows: Any) -> str:
    """Horizons of one way to find them, as a table and their median."""
    from memlab.measures.capacity import horizons
    from memlab.measures.statistics import median_interval

    reached = horizons(rows)
    middle, below, above = median_interval(reached.horizon)
    return (
        f"{way}\n{reached.to_string(index=False)}\n"
        f"median horizon {middle:g} tokens, 95 % [{below:g}, {above:g}], {len(reached)} passages"
    )


def _pressed(way: str, rows: Any, grown: bool) -> str:
    """What one way to go further came to."""
    if grown:
        return f"{way}: {len(rows)} passages, exact prefix: median {rows.exact_prefix.median():g} tokens"
    return f"{way}: {rows.exact.sum()} of {len(rows)} exact, {rows.bits.median():.4f} bits a token left"


def _shape(text: str) -> tuple[int, int]:
    rows, _, tokens = text.partition("x")
    if not (rows.isdigit() and tokens.isdigit()):
        raise typer.BadParameter(f"{text!r}; expected passages x tokens, such as 16x64", param_hint="SHAPES")
    return int(rows), int(tokens)


def _toys() -> tuple[str, ...]:
    from memlab.models.families import TOY_FAMILIES

    return TOY_FAMILIES
