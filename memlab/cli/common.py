"""What all commands share: options, error reports with exit codes, and the parsing of recipes, texts and lengths."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memlab.cli.outputs import file_option
from memlab.errors import MemlabError
from memlab.experiments.tables import read_table, write_table
from memlab.recipes import Recipe
from memlab.results.store import StoreError
from memlab.texts import SOURCE_NAMES, Text, from_bytes, from_path, with_unique_ids

if TYPE_CHECKING:
    import pandas as pd

NOT_EXACT = 3
"""Exit code of a command that finished, but whose results are not all exact."""

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="preset, folder, .gguf file, Hugging Face id, or toy:FAMILY")
]
TextsOption = Annotated[str, typer.Option(help=f"{SOURCE_NAMES}, or a path")]
ManyTextsOption = Annotated[
    list[str] | None, typer.Option("--texts", help=f"{SOURCE_NAMES}, or a path; repeatable [default: originals]")
]
ColumnOption = Annotated[
    str | None,
    typer.Option("--column", help="column with the texts, in tables and data sets [default: text, content or body]"),
]
OutOption = Annotated[
    Path | None, file_option("also write the table to this file: .parquet or .csv", ".parquet", ".csv")
]
StoreOption = Annotated[
    str | None, typer.Option("--store", help="folder of results [default: MEMLAB_STORE, or the user's cache]")
]
RevisionOption = Annotated[str | None, typer.Option(help="branch, tag or commit of a Hugging Face model")]
BinOption = Annotated[
    bool, typer.Option("--allow-bin", help="load pickled .bin weights if the model has no safetensors")
]
DtypeOption = Annotated[
    str | None,
    typer.Option("--dtype", help="train in float32 or bfloat16; checks are float32 [default: the faster one]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]


def fail(message: object, code: int) -> typer.Exit:
    """Print an error in one line, and return the exit to raise."""
    typer.echo(f"memlab: error: {message}", err=True)
    return typer.Exit(code)


def reports_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """A ``MemlabError`` becomes one line and an exit code. Any other error is a bug and keeps its traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            with _interrupts(), _warnings_as_lines():
                return command(*args, **kwargs)
        except MemlabError as error:
            if isinstance(error, StoreError):
                _save_elsewhere(error)
            raise fail(f"{str(error).rstrip('.')}. {error.hint}" if error.hint else error, error.exit_code) from None
        except KeyboardInterrupt as error:  # CramInterrupted says what is finished
            kept = f"{error}; what is finished is in the store" if str(error) else "interrupted"
            raise typer.Exit(_interrupted(kept)) from None

    return wrapped


def _save_elsewhere(error: StoreError) -> None:
    """Save trained vectors that the store could not take to the temporary folder. Training them was expensive."""
    for vector in error.unsaved:
        file = Path(tempfile.gettempdir()) / f"memlab-{vector.key[:16]}.safetensors"
        try:
            typer.echo(f"memlab: saved the trained vector to {vector.save(file)}", err=True)
        except OSError as problem:
            typer.echo(f"memlab: {file} cannot be written either: {problem.strerror or problem}", err=True)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print a warning of memlab as one line, without a line of code. Other warnings stay as they are."""
    usual, package = warnings.formatwarning, str(Path(__file__).parents[1])

    def line(message: Warning | str, category: type[Warning], filename: str, *rest: Any, **more: Any) -> str:
        if filename.startswith(package):
            return f"memlab: warning: {message}\n"
        return usual(message, category, filename, *rest, **more)

    warnings.formatwarning = line
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _interrupted(message: str) -> int:
    typer.echo(f"memlab: {message}", err=True)
    return 130


@contextmanager
def _interrupts() -> Iterator[None]:
    """Treat SIGTERM, which schedulers, containers and ``kill`` send, like Ctrl-C: work in progress is saved."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set signal handlers
        yield
        return

    def interrupt(_: int, frame: FrameType | None) -> None:
        while frame:
            # An import that is cut off leaves half a module (of torch, say), and errors about it would follow.
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                os._exit(_interrupted("interrupted"))
            frame = frame.f_back
        raise KeyboardInterrupt

    before = {sent: signal.getsignal(sent) for sent in (signal.SIGINT, signal.SIGTERM)}
    for sent, usual in before.items():
        if usual is not signal.SIG_IGN:  # as for SIGINT in the background jobs of a shell
            signal.signal(sent, interrupt)
    try:
        yield
    finally:
        for sent, usual in before.items():
            signal.signal(sent, usual)


def recipe_of(name: str, **changes: Any) -> Recipe:
    """The recipe of this name, or the default changed by a JSON object. ``changes`` that are not None come last."""
    return Recipe.of(name).replace(**{field: value for field, value in changes.items() if value is not None})


def texts_of(files: list[str] | None, text: str | None, verb: str, column: str | None = None) -> list[Text]:
    """The texts of ``--text``, files, folders and standard input (``-``). ``verb`` is for the error message."""
    texts = [Text("text", text, "command line")] if text is not None else []
    for name in files or []:
        if name == "-":
            texts.append(Text("stdin", from_bytes(sys.stdin.buffer.read(), "standard input"), "standard input"))
        else:
            texts += from_path(name, column=column)
    if not texts:
        raise fail(f"There is nothing to {verb}. Give a file, or --text 'some text'.", 2)
    return with_unique_ids(texts)


def numbers(text: str, option: str) -> list[int]:
    """Whole numbers above 0, separated by commas."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) for part in parts):
        raise typer.BadParameter(f"{text!r}; expected whole numbers above 0, such as 1,2,4", param_hint=option)
    return [int(part) for part in parts]


def grid_of(text: str, first: int) -> range:
    """Lengths from ``first:last:stride``. ``first``, the length that is tried first, must be one of them."""
    parts = text.split(":")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise typer.BadParameter(
            f"{text!r}; expected first:last:stride, such as 32:256:16", param_hint="--grid or --lengths"
        )
    low, high, stride = (int(part) for part in parts)
    grid = range(low, high + 1, stride)
    if first not in grid:
        raise typer.BadParameter(f"{first} is not one of the lengths {text}", param_hint="--first")
    return grid


def update_table(rows: pd.DataFrame, file: Path | None, columns: Iterable[str]) -> None:
    """Write rows to a table and keep its other rows, so that neither a stopped run nor a run of other texts loses rows.

    Rows that agree in ``columns`` are the same run. The table is read now, because another program may have added rows.
    """
    import pandas as pd

    if (earlier := read_table(file)) is not None:
        rows = pd.concat([rows, earlier])
        rows = rows.drop_duplicates([name for name in columns if name in rows], ignore_index=True)
    write_table(rows, file)
