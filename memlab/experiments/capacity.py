"""Capacity of vectors on the same texts by several protocols, one row per run.

``exact`` searches each passage's horizon. ``fixed_lengths`` crams every passage at every length, with the recipe of
arXiv 2502.13063 or another. ``equal_information`` crams passages with equal bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from memlab.experiments.attempts import ATTEMPT, Row, finished_rows, longest_passage, run_attempts
from memlab.experiments.growing import growing
from memlab.experiments.horizon import horizon
from memlab.experiments.session import Session
from memlab.measures import capacity_fits
from memlab.models import FrozenLM, PassageError
from memlab.probes.token_costs import gains
from memlab.recipes import Recipe
from memlab.sweeps.runner import Plan
from memlab.texts import Text

GRID = range(32, 257, 16)
"""Lengths that ``exact`` tries with one vector, tokens. With k vectors it tries k times these lengths."""
FIRST = 128
"""Length that ``exact`` tries first with one vector, tokens."""
LONGEST = 1024
"""Tokens of a text that ``equal_information`` reads to find a passage."""


def exact(
    session: Session,
    texts: Mapping[str, Sequence[Text]],
    *,
    ks: Sequence[int] = (1,),
    counts: Sequence[int] | None = None,
    lengths: Sequence[int] = GRID,
    first: int = FIRST,
    attempts: int = 2,
    recipe: Recipe | None = None,
    start: int | str = 0,
) -> pd.DataFrame:
    """``horizon`` for each kind of text and each k, with the columns of ``token_costs.gains``: one row per attempt.

    If the recipe grows its text, ``growing`` instead: one row per passage, up to the last of ``lengths``. With k
    vectors the recipe grows by k times as many tokens at a time, and has k times its token budget.

    ``texts`` by kind. ``counts``: passages of each kind, one number for each k. The first texts that are long enough
    for the first length are chosen. A smaller k gets the passages of the larger k first, so that different k are
    compared on the same passages. ``session.on_rows`` is called after each round.
    """
    lm, recipe = session.lm, recipe or Recipe.default()
    measured = _MeasuredRuns(session, "exact")
    count_of = dict(zip(ks, counts or [0] * len(ks), strict=True))
    passages = {kind: _long_enough(lm, some, count_of, first, start) for kind, some in texts.items()}
    for k, count in count_of.items():
        for kind, some in texts.items():
            chosen = passages[kind][k]
            if len(chosen) < (wanted := count or len(some)):
                session.log(
                    f"{kind}, k = {k}: only {len(chosen)} of {wanted} texts have {k * first} tokens, the first length"
                )
            if chosen:
                session.log(f"{kind}, k = {k}: {len(chosen)} passages")
                search = replace(session, on_rows=partial(measured.report, kind))
                settings: dict[str, Any] = {"recipe": recipe.replace(k=k, grow=k * recipe.grow), "start": start}
                if recipe.grow:
                    settings |= {"longest": k * max(lengths), "token_passes": k * recipe.token_budget}
                    measured.add(kind, growing(search, chosen, **settings))
                else:
                    settings |= {"lengths": [k * n for n in lengths], "first": k * first, "attempts": attempts}
                    measured.add(kind, horizon(search, chosen, **settings))
    return measured.table()


def fixed_lengths(
    session: Session,
    texts: Mapping[str, Sequence[Text]],
    *,
    recipe: Recipe,
    protocol: str,
    ks: Sequence[int] = (1,),
    counts: Sequence[int] | None = None,
    lengths: Sequence[int] = (16, 32),
    start: int | str = 0,
) -> pd.DataFrame:
    """Every passage at every length, with the columns of ``token_costs.gains``: one row per run, named ``protocol``.

    ``measures.capacity.paper_estimates`` computes the published estimates from these rows. ``Recipe.paper2025`` has the
    loss and gradient of arXiv 2502.13063. Its code trains one passage at a time; this function trains in batches.
    ``session.on_rows`` is called as runs finish, and after each kind of text and k.
    """
    measured = _MeasuredRuns(session, protocol)
    for k, count in zip(ks, counts or [0] * len(ks), strict=True):
        for kind, some in texts.items():
            chosen = list(some)[: count or None]
            # Runs keep the requested length, even if the cut makes their passage a token shorter.
            plans = [
                (text, n, Plan.grid(session.lm, [text], tokens=n, recipes=recipe.replace(k=k), start=start))
                for text in chosen
                for n in lengths
            ]
            attempts = [(text, n, job) for text, n, plan in plans for job in plan]
            for what, reason in (rejected for *_, plan in plans for rejected in plan.rejected):
                session.log(f"left out: {what}: {reason}")
            results = run_attempts(session, attempts, on_rows=measured.reporter(kind))
            rows = finished_rows(results)
            session.log(f"{kind}, k = {k}: {len(rows)} of {len(results)} runs")
            measured.add(kind, pd.DataFrame(rows))
            session.on_rows(measured.table())
    return measured.table()


def equal_information(
    session: Session,
    texts: Mapping[str, Sequence[Text]],
    *,
    bits: Sequence[int],
    ks: Sequence[int] = (1,),
    counts: Sequence[int] | None = None,
    recipe: Recipe | None = None,
    start: int | str = 0,
) -> pd.DataFrame:
    """Passages that cost the model equal ``bits``, with any number of tokens: one row per run.

    This tests whether a horizon is a limit in bits, not in tokens. If it is, all kinds of text should come back equally
    often at equal bits, and not at equal length. The column ``bits_asked`` has the requested bits.
    ``session.on_rows`` is called as runs finish, and after each kind of text, number of bits and k.
    """
    lm, recipe = session.lm, recipe or Recipe.default()
    measured = _MeasuredRuns(session, "equal")
    for k, count in zip(ks, counts or [0] * len(ks), strict=True):
        for kind, wanted in ((kind, wanted) for kind in texts for wanted in bits):
            attempts = []
            for text in list(texts[kind])[: count or None]:
                whole = longest_passage(lm, text, min(LONGEST, (lm.context or LONGEST) // 2), start)
                costs = lm.token_bits(whole.ids)
                if not (windows := capacity_fits.equal_information(costs, wanted)):
                    session.log(f"left out: {text.id} has {np.nansum(costs):.0f} bits, fewer than {wanted}")
                    continue
                tokens = windows[0][1]
                passage = lm.passage(text, tokens, start=start)
                attempts.append((text, tokens, Plan.of(lm, [passage], recipe.replace(k=k)).jobs[0]))
            rows = finished_rows(run_attempts(session, attempts, on_rows=measured.reporter(kind, bits_asked=wanted)))
            session.log(f"{kind}, k = {k}, {wanted} bits: {sum(row['exact'] for row in rows)} of {len(rows)} exact")
            measured.add(kind, pd.DataFrame(rows).assign(bits_asked=wanted))
            session.on_rows(measured.table())
    return measured.table()


class _MeasuredRuns:
    """Rows of runs, one kind of text after another, with what each token costs the model.

    Token costs of keys in ``session.resume_from`` are taken from there. ``accuracy`` is over the scored tokens.
    """

    def __init__(self, session: Session, protocol: str) -> None:
        self._session, self._protocol = session, protocol
        self._tables: list[pd.DataFrame] = []
        self._costs_by_key: dict[str, dict[str, Any]] = {}
        earlier = session.resume_from
        if earlier is not None and "token_bits_with" in earlier:
            columns = [name for name in earlier if name not in _RUN_COLUMNS]
            self._costs_by_key = dict(zip(earlier.key, earlier[columns].to_dict("records"), strict=True))

    def add(self, kind: str, runs: pd.DataFrame) -> None:
        """Add finished runs."""
        if len(runs):
            self._tables.append(self._with_costs(kind, runs))

    def report(self, kind: str, runs: pd.DataFrame) -> None:
        """Give ``session.on_rows`` the finished runs, and these rows of an unfinished search."""
        if not len(runs):  # every run of the first round failed
            return
        self._session.on_rows(pd.concat([*self._tables, self._with_costs(kind, runs)], ignore_index=True))

    def reporter(self, kind: str, **columns: Any) -> Callable[[Sequence[Row]], None]:
        """``report`` as a callback of ``run_attempts``; ``columns`` are added to each row."""
        return lambda rows: self.report(kind, pd.DataFrame(rows).assign(**columns))

    def table(self) -> pd.DataFrame:
        """All finished runs."""
        return pd.concat(self._tables, ignore_index=True) if self._tables else pd.DataFrame({"protocol": []})

    def _with_costs(self, kind: str, runs: pd.DataFrame) -> pd.DataFrame:
        for key in runs.key:
            if key not in self._costs_by_key:
                costs = gains(self._session.lm, [self._session.store.get(key)])
                columns = [name for name in costs if name not in _RUN_COLUMNS]
                self._costs_by_key[key] = costs[columns].iloc[0].to_dict()
        costs = pd.DataFrame([self._costs_by_key[key] for key in runs.key])
        # Two texts with the same beginning share a vector. So the text is taken from the run, not from the vector.
        of_run = runs[[name for name in runs if name not in costs]].reset_index(drop=True)
        return pd.concat([of_run, costs], axis=1).assign(
            texts=kind, protocol=self._protocol, model=self._session.lm.name
        )


_RUN_COLUMNS = {*ATTEMPT, "texts", "protocol", "model", "bits_asked"} - {"accuracy"}
"""Columns that describe the run. All others describe its vector."""


def _long_enough(
    lm: FrozenLM, texts: Sequence[Text], count_of: Mapping[int, int], first: int, start: int | str
) -> dict[int, list[Text]]:
    """For each k up to ``count_of[k]`` texts (0: all) with k times ``first`` tokens, the texts of larger k first."""
    chosen: dict[int, list[Text]] = {}
    shared: list[Text] = []
    for k in sorted(count_of, reverse=True):
        others = [text for text in texts if text not in shared and _has_tokens(lm, text, k * first, start)]
        chosen[k] = shared = [*shared, *others][: count_of[k] or None]
    return chosen


def _has_tokens(lm: FrozenLM, text: Text, tokens: int, start: int | str) -> bool:
    try:
        lm.passage(text, tokens, start=start)
    except PassageError:
        return False
    return True
