"""Measurements of finished vectors that need the model."""
