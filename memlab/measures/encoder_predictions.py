"""What was expected of trained encoders, of the gap to per-sample search and of warm starts, before any was trained.

Written on 30 November 2026 for SmolLM2-135M, before the first encoder was trained on the real model. Not changed since.
The default encoder was to train for 75 minutes on one core of a CPU: about 2 million tokens, 4,000 steps of 512.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Expected:
    """An interval that a quantity should lie in."""

    quantity: str
    unit: str
    low: float
    high: float


EXPECTED = (
    # The default encoder on 12 originals, net of another passage's vectors.
    Expected("8 tokens in 1 vector, recovered", "share of bits", 0.35, 0.60),
    Expected("16 tokens in 1 vector, recovered", "share of bits", 0.18, 0.38),
    Expected("32 tokens in 1 vector, recovered", "share of bits", 0.08, 0.20),
    Expected("16 tokens in 4 vectors, recovered", "share of bits", 0.35, 0.60),
    Expected("16 tokens in 8 vectors, recovered", "share of bits", 0.60, 0.90),
    Expected("8 tokens in 1 vector, exact prefix", "tokens", 1, 4),
    Expected("16 tokens in 1 vector, exact prefix", "tokens", 0.5, 3),
    Expected("32 tokens in 1 vector, exact prefix", "tokens", 0, 2),
    Expected("16 tokens in 4 vectors, exact prefix", "tokens", 1.5, 5),
    Expected("16 tokens in 8 vectors, exact prefix", "tokens", 4, 12),
    # Random words: their tokens are rare in the training text, and the bag of words is worth more.
    Expected("random words: 16 tokens in 1 vector, recovered, over that of originals", "ratio", 0.3, 1.0),
    # Variants at equal tokens.
    Expected("MiniLM bridge, 32 tokens in 1 vector, recovered", "share of bits", 0.03, 0.15),
    Expected("constant vector, 16 tokens in 1 vector, recovered, gross", "share of bits", 0.0, 0.10),
    Expected("training text chosen by a score against a random ninth, recovered", "ratio", 0.9, 1.1),
    # The gap on the same passages.
    Expected("exact horizon of the search over exact prefix of the encoder, (h + 1) / (e + 1)", "ratio", 30, 90),
    Expected("bits that the search takes off at most over the encoder's saturation", "ratio", 10, 30),
    Expected("steps of a cold search to the encoder's loss, 16 tokens", "steps", 2, 6),
    Expected("steps of a cold search to the encoder's loss, 32 tokens", "steps", 2, 5),
    # Warm starts: share of the cold search's steps that is saved. Below 0: it takes longer.
    Expected("warm start from the own encoding, 16 tokens", "share of steps", 0.0, 0.35),
    Expected("warm start from the own encoding, 32 tokens", "share of steps", 0.0, 0.25),
    Expected("warm start from the own encoding, 64 tokens", "share of steps", -0.05, 0.12),
    Expected("warm start from another passage's encoding, 32 tokens", "share of steps", -0.40, 0.02),
    Expected("warm start from the constant vector, 32 tokens", "share of steps", -0.30, 0.05),
    Expected("start from one gradient, 32 tokens", "share of steps", -0.02, 0.06),
)
"""All of them."""
NORM = (
    "At 16 tokens in one vector the long vector (400 sqrt(d)) learns more than one of an embedding's length; at 16 "
    "tokens in four vectors the short ones learn more."
)
"""What was expected of the trial that decides the lengths of the vectors."""
