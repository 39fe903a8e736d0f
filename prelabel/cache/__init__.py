"""What the networks answered before, kept outside the run, so that a changed threshold asks none.

>>> cache = open_cache(config.cache)
>>> Pipeline.from_config(config, cache=cache)
"""

from prelabel.cache.folder import default_folder, open_cache
from prelabel.cache.networks import CachedDetector, CachedStuffScorer
from prelabel.cache.segmenter import CachedSegmenter
from prelabel.cache.store import KINDS, CacheUse, Kind, StageCache

__all__ = [
    "KINDS",
    "CacheUse",
    "CachedDetector",
    "CachedSegmenter",
    "CachedStuffScorer",
    "Kind",
    "StageCache",
    "default_folder",
    "open_cache",
]
