"""The texts in the rows of a table: which column, which id, and what happens to a row without a text."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from memlab.texts.text import Text, TextError, with_unique_ids

COLUMNS = ("text", "content", "body")
"""Names of the text column, in any case, if the caller names none."""


def text_column(names: Collection[str], column: str | None, where: str) -> str:
    """The text column among ``names``: ``column``, or else the first of ``COLUMNS``.

    No other column is guessed, not even the only one: in a CSV file without a header it would be the first text.
    """
    found = _named(names, COLUMNS) if column is None else column
    if found is None or found not in names:
        wanted = " or ".join(COLUMNS) if column is None else repr(column)
        raise TextError(
            f"{where} has no column {wanted}. Name its text column with column= (on the command line: --column). "
            f"The columns are: {listed(names)}."
        )
    if list(names).count(found) > 1:
        raise TextError(f"{where} has two columns {found!r}. Rename one of them.")
    return found


def id_column(names: Collection[str]) -> str | None:
    """The column ``id``, in any case."""
    return _named(names, ("id",))


def texts_of_rows(
    rows: Iterable[tuple[str, Any]],
    stem: str,
    source: str,
    where: str,
    *,
    column: str | None = None,
    count: int | None = None,
    own_ids: bool = True,
) -> list[Text]:
    """The texts of the first rows, at most ``count``. A row is an object with a text column, or a text.

    ``rows`` yields each row with its place, for messages. Rows without a text are left out, with one warning. The id
    is the row's (``own_ids``), or else ``stem`` and the number of the row from 0.
    """
    texts: list[Text] = []
    empty: list[str] = []
    name = identity = None
    for number, (place, row) in enumerate(rows):
        if isinstance(row, dict):
            if name is None:
                name, identity = text_column(row, column, where), id_column(row) if own_ids else None
            value, given = row.get(name), row.get(identity)
        elif isinstance(row, str):
            value, given = row, None
        else:
            raise TextError(f"{where}, {place}, is {row!r:.80}. Give an object with a text column.")
        if _is_missing(value) or (isinstance(value, str) and not value.strip()):
            empty.append(place)
            continue
        if not isinstance(value, str):
            kind = "a chat or another list" if isinstance(value, list) else f"{type(value).__name__}, not a string"
            raise TextError(
                f"{where}, {place}: column {name!r} holds {kind}: {value!r:.80}. Give a column of strings with column= "
                "(on the command line: --column), or make one text of each row."
            )
        texts.append(Text(_id(given) or f"{stem}-{number}", value, source))
        if len(texts) == count:
            break
    if not texts:
        if empty:
            raise TextError(
                f"{where} has no text in {len(empty)} rows of column {name!r}. Give another column or file."
            )
        raise TextError(f"{where} has no rows. Give another file or data set.")
    if empty:
        warnings.warn(
            f"{where}: rows without a text were left out: {len(empty)} of {len(empty) + len(texts)}, the first at "
            f"{empty[0]}.",
            stacklevel=_frames_here(),
        )
    return with_unique_ids(texts)


def listed(names: Collection[str], most: int = 20) -> str:
    """Names for a message, at most ``most`` of them."""
    shown = ", ".join(str(name) for name in list(names)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _named(names: Collection[str], wanted: tuple[str, ...]) -> str | None:
    """The first of ``wanted`` among ``names``, as it is spelled there; the exact spelling is preferred."""
    for one in wanted:
        if one in names:
            return one
        if found := next((name for name in names if str(name).strip().lower() == one), None):
            return found
    return None


def _frames_here() -> int:
    """The number of frames up to the first one outside of this folder: a warning is about the caller's file."""
    frame, frames = sys._getframe(1), 1
    while frame.f_back and Path(frame.f_code.co_filename).parent == Path(__file__).parent:
        frame, frames = frame.f_back, frames + 1
    return frames


def _id(given: Any) -> str:
    """An id as a string. Tables with gaps hold whole numbers as floats: 11.0 is 11."""
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    return "" if _is_missing(given) else str(given).strip()


def _is_missing(value: Any) -> bool:
    """Whether a cell is empty: None, or NaN, which pandas writes."""
    return value is None or (isinstance(value, float) and math.isnan(value))
