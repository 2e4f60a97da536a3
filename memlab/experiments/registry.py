"""The experiments by name. ``memlab bench NAME`` runs one.

To add an experiment, write one file next to this one and add one line to ``EXPERIMENTS``. If its function takes a
``Session`` and returns a table, ``memlab bench NAME`` exists at once; a command with more options is added to
``COMMANDS`` in ``memlab.cli.bench``. This file imports no experiment, so that a command that needs no model does not
wait for torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from memlab.errors import MemlabError


class UnknownExperimentError(MemlabError, LookupError):
    """No experiment has this name. The message lists those that exist."""

    exit_code = 2


@dataclass(frozen=True)
class Experiment:
    """An entry of ``EXPERIMENTS``."""

    name: str
    """``memlab bench NAME``."""
    function: str
    """``module:function`` in this package. Most functions return a table."""
    summary: str
    """One line: the question it answers."""

    @property
    def run(self) -> Callable[..., Any]:
        """The function, imported now."""
        module, _, name = self.function.partition(":")
        try:
            function: Callable[..., Any] = getattr(import_module(f"{__package__}.{module}"), name)
        except (ImportError, AttributeError) as error:
            raise UnknownExperimentError(
                f"The experiment {self.name!r} is {self.function!r}, which cannot be imported: {error}. Correct its "
                "line in EXPERIMENTS."
            ) from error
        return function


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("recovery", "recovery:recovery", "How much of a text comes back, by recipe and by how it is read."),
        Experiment("horizon", "horizon:horizon", "The longest prefix of each passage that is exact."),
        Experiment("sink", "sink_position:sink", "Where a special token helps: before the vectors, after, or nowhere."),
        Experiment("optimizer", "optimizer_study:study", "Candidates for the default recipe, at equal compute."),
        Experiment("speed", "speed:speed", "Time per passage that decodes: memlab and two published methods."),
        Experiment("step-profile", "step_profile:profile_steps", "Where a training step spends its time and memory."),
        Experiment("one-pass", "one_pass:one_pass", "Whether one pass proves what a free decode shows."),
        Experiment("precision", "precision:precision", "The fewest bits per number at which a vector still decodes."),
        Experiment("fewer-bits", "fewer_bits:fewer_bits", "The fewest bits of a vector by grids, bases and training."),
        Experiment("codecs", "codecs:coding", "The same passages as vectors, compressed bytes, and arithmetic code."),
        Experiment("travel", "travel:travel", "Which vectors stay exact in other programs, kernels and dtypes."),
        Experiment(
            "landscape",
            "landscape.measure:landscape",
            "Every way of storing a text for a model: bits stored, bits recovered.",
        ),
        Experiment(
            "information-capacity",
            "landscape.information_capacity:information_capacity_table",
            "What models save of a text's bits for what they cost, by a published formula.",
        ),
        Experiment("bundled", "bundled_vectors:train_bundled", "Train the vectors that come with memlab."),
        Experiment(
            "geometry", "geometry_tables:geometry_tables", "Where solutions lie: paths, radii, planes, attention."
        ),
        Experiment("kinds", "kinds:kinds", "Steps and horizons of kinds of text, next to what the predictor said."),
        Experiment(
            "prefix-tuning",
            "landscape.prefix_tuning:prefix_tuning",
            "How much more one position holds with a vector in every layer.",
        ),
        Experiment(
            "smaller-models",
            "smaller_models:smaller_models",
            "What rounding, pruning and fewer layers do to perplexity, to stored vectors and to new ones.",
        ),
        Experiment(
            "encoder-gap", "encoder_gap:encoder_gap", "A trained encoder against the search: tokens, bits and steps."
        ),
        Experiment(
            "warm-start",
            "encoder_warm_start:warm_start",
            "Whether a search from an encoder's vector needs fewer steps.",
        ),
        Experiment("use", "use:use", "What a vector is good for besides its own text, with controls."),
        Experiment("harm", "harm:harm", "What a vector does to a stranger's text, by distance and by layer."),
        Experiment(
            "use-training",
            "use_training:use_training",
            "What it costs to train a vector under several contexts at once, and whether others work then.",
        ),
        Experiment(
            "hidden-states",
            "hidden_states:hidden_states",
            "The vector's position layer by layer, and states of one run put into another.",
        ),
        Experiment("families", "families:families", "Which causal model types of transformers memlab works on."),
        Experiment("store-crash", "store_stress:crash_writers", "What a store holds after its writers were killed."),
        Experiment(
            "store-scale", "store_stress:time_large_store", "How long a large store takes to list, filter and verify."
        ),
    )
}
"""Every experiment by its name."""


def experiment(name: str) -> Experiment:
    """The experiment of this name. Raises ``UnknownExperimentError``.

    >>> experiment("sink").function
    'sink_position:sink'
    """
    if name not in EXPERIMENTS:
        raise UnknownExperimentError(f"There is no experiment {name!r}. Use one of: {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]
