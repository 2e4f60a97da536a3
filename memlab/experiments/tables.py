"""Tables of results: those that come with memlab, and those that an experiment writes and resumes from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from memlab.errors import MemlabError
from memlab.results.atomic import temporary_sibling
from memlab.texts import data_folder

if TYPE_CHECKING:
    import pandas as pd


class TableError(MemlabError, ValueError):
    """A file or table that an experiment cannot resume from. The message says what to do."""

    exit_code = 2


class UnknownTableError(MemlabError, LookupError):
    """No table has this name. The message lists those that exist."""

    exit_code = 2


class TableNotWrittenError(MemlabError, OSError):
    """A table that could not be written. The message names the file and the reason."""


def stored(name: str) -> pd.DataFrame:
    """The table of this name that comes with memlab, from ``data/bench``: results of ``memlab bench`` commands.

    Raises ``UnknownTableError``.

    >>> len(stored("step"))
    2
    """
    import pandas as pd  # imported here: a command that lists a store should not wait for it

    return pd.read_parquet(_file_of("bench", name, "parquet"))


def stored_landscape() -> pd.DataFrame:
    """The rows of ``stored("landscape")``, and those of family F7: stored vectors, read by smaller models."""
    import pandas as pd

    from memlab.measures.smaller_models import landscape_rows

    table = stored("landscape")
    vector = table[table.method == "mem vector, float32"].iloc[0]
    return pd.concat([table, landscape_rows(stored("smaller-models"), vector.stored_bits)], ignore_index=True)


def reference(name: str) -> pd.DataFrame:
    """Published figures of this name that come with memlab, each with its source, from ``data/reference``.

    Raises ``UnknownTableError``.
    """
    import pandas as pd

    return pd.read_csv(_file_of("reference", name, "csv"))


def _file_of(folder: str, name: str, ending: str) -> Path:
    file = data_folder() / folder / f"{name}.{ending}"
    if not file.exists():
        known = ", ".join(sorted(f.stem for f in file.parent.glob(f"*.{ending}")))
        raise UnknownTableError(f"There is no table {name!r} in {file.parent}. Use one of: {known}.")
    return file


def read_table(file: Path | None) -> pd.DataFrame | None:
    """The table that an earlier run wrote, to resume from; None if there is no file. Raises ``TableError``."""
    import pandas as pd

    if file is None or not file.exists():
        return None
    try:
        return pd.read_parquet(file)
    except Exception as error:  # pyarrow raises many types of error
        raise TableError(
            f"{file} exists but is not a Parquet table ({error}). Move it away, or give another file."
        ) from None


def require_columns(table: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise ``TableError`` if this is not a table that the experiment can resume from."""
    if missing := [name for name in columns if name not in table]:
        raise TableError(
            f"The table has no column {', '.join(missing)}, so another command wrote it. Move it away, or give another "
            "file."
        )


def write_table(table: pd.DataFrame, file: Path | None) -> None:
    """Write Parquet, or CSV for a name that ends in ``.csv``; do nothing if ``file`` is None.

    The file is replaced completely or not at all, because a later run may resume from it. Raises
    ``TableNotWrittenError``.
    """
    if file is None:
        return
    try:
        with temporary_sibling(file) as temporary:
            if file.suffix == ".csv":
                table.to_csv(temporary, index=False, float_format="%.6g")
            else:
                table.to_parquet(temporary, index=False)
            os.replace(temporary, file)
    except OSError as error:
        raise TableNotWrittenError(
            f"{file} could not be written: {error.strerror or error}. Give another file."
        ) from None
