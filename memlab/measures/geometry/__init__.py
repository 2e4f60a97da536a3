"""Geometry of mem vectors: distances, maps, probes, dimensions, paths. Each measure comes with its null model.

Arrays in, numbers out, no language model. ``x`` is (n, d): n solutions, each with its k vectors in one row. A null
model is a permutation of the data, or random points with the data's spectrum. Every draw has a seed.
"""

from memlab.measures.geometry.dimensions import (
    components_for,
    intrinsic_dimension,
    participation,
    spectrum_null,
    trajectory,
)
from memlab.measures.geometry.distances import (
    Apart,
    OwnWord,
    binned,
    cosines,
    dropout_distance,
    nearest,
    own_among_nearest,
    spherical_null,
    unit,
    within_and_between,
)
from memlab.measures.geometry.maps import Map, flat_map, neighbours_kept
from memlab.measures.geometry.paths import (
    along_paths,
    barrier,
    barriers,
    bezier,
    comparable_places,
    exact_radius,
    line,
)
from memlab.measures.geometry.probes import Probe, probe

__all__ = [
    "Apart",
    "Map",
    "OwnWord",
    "Probe",
    "along_paths",
    "barrier",
    "barriers",
    "bezier",
    "binned",
    "comparable_places",
    "components_for",
    "cosines",
    "dropout_distance",
    "exact_radius",
    "flat_map",
    "intrinsic_dimension",
    "line",
    "nearest",
    "neighbours_kept",
    "own_among_nearest",
    "participation",
    "probe",
    "spectrum_null",
    "spherical_null",
    "trajectory",
    "unit",
    "within_and_between",
]
