"""`python -m prelabel`."""

from __future__ import annotations

from prelabel.cli import main

if __name__ == "__main__":
    main()
