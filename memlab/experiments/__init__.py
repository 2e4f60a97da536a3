"""What must run a model to measure something. One file an experiment; the tables they left are in ``data/bench``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from memlab.texts import data_folder

if TYPE_CHECKING:
    import pandas as pd


class TableError(ValueError):
    """A table that cannot be read or written; the message names the file and says what to do."""


def stored(name: str) -> pd.DataFrame:
    """The table that comes with memlab under that name: what ``memlab bench`` measured, on the machine it names."""
    import pandas as pd  # here only: a command that lists a store should not wait for it

    file = data_folder() / "bench" / f"{name}.parquet"
    if not file.exists():
        known = ", ".join(sorted(f.stem for f in file.parent.glob("*.parquet")))
        raise FileNotFoundError(f"no stored table {name!r}; there are: {known}")
    return pd.read_parquet(file)


def reference(name: str) -> pd.DataFrame:
    """Published figures that come with memlab under that name, each with its source: ``data/reference``."""
    import pandas as pd

    file = data_folder() / "reference" / f"{name}.csv"
    if not file.exists():
        known = ", ".join(sorted(f.stem for f in file.parent.glob("*.csv")))
        raise FileNotFoundError(f"no published figures {name!r}; there are: {known}")
    return pd.read_csv(file)


def read_table(file: Path | None) -> pd.DataFrame | None:
    """The table that an earlier run wrote, to go on from; None where there is none. Raises ``TableError``."""
    import pandas as pd

    if file is None or not file.exists():
        return None
    try:
        return pd.read_parquet(file)
    except Exception as error:  # pyarrow's errors are many
        raise TableError(f"{file} is there and no Parquet table ({error}): move it away, or name another") from None


def write_table(table: pd.DataFrame, file: Path | None) -> None:
    """As Parquet, whole or not at all: the file may be what a later run goes on from. Raises ``TableError``."""
    if file is None:
        return
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(temporary, index=False)
        os.replace(temporary, file)
    except OSError as error:
        raise TableError(f"{file} could not be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
