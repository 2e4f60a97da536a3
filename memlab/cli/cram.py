"""``memlab cram`` and ``memlab decode``: a text into a vector, and back."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from memlab.cli.common import (
    NOT_EXACT,
    BinOption,
    ColumnOption,
    JsonOption,
    ModelOption,
    RevisionOption,
    StoreOption,
    recipe_of,
    reports_errors,
    texts_of,
)
from memlab.cli.store import open_vector
from memlab.recipes import NAMED
from memlab.results.checks import portability
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store


@reports_errors
def cram_command(
    files: Annotated[list[str] | None, typer.Argument(help="text files or folders; - reads standard input")] = None,
    text: Annotated[str | None, typer.Option("--text", "-t", help="the text itself, instead of a file")] = None,
    column: ColumnOption = None,
    model: ModelOption = "smollm2-135m",
    tokens: Annotated[
        int | None, typer.Option("--tokens", "-n", help="tokens to take from each text [default: the whole text]")
    ] = None,
    start: Annotated[int, typer.Option(help="begin at the first sentence at or after this character")] = 0,
    k: Annotated[
        int | None, typer.Option("-k", help="number of vectors before the text [default: the recipe's, 1]")
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", help=f"{', '.join(NAMED)}, or a recipe as JSON")] = "default",
    seed: Annotated[int | None, typer.Option(help="seed of the initial vectors [default: the recipe's, 0]")] = None,
    budget: Annotated[
        int | None, typer.Option(help="largest number of optimizer steps [default: the recipe's]")
    ] = None,
    revision: RevisionOption = None,
    allow_bin: BinOption = False,
    portable: Annotated[
        bool, typer.Option("--portable", help="also check in bfloat16, without cache, and in a batch of 8")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a vector for each text, prove that it decodes to the text, and store it."""
    chosen = recipe_of(recipe, k=k, seed=seed, budget=budget)
    texts = texts_of(files, text, "cram", column)

    from memlab.models import load
    from memlab.training.cram import cram

    lm = load(model, revision=revision, allow_bin=allow_bin)
    results_store = Store(store)
    passages = [lm.passage(t, tokens, start=start) for t in texts]
    results = cram(lm, passages, chosen, results_store, portable=portable, progress=not as_json)
    rows = [_summary(lm, results_store, mem) for mem in results]
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        for row in rows:
            typer.echo(_lines(row))
    if not all(mem.exact for mem in results):
        raise typer.Exit(NOT_EXACT)


@reports_errors
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
    """Decode a stored vector without help from its text, and print the decoded text only."""
    mem = open_vector(result, Store.existing(store))

    from memlab.decoding.decode import decode
    from memlab.models import load

    lm = load(model or mem.model, revision=None if model else mem.revision, allow_bin=allow_bin)
    typer.echo(lm.decode_ids(decode(lm, [mem], batch=1)[0]), nl=False)


def _summary(lm: Any, store: Store, mem: MemVector) -> dict[str, Any]:
    """What ``--json`` prints of one result. Loss in bits a token, margin in logits."""
    from memlab.decoding.decode import decode
    from memlab.results.checks import EXACT, latest

    exact_check = latest(mem.checks)[EXACT]
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
        "first_wrong": exact_check.first_wrong,
        "tokens_right": exact_check.right,
        "margin": exact_check.margin,
        "teacher_forced": mem.teacher_forced,
        "loss_bits": mem.loss_bits,
        "steps": mem.steps,
        "seconds": mem.seconds,
        "decoded": lm.decode_ids(mem.token_ids if mem.exact else decode(lm, [mem], batch=1)[0]),
    }


def _lines(row: dict[str, Any]) -> str:
    """One result for the terminal."""
    state = (
        "exact" if row["exact"] else f"NOT exact (token {row['first_wrong'] + 1} is wrong, {row['tokens_right']} right)"
    )
    head = f"{row['text_id']}: {row['tokens']} tokens in {row['k']} vector{'s' * (row['k'] > 1)}, {state}"
    return (
        f"{head}, teacher-forced {row['teacher_forced']:.3f}, {row['steps']} steps, {row['seconds']:.1f} s\n"
        f"  key {row['key'][:16]}\n  decoded: {row['decoded']!r}"
    )
