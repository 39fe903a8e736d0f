"""Where the cache is, and opening it as a config says."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from prelabel.cache.store import StageCache
from prelabel.errors import ConfigError

if TYPE_CHECKING:
    from prelabel.options import CacheOptions

__all__ = ["default_folder", "open_cache"]

_LOGGER = logging.getLogger(__name__)


def default_folder() -> Path:
    """`prelabel/stages` below $XDG_CACHE_HOME, else below ~/.cache.

    Raises:
        ConfigError: there is no home, as for a container's user without a name.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative path there is invalid and to be ignored, says the XDG specification.
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError as error:
            raise ConfigError(
                "this user has no home, and so no place for the cache; set cache.folder, "
                "$XDG_CACHE_HOME, or cache.enabled=false"
            ) from error
    return base / "prelabel" / "stages"


def open_cache(options: CacheOptions, *, since: float | None = None) -> StageCache | None:
    """The cache that `options` names, or None where it is off or has no place. Reads nothing yet.

    `since` is when the job began, see `StageCache`; None is now.
    """
    if not options.enabled:
        return None
    try:
        folder = default_folder() if options.folder is None else Path(options.folder).expanduser()
    except (ConfigError, RuntimeError) as error:  # the latter: ~ of nobody
        _LOGGER.warning("nothing is kept in a cache: %s", error)
        return None
    return StageCache(folder, int(options.max_gib * 2**30), since=since)
