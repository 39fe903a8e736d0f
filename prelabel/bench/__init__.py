"""Timings of the pipeline against a plain reference, on full-size networks with random weights."""
