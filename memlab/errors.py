"""``MemlabError``: the base of every error that memlab raises on purpose."""

from __future__ import annotations

import os
import reprlib
import sys
from collections.abc import Iterable
from numbers import Integral
from typing import Any, ClassVar

import numpy as np


class MemlabError(Exception):
    """An error that a user can fix. The message says what happened and what to do.

    Each kind lives next to the code that raises it. It also inherits the built-in exception that it refines, so
    ``except ValueError`` still works. Any other exception is a bug in memlab.

    >>> from memlab import MemlabError, Recipe
    >>> try:
    ...     Recipe.default(k=0)
    ... except MemlabError as error:
    ...     print(error, error.exit_code)
    The recipe's k is 0. Give an integer from 1 to 2**63 - 1. 2
    """

    exit_code: ClassVar[int] = 1
    """Exit code of a command that ends with this error: 1 something failed, 2 bad input."""

    hint: ClassVar[str] = ""
    """What to do next, if the message alone does not say it. The command line prints it after the message."""


class ArgumentError(MemlabError, ValueError, TypeError):
    """An argument of a wrong type or value. The message names the argument and says what to give."""

    exit_code = 2


Kind = type | tuple[type, ...]


def require_type(argument: str, value: Any, kind: Kind, expected: str) -> None:
    """Raise ``ArgumentError`` if ``value`` is not of this kind. ``expected`` completes the sentence "Give ...".

    >>> require_type("store", "folder", int, "Store(folder)")
    Traceback (most recent call last):
    memlab.errors.ArgumentError: store is 'folder', which has the type str. Give Store(folder).
    """
    if not isinstance(value, kind):
        what = f"{reprlib.repr(value)}, which has the type {type(value).__name__}"
        raise ArgumentError(f"{argument} is {what}. Give {expected}.")


def require_path(argument: str, value: Any, expected: str) -> None:
    """Raise ``ArgumentError`` if ``value`` is not a path. An empty one would be the current folder."""
    require_type(argument, value, (str, os.PathLike), expected)
    if not os.fspath(value):
        raise ArgumentError(f"{argument} is empty. Give {expected}.")


def require_count(argument: str, value: Any) -> None:
    """Raise ``ArgumentError`` if ``value`` is not a whole number above 0."""
    if not isinstance(value, Integral) or value < 1:
        raise ArgumentError(f"{argument} is {reprlib.repr(value)}. Give a whole number above 0.")


def require_function(argument: str, value: Any) -> None:
    """Raise ``ArgumentError`` if ``value`` is neither a function nor None."""
    if value is not None and not callable(value):
        raise ArgumentError(f"{argument} is {reprlib.repr(value)}. Give a function, or leave {argument} out.")


def as_list(argument: str, value: Any, kind: Kind, expected: str) -> list[Any]:
    """One item of a kind, or several, as a list. Raises ``ArgumentError`` for anything else."""
    if isinstance(value, kind):
        return [value]
    items = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    for item in items:
        require_type(argument if item is value else f"an item of {argument}", item, kind, expected)
    return items


def plain_value(value: Any, depth: int = 1) -> Any:
    """Numbers of numpy, arrays and lists as numbers and tuples of Python: a list cannot be hashed, JSON has no numpy.

    A float32 or float16 becomes the shortest decimal that it stands for, 0.3 and not 0.30000001192092896. This is the
    number that is trained with, and that the key is made of. ``depth``: how many lists may lie inside each other.
    """
    if isinstance(value, np.ndarray):
        value = tuple(value) if value.ndim else value[()]
    if depth and isinstance(value, (list, tuple)):
        return tuple(plain_value(one, depth - 1) for one in value)
    if isinstance(value, np.floating):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def is_integer(value: Any) -> bool:
    """Whether ``value`` is an integer of Python, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number of Python, and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def are_ids(value: Any) -> bool:
    """Whether ``value`` is a tuple of token ids."""
    return isinstance(value, tuple) and all(is_integer(i) and 0 <= i < 2**63 for i in value)
