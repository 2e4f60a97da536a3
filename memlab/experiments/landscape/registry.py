"""The families of methods. To add a method, add it to the ``methods`` of its family's file."""

from __future__ import annotations

from importlib import import_module

from memlab.experiments.landscape.method import LandscapeError, Method
from memlab.results.store import Store

FAMILIES = {
    "F1": ("vectors",),
    "F2": ("prompts",),
    "F3": ("soft",),
    "F4": ("caches",),
    "F5": ("codes",),
    "F6": ("shelves", "retrieval"),
}
"""{family: files next to this one}. F7, smaller models, stores nothing of a text; see ``smaller_models``."""


def methods(shelf: Store, families: list[str] | None = None, only: list[str] | None = None) -> list[Method]:
    """The methods of some families, or those of these names. ``shelf``: the store with the vectors of the passages.

    Raises ``LandscapeError`` for a family or a name that does not exist.
    """
    chosen: list[Method] = []
    for family in families or FAMILIES:
        if family not in FAMILIES:
            raise LandscapeError(f"There is no family {family!r}. Use one of: {', '.join(FAMILIES)}.")
        for file in FAMILIES[family]:
            chosen += import_module(f"{__package__}.{file}").methods(shelf)
    names = [method.name for method in chosen]
    if unknown := [name for name in only or () if name not in names]:
        raise LandscapeError(f"There is no method {unknown[0]!r}. Use one of: {'; '.join(names)}.")
    return [method for method in chosen if not only or method.name in only]


def of_length(chosen: list[Method], tokens: int) -> list[Method]:
    """The methods that take passages of this many tokens: methods of encoders are for one length."""
    return [method for method in chosen if getattr(method, "tokens", tokens) == tokens]
