"""memlab: how much text fits into a few input vectors of a frozen language model, and what those vectors look like.

Names are imported when first used, so that reading a store does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memlab._version import __version__

if TYPE_CHECKING:
    from memlab.checks import Check
    from memlab.cramming import CramInterrupted, Progress, cram
    from memlab.decoding import check, decode
    from memlab.models import FrozenLM, ModelError, Passage, PassageError, load
    from memlab.recipes import Recipe, RecipeError
    from memlab.runs import Plan, run
    from memlab.store import Store, StoreError
    from memlab.texts import Text, TextError, load_texts
    from memlab.vectors import MemVector, VectorError

_HOMES = {
    "memlab.cramming": ("CramInterrupted", "Progress", "cram"),
    "memlab.decoding": ("check", "decode"),
    "memlab.models": ("FrozenLM", "ModelError", "Passage", "PassageError", "load"),
    "memlab.recipes": ("Recipe", "RecipeError"),
    "memlab.runs": ("Plan", "run"),
    "memlab.store": ("Store", "StoreError"),
    "memlab.texts": ("Text", "TextError", "load_texts"),
    "memlab.checks": ("Check",),
    "memlab.vectors": ("MemVector", "VectorError"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Check",
    "CramInterrupted",
    "FrozenLM",
    "MemVector",
    "ModelError",
    "Passage",
    "PassageError",
    "Plan",
    "Progress",
    "Recipe",
    "RecipeError",
    "Store",
    "StoreError",
    "Text",
    "TextError",
    "VectorError",
    "__version__",
    "check",
    "cram",
    "decode",
    "load",
    "load_texts",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'memlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
