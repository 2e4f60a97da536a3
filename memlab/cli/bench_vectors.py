"""What ``memlab bench`` measures of trained vectors: their bits, codecs beside them, their geometry."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from memlab.cli.common import ModelOption, OutOption, StoreOption, recipe_of, told
from memlab.experiments.tables import write_table
from memlab.results.store import Store, StoreError
from memlab.texts import load_texts


@told
def bench_precision(
    store: StoreOption = None,
    count: Annotated[int, typer.Option(help="exact vectors at most, the same ones each time", min=1)] = 50,
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
    within = predicted_by_margin(rounded, at_one_length=True)
    typer.echo(
        f"against the float32 margin: rank correlation {predicted_by_margin(rounded):.2f}; of vectors of one length "
        f"{within:.2f}"
    )


@told
def bench_codecs(
    texts: Annotated[list[str] | None, typer.Option(help="several times [default: originals, random]")] = None,
    count: Annotated[int, typer.Option(help="passages of each", min=1)] = 12,
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

    from memlab.experiments.codecs import coding
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


@told
def bench_shelf(
    model: ModelOption = "smollm2-135m",
    store: StoreOption = None,
    out: Annotated[Path, typer.Option(help="store that takes the exact ones")] = Path("data/store"),
    ways: Annotated[Path, typer.Option(help="file of trajectories")] = Path("data/trajectories.safetensors"),
) -> None:
    """The vectors that come with memlab: originals and random words, several lengths, many seeds, some trajectories."""
    from memlab.experiments.bundled_vectors import train_bundled, trajectories
    from memlab.experiments.session import Session
    from memlab.models import load

    lm = load(model)
    mems = train_bundled(Session(lm, Store(store), log=typer.echo), Store(out))
    many = [lm.passage(text, 32) for name in ("originals", "random") for text in load_texts(name, count=4)]
    trajectories(lm, many, recipe_of("default"), ways)
    typer.echo(f"{lm!r}\n{len({mem.key for mem in mems})} exact vectors in {out}, {len(many)} trajectories in {ways}")


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
    from memlab.experiments.geometry_tables import OF_SHELF, TABLES, solutions
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
