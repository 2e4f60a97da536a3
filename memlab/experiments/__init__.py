"""Experiments: each builds a plan, runs it through ``memlab.runs`` and hands back a table."""
