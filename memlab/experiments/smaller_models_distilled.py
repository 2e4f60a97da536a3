"""Distilled models, trained on the text of the encoders, which holds no passage of any evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from memlab.experiments.smaller_models import Distil
from memlab.models import FrozenLM
from memlab.models.sources import cache_folder
from memlab.results.checkpoints import CheckpointStore
from memlab.training.distillation import distil
from memlab.training.encoders.corpus import load_corpus

HELD_ROWS, HELD_TOKENS = 8, 256
"""Rows of held-out text, and their tokens."""
TELL_EVERY = 60.0
"""Seconds between two lines about the training."""


def distilled_folder() -> Path:
    """The folder of the distilled models, in the user's cache."""
    return cache_folder() / "distilled"


def on_corpus(minutes: float, folder: Path | None = None, *, log: Callable[[str], object] = lambda _: None) -> Distil:
    """A distillation of so many minutes. A killed one goes on, and a finished one is read, from ``folder``.

    The text is read at once: raises ``CorpusError`` if it is not there.
    """
    corpus = load_corpus()
    pieces = {part: corpus.pieces(part) for part in ("train", "choose")}

    def train(teacher: FrozenLM, student: FrozenLM) -> FrozenLM:
        told = time.perf_counter()

        def on_step(step: int, steps: int, loss: float) -> None:
            nonlocal told
            if time.perf_counter() - told > TELL_EVERY or step == steps:
                told = time.perf_counter()
                log(f"distilling: step {step} of {steps}, divergence {loss:.3f} bits a token")

        done = distil(
            teacher, student, ids_of(teacher, pieces["train"]), held_rows(teacher, pieces["choose"]), minutes=minutes,
            checkpoints=CheckpointStore(folder or distilled_folder()), on_step=on_step,
        )  # fmt: skip
        best = int(done.trace[:, 1].argmin())
        log(f"distilled for {done.steps} steps: {done.trace[0, 1]:.3f} to {done.trace[best, 1]:.3f} bits a token of "
            f"divergence on held-out text, the least after step {done.trace[best, 0]:.0f}")  # fmt: skip
        return done.lm

    return train


def ids_of(lm: FrozenLM, pieces: Sequence[str]) -> np.ndarray:
    """Token ids (N,) of the pieces, one after the other."""
    return np.array(lm.tokenizer("\n\n".join(pieces), add_special_tokens=False, verbose=False)["input_ids"], np.int64)


def held_rows(
    lm: FrozenLM, pieces: Sequence[str], rows: int = HELD_ROWS, tokens: int = HELD_TOKENS
) -> list[np.ndarray]:
    """Rows of token ids at equal distances in the pieces."""
    ids = ids_of(lm, pieces)
    tokens = min(tokens, len(ids))
    return [ids[start : start + tokens] for start in np.linspace(0, len(ids) - tokens, rows).astype(int)]
