"""The one retry policy: halve jobs that fail together; record one that fails alone twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memlab.models import FrozenLM, Passage
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store, StoreError
from memlab.training.cram import Progress, cram


def train_with_retries(
    lm: FrozenLM,
    keys: Sequence[str],
    passages: Sequence[Passage],
    recipes: Sequence[Recipe],
    parents: Sequence[MemVector | None],
    store: Store,
    *,
    portable: bool = False,
    progress: bool = False,
    watch: Callable[[Progress], bool | None] | None = None,
    failed: dict[str, str] | None = None,
) -> tuple[list[MemVector], dict[str, str]]:
    """One model's jobs in this process: (results, {key: error}), each failure tried twice and recorded in the store.

    ``failed``, if given, is that second dictionary, filled as it goes.
    """
    done: dict[str, MemVector] = {}
    failed = {} if failed is None else failed

    def go(which: Sequence[int]) -> str:
        """The error, or nothing. Only its text: with it would be held what filled the memory."""
        try:
            results = cram(
                lm,
                [passages[i] for i in which],
                [recipes[i] for i in which],
                store,
                start=[parents[i] for i in which],
                portable=portable,
                progress=progress,
                watch=watch,
            )
        except StoreError:
            raise
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        done.update({mem.key: mem for mem in results})
        return ""

    def some(which: Sequence[int]) -> None:
        why = go(which)
        if why and len(which) == 1:
            why = go(which)  # once more: a bad moment is no bad job
            if why:
                failed[keys[which[0]]] = why
                store.record_failure(keys[which[0]], why)
        elif why:
            some(which[: len(which) // 2])
            some(which[len(which) // 2 :])

    if keys:
        some(range(len(keys)))
    return [done[key] for key in keys if key in done], failed
