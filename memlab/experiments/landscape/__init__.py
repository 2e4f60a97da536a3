"""Every way of storing a text for a model, measured on one chart.

A method stores a passage as real bytes (``store``), and a reader gets those bytes and nothing else (``context``).
``measure.landscape`` scores what the reader then knows of the passage. One file per family of methods.
"""
