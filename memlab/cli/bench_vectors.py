"""What ``memlab bench`` measures of trained vectors: bits needed, size next to codecs, geometry."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memlab.cli.common import ColumnOption, ModelOption, OutOption, StoreOption, recipe_of, reports_errors
from memlab.cli.outputs import file_option, folder_option
from memlab.experiments.tables import read_table, write_table
from memlab.results.store import Store, StoreError
from memlab.texts import load_texts

if TYPE_CHECKING:
    import pandas as pd


@reports_errors
def bench_precision(
    store: StoreOption = None,
    count: Annotated[int, typer.Option(help="largest number of exact vectors; the same ones each time", min=1)] = 50,
    model: ModelOption = "smollm2-135m",
    out: OutOption = None,
) -> None:
    """Tries float16, bfloat16, integers of 2 to 16 bits, and setting small numbers to zero."""
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

    source = Store.existing(store)
    lm = load(model)
    mems = exact_vectors(source, lm, count)
    if not mems:
        raise StoreError(f"{source.path} has no exact vectors of {lm.name}. Make some with `memlab cram`.")
    rounded, pruned = precision(lm, mems), pruning(lm, mems)
    table = pd.concat([rounded, pruned], ignore_index=True)
    write_table(table, out)
    typer.echo(f"{lm!r}\n{len(mems)} exact vectors of {source.path}")
    typer.echo(survived(table).round(2).to_string(index=False))
    best = gain_per_bit(lm, mems, rounded)
    typer.echo(
        f"fewest bits per number: median {best.bits_a_number.median():g}, from {best.bits_a_number.min():g} to "
        f"{best.bits_a_number.max():g}; stored bits per token: median {best.bits_a_token.median():.0f}"
    )
    typer.echo(
        f"bits gained per stored bit: median {best.gain_per_stored_bit.median():.3f}, "
        f"at most {best.gain_per_stored_bit.max():.3f}"
    )
    within = predicted_by_margin(rounded, at_one_length=True)
    typer.echo(
        f"rank correlation with the float32 margin: {predicted_by_margin(rounded):.2f}; among vectors of equal length: "
        f"{within:.2f}"
    )


@reports_errors
def bench_fewer_bits(
    count: Annotated[int, typer.Option(help="originals, and as many texts of random words", min=1, max=12)] = 12,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="tokens of each passage", min=1)] = 64,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="a method by name; repeatable [default: all]")
    ] = None,
    model: ModelOption = "smollm2-135m",
    store: Annotated[str | None, typer.Option(help="store with the vectors [default: the bundled vectors]")] = None,
    out: Annotated[
        Path | None, file_option("Parquet table; written after each vector, and read to resume", ".parquet")
    ] = None,
) -> None:
    """Grids of any step, entropy-coded, in the model's basis, with error feedback, and vectors trained on the grid."""
    import numpy as np

    from memlab.experiments.fewer_bits import fewer_bits, ratios
    from memlab.experiments.landscape.shelves import KINDS, fit_vectors
    from memlab.experiments.landscape.vectors import vector_of
    from memlab.experiments.session import Session
    from memlab.models import load

    vectors = Store.existing(store) if store else Store.bundled()
    lm = load(model)
    # The kinds take turns, so that a table of an interrupted run holds both.
    pairs = zip(*([(kind, text) for text in load_texts(kind, count=count)] for kind in KINDS), strict=True)
    mems = [(kind, vector_of(vectors, lm, lm.passage(text, tokens))) for pair in pairs for kind, text in pair]
    fit = np.concatenate([mem.mem for mem in fit_vectors(vectors, lm)])

    def save(rows: pd.DataFrame) -> None:
        write_table(rows, out)

    session = Session(lm, vectors, read_table(out), typer.echo, save)
    table = fewer_bits(session, mems, fit, methods) if methods else fewer_bits(session, mems, fit)
    typer.echo(f"{lm!r}\n{len(mems)} exact vectors of {vectors.path}; grids fitted on {len(fit)} of other texts")
    typer.echo(ratios(table).round(3).to_string(index=False))


