"""Capacity by two protocols on the same texts: what comes back exactly, and what arXiv 2502.13063 counts.

``exact`` climbs to each passage's horizon; ``fixed_lengths`` crams every passage at every length, with the published
recipe or another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from memlab.experiments.horizon import ATTEMPT, growing, horizon, longest_of, run_attempts
from memlab.measures import capacity_fits
from memlab.models import FrozenLM, PassageError
from memlab.probes.token_costs import gains
from memlab.recipes import Recipe
from memlab.results.store import Store
from memlab.sweeps.runner import Plan
from memlab.texts import Text

GRID = range(32, 257, 16)
"""Lengths the exact protocol tries with one vector, tokens; k vectors try k times these."""
FIRST = 128
"""The one it begins with."""
LONGEST = 1024
"""Tokens of a text that are read to find its windows."""


def exact(
    lm: FrozenLM,
    texts: Mapping[str, Sequence[Text]],
    store: Store,
    *,
    ks: Sequence[int] = (1,),
    counts: Sequence[int] | None = None,
    lengths: Sequence[int] = GRID,
    first: int = FIRST,
    attempts: int = 2,
    recipe: Recipe | None = None,
    start: int | str = 0,
    known: pd.DataFrame | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = lambda line: None,
    keep: Callable[[pd.DataFrame], None] = lambda runs: None,
) -> pd.DataFrame:
    """``horizon`` for each kind of text and each k, with ``gains``: one row an attempt; or ``growing``, if the recipe
    grows its text: one row a passage, up to the last of ``lengths``, by k times as many tokens at once and with k times
    the token budget as the recipe says for one vector.

    ``texts`` by kind. ``counts``: passages of each kind, one number for each k; those that more vectors are tried on,
    so that k is compared over the same passages, and then the first that are long enough for the first length tried.
    ``known``: rows of an earlier run, another machine's too, whose keys are not run again; ``keep``
    is given the rows so far after each round.
    """
    recipe = recipe or Recipe.default()
    measures = _Measures(lm, store, "exact", known, keep)
    asked = dict(zip(ks, counts or [0] * len(ks), strict=True))
    passages = {kind: _passages(lm, given, asked, first, start) for kind, given in texts.items()}
    for k, count in asked.items():
        for kind, given in texts.items():
            chosen = passages[kind][k]
            if len(chosen) < (wanted := count or len(given)):
                tell(f"{kind}, k = {k}: {len(chosen)} of {wanted} texts have the {k * first} tokens to begin with")
            if chosen:
                tell(f"{kind}, k = {k}: {len(chosen)} passages")
                common: dict[str, Any] = dict(
                    recipe=recipe.replace(k=k, grow=k * recipe.grow), start=start, known=known, progress=progress,
                    tell=tell, keep=partial(measures.show, kind),
                )  # fmt: skip
                if recipe.grow:
                    common |= {"longest": k * max(lengths), "token_passes": k * recipe.token_budget}
                    measures.add(kind, growing(lm, chosen, store, **common))
                else:
                    common |= {"lengths": [k * n for n in lengths], "first": k * first, "attempts": attempts}
                    measures.add(kind, horizon(lm, chosen, store, **common))
    return measures.table()


def fixed_lengths(
    lm: FrozenLM,
    texts: Mapping[str, Sequence[Text]],
    store: Store,
    *,
    recipe: Recipe,
    protocol: str,
    ks: Sequence[int] = (1,),
    counts: Sequence[int] | None = None,
    lengths: Sequence[int] = (16, 32),
    start: int | str = 0,
    known: pd.DataFrame | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = lambda line: None,
    keep: Callable[[pd.DataFrame], None] = lambda runs: None,
) -> pd.DataFrame:
    """Every passage at every length, with ``gains``: one row a run, under the name ``protocol``.

    ``capacity.paper_estimates`` makes the published table of it. With ``Recipe.paper2025`` this is the published
    mathematics in our batching: their code takes one passage a time, and loss and gradient are the same. ``known`` and
    ``keep`` as in ``exact``, after each kind of text and k.
    """
    measures = _Measures(lm, store, protocol, known, keep)
    for k, count in zip(ks, counts or [0] * len(ks), strict=True):
        for kind, given in texts.items():
            chosen = list(given)[: count or None]
            # By the length that was asked for: where a cut is moved back by a token, it is still that length's run.
            plans = [
                (t, n, Plan.grid(lm, [t], tokens=n, recipes=recipe.replace(k=k), start=start))
                for t in chosen
                for n in lengths
            ]
            pairs = [(text, n, job) for text, n, plan in plans for job in plan]
            for what, why in (left for *_, plan in plans for left in plan.rejected):
                tell(f"left out: {what}: {why}")
            made = run_attempts(pairs, store, known=known, progress=progress, tell=tell, keep=measures.keeper(kind))
            rows = [row for row in made if row]
            tell(f"{kind}, k = {k}: {len(rows)} of {len(made)} runs")
            measures.add(kind, pd.DataFrame(rows))
            keep(measures.table())
    return measures.table()


def equal_information(
    lm: FrozenLM,
    texts: Mapping[str, Sequence[Text]],
    store: Store,
    *,
    bits: Sequence[int],
    ks: Sequence[int] = (1,),
    counts: Sequence[int] | None = None,
    recipe: Recipe | None = None,
    start: int | str = 0,
    known: pd.DataFrame | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = lambda line: None,
    keep: Callable[[pd.DataFrame], None] = lambda runs: None,
) -> pd.DataFrame:
    """Passages that cost the model so many ``bits`` each, however many tokens that takes: one row a run.

    The test that a horizon is no length: of texts cut so, kinds should come back alike often, and of texts cut at one
    length not. ``bits_asked`` says which cut a row is of; ``known`` and ``keep`` as in ``exact``, after each of them.
    """
    recipe = recipe or Recipe.default()
    measures = _Measures(lm, store, "equal", known, keep)
    for k, count in zip(ks, counts or [0] * len(ks), strict=True):
        for kind, asked in ((kind, asked) for kind in texts for asked in bits):
            jobs = []
            for text in list(texts[kind])[: count or None]:
                whole = longest_of(lm, text, min(LONGEST, (lm.context or LONGEST) // 2), start)
                costs = lm.token_bits(whole.ids)
                if not (windows := capacity_fits.equal_information(costs, asked)):
                    tell(f"left out: {text.id} has {np.nansum(costs):.0f} bits, {asked} were asked for")
                    continue
                tokens = windows[0][1]
                passage = lm.passage(text, tokens, start=start)
                jobs.append((text, tokens, Plan.of(lm, [passage], recipe.replace(k=k)).jobs[0]))
            keeper = measures.keeper(kind, bits_asked=asked)
            made = run_attempts(jobs, store, known=known, progress=progress, tell=tell, keep=keeper)
            rows = [row for row in made if row]
            tell(f"{kind}, k = {k}, {asked} bits: {sum(row['exact'] for row in rows)} of {len(rows)} exact")
            measures.add(kind, pd.DataFrame(rows).assign(bits_asked=asked))
            keep(measures.table())
    return measures.table()


class _Measures:
    """Runs, kind of text by kind, with what their tokens cost; what a known row says of its key is not measured again.

    Accuracy is that of the tokens scored.
    """

    def __init__(
        self, lm: FrozenLM, store: Store, protocol: str, known: pd.DataFrame | None,
        keep: Callable[[pd.DataFrame], None],
    ) -> None:  # fmt: skip
        self._lm, self._store, self._protocol, self._keep = lm, store, protocol, keep
        self._tables: list[pd.DataFrame] = []
        self._of: dict[str, dict[str, Any]] = {}
        if known is not None and "token_bits_with" in known:
            columns = [name for name in known if name not in _OF_RUN]
            self._of = dict(zip(known.key, known[columns].to_dict("records"), strict=True))

    def add(self, kind: str, runs: pd.DataFrame) -> None:
        """Runs that are over."""
        if len(runs):
            self._tables.append(self._measured(kind, runs))

    def show(self, kind: str, runs: pd.DataFrame) -> None:
        """Runs that go on, with all that are over, to be kept."""
        if not len(runs):  # all of the first lot failed
            return
        self._keep(pd.concat([*self._tables, self._measured(kind, runs)], ignore_index=True))

    def keeper(self, kind: str, **told: Any) -> Callable[[Sequence[dict[str, Any] | None]], None]:
        """What shows rows of attempts, as ``attempted`` has them; ``told`` says more of each."""
        return lambda made: self.show(kind, pd.DataFrame([row for row in made if row]).assign(**told))

    def table(self) -> pd.DataFrame:
        """All that are over."""
        return pd.concat(self._tables, ignore_index=True) if self._tables else pd.DataFrame({"protocol": []})

    def _measured(self, kind: str, runs: pd.DataFrame) -> pd.DataFrame:
        # Two texts may begin alike, and then share a vector: whose run it is, the run says.
        for key in runs.key:
            if key not in self._of:
                measured = gains(self._lm, [self._store.get(key)])
                self._of[key] = measured[[name for name in measured if name not in _OF_RUN]].iloc[0].to_dict()
        measured = pd.DataFrame([self._of[key] for key in runs.key])
        kept = runs[[name for name in runs if name not in measured]].reset_index(drop=True)
        told = {"texts": kind, "protocol": self._protocol, "model": self._lm.name}
        return pd.concat([kept, measured], axis=1).assign(**told)


_OF_RUN = {*ATTEMPT, "texts", "protocol", "model", "bits_asked"} - {"accuracy"}
"""What a row says of the run; the rest is of its vector."""


def _passages(
    lm: FrozenLM, texts: Sequence[Text], asked: Mapping[int, int], first: int, start: int | str
) -> dict[int, list[Text]]:
    """For each k as many texts as ``asked`` (0: all) of those with k times ``first`` tokens, larger k's among them."""
    chosen: dict[int, list[Text]] = {}
    shared: list[Text] = []
    for k in sorted(asked, reverse=True):
        others = [text for text in texts if text not in shared and _has(lm, text, k * first, start)]
        chosen[k] = shared = [*shared, *others][: asked[k] or None]
    return chosen


def _has(lm: FrozenLM, text: Text, tokens: int, start: int | str) -> bool:
    try:
        lm.passage(text, tokens, start=start)
    except PassageError:
        return False
    return True
