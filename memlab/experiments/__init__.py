"""Experiments: each runs a model and returns a table. One file per experiment; ``registry`` lists them."""
