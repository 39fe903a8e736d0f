"""The authors' own packages as backends, for comparison with transformers' networks.

They serve the same roles and are chosen by `kind`; see docs/original.md.
"""
