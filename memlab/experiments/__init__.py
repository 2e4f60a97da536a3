"""What must run a model to measure something. One file an experiment; the tables they left are in ``data/bench``."""

from __future__ import annotations

import pandas as pd

from memlab.texts import data_folder


def stored(name: str) -> pd.DataFrame:
    """The table that comes with memlab under that name: what ``memlab bench`` measured, on the machine it names."""
    file = data_folder() / "bench" / f"{name}.parquet"
    if not file.exists():
        known = ", ".join(sorted(f.stem for f in file.parent.glob("*.parquet")))
        raise FileNotFoundError(f"no stored table {name!r}; there are: {known}")
    return pd.read_parquet(file)
