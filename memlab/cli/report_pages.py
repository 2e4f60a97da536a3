"""``memlab report``: executed notebooks and cards of vectors as HTML pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from memlab.cli.common import StoreOption, fail, reports_errors
from memlab.cli.store import open_vector
from memlab.results.mem_vector import MemVector
from memlab.results.store import NoResultError, Store


@reports_errors
def report_command(
    folder: Annotated[Path, typer.Argument(help="a new folder, or one with an earlier report: it goes on")],
    notebooks: Annotated[
        list[str] | None,
        typer.Option(
            "--notebook", help="notebook to execute: its number, name or path; repeatable [default: all, or none]"
        ),
    ] = None,
    vectors: Annotated[
        list[str] | None,
        typer.Option("--vector", help="vector to show: a key (its first 4 characters or more), or a file; repeatable"),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Write notebooks and vectors as HTML pages whose charts work offline. All notebooks take about 10 minutes.

    With --vector only, no notebook is executed.
    """
    from memlab.pages.notebooks import all_notebooks, find_notebook
    from memlab.pages.report import require_ours, write_report

    require_ours(folder)
    mems = [_vector(name, store) for name in vectors or []]
    files = [find_notebook(name) for name in notebooks or []]
    if not files and not mems:
        files = all_notebooks()
    environment = {"MEMLAB_STORE": str(Path(store).expanduser().absolute())} if store else {}
    made = write_report(folder, files, mems, environment=environment, on_page=_tell)
    size = sum(file.stat().st_size for file in folder.iterdir())
    typer.echo(
        f"{len(made)} page{'' if len(made) == 1 else 's'}, {size / 1e6:.1f} MB in all: open {folder / 'index.html'}"
    )
    if failed := [page.file.stem for page in made if page.error]:
        raise fail(f"Stopped at an error in {', '.join(failed)}. The pages show where.", 1)


def _tell(page: Any) -> None:
    note = (
        f"stopped at an error: {page.error}" if page.error else "up to date" if page.kept else f"{page.seconds:.0f} s"
    )
    typer.echo(f"{page.file.name}: {note}, {page.file.stat().st_size / 1e6:.1f} MB")


def _vector(name: str, store: str | None) -> MemVector:
    """A vector of the store, or one that comes with memlab."""
    try:
        return open_vector(name, Store.existing(store))
    except NoResultError:
        if store is None and len(found := [key for key in Store.bundled().keys() if key.startswith(name)]) == 1:
            return Store.bundled().get(found[0])
        raise
