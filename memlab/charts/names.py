"""Names as a reader sees them: of columns, recipes, kinds of text and texts. One table for all charts and panels.

>>> display("median_steps"), display("paper2025"), display("classics")
('median steps', 'recipe of arXiv 2502.13063', 'novels')
>>> text_title("fiction-salt-ferry"), text_title("random-0-004")
('Salt ferry (fiction)', 'Random words 4')
"""

from __future__ import annotations

import re

_KINDS = (
    "long-essay", "long-fiction", "long-lecture", "long-report", "court", "dialogue", "diary", "essay", "fiction",
    "instructions", "lecture", "letter", "news", "report", "review", "science", "speech", "technical", "travel",
    "verse",
)  # fmt: skip

NAMES = {
    # Recipes, and where they come from.
    "default": "memlab", "ours": "memlab", "incumbent": "memlab", "rotation": "memlab",
    "paper2025": "recipe of arXiv 2502.13063", "published": "recipe of arXiv 2502.13063",
    "as published, arXiv 2502.13063": "recipe of arXiv 2502.13063",
    "as published, arXiv 2607.21231": "recipe of arXiv 2607.21231",
    "fullmatrix": "first default", "the first default": "first default",
    "free norm, cosine, lr 2 (the first default)": "first default",
    # Settings of the optimizer study.
    "whiten 0.0": "no preconditioner", "whiten 0.125": "its power 0.125", "whiten 0.375": "its power 0.375",
    "whiten 0.5": "its power 0.5", "a BOS behind it": "a BOS token after it",
    # Kinds of text.
    "originals": "our own prose", "prose": "our own prose", "classics": "novels", "pg19": "novels",
    "random": "random words",
    # Codecs.
    "arithmetic": "arithmetic coder", "UTF-8": "plain text (UTF-8)",
    # Models.
    "smollm2-135m": "SmolLM2-135M", "smollm2-360m": "SmolLM2-360M", "smollm2-1.7b": "SmolLM2-1.7B",
    "gemma-3-270m": "Gemma-3-270M", "gemma-3-1b": "Gemma-3-1B", "llama-3.2-1b": "Llama-3.2-1B",
    "llama-3.2-3b": "Llama-3.2-3B", "llama-3.1-8b": "Llama-3.1-8B", "sheared-llama-1.3b": "Sheared-Llama-1.3B",
    "pythia-160m": "Pythia-160M", "pythia-410m": "Pythia-410M", "pythia-1.4b": "Pythia-1.4B",
    "pythia-2.8b": "Pythia-2.8B", "mamba-130m": "Mamba-130M", "mamba-370m": "Mamba-370M",
    "mamba-790m": "Mamba-790M", "mamba-1.4b": "Mamba-1.4B", "opt-1.3b": "OPT-1.3B", "olmo-1b": "OLMo-1B",
    "toy:llama": "Llama, never trained", "toy:gpt_neox": "GPT-NeoX, never trained", "toy:opt": "OPT, never trained",
    "toy:olmo": "OLMo, never trained", "toy:mamba": "Mamba, never trained", "toy:qwen2": "Qwen2, never trained",
    "toy:gemma3": "Gemma 3, never trained",
    # Ways to change a vector, and directions.
    "noise": "noise, any direction", "dropout": "numbers set to 0", "rounding": "numbers rounded",
    "outwards": "outwards (longer)", "gradient": "up the gradient of the loss",
    "up the gradient": "up the gradient of the loss", "down the gradient": "down the gradient of the loss",
    "first principal": "where solutions differ most", "last principal": "where solutions differ least",
    "line": "straight line", "curve": "trained curve", "nowhere": "line to nowhere (control)",
    # Columns.
    "text_id": "passage", "texts": "kind of text", "of_a": "tokens of the first text right",
    "of_b": "tokens of the second text right", "passes_per_exact": "token passes per exact passage",
    "median_steps": "median steps", "contender": "setting", "teacher_forced": "right, teacher-forced",
    "alone_right": "right, decoded freely", "bits_a_number": "bits per number", "bits_a_token": "bits per token",
    "loss_bits": "bits per token left", "loss": "bits per token", "accuracy": "tokens right, teacher-forced",
    "low": "95 % from", "high": "95 % to", "k": "vectors", "n": "tokens", "share": "share",
    "barrier": "barrier, bits per token", "radius": "exact radius, share of the norm", "recipe": "recipe",
    "exact_prefix": "tokens right from the start", "tokens_right": "tokens right",
}  # fmt: skip
"""{name in a table: name that a reader sees}. Names that are not here are shown without underscores."""


def display(name: str) -> str:
    """The name that a reader sees."""
    return NAMES.get(name) or name.replace("_", " ")


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "token"), counted(1200, "token")
    ('1 token', '1,200 tokens')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def kind_of(text_id: str) -> str:
    """``random`` for random words, ``originals`` for the bundled prose, ``own`` for all other texts."""
    if text_id.startswith("random-"):
        return "random"
    return "originals" if text_id.startswith(tuple(f"{kind}-" for kind in _KINDS)) else "own"


def text_title(text_id: str) -> str:
    """The title of a text, made from its id; the ids of your own texts are their titles."""
    if match := re.fullmatch(r"random-(\d+)-0*(\d+)", text_id):
        return f"Random words {match[2]}" + (f" of set {match[1]}" if match[1] != "0" else "")
    if match := re.fullmatch(r"classic-(\d+)", text_id):
        return f"Novel {match[1]} of Project Gutenberg"
    if text_id == "typed":
        return "Your own words"
    for kind in _KINDS:
        if text_id.startswith(f"{kind}-"):
            words = text_id[len(kind) + 1 :].replace("-", " ")
            return f"{words[:1].upper()}{words[1:]} ({kind.replace('-', ' ')})"
    return text_id
