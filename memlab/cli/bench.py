"""``memlab bench``: measurements that anyone can run again. What is in the store or the table is not done twice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from memlab.cli.common import ModelOption, StoreOption, grid_of, recipe_of, told
from memlab.experiments import read_table, write_table
from memlab.store import Store, StoreError
from memlab.texts import load_texts

bench_app = typer.Typer(
    help="Measurements, resumable: what is in the store is not trained again.", no_args_is_help=True
)


@bench_app.command("recovery")
@told
def bench_recovery(
    texts: Annotated[str, typer.Option(help="originals, random, classics, pg19, hf:DATASET, or a path")] = "originals",
    count: Annotated[int, typer.Option(help="passages, one from each text")] = 8,
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
    from memlab.models import load

    lm = load(model)
    table = recovery(lm, chosen, recipes, Store(store), tokens=tokens)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(out, index=False, float_format="%.6g")
    measured = f"{table.text_id.nunique()} of {len(chosen)} texts ({texts})"
    typer.echo(f"{lm!r}\n{measured}, first {tokens} tokens, 95 % Wilson intervals")
    for what, why in table.attrs["lost"].items():
        typer.echo(f"left out: {what}: {why}", err=True)
    typer.echo(f"{table.attrs['trained']} trained now, in {table.attrs['seconds']:.0f} s; the others were in the store")
    typer.echo(summary(table).to_string())


OutOption = Annotated[Path | None, typer.Option("--out", help="also write the table, as Parquet")]


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

    from memlab.experiments.work import random_weights, step_work
    from memlab.models import load

    lm = random_weights(like) if like else load(model)
    table = step_work(lm, wanted)
    write_table(table, out)
    typer.echo(f"{lm!r}\n{table.round(3).to_string(index=False)}")


@bench_app.command("speed")
@told
def bench_speed(
    texts: Annotated[str, typer.Option(help="originals, random, classics, pg19, hf:DATASET, or a path")] = "originals",
    count: Annotated[int, typer.Option(help="passages of each length, one from each text")] = 6,
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
    from memlab.experiments.speed import ratios, speed
    from memlab.models import load

    lm = load(model)
    chosen = load_texts(texts, count=count)
    passages = [lm.passage(text, n) for n in tokens or [32, 16] for text in chosen]
    table = speed(lm, passages, out=out, against=against or ["paper2025", "progressive2026"], tell=typer.echo)
    found = ratios(table)
    typer.echo(f"{lm!r}\n{_by_method(table).to_string(index=False)}\n{found.round(1).to_string(index=False)}")
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
    from memlab.experiments.study import STAGES, ranking, stage_passages, study
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
        lm, stage_passages(lm, plan, texts), chosen, Store(store), budget=plan.budget, seeds=plan.seeds, out=out,
        tell=typer.echo,
    )  # fmt: skip
    typer.echo(f"{lm!r}\n{ranking(table).to_string(index=False)}")


@bench_app.command("sink")
@told
def bench_sink(
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="several times")] = None,
    texts: Annotated[str, typer.Option(help="originals, random, classics, pg19, hf:DATASET, or a path")] = "originals",
    count: Annotated[int, typer.Option(help="passages, one from each text")] = 8,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="a toy gets a quarter of them, at random")] = 32,
    store: StoreOption = None,
    out: OutOption = None,
) -> None:
    """Where a special token helps: before the vectors, behind them, or nowhere."""
    import pandas as pd

    from memlab.experiments.sink import sink, sink_passages, summary
    from memlab.models import load

    names = model or ["smollm2-135m", "gemma-3-270m", *(f"toy:{family}" for family in _toys())]
    chosen = load_texts(texts, count=count)
    tables = []
    for name in names:
        lm = load(name)
        tables.append(sink(lm, sink_passages(lm, chosen, tokens), Store(store), progress=False))
        typer.echo(summary(tables[-1]).to_string(index=False))
    write_table(pd.concat(tables, ignore_index=True), out)


@bench_app.command("horizon")
@told
def bench_horizon(
    texts: Annotated[list[str] | None, typer.Option(help="several times [default: originals]")] = None,
    count: Annotated[int, typer.Option(help="passages of each")] = 12,
    lengths: Annotated[str, typer.Option(help="grid: first:last:stride, in tokens")] = "32:256:16",
    first: Annotated[int, typer.Option(help="length tried first")] = 128,
    attempts: Annotated[int, typer.Option(help="seeds a length gets before it counts as failed")] = 3,
    recipe: Annotated[str, typer.Option(help="a recipe by name or as JSON")] = "default",
    budget: Annotated[int | None, typer.Option(help="optimiser steps at most, each attempt")] = None,
    beside: Annotated[str | None, typer.Option(help="a growing recipe, at equal token passes")] = None,
    aim: Annotated[int, typer.Option(help="passages that end below it are pressed further; 0: none")] = 0,
    model: ModelOption = "smollm2-135m",
    store: StoreOption = None,
    out: Annotated[Path | None, typer.Option(help="table, Parquet: written after each round, read on resuming")] = None,
) -> None:
    """The longest prefix of each passage that is exact, and what it takes to go further."""
    import pandas as pd

    from memlab.capacity import horizons
    from memlab.experiments.horizon import growing, grown_further, horizon, pressed
    from memlab.models import load
    from memlab.statistics import median_interval

    span = grid_of(lengths, first)
    lm, kept = load(model), Store(store)
    chosen = [text for name in texts or ["originals"] for text in load_texts(name, count=count)]
    wanted = recipe_of(recipe, budget=budget)
    known = read_table(out)

    name = "growing" if wanted.grow else "ladder"

    def keep(rows: pd.DataFrame) -> None:
        new = rows.assign(way=name)
        # What is known and has not come up again yet stays in the file: a run that is stopped here loses nothing.
        rest = [] if known is None else [known[~known.key.isin(new.key) | (known.way != name)]]
        write_table(pd.concat([new, *rest], ignore_index=True), out)

    common: dict[str, Any] = dict(recipe=wanted, known=known, progress=False)
    if wanted.grow:
        common |= {"longest": span[-1]}
        table = growing(
            lm, chosen, kept, token_passes=wanted.token_budget, tell=typer.echo, keep=keep, **common
        )  # fmt: skip
    else:
        table = horizon(
            lm, chosen, kept, lengths=span, first=first, attempts=attempts, tell=typer.echo, keep=keep, **common
        )
    found = horizons(table)
    tables = {name: table.assign(way=name)}
    if aim:
        typer.echo(f"pressing the passages that end below {aim} tokens")
        press = grown_further if wanted.grow else pressed
        further = press(lm, chosen, kept, table, aim=aim, **common)
        tables |= dict(list(further.groupby("way", sort=False))) if len(further) else {}
    if beside:
        passes = dict(zip(found.text_id, found.token_passes, strict=True))
        grown = growing(
            lm, chosen, kept, recipe=recipe_of(beside), token_passes=passes, longest=span[-1], known=known,
            progress=False, tell=typer.echo,
        )  # fmt: skip
        tables[beside] = grown.assign(way=beside)
    write_table(pd.concat(tables.values(), ignore_index=True), out)
    typer.echo(repr(lm))
    for way, rows in tables.items():
        if way in (name, beside):
            reached = horizons(rows)
            middle, below, above = median_interval(reached.horizon)
            typer.echo(f"{way}\n{reached.to_string(index=False)}")
            typer.echo(f"median horizon {middle:g} tokens, 95 % [{below:g}, {above:g}], {len(reached)} passages")
        elif wanted.grow:
            typer.echo(f"{way}: {len(rows)} passages, exact prefix: median {rows.exact_prefix.median():g} tokens")
        else:
            typer.echo(f"{way}: {rows.exact.sum()} of {len(rows)} exact, {rows.bits.median():.4f} bits a token left")


@bench_app.command("precision")
@told
def bench_precision(
    store: StoreOption = None,
    count: Annotated[int, typer.Option(help="exact vectors at most, the same ones each time")] = 50,
    model: ModelOption = "smollm2-135m",
    out: OutOption = None,
) -> None:
    """The coarsest form of stored vectors that still decodes exactly: float16, bfloat16, integers, fewer numbers."""
    import pandas as pd

    from memlab.experiments.precision import (
        exact_vectors,
        gain_per_bit,
        precision,
        predicted_by_margin,
        pruning,
        survived,
    )
    from memlab.models import load

    lm, kept = load(model), Store(store)
    mems = exact_vectors(kept, lm, count)
    if not mems:
        raise StoreError(f"{kept.path} has no exact vectors of {lm.name}; make some with memlab cram")
    rounded, pruned = precision(lm, mems), pruning(lm, mems)
    table = pd.concat([rounded, pruned], ignore_index=True)
    write_table(table, out)
    typer.echo(f"{lm!r}\n{len(mems)} exact vectors of {kept.path}")
    typer.echo(survived(table).round(2).to_string(index=False))
    best = gain_per_bit(lm, mems, rounded)
    typer.echo(
        f"fewest bits a number: median {best.bits_a_number.median():g}, from {best.bits_a_number.min():g} to "
        f"{best.bits_a_number.max():g}; stored bits a token: median {best.bits_a_token.median():.0f}"
    )
    typer.echo(
        f"bits gained a stored bit: median {best.gain_per_stored_bit.median():.3f}, "
        f"most {best.gain_per_stored_bit.max():.3f}"
    )
    typer.echo(f"against the float32 margin: rank correlation {predicted_by_margin(rounded):.2f}")


@bench_app.command("codecs")
@told
def bench_codecs(
    texts: Annotated[list[str] | None, typer.Option(help="several times [default: originals, random]")] = None,
    count: Annotated[int, typer.Option(help="passages of each")] = 12,
    tokens: Annotated[int, typer.Option("--tokens", "-n")] = 64,
    model: ModelOption = "smollm2-135m",
    store: Annotated[
        Path | None,
        typer.Option(help="where their vectors are, if they have any [default: those that come with memlab]"),
    ] = None,
    out: OutOption = None,
) -> None:
    """The same passages through zlib, bz2, lzma, zstd, arithmetic coding with the frozen model, decoded again, and as
    vectors in the fewest bits that still decode.
    """
    import pandas as pd

    from memlab.experiments.coding import coding
    from memlab.experiments.precision import exact_vectors
    from memlab.models import load

    lm = load(model)
    chosen = {name: load_texts(name, count=count) for name in texts or ["originals", "random"]}
    kept = Store(store) if store else Store.bundled()
    mems = exact_vectors(kept, lm, len(kept.table()), tokens=tokens)
    tables = [
        coding(lm, [lm.passage(t, tokens) for t in some], mems).assign(texts=name) for name, some in chosen.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    write_table(table, out)
    plain = table[table.codec == "UTF-8"].set_index(["texts", "text_id"]).bits
    ratio = plain.reindex(pd.MultiIndex.from_frame(table[["texts", "text_id"]])).to_numpy() / table.bits
    table = table.assign(bits_a_token=table.bits / table.tokens, ratio=ratio)
    # What did not come back was not stored.
    came = table[table.round_trip.isna() | (table.round_trip == True)]  # noqa: E712  # True, False or missing
    means = {"passages": ("bits", "size"), **{name: (name, "mean") for name in ("bits", "bits_a_token", "ratio")}}
    shown = came.groupby(["texts", "codec"], sort=False).agg(**means).round(2)
    coded = table[table.cross_entropy.notna()]
    typer.echo(f"{lm!r}\n{count} passages each, first {tokens} tokens; ratio: size of the UTF-8 over it, means")
    typer.echo(shown.reset_index().to_string(index=False))
    typer.echo(
        f"arithmetic coding: {int(coded.round_trip.sum())} of {len(coded)} came back, at most "
        f"{((coded.bits - coded.cross_entropy) / coded.cross_entropy).abs().max():.2%} from the cross-entropy"
    )


@bench_app.command("shelf")
@told
def bench_shelf(
    model: ModelOption = "smollm2-135m",
    store: StoreOption = None,
    out: Annotated[Path, typer.Option(help="store that takes the exact ones")] = Path("data/store"),
    ways: Annotated[Path, typer.Option(help="file of trajectories")] = Path("data/trajectories.safetensors"),
) -> None:
    """The vectors that come with memlab: originals and random words, several lengths, many seeds, some trajectories."""
    from memlab.experiments.shelf import shelf, trajectories
    from memlab.models import load

    lm = load(model)
    mems = shelf(lm, Store(store), Store(out), tell=typer.echo)
    many = [lm.passage(text, 32) for name in ("originals", "random") for text in load_texts(name, count=4)]
    trajectories(lm, many, recipe_of("default"), ways)
    typer.echo(f"{lm!r}\n{len({mem.key for mem in mems})} exact vectors in {out}, {len(many)} trajectories in {ways}")


@bench_app.command("geometry")
@told
def bench_geometry(
    tables: Annotated[list[str] | None, typer.Argument(help="which of them [default: all]")] = None,
    tokens: Annotated[
        int | None,
        typer.Option(help="length of the passages that are looked at [default: each table's own, mostly 32]"),
    ] = None,
    model: ModelOption = "smollm2-135m",
    store: Annotated[Path | None, typer.Option(help="folder of vectors [default: those that come with memlab]")] = None,
    out: Annotated[Path, typer.Option(help="folder for geometry-NAME.parquet")] = Path("data/bench"),
) -> None:
    """Paths between solutions, perturbations, radii, planes, attention: the tables behind the notebooks."""
    from memlab.experiments.geometry import OF_SHELF, TABLES, solutions
    from memlab.models import load

    if strange := [name for name in tables or [] if name not in {**TABLES, **OF_SHELF}]:
        known = ", ".join([*TABLES, *OF_SHELF])
        raise typer.BadParameter(f"{', '.join(strange)}; expected some of {known}", param_hint="TABLES")
    lm, kept = load(model), Store(store) if store else Store.bundled()
    asked = tables or [*TABLES, *OF_SHELF]
    mems = solutions(kept, lm, tokens=tokens or 32, least=3)
    if not mems and any(name in TABLES for name in asked):
        raise StoreError(
            f"{kept.path} has no passage of {tokens or 32} tokens with three exact solutions of {lm.name}: "
            "memlab bench shelf"
        )
    for name in asked:
        began = time.perf_counter()
        table = TABLES[name](lm, mems) if name in TABLES else OF_SHELF[name](lm, kept, Store(), tokens=tokens)
        write_table(table, out / f"geometry-{name}.parquet")
        typer.echo(f"{name}: {len(table)} rows, {time.perf_counter() - began:.0f} s")


@bench_app.command("kills")
@told
def bench_kills(
    count: Annotated[int, typer.Option(help="writers killed, one at a time")] = 200,
    folder: Annotated[Path, typer.Option(help="store to write into; must not exist")] = Path("killed-store"),
) -> None:
    """Kill writers at random moments and see what their store still holds. Takes minutes, needs no model."""
    from memlab.experiments.stress import endure

    if folder.exists():
        raise typer.BadParameter(f"{folder} exists", param_hint="--folder")
    found = endure(folder, count)
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
    from memlab.experiments.stress import large

    for name, value in large(folder, entries).items():
        typer.echo(f"{name}: {value}")


def _shape(text: str) -> tuple[int, int]:
    rows, _, tokens = text.partition("x")
    if not (rows.isdigit() and tokens.isdigit()):
        raise typer.BadParameter(f"{text!r}; expected passages x tokens, such as 16x64", param_hint="SHAPES")
    return int(rows), int(tokens)


def _toys() -> tuple[str, ...]:
    from memlab.models.sources import TOY_FAMILIES

    return TOY_FAMILIES


def _by_method(table: Any) -> Any:
    groups = table.groupby("method", sort=False)
    summary = groups.agg(
        passages=("decoded", "size"), decoded=("decoded", "sum"), seconds=("seconds", "median"),
        steps=("steps", "median"), token_passes=("token_passes", "median"),
        tokens_per_second=("tokens_per_second", "median"), machine_share=("machine_share", "median"),
        peak_gib=("peak_gib", "max"),
    )  # fmt: skip
    return summary.round(2).reset_index()
