"""Texts of Hugging Face data sets."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from memlab.texts.rows import listed, texts_of_rows
from memlab.texts.text import Text, TextError

SYNTAX = "hf:DATASET[:CONFIG[:SPLIT]]"
"""How ``load_texts`` and the command line name a data set. No name of the hub has a colon."""


def hugging_face(
    dataset: str, *, config: str | None = None, split: str = "validation", column: str | None = None, count: int = 100
) -> list[Text]:
    """The first ``count`` texts of a Hugging Face data set. Needs ``pip install 'memlab[data]'``.

    ``config`` is the configuration, for data sets with more than one. ``column`` is found as in ``from_path``. Rows
    without a text are left out, with a warning. Rows are streamed, at most 1,000 and 100 per text. Raises
    ``TextError``, which lists the names of configurations, splits or columns if one of them is wrong.
    """
    try:
        import datasets
    except ImportError:
        raise TextError("The package for Hugging Face data sets is missing. Run: pip install 'memlab[data]'") from None

    def rows() -> Iterator[tuple[str, Any]]:
        try:
            found = datasets.load_dataset(*filter(None, (dataset, config)), split=split, streaming=True)
            for number, row in enumerate(itertools.islice(found, 1000 + 100 * count), 1):
                yield f"row {number}", row
        except Exception as error:  # the hub's client raises many types
            raise _explained(error, dataset, config, split) from error

    parts = [dataset.rpartition("/")[2], *filter(None, [config]), split]
    return texts_of_rows(
        rows(), "-".join(parts), f"hf:{':'.join(filter(None, [dataset, config]))}/{split}", f"Data set {dataset}",
        column=column, count=count, own_ids=False,
    )  # fmt: skip


def from_name(name: str, *, column: str | None = None, count: int = 100) -> list[Text]:
    """The texts of a data set in the syntax ``SYNTAX``; an empty configuration or split is the default."""
    dataset, config, split, *more = [part.strip() for part in f"{name.removeprefix('hf:')}::".split(":")]
    if not dataset or any(more):
        raise TextError(f"{name!r} is not {SYNTAX}. Write it like hf:Salesforce/wikitext:wikitext-2-raw-v1:test.")
    return hugging_face(dataset, config=config or None, split=split or "validation", column=column, count=count)


def _explained(error: Exception, dataset: str, config: str | None, split: str) -> TextError:
    """The error of the ``datasets`` package in one line. It lists configurations or splits in square brackets."""
    message = " ".join(str(error).split()).rstrip(".")
    names = re.search(r"(config|split).*?\[(.*?)\]", message, re.IGNORECASE)
    if isinstance(error, ValueError) and names:
        what, choices = names[1].lower(), listed(re.findall(r"'([^']+)'", names[2]))
        if what == "split":
            return TextError(
                f"Data set {dataset} has no split {split!r}. Name one: hf:{dataset}:{config or ''}:SPLIT. "
                f"The splits are: {choices}."
            )
        problem = f"has no configuration {config!r}" if config else "has more than one configuration"
        return TextError(f"Data set {dataset} {problem}. Name one: hf:{dataset}:CONFIG. They are: {choices}.")
    return TextError(
        f"Data set {dataset!r} (split {split!r}) could not be read: {type(error).__name__}: {message[:300]}. "
        f"Name it as {SYNTAX}. Without a network, use a file, --texts originals or --texts random."
    )
