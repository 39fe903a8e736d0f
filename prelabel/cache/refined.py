"""Masks as they go into merge, kept per image: who only merges anew refines nothing again."""

from __future__ import annotations

from prelabel.cache.keys import PixelDigests, category_digest, digest, network_digest, stages_digest
from prelabel.cache.networks import recall, without_prefix
from prelabel.cache.store import StageCache
from prelabel.config import Config
from prelabel.data import Frame, Instances, StuffRegions

__all__ = ["RefinedMasks"]

_THINGS, _STUFF = "things.", "stuff."


class RefinedMasks:
    """Instances and stuff regions after refinement, found by all that they depend on.

    Args:
        config: the run's; of it counts what lies upstream of merge.
        cache: where they are kept.
        device: where the networks run.
    """

    def __init__(self, config: Config, cache: StageCache, device: str) -> None:
        self._cache, self._pixels = cache, PixelDigests()
        ontology = config.ontology
        # The fingerprint has the thresholds; the others what may move a last bit.
        self._key = digest(
            *(config.fingerprint("refine"), stages_digest()),
            *(
                network_digest(role, getattr(config, role), device)
                for role in ("detect", "segment", "stuff")
            ),
            category_digest(ontology.things, config.detect),
            category_digest(ontology.stuff, config.stuff),
        )

    def get(self, frame: Frame) -> tuple[Instances, StuffRegions] | None:
        """Those of an image, None where they were not kept."""
        return recall(
            self._cache,
            "refined-masks",
            self._of(frame),
            lambda had: (
                Instances.from_arrays(without_prefix(_THINGS, had)),
                StuffRegions.from_arrays(without_prefix(_STUFF, had)),
            ),
        )

    def put(self, frame: Frame, instances: Instances, regions: StuffRegions) -> None:
        """Keep those of an image."""
        things = {_THINGS + name: array for name, array in instances.to_arrays().items()}
        stuff = {_STUFF + name: array for name, array in regions.to_arrays().items()}
        self._cache.put("refined-masks", self._of(frame), {**things, **stuff})

    def _of(self, frame: Frame) -> str:
        # Points in stuff are drawn by the image's name.
        return digest(self._key, self._pixels(frame), frame.record.image_id)
