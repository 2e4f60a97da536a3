"""memlab: how much text fits into a few input vectors of a frozen language model, and what those vectors look like.

Names are imported when first used, so that reading a store does not wait for torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from memlab._version import __version__

# OpenMP's idle threads spin by default. Next to any other busy program that makes training several times slower (36 s
# instead of 10 s on two cores); alone, both take the same time. Set before torch is imported. A value of yours is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# oneDNN keeps 1024 kernels by default, one for each new number of rows. In bfloat16, passages of 40 lengths keep 465
# MB, and 315 MB with 64 kernels, in the same time (130 and 125 s on an AMD EPYC; none kept at all: twice the time).
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

if TYPE_CHECKING:
    from memlab.decoding.decode import check, decode
    from memlab.decoding.embeddings import to_embeds
    from memlab.decoding.peft import export_peft
    from memlab.errors import MemlabError
    from memlab.models import FrozenLM, ModelError, Passage, PassageError, load
    from memlab.recipes import Recipe, RecipeError
    from memlab.results.checks import Check
    from memlab.results.mem_vector import MemVector, VectorError
    from memlab.results.store import Store, StoreError
    from memlab.sweeps.runner import Plan, run
    from memlab.texts import Text, TextError, load_texts
    from memlab.training.cram import CramInterrupted, Progress, cram

_HOMES = {
    "memlab.errors": ("MemlabError",),
    "memlab.training.cram": ("CramInterrupted", "Progress", "cram"),
    "memlab.decoding.decode": ("check", "decode"),
    "memlab.decoding.embeddings": ("to_embeds",),
    "memlab.decoding.peft": ("export_peft",),
    "memlab.models": ("FrozenLM", "ModelError", "Passage", "PassageError", "load"),
    "memlab.recipes": ("Recipe", "RecipeError"),
    "memlab.sweeps.runner": ("Plan", "run"),
    "memlab.results.store": ("Store", "StoreError"),
    "memlab.texts": ("Text", "TextError", "load_texts"),
    "memlab.results.checks": ("Check",),
    "memlab.results.mem_vector": ("MemVector", "VectorError"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Check",
    "CramInterrupted",
    "FrozenLM",
    "MemVector",
    "MemlabError",
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
    "export_peft",
    "load",
    "load_texts",
    "run",
    "to_embeds",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'memlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
