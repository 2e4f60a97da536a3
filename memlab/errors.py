"""``MemlabError``: the base of every error that memlab raises on purpose."""

from __future__ import annotations

from typing import ClassVar


class MemlabError(Exception):
    """An error that a user can fix. The message says what happened and what to do.

    Each kind lives next to the code that raises it. It also inherits the built-in exception that it refines, so
    ``except ValueError`` still works. Any other exception is a bug in memlab.

    >>> from memlab import MemlabError, Recipe
    >>> try:
    ...     Recipe.default(k=0)
    ... except MemlabError as error:
    ...     print(error, error.exit_code)
    recipe.k is 0; expected an integer >= 1, below 2**63 2
    """

    exit_code: ClassVar[int] = 1
    """Exit code of a command that ends with this error: 1 something failed, 2 bad input."""

    hint: ClassVar[str] = ""
    """What to do next, if the message alone does not say it. The command line prints it after the message."""
