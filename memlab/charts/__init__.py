"""One function a picture: a table in, an Altair chart out. Nothing is computed here."""

from memlab.charts.capacity import (
    before_and_after,
    capacity_by_model,
    codec_bars,
    horizons_in_both,
    ladder,
    more_vectors,
    predictions,
    still_exact,
)
from memlab.charts.study import exact_by_step, horizon_strip, readings, spectrum, speed_chart, training_curve
from memlab.charts.theme import save, theme, to_svg, use_offline_renderer

__all__ = [
    "before_and_after",
    "capacity_by_model",
    "codec_bars",
    "exact_by_step",
    "horizon_strip",
    "horizons_in_both",
    "ladder",
    "more_vectors",
    "predictions",
    "readings",
    "save",
    "spectrum",
    "speed_chart",
    "still_exact",
    "theme",
    "to_svg",
    "training_curve",
    "use_offline_renderer",
]
