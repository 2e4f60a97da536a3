"""Geometry of mem vectors: distances, maps, probes, dimensions, paths. Each measure comes with its null model.

Arrays in, numbers out, no language model. ``x`` is (n, d): n solutions, each with its k vectors in one row. A null
model is a permutation of the data, or random points with the data's spectrum. Every draw has a seed.

``name as name`` marks a public name for type checkers.
"""

from memlab.measures.geometry.dimensions import components_for as components_for
from memlab.measures.geometry.dimensions import intrinsic_dimension as intrinsic_dimension
from memlab.measures.geometry.dimensions import participation as participation
from memlab.measures.geometry.dimensions import spectrum_null as spectrum_null
from memlab.measures.geometry.dimensions import trajectory as trajectory
from memlab.measures.geometry.distances import Apart as Apart
from memlab.measures.geometry.distances import OwnWord as OwnWord
from memlab.measures.geometry.distances import binned as binned
from memlab.measures.geometry.distances import cosines as cosines
from memlab.measures.geometry.distances import dropout_distance as dropout_distance
from memlab.measures.geometry.distances import nearest as nearest
from memlab.measures.geometry.distances import own_among_nearest as own_among_nearest
from memlab.measures.geometry.distances import spherical_null as spherical_null
from memlab.measures.geometry.distances import unit as unit
from memlab.measures.geometry.distances import within_and_between as within_and_between
from memlab.measures.geometry.maps import Map as Map
from memlab.measures.geometry.maps import flat_map as flat_map
from memlab.measures.geometry.maps import neighbours_kept as neighbours_kept
from memlab.measures.geometry.maps import on_linear_map as on_linear_map
from memlab.measures.geometry.paths import along_paths as along_paths
from memlab.measures.geometry.paths import barrier as barrier
from memlab.measures.geometry.paths import barriers as barriers
from memlab.measures.geometry.paths import bezier as bezier
from memlab.measures.geometry.paths import comparable_places as comparable_places
from memlab.measures.geometry.paths import exact_radius as exact_radius
from memlab.measures.geometry.paths import line as line
from memlab.measures.geometry.probes import Probe as Probe
from memlab.measures.geometry.probes import probe as probe
