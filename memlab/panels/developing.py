"""A text that develops while it is crammed: grey tokens turn dark as the model gets them right."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as w
import numpy as np

from memlab.models import FrozenLM, Passage
from memlab.panels.decoded import show_decoded, token_pieces
from memlab.panels.tokens import TokenText
from memlab.results.mem_vector import MemVector

REDRAW_EVERY = 0.1
"""Seconds between two updates of the text."""
MOST = 1000
"""The largest number of steps that are kept, so that a long training needs no more memory."""


class Development:
    """What the model would have written at each step of a training, given the true text before each token.

    >>> seen = Development(np.array([5, 9, 2]))
    >>> for step, argmax in enumerate([[5, 1, 1], [5, 9, 1], [5, 1, 2], [5, 9, 2]]):
    ...     seen.add(step, np.array(argmax), 1.0)
    >>> seen.won.tolist()
    [0, 3, 2]
    >>> seen.right(1).tolist()
    [True, True, False]
    """

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids
        self.steps: list[int] = []
        self.bits: list[float] = []
        """Bits per token after each kept step."""
        self.argmax: list[np.ndarray] = []
        """(n,) int32 per kept step; -1 for tokens that are not scored."""
        self.won = np.full(len(ids), -1)
        """(n,) the step from which on a token has been right; -1 if it is not right now. Of all steps, not the kept."""
        self._every = 1

    def add(self, step: int, argmax: np.ndarray, bits: float) -> None:
        """Record a step. ``argmax``: the last n scored tokens of the passage."""
        row = np.full(len(self.ids), -1, np.int32)
        row[len(self.ids) - len(argmax) :] = argmax
        self.won = np.where(row != self.ids, -1, np.where(self.won < 0, step, self.won))
        if step % self._every == 0:
            self.steps.append(step)
            self.bits.append(bits)
            self.argmax.append(row)
        if len(self.steps) > MOST:  # keep half of them, twice as far apart
            self._every *= 2
            kept = [i for i, step in enumerate(self.steps) if step % self._every == 0]
            self.steps, self.bits = [self.steps[i] for i in kept], [self.bits[i] for i in kept]
            self.argmax = [self.argmax[i] for i in kept]

    def right(self, i: int) -> np.ndarray:
        """(n,) which tokens were right at the kept step number ``i``."""
        return np.asarray(self.argmax[i] == self.ids)


class DevelopingText(w.VBox):
    """The text, and below it a slider that goes back through the steps. ``picked`` is a step, or -1 for the end."""

    def __init__(self, lm: FrozenLM, on_place: Callable[[int], None]) -> None:
        """``on_place`` is called with the step whose text is shown, or -1 for the text decoded at the end."""
        self._lm, self._on_place, self._drawn = lm, on_place, 0.0
        self._seen = Development(np.array([], np.int64))
        self._pieces: list[str] = []
        self._end: tuple[MemVector, Any, Sequence[str]] | None = None
        self.text = TokenText("The text that is crammed", height="10em")
        self.play = w.Play(min=0, max=1, show_repeat=False, tooltip="See the text develop again")
        self.slider = w.IntSlider(
            min=0, max=1, description="Step", readout=False, style={"description_width": "40px"},
            layout=w.Layout(width="320px"), tooltip="Go back through the steps; arrow keys work too",
        )  # fmt: skip
        self.label = w.HTML()
        w.jslink((self.play, "value"), (self.slider, "value"))
        self.slider.observe(self._show_place, "value")
        self._player = w.HBox([self.play, self.slider, self.label], layout=w.Layout(align_items="center"))
        super().__init__([self.text])
        self.add_class("memlab-developing")

    @property
    def development(self) -> Development:
        """What was recorded of the last training."""
        return self._seen

    def preview(self, pieces: Sequence[str], used: int) -> None:
        """Show a text before training: the first ``used`` tokens will be crammed, the others will not."""
        self.clear()
        left = len(pieces) - used
        self.text.hint = "A bar shows where the text is cut: what follows in grey is left out." if left > 0 else ""
        self.text.show(pieces, kinds=[""] * used + ["beyond"] * left, bars=[used - 1] if left > 0 else [])

    def begin(self, passage: Passage) -> None:
        """Show a passage of which no token is right yet."""
        self.clear()
        self._seen, self._pieces = Development(passage.ids), token_pieces(self._lm, passage.ids)
        self.text.show(self._pieces, kinds=["waiting"] * len(self._pieces))

    def add(self, step: int, argmax: np.ndarray, bits: float) -> None:
        """Record a step and show it, if the last one has been in view for long enough."""
        self._seen.add(step, argmax, bits)
        if (now := time.perf_counter()) - self._drawn > REDRAW_EVERY:
            self._drawn = now
            self._show_step(len(self._seen.steps) - 1)

    def finish(self, mem: MemVector, ids: Any, notes: Sequence[str]) -> None:
        """Show what the vector decodes to; the slider goes back from there. ``notes``: a sentence per token."""
        self._end = mem, ids, notes
        steps = len(self._seen.steps)
        if steps > 1:
            self.slider.max = self.play.max = steps
            self.slider.value = self.play.value = steps
            self.play.interval, self.play.step = int(np.clip(4000 / steps, 80, 250)), -(-steps // 50)
            self.children = (self.text, self._player)
        self._show_place()

    def go_to(self, step: int) -> None:
        """Show the text as it was at this step."""
        if self._end and self._seen.steps:
            self.slider.value = int(np.argmin(np.abs(np.array(self._seen.steps) - step)))

    def clear(self) -> None:
        """Show nothing."""
        self.play.playing = False
        self._end, self.text.hint = None, ""
        self.children = tuple[w.Widget, ...]([self.text])
        self._seen, self._pieces = Development(np.array([], np.int64)), []
        self.text.clear()

    def _show_place(self, _: Any = None) -> None:
        if self._end is None:
            return
        i, steps = self.slider.value, self._seen.steps
        if i < len(steps) and len(steps) > 1:
            self._show_step(i)
            right = int(self._seen.right(i).sum())
            rest = f"{right} of {len(self._pieces)} right, {self._seen.bits[i]:.2f} bits per token"
            self._say(f"step {steps[i]} of {steps[-1]}: {rest}")
            self._on_place(steps[i])
        else:
            mem, ids, notes = self._end
            show_decoded(self.text, self._lm, mem, ids, notes=notes)
            self._say("decoded from the vector alone")
            self._on_place(-1)

    def _say(self, message: str) -> None:
        self.label.value = f'<span class="memlab-status">{message}</span>'

    def _show_step(self, i: int) -> None:
        seen, right = self._seen, self._seen.right(i)
        tips = []
        for at, good in enumerate(right):
            what = "right" if good else "not scored"
            if not good and seen.argmax[i][at] >= 0:
                what = f"the model would write {self._lm.decode_ids([int(seen.argmax[i][at])])!r}"
            tips.append(f"Token {at + 1} at step {seen.steps[i]}: {what}.")
        self.text.show(self._pieces, kinds=["right" if good else "waiting" for good in right], tips=tips, keep=True)
