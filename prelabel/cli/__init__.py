"""The command line: commands, exit codes, and all that is printed."""

from __future__ import annotations

from prelabel.cli.app import main

__all__ = ["main"]
