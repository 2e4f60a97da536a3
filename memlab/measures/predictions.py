"""What was predicted before a run, next to what the run gave."""

from __future__ import annotations

from typing import Any

import numpy as np


def compared(prediction: Any, measured: float) -> dict[str, Any]:
    """The fields of a prediction, ``measured``, and ``held``: whether it lies from its ``low`` to its ``high``.

    ``held`` is None if nothing was measured (NaN).
    """
    held = None if np.isnan(measured) else bool(prediction.low <= measured <= prediction.high)
    return vars(prediction) | {"measured": measured, "held": held}
