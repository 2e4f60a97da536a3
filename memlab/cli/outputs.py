"""Options that name something to write. They are checked when they are read, before a model is loaded or trained."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer


def file_option(help: str, *suffixes: str) -> Any:
    """An option for a file to write, whose name must end in one of ``suffixes`` (none: any name)."""
    return typer.Option(help=help, parser=file_parser(*suffixes), metavar="FILE")


def folder_option(help: str) -> Any:
    """An option for a folder to write into."""
    return typer.Option(help=help, parser=_folder, metavar="FOLDER")


def file_parser(*suffixes: str) -> Callable[[str | Path], Path]:
    """Turns an argument into the path of a file that can be written, or raises ``BadParameter``."""

    def parse(text: str | Path) -> Path:
        path = Path(text)
        if suffixes and path.suffix not in suffixes:
            raise typer.BadParameter(f"{str(path)!r}; expected a file name that ends in {' or '.join(suffixes)}")
        if path.is_dir() or not path.name:
            raise typer.BadParameter(f"{path} is a folder; give the name of a file")
        _require_writable(path.parent)
        return path

    return parse


def _folder(text: str | Path) -> Path:
    _require_writable(Path(text))
    return Path(text)


def _require_writable(folder: Path) -> None:
    """Raise ``BadParameter`` if nothing can be written here. Folders that do not exist yet will be created."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise typer.BadParameter(f"{place} cannot be written to: {error.strerror or error}") from None