@reports_errors
def bench_codecs(
    texts: Annotated[
        list[str] | None, typer.Option(help="texts, as in other commands; repeatable [default: originals, random]")
    ] = None,
    column: ColumnOption = None,
    count: Annotated[int, typer.Option(help="passages of each of them", min=1)] = 12,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="tokens of each passage", min=1)] = 64,
    model: ModelOption = "smollm2-135m",
    store: Annotated[
        str | None,
        typer.Option(help="store with the vectors of these passages [default: the bundled vectors]"),
    ] = None,
    out: OutOption = None,
) -> None:
    """Sizes by zlib, bz2, lzma, zstd, arithmetic coding with the model, and as vectors in their fewest bits."""
    import pandas as pd

    from memlab.experiments.codecs import coding, summary
    from memlab.experiments.precision import exact_vectors
    from memlab.models import load

    source = Store.existing(store) if store else Store.bundled()
    chosen = {name: load_texts(name, count=count, column=column) for name in texts or ["originals", "random"]}
    lm = load(model)
    mems = exact_vectors(source, lm, len(source.table()), tokens=tokens)
    tables = [
        coding(lm, [lm.passage(t, tokens) for t in some], mems).assign(texts=name) for name, some in chosen.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    write_table(table, out)
    coded = table[table.cross_entropy.notna()]
    typer.echo(f"{lm!r}\n{count} passages each, first {tokens} tokens; means; ratio: UTF-8 size over this size")
    typer.echo(summary(table).round(2).to_string(index=False))
    typer.echo(
        f"arithmetic coding: {int(coded.round_trip.sum())} of {len(coded)} decoded, length at most "
        f"{((coded.bits - coded.cross_entropy) / coded.cross_entropy).abs().max():.2%} from the cross-entropy"
    )


@reports_errors
def bench_bundled(
    model: ModelOption = "smollm2-135m",
    store: StoreOption = None,
    out: Annotated[Path, folder_option("store that receives the exact vectors")] = Path("data/store"),
    trajectories: Annotated[Path, file_option("file that receives the trajectories")] = Path(
        "data/trajectories.safetensors"
    ),
) -> None:
    """Originals and random words, several lengths, many seeds; also the trajectories of some trainings."""
    from memlab.experiments import bundled_vectors
    from memlab.experiments.session import Session
    from memlab.models import load

    source, target = Store(store), Store(out)
    lm = load(model)
    mems = bundled_vectors.train_bundled(Session(lm, source, log=typer.echo), target)
    passages = [lm.passage(text, 32) for name in ("originals", "random") for text in load_texts(name, count=4)]
    bundled_vectors.write_trajectories(lm, passages, recipe_of("default"), trajectories)
    vectors = f"{len({mem.key for mem in mems})} exact vectors in {out}"
    typer.echo(f"{lm!r}\n{vectors}, {len(passages)} trajectories in {trajectories}")


@reports_errors
def bench_geometry(
    tables: Annotated[list[str] | None, typer.Argument(help="tables to make [default: all]")] = None,
    tokens: Annotated[
        int | None,
        typer.Option(help="length of the passages in tokens [default: each table's own, mostly 32]", min=1),
    ] = None,
    model: ModelOption = "smollm2-135m",
    store: Annotated[str | None, typer.Option(help="store with the vectors [default: the bundled vectors]")] = None,
    out: Annotated[Path, folder_option("folder that receives geometry-NAME.parquet")] = Path("data/bench"),
) -> None:
    """Makes the geometry tables of the notebooks."""
    from memlab.experiments.geometry_tables import geometry_tables
    from memlab.experiments.session import Session
    from memlab.models import load

    vectors = Store.existing(store) if store else Store.bundled()
    lm = load(model)
    started = time.perf_counter()
    for name, table in geometry_tables(Session(lm, Store()), vectors, tables or (), tokens=tokens):
        write_table(table, out / f"geometry-{name}.parquet")
        typer.echo(f"{name}: {len(table)} rows, {time.perf_counter() - started:.0f} s")
        started = time.perf_counter()


@reports_errors
def bench_travel(
    model: ModelOption = "smollm2-135m",
    store: Annotated[str | None, typer.Option(help="store with the vectors [default: the bundled vectors]")] = None,
    out: Annotated[
        Path | None, file_option("Parquet table; written after each vector, and read to resume", ".parquet")
    ] = None,
) -> None:
    """Decodes 50 vectors of 32 tokens in each, and other lengths in llama.cpp, which `make travel` installs."""
    from memlab.experiments.session import Session
    from memlab.experiments.travel import arrived, margin_auc, travel
    from memlab.models import load

    vectors = Store.existing(store) if store else Store.bundled()
    lm = load(model)

    def save(rows: pd.DataFrame) -> None:
        write_table(rows, out)

    table = travel(Session(lm, vectors, read_table(out), typer.echo, save))
    if not len(table):
        raise StoreError(f"{vectors.path} has no exact vectors of {lm.name}. Make some with `memlab cram`.")
    typer.echo(f"{lm!r}\n{arrived(table).round(2).to_string(index=False)}")
    typer.echo(f"a failing vector has the smaller margin: {margin_auc(table):.2f} (0.5: no better than chance)")
