"""``memlab store``: list, inspect, verify, clean and move stored vectors."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from memlab.cli.common import JsonOption, StoreOption, fail, reports_errors
from memlab.cli.outputs import file_parser
from memlab.results.checks import portability
from memlab.results.mem_vector import DamagedError, MemVector, VectorError
from memlab.results.store import NoResultError, Store, StoreError

store_app = typer.Typer(help="List, inspect, verify, clean and move stored vectors.", no_args_is_help=True)


@store_app.command("ls")
@reports_errors
def store_ls(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the results."""
    opened = Store.existing(store)
    table = opened.table()
    if as_json:
        typer.echo(table.to_json(orient="records", indent=1))
    elif table.empty:
        typer.echo(f"{opened.path} is empty")
    else:
        shown = table.assign(key=table.key.str[:12]).drop(columns=["start", "loss_bits"])
        typer.echo(shown.to_string(index=False, float_format=lambda x: f"{x:.3g}", na_rep="-"))


@store_app.command("show")
@reports_errors
def store_show(
    result: Annotated[
        str, typer.Argument(metavar="KEY_OR_FILE", help="a key (its first 4 characters or more), or a file")
    ],
    store: StoreOption = None,
) -> None:
    """Print the metadata of one result as JSON."""
    from memlab.results.mem_vector import read_metadata

    opened = Store.existing(store)
    mem = open_vector(result, opened)
    file = Path(result) if os.path.isfile(result) else opened.file(mem.key)
    typer.echo(json.dumps({"file": str(file), "portable": portability(mem.checks)} | read_metadata(file), indent=1))


@store_app.command("verify")
@reports_errors
def store_verify(
    store: StoreOption = None,
    decode: Annotated[int, typer.Option(help="also decode this many of the exact vectors, drawn at random", min=0)] = 0,
    seed: Annotated[int | None, typer.Option(help="seed of the draw [default: a new one each time]", min=0)] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="report damaged files, but do not move them")] = False,
) -> None:
    """Read and re-hash every file. Damaged files are moved into quarantine."""
    opened = Store.existing(store)
    wrong = opened.verify()
    keys = set(opened.keys())
    for key, error in wrong.items():
        damaged = isinstance(error, DamagedError)
        typer.echo(f"{'damaged' if damaged else 'cannot be used'}: {error}")
        if damaged and not dry:
            _quarantine(opened, key)
    typer.echo(f"{len(keys - wrong.keys())} of {len(keys)} results are sound")
    changed = _decode_sample(opened, decode, seed) if decode else 0
    if wrong or changed:
        raise typer.Exit(1)


def _quarantine(store: Store, key: str) -> None:
    try:
        store.get(key)  # another program may have replaced the damaged file since
    except KeyError:
        pass
    except DamagedError:
        try:
            moved = store.quarantine(key)
            typer.echo(f"  moved to {moved}" if moved else "  not moved: the file is gone")
        except StoreError as reason:
            typer.echo(f"  not moved: {reason}")
    else:
        typer.echo("  not moved: a sound file has replaced it")


def _decode_sample(store: Store, number: int, seed: int | None) -> int:
    """Decode a sample of the exact vectors, print the outcome, and return how many are no longer exact."""
    from memlab.decoding.verify import verify_sample

    seed = secrets.randbelow(10_000) if seed is None else seed
    report = verify_sample(store, number, seed=seed)
    for key, why in report.skipped.items():
        typer.echo(f"not decoded: {key[:12]}: {why}")
    for key, why in report.changed.items():
        typer.echo(f"no longer exact: {key[:12]}: {why}")
    decoded = len(report.sound) + len(report.changed)
    typer.echo(f"{len(report.sound)} of {decoded} vectors decode exactly again (drawn with --seed {seed})")
    return len(report.changed)


