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

from memlab.charts.attention import attention_by_layer as attention_by_layer
from memlab.charts.attention import attention_map as attention_map
from memlab.charts.attention import attention_view as attention_view
from memlab.charts.attention import knocked_out as knocked_out
from memlab.charts.attention import step_ratios as step_ratios
from memlab.charts.capacity import bits_per_number as bits_per_number
from memlab.charts.capacity import capacity_by_model as capacity_by_model
from memlab.charts.capacity import codec_bars as codec_bars
from memlab.charts.capacity import horizon_strip as horizon_strip
from memlab.charts.capacity import more_vectors as more_vectors
from memlab.charts.distances import densities as densities
from memlab.charts.distances import distance_matrix as distance_matrix
from memlab.charts.distances import norm_trajectories as norm_trajectories
from memlab.charts.distances import probes as probes
from memlab.charts.encoders import encoder_recovery as encoder_recovery
from memlab.charts.encoders import gap_units as gap_units
from memlab.charts.encoders import searches_from as searches_from
from memlab.charts.encoders import steps_saved as steps_saved
from memlab.charts.expected import predicted_and_measured as predicted_and_measured
from memlab.charts.hidden_states import by_layer as by_layer
from memlab.charts.information import before_and_after as before_and_after
from memlab.charts.information import cut_into_tokens as cut_into_tokens
from memlab.charts.information import horizons_tokens_and_bits as horizons_tokens_and_bits
from memlab.charts.information import predictions as predictions
from memlab.charts.information import spread_by_charge as spread_by_charge
from memlab.charts.landscape import bit_prices as bit_prices
from memlab.charts.landscape import by_share_kept as by_share_kept
from memlab.charts.landscape import landscape_map as landscape_map
from memlab.charts.maps import training_paths as training_paths
from memlab.charts.maps import vector_map as vector_map
from memlab.charts.paths import along_a_path as along_a_path
from memlab.charts.paths import barriers_of_paths as barriers_of_paths
from memlab.charts.paths import exact_places as exact_places
from memlab.charts.paths import from_text_to_text as from_text_to_text
from memlab.charts.readings import readings as readings
from memlab.charts.robustness import bits_by_length as bits_by_length
from memlab.charts.robustness import loss_planes as loss_planes
from memlab.charts.robustness import radii_by_direction as radii_by_direction
from memlab.charts.robustness import radius_by as radius_by
from memlab.charts.robustness import survival as survival
from memlab.charts.robustness import survival_by_bits as survival_by_bits
from memlab.charts.robustness import tries_on_survival as tries_on_survival
from memlab.charts.runs import bits_along as bits_along
from memlab.charts.runs import run_strip as run_strip
from memlab.charts.scatter import scatter as scatter
from memlab.charts.search import exact_by_step as exact_by_step
from memlab.charts.search import spectrum as spectrum
from memlab.charts.search import speed_chart as speed_chart
from memlab.charts.search import speed_ratios as speed_ratios
from memlab.charts.search import two_steps as two_steps
from memlab.charts.smaller_models import what_breaks_first as what_breaks_first
from memlab.charts.smaller_models import what_is_left as what_is_left
from memlab.charts.tables import show as show
from memlab.charts.theme import save as save
from memlab.charts.theme import theme as theme
from memlab.charts.theme import to_image as to_image
from memlab.charts.theme import to_svg as to_svg
from memlab.charts.theme import use_offline_renderer as use_offline_renderer
from memlab.charts.tokens import token_bits as token_bits
from memlab.charts.tokens import token_margins as token_margins
from memlab.charts.training import training_curve as training_curve
from memlab.charts.use import harm_along as harm_along
from memlab.charts.use import harm_left as harm_left
from memlab.charts.use import uses as uses
from memlab.charts.words import nearest_words as nearest_words
from memlab.charts.words import words_instead as words_instead

__all__ = [name for name, value in globals().items() if getattr(value, "__module__", "").startswith(__name__)]
"""The public names above, without the modules, for ``import *``."""
