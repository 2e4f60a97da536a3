"""The version, in a file of its own: the build reads it, and results record it."""

__version__ = "0.1.0"
