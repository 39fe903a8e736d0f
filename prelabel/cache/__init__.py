"""What the networks answered before, kept outside the run, so that a changed threshold asks none.

>>> cache = open_cache(config.cache)
>>> Pipeline.from_config(config, cache=cache)
"""

from prelabel.cache.folder import default_folder, open_cache
from prelabel.cache.store import KINDS, CacheUse, Kind, StageCache

__all__ = ["KINDS", "CacheUse", "Kind", "StageCache", "default_folder", "open_cache"]
