"""``memlab import``: vectors that other programs trained, into the store, with their checks."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memlab.cli.common import NOT_EXACT, BinOption, JsonOption, RevisionOption, StoreOption, fail, reports_errors
from memlab.errors import MemlabError
from memlab.measures.statistics import share_label
from memlab.results.store import Store
from memlab.texts import from_path

if TYPE_CHECKING:
    from memlab.decoding.foreign_files import Foreign
    from memlab.models import FrozenLM, Passage
    from memlab.results.mem_vector import MemVector


@reports_errors
def import_command(
    paths: Annotated[
        list[Path],
        typer.Argument(help="files (.npy, .npz, .pt, .safetensors, .parquet, .arrow), or folders of data sets"),
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="model of the vectors [default: the one that the file names]")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="file with the text, if the vectors' file has none: one for all, or one per vector; repeatable"
        ),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(help="file with token ids instead of a text: one line for all vectors, or one per vector"),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", "-n", help="tokens to take from each text [default: the whole text]", min=1),
    ] = None,
    prefix: Annotated[
        str, typer.Option(help="tokens before the vectors: none, bos, sink, or token ids such as 1,2")
    ] = "none",
    last_stage: Annotated[
        bool, typer.Option("--last-stage", help="of each sample of a data set, only the longest stage of its training")
    ] = False,
    portable: Annotated[
        bool, typer.Option("--portable", help="also check in bfloat16, without cache, and in a batch of 8")
    ] = False,
    revision: RevisionOption = None,
    allow_bin: BinOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import vectors of other programs, decode them freely, and store them with these checks."""
    before = prefix if prefix in ("none", "bos", "sink") else _ids(prefix, "--prefix")
    if text and ids:
        raise typer.BadParameter("give --text or --ids, not both", param_hint="--ids")
    texts: list[Any] = [one for name in text or [] for one in from_path(name)] or (_lines(ids) if ids else [])

    from memlab.decoding.foreign_files import last_stages
    from memlab.decoding.imports import imported, put_checked
    from memlab.models import load

    problems: list[str] = []

    def report(error: object) -> None:
        problems.append(str(error))
        typer.echo(f"memlab: error: {error}", err=True)

    @cache
    def opened(name: str) -> FrozenLM | None:
        try:
            return load(name, revision=revision, allow_bin=allow_bin)
        except MemlabError as error:  # one message per model, not one per vector
            report(error)
            return None

    found = _found(paths, report)
    found = last_stages(found) if last_stage else found
    if texts and len(texts) not in (1, len(found)):
        raise fail(f"There are {len(texts)} texts for {len(found)} vectors. Give one text, or one per vector.", 2)
    target, rows = Store(store), []
    for i, one in enumerate(found):
        name = model or one.model
        if name is None:
            report(f"{one}: the file does not name its model. Give it with --model.")
            continue
        if (lm := opened(name)) is None:
            continue
        try:
            passage = _passage(lm, texts[i % len(texts)], tokens) if texts else None
            mem = imported(lm, one, passage, tokens=tokens, prefix=before)
            mem = put_checked(target, lm, mem, portable=portable)
        except MemlabError as error:
            report(f"{one}: {error}")
            continue
        rows.append(_row(str(one), target, mem))
        if not as_json:
            typer.echo(_line(rows[-1]))
    typer.echo(json.dumps(rows, indent=1, ensure_ascii=False) if as_json else _summary(rows))
    if problems:
        raise typer.Exit(1)
    if not all(row["exact"] for row in rows):
        raise typer.Exit(NOT_EXACT)


def _found(paths: list[Path], report: Callable[[object], None]) -> list[Foreign]:
    """The vectors of all files. Files and rows that cannot be read are reported."""
    from memlab.decoding.foreign_files import read_foreign

    found: list[Foreign] = []
    for path in paths:
        try:
            found += read_foreign(path, report)
        except MemlabError as error:
            report(error)
    return found


def _ids(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise typer.BadParameter(f"{text[:60]!r}; expected token ids, such as 1,2", param_hint=option) from None


def _lines(file: Path) -> list[tuple[int, ...]]:
    try:
        return [_ids(line, "--ids") for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} cannot be read: {error}", param_hint="--ids") from None


def _passage(lm: FrozenLM, text: Any, tokens: int | None) -> Passage:
    """The passage of a text, or of a tuple of token ids."""
    return lm.passage_of_ids(text[:tokens]) if isinstance(text, tuple) else lm.passage(text, tokens)


def _row(place: str, store: Store, mem: MemVector) -> dict[str, Any]:
    from memlab.results.checks import EXACT

    exact = next(c for c in mem.checks if c.settings == EXACT)
    given = next((c.passed for c in mem.checks if c.settings == (*EXACT[:3], True)), mem.exact)
    return {
        "from": place,
        "key": mem.key,
        "file": str(store.file(mem.key)),
        "model": mem.model,
        "tokens": mem.n,
        "k": mem.k,
        "exact": mem.exact,
        "tokens_right": exact.right,
        "first_wrong": exact.first_wrong,
        "first_given": given,
        "teacher_forced": mem.teacher_forced,
        "loss_bits": mem.loss_bits,
        "portable": mem.portable,
    }


def _line(row: dict[str, Any]) -> str:
    state = "exact" if row["exact"] else f"NOT exact (token {row['first_wrong'] + 1} is wrong)"
    given = "" if row["exact"] else f", right with the first token given: {'yes' if row['first_given'] else 'no'}"
    return (
        f"{row['from']}: {row['tokens']} tokens in {row['k']} vector{'s' * (row['k'] > 1)}, {state}{given}, "
        f"teacher-forced {row['teacher_forced']:.3f}, key {row['key'][:16]}"
    )


def _summary(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "No vector was imported."
    shares = {
        "exact": [row["exact"] for row in rows],
        "right with the first token given": [row["first_given"] for row in rows],
        "right teacher-forced": [row["teacher_forced"] == 1 for row in rows],
    }
    return "; ".join(f"{what}: {share_label(hits)}" for what, hits in shares.items())
