"""Where the cache is, and opening it as a config says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from prelabel.cache.store import StageCache

if TYPE_CHECKING:
    from prelabel.options import CacheOptions

__all__ = ["default_folder", "open_cache"]


def default_folder() -> Path:
    """`prelabel/stages` below $XDG_CACHE_HOME, else below ~/.cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative path there is invalid and to be ignored, says the XDG specification.
    return (base if base.is_absolute() else Path.home() / ".cache") / "prelabel" / "stages"


def open_cache(options: CacheOptions, *, since: float | None = None) -> StageCache | None:
    """The cache that `options` names, or None where it is switched off. Nothing is read yet.

    `since` is when the job began, see `StageCache`; None is now.
    """
    if not options.enabled:
        return None
    folder = default_folder() if options.folder is None else Path(options.folder).expanduser()
    return StageCache(folder, int(options.max_gib * 2**30), since=since)
