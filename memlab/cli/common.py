"""What all commands share: options, errors made into one line and an exit code, recipes by name."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from memlab.recipes import Recipe, RecipeError
from memlab.results.mem_vector import DamagedError, VectorError
from memlab.results.store import StoreError
from memlab.sweeps.plan_file import PlanError
from memlab.texts import Text, TextError, from_bytes, from_path

NOT_EXACT = 3

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="preset, folder, .gguf file, Hugging Face id, toy:<family>")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="also write the table, as Parquet")]
StoreOption = Annotated[
    Path | None, typer.Option("--store", help="folder of results [default: the user's cache, or MEMLAB_STORE]")
]
RevisionOption = Annotated[str | None, typer.Option(help="branch, tag or commit of a Hugging Face model")]
BinOption = Annotated[bool, typer.Option("--allow-bin", help="load pickled .bin weights, where nothing else is")]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="train in float32 or bfloat16 [default: the faster one; checks: float32]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]


def fail(message: object, code: int) -> typer.Exit:
    typer.echo(f"memlab: error: {message}", err=True)
    return typer.Exit(code)


def told(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors people can mend become one line and an exit code; anything else stays a traceback, for us to mend."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            with _terminated_as_interrupted():
                return command(*args, **kwargs)
        except (TextError, RecipeError, PlanError) as error:
            raise fail(error, 2) from None
        except StoreError as error:
            for vector in error.unsaved:  # training was paid for: keep it somewhere
                place = Path(tempfile.gettempdir()) / f"memlab-{vector.key[:16]}.safetensors"
                try:
                    typer.echo(f"memlab: kept {vector.save(place)}", err=True)
                except OSError as problem:
                    typer.echo(f"memlab: {place} could not be kept either: {problem.strerror or problem}", err=True)
            raise fail(error, 1) from None
        except DamagedError as error:
            way = "a store's damaged results `memlab store verify` puts aside, so that they can be trained again"
            raise fail(f"{error} ({way})", 1) from None
        except VectorError as error:
            raise fail(error, 1) from None
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            # Imported here only: listing a store should not wait for torch.
            from memlab.experiments.tables import TableError, TableNotWrittenError
            from memlab.measures.capacity import MixedRecipesError
            from memlab.models import ModelError, PassageError
            from memlab.sweeps.executors import WorkerError
            from memlab.sweeps.runner import RunsFailedError
            from memlab.training.cram import CramInterrupted

            if isinstance(error, (ModelError, PassageError, TableError, MixedRecipesError, WorkerError)):
                raise fail(error, 2) from None
            if isinstance(error, (TableNotWrittenError, RunsFailedError)):
                raise fail(error, 1) from None
            if isinstance(error, CramInterrupted):
                typer.echo(f"memlab: {error}; what is finished is in the store", err=True)
                raise typer.Exit(130) from None
            raise

    return wrapped


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """What queues, containers and ``kill`` send before they kill is heard like Ctrl-C: what is begun is kept."""
    if threading.current_thread() is not threading.main_thread():  # only that one may hear signals
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def recipe_of(name: str, **changes: Any) -> Recipe:
    """A recipe by name, or the default changed as a JSON object says; then with those fields that were given."""
    given = {field: value for field, value in changes.items() if value is not None}
    if name.lstrip().startswith("{"):
        return Recipe.from_json(name, Recipe.default()).replace(**given)
    return Recipe.named(name, **given)


def texts_of(files: list[str] | None, text: str | None, what: str) -> list[Text]:
    """The texts a command is to ``what``: one given outright, files and folders, and - for standard input."""
    texts = [Text("text", text, "command line")] if text is not None else []
    for name in files or []:
        if name == "-":
            texts.append(Text("stdin", from_bytes(sys.stdin.buffer.read(), "standard input"), "standard input"))
        else:
            texts += from_path(name)
    if not texts:
        raise fail(f"nothing to {what}: give a file, or --text 'some text'", 2)
    return texts


def numbers(text: str, option: str) -> list[int]:
    """Comma-separated whole numbers above 0."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) for part in parts):
        raise typer.BadParameter(f"{text!r}; expected whole numbers above 0, such as 1,2,4", param_hint=option)
    return [int(part) for part in parts]


def grid_of(text: str, first: int) -> range:
    """``first:last:stride`` as lengths, with the one that is tried first among them."""
    parts = text.split(":")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise typer.BadParameter(
            f"{text!r}; expected first:last:stride, such as 32:256:16", param_hint="--grid or --lengths"
        )
    low, high, stride = (int(part) for part in parts)
    made = range(low, high + 1, stride)
    if first not in made:
        raise typer.BadParameter(f"{first} is not on the grid {text}", param_hint="--first")
    return made
