"""The exact horizon: the longest prefix of a passage that comes back exactly, and what it took to find it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from memlab.models import Passage
from memlab.vectors import MemVector


@dataclass
class _Ladder:
    """One passage's search over the lengths of the grid."""

    passage: Passage
    lengths: Sequence[int]
    at: int
    """Index of the length to be tried next."""
    attempts: int
    best: int = -1
    """Index of the longest exact length so far."""
    failed: int = 10**9
    """Index of the shortest length that failed in all attempts."""
    tries: int = 0
    passes: int = 0
    tried: list[tuple[int, int, bool]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.failed - self.best <= 1 or self.at >= len(self.lengths) or self.at < 0

    def report(self, mem: MemVector) -> None:
        """Note an attempt, and choose the next: up after an exact one, again with another seed, then down."""
        self.passes += int(mem.provenance["token_passes"])
        self.tried.append((mem.n, mem.recipe.seed, mem.exact))
        if mem.exact:
            self.best, self.tries = max(self.best, self.at), 0
            self.at = self.at + 1
        else:
            self.tries += 1
            if self.tries >= self.attempts:
                self.failed, self.tries = min(self.failed, self.at), 0
                self.at = self.at - 1
        if self.at >= self.failed or self.at <= self.best:
            self.at = -1 if self.failed - self.best <= 1 else self.best + 1
