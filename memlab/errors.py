"""``MemlabError``: the base of every error that memlab raises on purpose."""

from __future__ import annotations

import reprlib
from typing import Any, ClassVar


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


class WrongTypeError(MemlabError, TypeError):
    """An argument of the wrong type. The message names the argument and says what to give."""

    exit_code = 2


def require_type(argument: str, value: Any, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise ``WrongTypeError`` if ``value`` is not of this kind. ``expected`` completes the sentence "Give ...".

    >>> require_type("store", "folder", int, "Store(folder)")
    Traceback (most recent call last):
    memlab.errors.WrongTypeError: store is 'folder', which has the type str. Give Store(folder).
    """
    if not isinstance(value, kind):
        raise WrongTypeError(
            f"{argument} is {reprlib.repr(value)}, which has the type {type(value).__name__}. Give {expected}."
        )