@store_app.command("gc")
@reports_errors
def store_gc(
    store: StoreOption = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="list the files, but do not remove them")] = False,
    older: Annotated[
        float, typer.Option(help="remove temporary files that were not written to for this many hours", min=0)
    ] = 1.0,
) -> None:
    """Remove temporary files of killed programs, and failure records and checkpoints that a result replaces."""
    if not math.isfinite(older):
        raise typer.BadParameter(f"{older} is not a number of hours", param_hint="--older")
    opened = Store.existing(store)
    removed = opened.gc(older=3600 * older, dry=dry)
    for file in removed:
        typer.echo(str(file.relative_to(opened.path)))
    typer.echo(f"{len(removed)} files {'would be removed' if dry else 'removed'}")


@store_app.command("index")
@reports_errors
def store_index(store: StoreOption = None) -> None:
    """Rebuild index.parquet from the files. Listing the store also updates it."""
    opened = Store.existing(store)
    number, damaged = opened.reindex()
    for why in damaged:
        typer.echo(f"left out: {why}")
    typer.echo(f"{number} results in {opened.path / 'index.parquet'}")
    if damaged:
        raise typer.Exit(1)


@store_app.command("add")
@reports_errors
def store_add(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE", help="vector files, folders or stores")],
    store: StoreOption = None,
) -> None:
    """Copy vector files into the store. Each file is re-hashed first."""
    target = Store(store)
    target.check_writable()
    added = present = refused = 0
    for file in _vector_files(paths):
        try:
            mem = MemVector.load(file)
            if not mem.is_original:
                raise VectorError(f"{file} was changed or interrupted. Add the original file.")
            if target.fetch(mem.key) is not None:
                present += 1
                continue
            target.put(mem)
            added += 1
        except VectorError as error:
            refused += 1
            typer.echo(f"refused: {error}", err=True)
    if not (added or present or refused):
        raise fail(f"There is no .safetensors file in {', '.join(map(str, paths))}. Give vector files, or stores.", 2)
    typer.echo(f"{added} results added to {target.path}, {present} already present, {refused} refused")
    if refused:
        raise typer.Exit(1)


def _vector_files(paths: list[Path]) -> Iterator[Path]:
    """The given files, and the files in given folders. In a store, quarantine and checkpoints are left out."""
    for path in paths:
        if not path.is_dir():
            yield path
        else:
            objects = path / "objects"
            yield from sorted((objects if objects.is_dir() else path).rglob("*.safetensors"))


@store_app.command("export")
@reports_errors
def store_export(
    file: Annotated[Path, typer.Argument(help="tar file to write", parser=file_parser(), metavar="FILE")],
    keys: Annotated[list[str] | None, typer.Argument(help="keys, or their beginnings [default: all]")] = None,
    store: StoreOption = None,
) -> None:
    """Pack results into one tar file."""
    from memlab.results.archive import export_tar

    opened = Store.existing(store)
    typer.echo(f"{export_tar(opened, file, [opened.find(key) for key in keys] if keys else None)} results in {file}")


@store_app.command("import")
@reports_errors
def store_import(
    file: Annotated[Path, typer.Argument(help="tar file written by memlab store export")], store: StoreOption = None
) -> None:
    """Add the results of a tar file. Each is re-hashed first."""
    from memlab.results.archive import import_tar

    if not file.is_file():
        raise fail(f"There is no file {file}. Give a tar file that `memlab store export` wrote.", 2)
    target = Store(store)
    report = import_tar(target, file)
    for name, why in report.refused.items():
        typer.echo(f"refused: {name}: {why}", err=True)
    counts = f"{len(report.present)} already present, {len(report.refused)} refused"
    typer.echo(f"{len(report.added)} results added to {target.path}, {counts}")
    if report.refused:
        raise typer.Exit(1)


def open_vector(result: str, store: Store) -> MemVector:
    """The vector of a file, or of a key in the store. The first characters of a key are enough."""
    if os.path.isfile(result):
        return MemVector.load(result)
    if "/" in result or result.endswith(".safetensors"):
        raise NoResultError(f"There is no file {result}. Give a vector file, or a key that `memlab store ls` shows.")
    return store.get(store.find(result))
