"""The command line: thin.

Exit codes: 0 done, and exact; 1 something failed; 2 bad input; 3 done, but not all exact; 130 stopped.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from memlab import __version__
from memlab.cli.bench import bench_app
from memlab.cli.bench_vectors import bench_codecs, bench_geometry, bench_precision, bench_shelf
from memlab.cli.capacity import capacity_command, predict_command
from memlab.cli.common import (
    NOT_EXACT,
    BinOption,
    JsonOption,
    ModelOption,
    RevisionOption,
    StoreOption,
    recipe_of,
    texts_of,
    told,
)
from memlab.cli.run import run_command
from memlab.recipes import NAMED
from memlab.results.checks import portability
from memlab.results.mem_vector import DamagedError, MemVector, VectorError
from memlab.results.store import Store, StoreError

app = typer.Typer(
    name="memlab",
    help="How much text fits into a few input vectors of a frozen language model?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
store_app = typer.Typer(help="Look into a store of trained vectors.", no_args_is_help=True)
app.add_typer(store_app, name="store")
app.add_typer(bench_app, name="bench")
bench_app.command("precision")(bench_precision)
bench_app.command("codecs")(bench_codecs)
bench_app.command("shelf")(bench_shelf)
bench_app.command("geometry")(bench_geometry)
app.command("capacity")(capacity_command)
app.command("predict")(predict_command)
app.command("run")(run_command)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        typer.echo(f"memlab {__version__}")
        raise typer.Exit


@app.command("cram")
@told
def cram_command(
    files: Annotated[list[str] | None, typer.Argument(help="text files or folders; - reads standard input")] = None,
    text: Annotated[str | None, typer.Option("--text", "-t", help="a text on the command line")] = None,
    model: ModelOption = "smollm2-135m",
    tokens: Annotated[
        int | None, typer.Option("--tokens", "-n", help="tokens of each text [default: all of it]")
    ] = None,
    start: Annotated[int, typer.Option(help="begin at the first sentence from this character on")] = 0,
    k: Annotated[int | None, typer.Option("-k", help="vectors before the text [default: the recipe's, 1]")] = None,
    recipe: Annotated[str, typer.Option("--recipe", help=f"{', '.join(NAMED)}, or a recipe's JSON")] = "default",
    seed: Annotated[int | None, typer.Option(help="seed of the first vector")] = None,
    budget: Annotated[int | None, typer.Option(help="optimiser steps at most")] = None,
    revision: RevisionOption = None,
    allow_bin: BinOption = False,
    portable: Annotated[
        bool, typer.Option("--portable", help="also check in bf16, without cache, in a batch of 8")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a vector for each text, prove that it decodes, and keep it."""
    chosen = recipe_of(recipe, k=k, seed=seed, budget=budget)
    texts = texts_of(files, text, "cram")

    from memlab.models import load
    from memlab.training.cram import cram

    lm = load(model, revision=revision, allow_bin=allow_bin)
    place = Store(store)
    passages = [lm.passage(t, tokens, start=start) for t in texts]
    results = cram(lm, passages, chosen, place, portable=portable, progress=not as_json)
    rows = [_told(lm, place, mem) for mem in results]
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        for row in rows:
            typer.echo(_line(row))
    if not all(mem.exact for mem in results):
        raise typer.Exit(NOT_EXACT)


@app.command("decode")
@told
def decode_command(
    result: Annotated[
        str,
        typer.Argument(metavar="KEY_OR_FILE", help="a key in the store (its first 4 characters or more), or a file"),
    ],
    store: StoreOption = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="model to decode with [default: the one it was trained for]")
    ] = None,
    allow_bin: BinOption = False,
) -> None:
    """Decode a stored vector freely and print the text, nothing else."""
    mem = _open(result, Store(store))

    from memlab.decoding.decode import decode
    from memlab.models import load

    lm = load(model or mem.model, revision=None if model else mem.revision, allow_bin=allow_bin)
    typer.echo(lm.decode_ids(decode(lm, [mem], batch=1)[0]), nl=False)


