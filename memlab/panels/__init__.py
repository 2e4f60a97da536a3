"""Panels for notebooks: charts and ipywidgets around the toolkit. No numerics here."""

from __future__ import annotations

from memlab import charts
from memlab.models import FrozenLM, load
from memlab.panels.capacity import CapacityPanel, InformationPanel, capacity_panel, information_panel
from memlab.panels.cram import OWN, CramPanel, cram_panel, marked, readout
from memlab.panels.geometry import (
    AttentionPanel,
    MapPanel,
    MovePanel,
    PathPanel,
    attention_panel,
    map_panel,
    move_panel,
    path_panel,
)
from memlab.panels.runs import RunPanel, run_panel
from memlab.panels.study import StudyPanel, study_panel
from memlab.results.store import Store

__all__ = [
    "OWN",
    "AttentionPanel",
    "CapacityPanel",
    "CramPanel",
    "InformationPanel",
    "MapPanel",
    "MovePanel",
    "PathPanel",
    "RunPanel",
    "StudyPanel",
    "attention_panel",
    "capacity_panel",
    "cram_panel",
    "information_panel",
    "map_panel",
    "marked",
    "move_panel",
    "path_panel",
    "readout",
    "run_panel",
    "setup",
    "study_panel",
]


def setup(model: str = "smollm2-135m", store: Store | None = None) -> tuple[FrozenLM, Store]:
    """First line of a notebook: charts that need no network, the model, and the user's store."""
    charts.use_offline_renderer()
    return load(model), store if store is not None else Store()
