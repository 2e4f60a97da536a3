"""Experiments: each runs a model and leaves a table. One file an experiment."""
