"""``memlab bench encoder-gap`` and ``memlab bench warm-start``: trained encoders against the per-sample search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from memlab.cli.common import ModelOption, fail, numbers, reports_errors
from memlab.cli.outputs import file_option
from memlab.experiments.tables import read_table, write_table
from memlab.measures.systems import ROWS
from memlab.results.store import Store
from memlab.texts import Text, TextError, load_texts

FolderOption = Annotated[
    Path | None, typer.Option(help="folder of trained encoders [default: the user's cache, then those of memlab]")
]
TextsOption = Annotated[
    list[str] | None,
    typer.Option(help="texts, as in other commands; repeatable [default: originals, random, and classics if given]"),
]
CountOption = Annotated[int, typer.Option(help="passages of each of them", min=2)]
RowsOption = Annotated[Path | None, file_option("Parquet table; written as rows come, and read to resume", ".parquet")]


@reports_errors
def bench_encoder_gap(
    encoder: Annotated[list[str] | None, typer.Option(help="encoder by name; repeatable [default: slots]")] = None,
    texts: TextsOption = None,
    count: CountOption = ROWS,
    task: Annotated[
        list[str] | None, typer.Option(help="tokens,vectors such as 16,1; repeatable [default: those trained for]")
    ] = None,
    model: ModelOption = "smollm2-135m",
    folder: FolderOption = None,
    out: RowsOption = None,
) -> None:
    """What an encoder reaches on the passages that are searched, too. About ten minutes with all defaults."""
    from memlab.experiments.encoder_gap import TASKS, encoder_gap
    from memlab.measures.encoder_gap import encoder_summary
    from memlab.models import load
    from memlab.training.encoders import EncoderError
    from memlab.training.encoders.shelf import trained

    tasks = []
    for one in task or [f"{n},{k}" for n, k in TASKS]:
        values = numbers(one, "--task")
        if len(values) != 2:
            raise fail(f"--task {one!r} is not valid. Give tokens and vectors, such as 16,1.", 2)
        tasks.append((values[0], values[1]))
    some = _texts(texts, count)
    lm = load(model)
    encoders = {name: trained(name, lm, folder) for name in encoder or ["slots"]}
    try:
        constant = trained("constant", lm, folder)
    except EncoderError as error:
        typer.echo(f"without the constant vector: {error}", err=True)
        constant = None
    table = encoder_gap(_session(lm, out), some, encoders, constant=constant, tasks=tasks)
    write_table(table, out)
    typer.echo(f"{lm!r}\n{encoder_summary(table).round(3).to_string(index=False)}")


@reports_errors
def bench_warm_start(
    encoder: Annotated[str, typer.Option(help="encoder by name")] = "slots",
    texts: TextsOption = None,
    count: CountOption = ROWS,
    tokens: Annotated[str, typer.Option("--tokens", "-n", help="lengths of the passages")] = "16,32,64",
    model: ModelOption = "smollm2-135m",
    folder: FolderOption = None,
    out: RowsOption = None,
) -> None:
    """Steps of the search from five starts, paired by passage. An hour and a half on one core with all defaults."""
    from memlab.experiments.encoder_warm_start import warm_start
    from memlab.measures.encoder_gap import savings
    from memlab.models import load
    from memlab.training.encoders.shelf import trained

    lengths, some = numbers(tokens, "--tokens"), _texts(texts, count)
    lm = load(model)
    others = load_texts("originals", count=ROWS + 8)[ROWS:]
    table = warm_start(_session(lm, out), some, trained(encoder, lm, folder), others=others, lengths=lengths)
    write_table(table, out)
    typer.echo(f"{lm!r}\n{savings(table).round(3).to_string(index=False)}")


def _session(lm: Any, out: Path | None) -> Any:
    from memlab.experiments.session import Session

    return Session(lm, Store(None), read_table(out), typer.echo, lambda rows: write_table(rows, out))


def _texts(names: list[str] | None, count: int) -> dict[str, list[Text]]:
    """{kind: texts}. By default the classics are left out if this machine does not have them."""
    found = {}
    for name in names or ["originals", "random", "classics"]:
        try:
            found[name] = load_texts(name, count=count)
        except TextError as error:
            if names or name != "classics":
                raise
            typer.echo(f"without the classics: {error}", err=True)
    return found
