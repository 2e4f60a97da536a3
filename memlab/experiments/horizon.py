"""The exact horizon of a passage: its longest prefix that comes back exactly, found by trying lengths of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from memlab.experiments.attempts import Row, context_room, finished_rows, one_job, run_attempts
from memlab.experiments.session import Session
from memlab.models import FrozenLM, PassageError
from memlab.recipes import Recipe
from memlab.texts import Text, TextError


@dataclass
class LengthSearch:
    """The length search of one passage: a longer length after an exact attempt, another attempt after a failure."""

    lengths: Sequence[int]
    at: int
    """Index of the length to try next."""
    attempts: int
    """Seeds to try at a length before it counts as failed."""
    best: int = -1
    """Index of the longest exact length so far."""
    failed: int = -1
    """Index of the shortest longer length at which every attempt failed; -1: no such length yet."""
    tries: int = 0

    @property
    def over(self) -> bool:
        """Whether the longest exact length and the failed length are neighbours, or the grid has no further length."""
        if self.best == len(self.lengths) - 1 or self.failed == 0:
            return True
        return self.failed >= 0 and self.failed - self.best == 1

    @property
    def next(self) -> tuple[int, int]:
        """(length, seed) of the next attempt."""
        return self.lengths[self.at], self.tries

    def report(self, exact: bool) -> None:
        """Record the outcome of that attempt."""
        if exact:
            self.best, self.tries = max(self.best, self.at), 0
            if self.failed <= self.best:  # a shorter length had failed: capacity is not a step function of length
                self.failed = -1
            self.at = self.best + 1
            return
        self.tries += 1
        if self.tries == self.attempts:
            self.failed, self.tries = self.at, 0
            self.at = self.failed - 1 if self.failed - self.best > 1 else self.at


def horizon(
    session: Session,
    texts: Sequence[Text],
    *,
    lengths: Sequence[int],
    first: int,
    attempts: int = 3,
    recipe: Recipe | None = None,
    start: int | str = 0,
) -> pd.DataFrame:
    """One row per attempt, with the columns ``attempts.ATTEMPT``; ``measures.capacity.horizons`` summarises them.

    All passages are searched at the same time, so that batches stay full. A length has failed if ``attempts`` seeds
    failed at it. The horizon is a certified lower bound: the longest exact length of the grid, not the longest length
    that is possible. The grid of a short text ends with the text. ``session.on_rows`` is called after each round.
    """
    lm, recipe = session.lm, recipe or Recipe.default()
    if len({text.id for text in texts}) < len(texts):
        raise TextError("Two texts have the same id. Give each text its own id: results are recorded by text id.")
    longest = context_room(lm, recipe)
    grids = {
        text.id: _lengths_within(lm, text, [n for n in lengths if n <= max(first, longest)], first, start)
        for text in texts
    }
    searches = {text.id: LengthSearch(grids[text.id], list(lengths).index(first), attempts) for text in texts}
    rows: list[Row] = []
    while searching := [text for text in texts if not searches[text.id].over]:
        jobs = []
        for text in searching:
            tokens, seed = searches[text.id].next
            jobs.append((text, tokens, one_job(lm, text, tokens, recipe.replace(seed=seed), start)))
        outcomes = run_attempts(session, jobs)
        for (text, *_), row in zip(jobs, outcomes, strict=True):
            searches[text.id].report(bool(row and row["exact"]))
        rows += finished_rows(outcomes)
        session.on_rows(pd.DataFrame(rows))
        over = sum(search.over for search in searches.values())
        session.log(f"{len(rows)} attempts, {over} of {len(texts)} passages done")
    return pd.DataFrame(rows)


def _lengths_within(lm: FrozenLM, text: Text, lengths: Sequence[int], first: int, start: int | str) -> list[int]:
    """The lengths for which the text is long enough. Raises ``PassageError`` if it is shorter than ``first``."""
    lm.passage(text, first, start=start)
    within = [n for n in lengths if n <= first]
    for n in lengths:
        if n > first:
            try:
                lm.passage(text, n, start=start)
            except PassageError:
                break
            within.append(n)
    return within
