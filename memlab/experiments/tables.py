"""What must run a model to measure something. One file an experiment; the tables they left are in ``data/bench``."""

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
    """A table that was to be gone on from and is none; the message names the file and says what to do."""

    exit_code = 2


class TableNotWrittenError(MemlabError, OSError):
    """A table that the disk did not take; the message names the file and says why."""


def stored(name: str) -> pd.DataFrame:
    """The table that comes with memlab under that name: what ``memlab bench`` measured, on the machine it names."""
    import pandas as pd  # here only: a command that lists a store should not wait for it

    return pd.read_parquet(_coming_with_memlab("bench", name, "parquet"))


def reference(name: str) -> pd.DataFrame:
    """Published figures that come with memlab under that name, each with its source: ``data/reference``."""
    import pandas as pd

    return pd.read_csv(_coming_with_memlab("reference", name, "csv"))


def _coming_with_memlab(folder: str, name: str, ending: str) -> Path:
    file = data_folder() / folder / f"{name}.{ending}"
    if not file.exists():
        known = ", ".join(sorted(f.stem for f in file.parent.glob(f"*.{ending}")))
        raise FileNotFoundError(f"no table {name!r} in {file.parent}; there are: {known}")
    return file


def read_table(file: Path | None) -> pd.DataFrame | None:
    """The table that an earlier run wrote, to go on from; None where there is none. Raises ``TableError``."""
    import pandas as pd

    if file is None or not file.exists():
        return None
    try:
        return pd.read_parquet(file)
    except Exception as error:  # pyarrow's errors are many
        raise TableError(f"{file} is there and no Parquet table ({error}): move it away, or name another") from None


def require_columns(table: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise ``TableError`` if it is another table than the one that was to be gone on from."""
    if missing := [name for name in columns if name not in table]:
        raise TableError(
            f"the table that is there has no column {', '.join(missing)}: it is of another command. Move it away, or "
            "name another file"
        )


def write_table(table: pd.DataFrame, file: Path | None) -> None:
    """As Parquet (``.csv``: as CSV), whole or not at all: the file may be what a later run goes on from.

    Raises ``TableNotWrittenError``.
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
        raise TableNotWrittenError(f"{file} could not be written: {error.strerror or error}") from None
