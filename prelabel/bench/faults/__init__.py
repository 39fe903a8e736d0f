"""What a run makes of a disk that fails and of a death at every file operation.

`injection` lets the Nth operation fail, `audit` says what a run's folder holds, `scenarios` are the
commands that are broken, and `sweep` lets N rise until nothing is left to break.
"""
