"""``MemlabError``: the base of every error that memlab raises on purpose."""

from __future__ import annotations

from typing import ClassVar


class MemlabError(Exception):
    """An error that a user can fix. The message says what happened and what to do.

    Each kind lives beside the code that raises it, and also inherits the built-in exception it refines, so that
    ``except ValueError`` still works. Anything that is not a ``MemlabError`` is a bug in memlab.
    """

    exit_code: ClassVar[int] = 1
    """Exit code of a command that ends with this error: 1 something failed, 2 bad input."""

    hint: ClassVar[str] = ""
    """What to do next, if the message alone does not say it. The command line prints it after the message."""
