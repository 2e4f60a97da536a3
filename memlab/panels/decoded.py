"""Decoded text as HTML: wrong tokens are marked, and a summary of the vector's checks is above the text."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as w

from memlab.decoding.decode import decode
from memlab.models import FrozenLM
from memlab.panels.style import STYLE, StaticCopy, box
from memlab.results.checks import EXACT, latest
from memlab.results.mem_vector import MemVector


def readout(lm: FrozenLM, mem: MemVector) -> w.HTML:
    """Decode a vector now, and show the text next to the checks and the teacher-forced accuracy stored with it."""
    return Readout(STYLE + readout_html(lm, mem, decode(lm, [mem], batch=1)[0]))


class Readout(StaticCopy, w.HTML):
    """The widget of ``readout``."""


def readout_html(lm: FrozenLM, mem: MemVector, ids: Any) -> str:
    """HTML of the decoded token ids ``ids`` (n,) of a vector, wrong tokens marked, with a summary above."""
    exact_check = latest(mem.checks).get(EXACT)
    truth = ids if mem.redaction else mem.token_ids  # a redacted vector has no token ids to compare with
    right = int((ids == truth).sum())
    verdict = "<b>exact</b>" if mem.exact else "<b>not exact</b>"
    facts = [f"{mem.n} tokens in {mem.k} vector{'s' if mem.k > 1 else ''}: {verdict}"]
    if not mem.redaction:
        facts.append(f"{right} of {mem.n} tokens right")
    if mem.teacher_forced is not None:
        facts.append(f"teacher-forced {mem.teacher_forced:.1%}")
    if exact_check and mem.exact:
        facts.append(f"smallest margin {exact_check.margin:.2f}")
    head = f'<div class="memlab-text">Decoded from the vector alone &mdash; {" &middot; ".join(facts)}</div>'
    return head + box(marked(lm, ids, truth), "memlab-decoded")


def marked(lm: FrozenLM, ids: Any, truth: Any) -> str:
    """HTML of decoded token ids; tokens that differ from ``truth`` are marked, and their tooltip shows the true token.

    >>> from memlab import load
    >>> lm = load("toy:llama")
    >>> marked(lm, lm.passage("cat").ids, lm.passage("cat").ids)
    '<span class="memlab-text">cat</span>'
    """
    pieces = []
    for i, (piece, token, true) in enumerate(zip(token_pieces(lm, ids), ids, truth, strict=True)):
        shown = html.escape(piece).replace("\n", "&#8629;<br>")
        if token == true:
            pieces.append(shown)
        else:
            tip = html.escape(f"token {i + 1}: should be {lm.decode_ids([true])!r}", quote=True)
            pieces.append(f'<span class="memlab-wrong" title="{tip}">{shown or "&middot;"}</span>')
    return f'<span class="memlab-text">{"".join(pieces)}</span>'


def token_pieces(lm: FrozenLM, ids: Any) -> list[str]:
    """(n,) the characters that each token adds to the text. A character of several tokens belongs to the last one."""
    pieces, before = [], ""
    for i, token in enumerate(ids):
        text = lm.decode_ids(ids[: i + 1])
        pieces.append(text[len(before) :] if text.startswith(before) else lm.decode_ids([token]))
        before = text
    return pieces
