"""``InstantPanel``: a panel that needs no button, because its work takes about a second."""

from __future__ import annotations

from typing import Any

from memlab.panels.base import LivePanel

PAUSE = 0.15
"""Seconds without a further change after which work begins, so that a moving slider does not start it at each place."""


class InstantPanel(LivePanel):
    """A panel whose ``work`` runs in its thread each time a control changes. The latest change wins.

    >>> class SquarePanel(InstantPanel):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.x = 3
    ...         self.show_widgets("square", self.status)
    ...
    ...     def work(self):
    ...         self.show_status(f"Done: {self.x**2}")
    >>> panel = SquarePanel()
    >>> panel.ask()
    >>> panel.wait()
    >>> "Done: 9" in panel.status.value
    True
    """

    def __init__(self) -> None:
        super().__init__("Look", icon="search", tooltip="Look", stops=False)  # a button that is not shown

    def ask(self, _: Any = None) -> None:
        """Do the work soon, for the values that the controls have then."""
        self.show_status("Looking ...")
        self._thread.submit_latest(self._guarded, pause=PAUSE)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        self.wait(10)  # the copy for pages without widgets shows what was found
        return super()._repr_mimebundle_(**options)
