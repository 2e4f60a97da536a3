"""What the panels of a notebook show at its end, for a page that has no kernel. Runs in the notebook's kernel."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

from memlab._version import __version__
from memlab.models import FrozenLM
from memlab.panels.style import displayed, parts
from memlab.scoring.timing import device_name

MIME = "application/vnd.memlab.snapshot+json"
CELL = f"""
from IPython.display import display
from memlab.pages.snapshot import snapshot
display({{"{MIME}": snapshot(globals().get("lm"))}}, raw=True)
"""
"""A code cell whose output is the snapshot of this notebook."""
WAIT = 120
"""The longest time that a panel's work is waited for, seconds."""


def snapshot(lm: Any = None) -> dict[str, Any]:
    """What each displayed panel shows, and where it ran.

    ``panels``: {model id of the widget: parts from top to bottom}; a part is HTML, or a chart's specification.

    >>> sorted(snapshot())
    ['facts', 'panels']
    """
    panels: dict[str, list[Any]] = {}
    for widget in displayed():
        if wait := getattr(widget, "wait", None):
            wait(WAIT)
        panels[str(widget.model_id)] = list(parts(widget))
    return {"panels": panels, "facts": facts(lm)}


def facts(lm: Any = None) -> dict[str, str]:
    """{what: value}: the model ``lm``, versions and the machine.

    >>> from memlab import load
    >>> facts(load("toy:llama"))["model"]
    'toy:llama, 384 numbers per vector'
    """
    import torch

    found = {}
    if isinstance(lm, FrozenLM):
        found["model"] = f"{lm.name}, {lm.d} numbers per vector"
        found["machine"] = f"{device_name(lm.device)}, {os.cpu_count()} cores"
    else:
        found["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    versions = {name: importlib.metadata.version(name) for name in ("transformers", "altair")}
    found["versions"] = ", ".join(
        [f"memlab {__version__}", f"Python {platform.python_version()}", f"torch {torch.__version__}"]
        + [f"{name} {version}" for name, version in versions.items()]
    )
    return found
