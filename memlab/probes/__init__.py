"""Measurements of finished vectors that run the model."""
