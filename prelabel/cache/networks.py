"""Detectors and stuff scorers that answer from the cache, and load when they first cannot.

Each speaks the role of the network that it stands before. What it answers is equal to the bit to
what the network would: entries hold what the network said, and keys hold all that it depends on.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from numpy.typing import NDArray

from prelabel.cache.keys import PixelDigests, category_digest, digest, network_digest
from prelabel.cache.store import Kind, StageCache
from prelabel.data import Detections, Frame, Ontology, StuffScores
from prelabel.errors import LabelError, LoadError, ModelError
from prelabel.models.roles import Detected, Detector, DetectorEvidence, StuffScorer
from prelabel.options import Section

__all__ = [
    "CachedDetector",
    "CachedStuffScorer",
    "Deferred",
    "fill_gaps",
    "recall",
    "to_arrays",
    "without_prefix",
]

_LOGGER = logging.getLogger(__name__)
_DETECTIONS, _EVIDENCE = "detections.", "evidence."


class _Loadable(Protocol):
    def load(self, device: str) -> None: ...


Network = TypeVar("Network", bound=_Loadable)
Answer = TypeVar("Answer")
Item = TypeVar("Item")


class Deferred(Generic[Network]):
    """A network behind a cache: loaded at once where it never was before, else when it is needed.

    So what is wrong with weights is told at the start, and a job that finds all answers in the
    cache loads no network.

    Attributes:
        network: as it is, loaded or not.
        options: the network's.
        cache: what it answered before.
        device: where it runs; "" before `load`.
    """

    def __init__(self, network: Network, options: Section, cache: StageCache) -> None:
        self.network, self.options, self.cache = network, options, cache
        self.device = ""
        self._key = ""
        self._loaded = False

    def load(self, role: str, device: str) -> None:
        """Load the network, unless these weights loaded before.

        Raises:
            ConfigError: the weights are nowhere to be found.
            ModelError: they do not fit.
        """
        self.device, self._loaded = device, False
        self._key = network_digest(role, self.options, device)
        if not self.cache.has("networks", self._key):
            self._load()

    @property
    def key(self) -> str:
        """The digest of all that an answer depends on but the question."""
        if not self._key:
            raise ModelError("a network is used before load()")
        return self._key

    def ready(self) -> Network:
        """The network, loaded now if it is not yet. Raises LoadError."""
        if not self._loaded:
            try:
                self._load()
            except Exception as error:
                raise LoadError(
                    f"a network that loaded in earlier runs does not load now: {error}; is there "
                    "enough memory, and are its weights still there?"
                ) from error
        return self.network

    def _load(self) -> None:
        key = self.key
        self.network.load(self.device)
        self._loaded = True
        self.cache.put("networks", key, {})

    @property
    def loaded(self) -> bool:
        """Whether the network holds its weights."""
        return self._loaded


class CachedDetector:
    """A `Detector` that asks its network only about images that it has not seen."""

    def __init__(self, network: Detector, options: Section, cache: StageCache) -> None:
        self._deferred = Deferred(network, options, cache)
        self._cache, self._pixels = cache, PixelDigests()

    def load(self, device: str) -> None:
        """Load the weights, unless they loaded before; then when they are needed."""
        self._deferred.load("detect", device)

    def detect(
        self, frames: Sequence[Frame], ontology: Ontology, *, capture: bool = False
    ) -> list[Detected]:
        """Boxes of the ontology's things, above each category's threshold, best first."""
        if not ontology.things:
            return [Detected(Detections.empty(), None) for _ in frames]
        things = category_digest(ontology.things, self._deferred.options)
        keys = [digest(self._deferred.key, self._pixels(frame), things) for frame in frames]

        def ask(rows: Sequence[int]) -> Sequence[Detected]:
            missing = [frames[row] for row in rows]
            found = self._deferred.ready().detect(missing, ontology, capture=capture)
            for row, one in zip(rows, found, strict=True):
                self._keep(keys[row], one)
            return found

        return fill_gaps([self._recall(key, capture) for key in keys], ask)

    def _keep(self, key: str, found: Detected) -> None:
        detections = to_arrays(found.detections)
        self._cache.put("detections", key, detections)
        if found.evidence is not None:
            # With the detections it belongs to: rows must fit, whoever wrote the other entry.
            both = _prefixed(_DETECTIONS, detections)
            both |= _prefixed(_EVIDENCE, to_arrays(found.evidence))
            self._cache.put("detector-evidence", key, both)

    def _recall(self, key: str, capture: bool) -> Detected | None:
        if not capture:
            detections = recall(self._cache, "detections", key, lambda had: Detections(**had))
            return None if detections is None else Detected(detections, None)
        return recall(
            self._cache,
            "detector-evidence",
            key,
            lambda had: Detected(
                Detections(**without_prefix(_DETECTIONS, had)),
                DetectorEvidence(**without_prefix(_EVIDENCE, had)),
            ),
        )


class CachedStuffScorer:
    """A `StuffScorer` that asks its network only about images that it has not seen."""

    def __init__(self, network: StuffScorer, options: Section, cache: StageCache) -> None:
        self._deferred = Deferred(network, options, cache)
        self._cache, self._pixels = cache, PixelDigests()

    def load(self, device: str) -> None:
        """Load the weights, unless they loaded before; then when they are needed."""
        self._deferred.load("stuff", device)

    def score(self, frames: Sequence[Frame], ontology: Ontology) -> list[StuffScores]:
        """One rough map per stuff category."""
        if not ontology.stuff:
            return [StuffScores.empty() for _ in frames]
        stuff = category_digest(ontology.stuff, self._deferred.options)
        keys = [digest(self._deferred.key, self._pixels(frame), stuff) for frame in frames]

        def ask(rows: Sequence[int]) -> Sequence[StuffScores]:
            found = self._deferred.ready().score([frames[row] for row in rows], ontology)
            for row, one in zip(rows, found, strict=True):
                self._cache.put("rough-maps", keys[row], to_arrays(one))
            return found

        return fill_gaps(
            [
                recall(self._cache, "rough-maps", key, lambda had: StuffScores(**had))
                for key in keys
            ],
            ask,
        )


# --- entries and answers ------------------------------------------------------------------------


def recall(
    cache: StageCache, kind: Kind, key: str, build: Callable[[Mapping[str, Any]], Answer]
) -> Answer | None:
    """What `build` makes of an entry; None where there is none or it is not of this shape."""
    had = cache.get(kind, key)
    if had is None:
        return None
    try:
        return build(had)
    except (KeyError, TypeError, LabelError) as error:
        _LOGGER.warning("an entry of the cache's %s did not fit and is made again: %s", kind, error)
        cache.discard(kind, key)
        return None


def fill_gaps(
    found: Sequence[Item | None], ask: Callable[[Sequence[int]], Sequence[Item]]
) -> list[Item]:
    """`found` with its gaps filled by `ask`, which gets their positions, all at once."""
    gaps = [row for row, item in enumerate(found) if item is None]
    answers = dict(zip(gaps, ask(gaps), strict=True)) if gaps else {}
    return [answers[row] if item is None else item for row, item in enumerate(found)]


def to_arrays(value: Any) -> dict[str, NDArray[Any]]:
    """The fields of a data class that is made of arrays."""
    return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}


def _prefixed(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: array for name, array in arrays.items()}


def without_prefix(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Those whose names begin so, under the rest of their names."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
