"""Finds the notebooks that come with memlab, and executes one."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memlab.errors import MemlabError
from memlab.pages.snapshot import CELL, MIME
from memlab.texts import data_folder

CELL_TIMEOUT = 3600
"""The longest time that one cell may take, seconds."""


class PageError(MemlabError, ValueError):
    """A page that cannot be made: a missing notebook or package, or a folder of something else."""

    exit_code = 2


@dataclass
class Executed:
    """A notebook after its execution. ``error`` is one line about the cell that failed; empty if none did."""

    notebook: Any
    panels: dict[str, list[Any]] = field(default_factory=dict)
    """{model id of a panel's widget: what it shows at the end of the notebook}."""
    facts: dict[str, str] = field(default_factory=dict)
    error: str = ""


def notebooks_folder() -> Path:
    """``notebooks/`` of the checkout, or its copy in an installed wheel."""
    for folder in (data_folder() / "notebooks", data_folder().parent / "notebooks"):
        if folder.is_dir():
            return folder
    raise PageError("The notebooks are missing from this installation. Reinstall memlab.")


def find_notebook(name: str) -> Path:
    """The notebook of a name, the beginning of one, or a path.

    >>> find_notebook("02").name
    '02_how_much_fits.ipynb'
    """
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name)
    found = [file for file in all_notebooks() if file.stem.startswith(name.removesuffix(".ipynb"))]
    if len(found) != 1:
        names = ", ".join(file.stem for file in all_notebooks())
        count = f"{len(found)} notebooks start" if found else "no notebook starts"
        raise PageError(f"{name!r}: {count} with this name. Give one of {names}, or the path of a notebook.")
    return found[0]


def all_notebooks() -> list[Path]:
    """The notebooks that come with memlab, in their order."""
    return sorted(notebooks_folder().glob("*.ipynb"))


def read(file: Path) -> Any:
    """A notebook as ``nbformat`` reads it. Raises ``PageError`` for other files."""
    nbformat = _lab("nbformat")
    try:
        return nbformat.read(file, as_version=4)
    except Exception as error:  # nbformat raises many types
        reason = next(iter(str(error).splitlines()), "")
        raise PageError(f"{file} cannot be read as a notebook: {reason}") from None


def execute(file: Path, environment: Mapping[str, str]) -> Executed:
    """Run a notebook from top to bottom in a kernel of its own. The file stays as it is.

    A cell that raises ends the run; the outputs so far are kept, and ``error`` says what happened.
    """
    nbclient, nbformat = _lab("nbclient"), _lab("nbformat")
    notebook = read(file)
    notebook.cells.append(nbformat.v4.new_code_cell(CELL))
    client = nbclient.NotebookClient(
        notebook, timeout=CELL_TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(file.parent)}}
    )
    done = Executed(notebook)
    try:
        client.execute(env={**os.environ, **environment}, stderr=subprocess.DEVNULL)  # it warns of its own transport
    except nbclient.exceptions.CellExecutionError as error:
        shown = [o for cell in notebook.cells for o in cell.get("outputs", ()) if o.output_type == "error"]
        # An output that fails to show itself has no name in the error, and its traceback ends in it.
        last = shown[-1].traceback[-1].splitlines()[-1] if shown and shown[-1].traceback else str(error)
        done.error = _plain(last)
    except (nbclient.exceptions.CellTimeoutError, nbclient.exceptions.DeadKernelError) as error:
        done.error = _plain(str(error))
    for output in notebook.cells.pop().outputs:
        if MIME in output.get("data", {}):
            done.panels, done.facts = output.data[MIME]["panels"], output.data[MIME]["facts"]
    return done


def _plain(text: str) -> str:
    """The first line of a message, without colours."""
    return next(iter(re.sub(r"\x1b\[[\d;]*m", "", text).strip().splitlines()), "")


def _lab(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise PageError(f"Pages of notebooks need {name}. Install it: pip install 'memlab[lab]'.") from None
