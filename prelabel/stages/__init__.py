"""The stages: detect, segment, score, refine, merge, explain.

A stage is a function from nouns to nouns. It reads no file, knows no config file, and meets a
network only through its role.
"""