@store_app.command("ls")
@told
def store_ls(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the results."""
    place = _there(store)
    table = place.table()
    if as_json:
        typer.echo(table.to_json(orient="records", indent=1))
    elif table.empty:
        typer.echo(f"{place.path} is empty")
    else:
        shown = table.assign(key=table.key.str[:12]).drop(columns=["start", "loss_bits"])
        typer.echo(shown.to_string(index=False, float_format=lambda x: f"{x:.3g}", na_rep="-"))


@store_app.command("show")
@told
def store_show(result: Annotated[str, typer.Argument(metavar="KEY_OR_FILE")], store: StoreOption = None) -> None:
    """Everything known about one result, as JSON."""
    from memlab.results.mem_vector import read_metadata

    place = Store(store)
    mem = _open(result, place)
    file = Path(result) if Path(result).is_file() else place.file(mem.key)
    typer.echo(json.dumps({"file": str(file), "portable": portability(mem.checks)} | read_metadata(file), indent=1))


@store_app.command("verify")
@told
def store_verify(
    store: StoreOption = None,
    decode: Annotated[int, typer.Option(help="decode so many of the exact vectors again, drawn by chance")] = 0,
    seed: Annotated[int | None, typer.Option(help="which ones are drawn [default: others each time]")] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="leave damaged files where they are")] = False,
) -> None:
    """Read every file and re-hash it; what is damaged goes into quarantine."""
    place = _there(store)
    wrong = place.verify()
    keys = set(place.keys())
    for key, error in wrong.items():
        damaged = isinstance(error, DamagedError)
        typer.echo(f"{'damaged' if damaged else 'cannot be used'}: {error}")
        if damaged and not dry:
            _quarantine(place, key)
    typer.echo(f"{len(keys - wrong.keys())} of {len(keys)} results are sound")
    changed = _decoded_again(place, decode, seed) if decode else 0
    if wrong or changed:
        raise typer.Exit(1)


def _quarantine(place: Store, key: str) -> None:
    try:
        place.get(key)  # somebody may have put a sound one in its place since
    except KeyError:
        pass
    except DamagedError:
        try:
            typer.echo(f"  moved to {place.quarantine(key) or 'nowhere: it is gone'}")
        except StoreError as reason:
            typer.echo(f"  it stays there: {reason}")
    else:
        typer.echo("  a sound file has taken its place since")


def _decoded_again(place: Store, number: int, seed: int | None) -> int:
    from memlab.decoding.verify import verify_sample

    seed = secrets.randbelow(10_000) if seed is None else seed
    found = verify_sample(place, number, seed=seed)
    for key, why in found.not_asked.items():
        typer.echo(f"not decoded: {key[:12]}: {why}")
    for key, why in found.changed.items():
        typer.echo(f"no longer exact: {key[:12]}: {why}")
    asked = len(found.sound) + len(found.changed)
    typer.echo(f"{len(found.sound)} of {asked} vectors decode exactly again (drawn with --seed {seed})")
    return len(found.changed)


@store_app.command("gc")
@told
def store_gc(
    store: StoreOption = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    older: Annotated[float, typer.Option(help="hours since a temporary file was written to")] = 1.0,
) -> None:
    """Remove what killed programs left behind; results stay."""
    place = _there(store)
    gone = place.gc(older=3600 * older, dry=dry)
    for file in gone:
        typer.echo(str(file.relative_to(place.path)))
    typer.echo(f"{len(gone)} files {'would go' if dry else 'removed'}")


@store_app.command("index")
@told
def store_index(store: StoreOption = None) -> None:
    """Write index.parquet anew from the files (it is also brought up to date as it is read)."""
    place = _there(store)
    number, damaged = place.reindex()
    for why in damaged:
        typer.echo(f"left out: {why}")
    typer.echo(f"{number} results in {place.path / 'index.parquet'}")
    if damaged:
        raise typer.Exit(1)


@store_app.command("export")
@told
def store_export(
    file: Annotated[Path, typer.Argument(help="tar file to write")],
    keys: Annotated[list[str] | None, typer.Argument(help="keys, or their beginnings [default: all]")] = None,
    store: StoreOption = None,
) -> None:
    """Pack results into one tar file."""
    from memlab.results.archive import export_tar

    place = _there(store)
    typer.echo(f"{export_tar(place, file, [place.find(key) for key in keys] if keys else None)} results in {file}")


@store_app.command("import")
@told
def store_import(
    file: Annotated[Path, typer.Argument(help="tar file that memlab store export wrote")], store: StoreOption = None
) -> None:
    """Take in the results of a tar file; each is re-hashed first."""
    from memlab.results.archive import import_tar

    place = Store(store)
    made = import_tar(place, file)
    for name, why in made.refused.items():
        typer.echo(f"refused: {name}: {why}", err=True)
    typer.echo(f"{len(made.added)} results added to {place.path}, {len(made.present)} were there")
    if made.refused:
        raise typer.Exit(1)


@app.command("models")
@told
def models_command(
    get: Annotated[
        str | None, typer.Option("--get", help="fetch and convert this model now, and say what it is")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the models that have a short name."""
    if get:
        from memlab.models import load

        lm = load(get)
        from memlab.training.preconditioner import preconditioner_of

        metric = preconditioner_of(lm, progress=True)  # measured now, so that the first cram does not have to
        typer.echo(f"{lm!r}\nfolder {lm.folder}\nweights {lm.fingerprint}")
        typer.echo(f"sink prefix {list(lm.sink_prefix)}\nmetric {metric.digest}")
        return
    from memlab.models.presets import DEFAULT, PRESETS
    from memlab.models.sources import TOY_FAMILIES

    if as_json:
        rows = [{"name": p.name, "source": p.source, "dtype": p.dtype, "note": p.note} for p in PRESETS.values()]
        typer.echo(json.dumps(rows, indent=1))
        return
    for preset in PRESETS.values():
        note = f"{preset.note}, {preset.dtype}" if preset.dtype else preset.note
        typer.echo(f"{preset.name:20}{preset.source:40}{note}{' (default)' if preset.name == DEFAULT else ''}")
    for family in TOY_FAMILIES:
        typer.echo(f"{'toy:' + family:20}{'made here':40}small random weights that can be crammed, for tests")
    typer.echo("Also: a Hugging Face id, a folder of safetensors, a .gguf file.")


def _there(path: Path | None) -> Store:
    place = Store(path)
    if path and not place.path.is_dir():
        raise StoreError(f"there is no store at {path}: give the folder that holds objects/ (--store, MEMLAB_STORE)")
    return place


def _open(result: str, store: Store) -> MemVector:
    if Path(result).is_file():
        return MemVector.load(result)
    if "/" in result or result.endswith(".safetensors"):
        raise VectorError(f"no file {result}: give a vector's file, or the beginning of a key of `memlab store ls`")
    return store.get(store.find(result))


def _told(lm: Any, store: Store, mem: MemVector) -> dict[str, Any]:
    from memlab.decoding.decode import EXACT, decode

    alone = next(c for c in mem.checks if c.settings == EXACT)
    return {
        "key": mem.key,
        "file": str(store.file(mem.key)),
        "model": mem.model,
        "text_id": mem.text.id,
        "start": mem.text.start,
        "end": mem.text.end,
        "tokens": mem.n,
        "k": mem.k,
        "recipe": mem.recipe.name,
        "exact": mem.exact,
        "portable": portability(mem.checks),
        "first_wrong": alone.first_wrong,
        "tokens_right": alone.right,
        "margin": alone.margin,
        "teacher_forced": mem.teacher_forced,
        "loss_bits": mem.loss_bits,
        "steps": mem.steps,
        "seconds": mem.seconds,
        "decoded": lm.decode_ids(mem.token_ids if mem.exact else decode(lm, [mem], batch=1)[0]),
    }


def _line(row: dict[str, Any]) -> str:
    state = (
        "exact" if row["exact"] else f"NOT exact (token {row['first_wrong'] + 1} is wrong, {row['tokens_right']} right)"
    )
    head = f"{row['text_id']}: {row['tokens']} tokens in {row['k']} vector{'s' * (row['k'] > 1)}, {state}"
    return (
        f"{head}, teacher-forced {row['teacher_forced']:.3f}, {row['steps']} steps, {row['seconds']:.1f} s\n"
        f"  key {row['key'][:16]}\n  decoded: {row['decoded']!r}"
    )


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
