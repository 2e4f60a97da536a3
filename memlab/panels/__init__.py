"""Panels for notebooks: controls, charts and text around the toolkit. Nothing is computed here.

Each panel has a module of its own. ``base.py`` has what panels share; ``style.py`` and ``style.css`` have their look.
To add a panel, subclass ``LivePanel`` in a new module and add a line below. ``name as name`` marks a public name for
type checkers.

>>> from memlab.panels import cram_panel, setup
>>> lm, store = setup("toy:gemma3")
Loading Gemma 3, never trained ... ready: it reads vectors of 384 numbers, on the CPU.
>>> panel = cram_panel(lm, store)
"""

from __future__ import annotations

from memlab import charts
from memlab.charts.names import display
from memlab.models import FrozenLM, load
from memlab.panels.arithmetic import ArithmeticPanel as ArithmeticPanel
from memlab.panels.arithmetic import arithmetic_panel as arithmetic_panel
from memlab.panels.attention import AttentionPanel as AttentionPanel
from memlab.panels.attention import attention_panel as attention_panel
from memlab.panels.capacity import CapacityPanel as CapacityPanel
from memlab.panels.capacity import capacity_panel as capacity_panel
from memlab.panels.cram import CramPanel as CramPanel
from memlab.panels.cram import cram_panel as cram_panel
from memlab.panels.decoded import readout as readout
from memlab.panels.encoder import EncoderPanel as EncoderPanel
from memlab.panels.encoder import encoder_panel as encoder_panel
from memlab.panels.horizons import HorizonsInText as HorizonsInText
from memlab.panels.horizons import horizons_in_text as horizons_in_text
from memlab.panels.information import InformationPanel as InformationPanel
from memlab.panels.information import information_panel as information_panel
from memlab.panels.landscape import LandscapePanel as LandscapePanel
from memlab.panels.landscape import landscape_panel as landscape_panel
from memlab.panels.move import MovePanel as MovePanel
from memlab.panels.move import move_panel as move_panel
from memlab.panels.path import PathPanel as PathPanel
from memlab.panels.path import path_panel as path_panel
from memlab.panels.path import written_between as written_between
from memlab.panels.reader import ReaderPanel as ReaderPanel
from memlab.panels.reader import reader_panel as reader_panel
from memlab.panels.runs import RunPanel as RunPanel
from memlab.panels.runs import run_panel as run_panel
from memlab.panels.study import StudyPanel as StudyPanel
from memlab.panels.study import study_panel as study_panel
from memlab.panels.text_input import OWN as OWN
from memlab.panels.use import UsePanel as UsePanel
from memlab.panels.use import use_panel as use_panel
from memlab.panels.vector_map import MapPanel as MapPanel
from memlab.panels.vector_map import map_panel as map_panel
from memlab.results.store import Store


def setup(model: str = "smollm2-135m", store: Store | None = None) -> tuple[FrozenLM, Store]:
    """Call this first in a notebook: charts work offline. Returns (model, store); the default store is your own.

    Prints one line, because loading takes seconds.
    """
    charts.use_offline_renderer()
    print(f"Loading {display(model)} ... ", end="", flush=True)
    lm = load(model)
    print(f"ready: it reads vectors of {lm.d:,} numbers, on the {str(lm.device).upper()}.")
    return lm, store if store is not None else Store()


__all__ = [name for name, value in globals().items() if getattr(value, "__module__", "").startswith(__name__)]
"""The public names above, without the modules, for ``import *``."""
