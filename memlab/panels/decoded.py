"""Decoded text in panels: an outcome that is seen at a glance, and the text with its wrong tokens marked.

For panels, after ``ids = decode(lm, [mem], batch=1)[0]``:

* ``outcome_badge(mem, ids)``: HTML of the badge: Exact, or Not exact with the number of wrong tokens;
* ``decoded_facts(lm, mem, ids)``: HTML of the badge, and one line of facts next to it;
* ``show_decoded(token_text, lm, mem, ids, notes=())``: the text in a ``TokenText``, scrolled to the first wrong token;
* ``show_mixture(token_text, lm, mixture)``: the text that a mixture of two vectors writes.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as w
import numpy as np

from memlab.charts.names import counted
from memlab.decoding.decode import decode
from memlab.models import FrozenLM
from memlab.panels.style import StaticCopy, badge, style_sheet
from memlab.panels.tokens import TokenText
from memlab.probes.arithmetic import Mixture
from memlab.results.checks import EXACT, latest
from memlab.results.mem_vector import MemVector

HINT = "Point at a token, or use the arrow keys. Below a wrong token stands the right one."


def readout(lm: FrozenLM, mem: MemVector) -> Readout:
    """Decode a vector now, and show the text next to the checks and the teacher-forced accuracy stored with it."""
    return Readout(lm, mem)


class Readout(StaticCopy, w.VBox):
    """The widget of ``readout``: ``facts`` (HTML) above ``text`` (``TokenText``)."""

    def __init__(self, lm: FrozenLM, mem: MemVector) -> None:
        ids = decode(lm, [mem], batch=1)[0]
        self.facts, self.text = w.HTML(decoded_facts(lm, mem, ids)), TokenText("Text decoded from the vector alone")
        show_decoded(self.text, lm, mem, ids)
        super().__init__([self.facts, self.text, style_sheet()])
        self.layout.max_width = "1100px"


def wrong_tokens(mem: MemVector, ids: Any) -> np.ndarray:
    """Indices of the decoded token ids ``ids`` (n,) that differ from the vector's text. None for a redacted vector."""
    return np.array([], int) if mem.redaction else np.flatnonzero(np.asarray(ids) != mem.token_ids)


def outcome_badge(mem: MemVector, ids: Any) -> str:
    """HTML of the badge for a vector that decodes to ``ids`` (n,). Only an exact check makes it say "Exact".

    >>> from memlab import Recipe, cram, load
    >>> lm = load("toy:llama")
    >>> (mem,) = cram(lm, lm.passage_of_ids([5, 9, 2]), Recipe.default(k=4), progress=False)
    >>> outcome_badge(mem, [5, 9, 2])
    '<span class="memlab-badge memlab-badge-exact">Exact</span>'
    >>> outcome_badge(mem, [5, 9, 7])
    '<span class="memlab-badge memlab-badge-wrong">Not exact: 1 of 3 tokens wrong, first at 3</span>'
    """
    wrong = wrong_tokens(mem, ids)
    if len(wrong):
        return badge("wrong", f"Not exact: {len(wrong)} of {mem.n} tokens wrong, first at {wrong[0] + 1}")
    if mem.exact:
        return badge("exact", "Exact")
    return badge("plain", "No text to compare with" if mem.redaction else f"All {mem.n} tokens right, not checked")


def decoded_facts(lm: FrozenLM, mem: MemVector, ids: Any, *, first: str = "") -> str:
    """HTML: the badge, the size of text and vector, the first wrong token, and the readings stored with the vector.

    ``first``: HTML of another badge before it.
    """
    facts = [f"{counted(mem.n, 'token')} in {counted(len(mem.mem), 'vector')}"]
    if len(wrong := wrong_tokens(mem, ids)):
        at = int(wrong[0])
        wrote, right = (lm.decode_ids([int(token)]) for token in (ids[at], mem.token_ids[at]))
        facts.append(f"token {at + 1} is {wrote!r} and should be {right!r}")
    if mem.teacher_forced is not None:
        facts.append(f"teacher-forced {mem.teacher_forced:.1%}")
    if (check := latest(mem.checks).get(EXACT)) and mem.exact:
        facts.append(f"smallest margin {check.margin:.2f} logits")
    shown = " &middot; ".join(html.escape(fact) for fact in facts)
    return f'<div class="memlab-text">{first}{outcome_badge(mem, ids)}{shown}</div>'


def show_decoded(text: TokenText, lm: FrozenLM, mem: MemVector, ids: Any, *, notes: Sequence[str] = ()) -> None:
    """Show decoded token ids ``ids`` (n,). Below each wrong token stands the right one; the first one is in view.

    ``notes``: one further sentence per token, for the line below the text.
    """
    truth, wrong = mem.token_ids, set(wrong_tokens(mem, ids).tolist())
    right = {i: lm.decode_ids([int(truth[i])]) for i in wrong}
    tips = []
    for i in range(len(ids)):
        tip = f"Token {i + 1}: wrong, should be {right[i]!r}." if i in wrong else f"Token {i + 1}: right."
        tips.append(" ".join(filter(None, ["" if mem.redaction else tip, notes[i] if notes else ""])))
    text.hint = HINT if wrong else ""
    text.show(
        token_pieces(lm, ids),
        kinds=["" if mem.redaction else "wrong" if i in wrong else "right" for i in range(len(ids))],
        below=[visible(right[i]) if i in wrong else "" for i in range(len(ids))],
        tips=tips,
        focus=min(wrong, default=-1),
    )


def show_mixture(text: TokenText, lm: FrozenLM, mixture: Mixture, *, names: tuple[str, str] = ("A", "B")) -> list[str]:
    """Show what a mixture of two vectors writes, each token marked by the text that has it there.

    Returns the name of that text per token: one of ``names``, ``both`` or ``neither``.
    """
    whose = [
        {(True, True): "both", (True, False): names[0], (False, True): names[1]}.get((mine, its), "neither")
        for mine, its in zip(mixture.of_a.tolist(), mixture.of_b.tolist(), strict=True)
    ]
    kinds = {names[0]: "first", names[1]: "second", "both": "both", "neither": ""}
    tips = [
        f"Token {i + 1}: of {name}; it leads the next best by {lead:.2f} logits."
        for i, (name, lead) in enumerate(zip(whose, mixture.leads, strict=True))
    ]
    text.show(token_pieces(lm, mixture.ids), kinds=[kinds[name] for name in whose], tips=tips)
    return whose


def visible(piece: str) -> str:
    """A token's characters on one line, also if they are spaces.

    >>> visible(" "), visible("a\\n")
    ('␣', 'a↵')
    """
    shown = piece.replace("\n", "↵")
    return shown.strip() or "␣" * len(shown) or "·"


def token_pieces(lm: FrozenLM, ids: Any) -> list[str]:
    """(n,) the characters that each token adds to the text. A character of several tokens belongs to the last one."""
    pieces, before = [], ""
    for i, token in enumerate(ids):
        text = lm.decode_ids(ids[: i + 1])
        if i + 1 < len(ids):
            text = text.rstrip("\ufffd")  # the first bytes of a character that the next tokens complete
        pieces.append(text[len(before) :] if text.startswith(before) else lm.decode_ids([token]))
        before = text
    return pieces
