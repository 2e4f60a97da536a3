"""Every registered optimizer, with recipes to test it with. tests/test_optimizers.py runs each entry through the laws.

A new optimizer needs one entry here; a test fails without it.
"""

from memlab.recipes import Recipe

DEFAULT_OPTIMIZERS = {
    "rotation": {
        "recipes": [
            Recipe(rule="rotation", lr=0.4, norm=1.0, schedule="inverse", k=2, damping=0.01),
            Recipe(rule="rotation", lr=0.4, norm=1.0, schedule="inverse", k=2, damping=0.01, history=5, whiten=0.25),
        ],
        "state": {"steps", "at_noise", "inner.steps", "inner.gradients", "inner.gram"},
    },
    "fullmatrix": {
        "recipes": [Recipe(lr=0.3, k=2, budget=100), Recipe(lr=0.3, k=2, budget=100, history=5, weight_decay=0.01)],
        "state": {"steps", "gradients", "gram"},
    },
    "adamw": {
        "recipes": [
            Recipe(rule="adamw", lr=0.1, k=2, budget=100),
            Recipe.paper2025(lr=0.1, k=2, first_scored=1, weight_decay=0.001),
        ],
        "state": {"steps", "first", "second"},
    },
}
"""{name: its recipes, all with k=2, and the names of its arrays in a checkpoint}. A recipe must take a bowl with its
minimum at norm sqrt(d) to a tenth of the first loss in 100 steps. The names of the arrays are the checkpoint format:
if one changes, raise ``STATE`` in ``memlab/training/state.py``."""
