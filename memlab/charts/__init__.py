"""Charts: each function takes a table and returns an Altair chart. Nothing is computed here.

To add a chart, write its function in a module of this folder and add one line below. Decorate it with ``rows.chart``,
and give Altair ``rows.inline(table)``: then a table may be empty or long. ``name as name`` marks a public name for type
checkers.

>>> import pandas as pd
>>> from memlab import charts
>>> trace = pd.DataFrame({"step": [0, 1], "loss": [9.0, 4.0], "accuracy": [0.0, 0.5]})
>>> charts.to_svg(charts.training_curve(trace))[:4]
'<svg'
"""

from memlab.charts.attention import attention_map as attention_map
from memlab.charts.attention import knocked_out as knocked_out
from memlab.charts.attention import token_waterfall as token_waterfall
from memlab.charts.capacity import attempts_by_length as attempts_by_length
from memlab.charts.capacity import bits_along as bits_along
from memlab.charts.capacity import capacity_by_model as capacity_by_model
from memlab.charts.capacity import codec_bars as codec_bars
from memlab.charts.capacity import horizon_strip as horizon_strip
from memlab.charts.capacity import more_vectors as more_vectors
from memlab.charts.information import before_and_after as before_and_after
from memlab.charts.information import horizons_tokens_and_bits as horizons_tokens_and_bits
from memlab.charts.information import predictions as predictions
from memlab.charts.maps import densities as densities
from memlab.charts.maps import distance_matrix as distance_matrix
from memlab.charts.maps import norm_trajectories as norm_trajectories
from memlab.charts.maps import vector_map as vector_map
from memlab.charts.paths import along_a_path as along_a_path
from memlab.charts.paths import from_text_to_text as from_text_to_text
from memlab.charts.readings import readings as readings
from memlab.charts.robustness import loss_plane as loss_plane
from memlab.charts.robustness import radii_by_direction as radii_by_direction
from memlab.charts.robustness import survival as survival
from memlab.charts.robustness import survival_by_bits as survival_by_bits
from memlab.charts.scatter import scatter as scatter
from memlab.charts.search import exact_by_step as exact_by_step
from memlab.charts.search import spectrum as spectrum
from memlab.charts.search import speed_chart as speed_chart
from memlab.charts.tables import show as show
from memlab.charts.theme import save as save
from memlab.charts.theme import theme as theme
from memlab.charts.theme import to_image as to_image
from memlab.charts.theme import to_svg as to_svg
from memlab.charts.theme import use_offline_renderer as use_offline_renderer
from memlab.charts.training import training_curve as training_curve

__all__ = [name for name, value in globals().items() if getattr(value, "__module__", "").startswith(__name__)]
"""The public names above, without the modules, for ``import *``."""
