"""What most experiments need: a model, a store, earlier rows to resume from, and where to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from memlab.models import FrozenLM
    from memlab.results.store import Store


def _ignore(_: object) -> None:
    pass


@dataclass(frozen=True)
class Session:
    """The model and the store of an experiment, what it resumes from and where it reports.

    >>> from memlab import Store, load
    >>> Session(load("toy:llama"), Store(), progress=False).resume_from is None
    True
    """

    lm: FrozenLM
    store: Store
    resume_from: pd.DataFrame | None = None
    """Rows of an earlier run, possibly on another machine. Runs whose keys are in it are not repeated."""
    log: Callable[[str], object] = _ignore
    """Receives one line of text at a time."""
    on_rows: Callable[[pd.DataFrame], object] = _ignore
    """Receives all rows so far, each time there are new ones."""
    progress: bool = True
    """Whether to show a progress bar."""
