"""What the networks said about each scene, kept on disk so that labelling it anew costs little.

Boxes are kept as the detector found them, doubtful and overlapping ones too; the encoded image is
kept, so that the segmenter's small decoder can be asked anything again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prelabel.ablation.questions import Remembering
from prelabel.archive import read_archive, write_archive
from prelabel.config import Config
from prelabel.data import Detections, Frame, ImageRecord, Ontology, StuffScores
from prelabel.demo.scenes import draw_scene
from prelabel.models.candidates import DetectorOptions, choose_detections
from prelabel.models.registry import create_segmenter
from prelabel.models.roles import Embedding, PromptableSegmenter
from prelabel.pipeline import Pipeline

__all__ = ["Outputs", "SceneKey", "Truth", "draw_key", "stored_outputs", "suppress"]


@dataclass(frozen=True, slots=True)
class SceneKey:
    """Which demo scene; see `draw_scene`."""

    split: str
    seed: int
    index: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.seed}-{self.index:06d}"


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is really there.

    Attributes:
        id_map: int32 (H, W), segment ids 1..N; 0 is void.
        category_ids: int32 (N,), of the segments 1..N.
    """

    id_map: NDArray[np.int32]
    category_ids: NDArray[np.int32]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.id_map.shape[0], self.id_map.shape[1]


def draw_key(key: SceneKey) -> tuple[Truth, NDArray[np.uint8]]:
    """A demo scene's truth, and its picture uint8 (H, W, 3) RGB."""
    scene = draw_scene(key.split, key.seed, key.index)
    return Truth(scene.id_map, np.array(scene.category_ids, dtype=np.int32)), scene.pixels


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What is known about one image before any rule is applied.

    Attributes:
        name: stands in for the image_id, so it seeds the points.
        truth: what the label is compared with.
        pixels: uint8 (H, W, 3) RGB, the picture.
        detections: of things, doubtful and overlapping ones too.
        scores: rough maps of stuff.
        embedding: the encoded image.
        segmenter: answers prompts on `embedding`.
    """

    name: str
    truth: Truth
    pixels: NDArray[np.uint8]
    detections: Detections
    scores: StuffScores
    embedding: Embedding
    segmenter: PromptableSegmenter


def stored_outputs(
    config: Config,
    keys: Sequence[SceneKey],
    root: Path,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Outputs]:
    """What the networks of `config` say about demo scenes; they run once per scene and weights.

    Args:
        config: names the networks and the ontology.
        keys: the scenes, in this order.
        root: a folder for the outputs; each set of weights has a folder of its own in it.
        progress: called with the scene's name before the networks run on it.
    """
    config = _unfiltered(config)
    digest = config.fingerprint("segment") + config.fingerprint("score")
    folder = root / hashlib.sha256(digest.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    missing = [key for key in keys if not _path(folder, key, "truth").is_file()]
    if missing:
        pipeline = Pipeline.from_config(config, device="cpu").load()
        for key in missing:
            if progress is not None:
                progress(key.name)
            _run_networks(pipeline, key, folder)
    segmenter = create_segmenter(config.segment)
    segmenter.load("cpu")
    for key in keys:
        yield _read(key, folder, segmenter)


_LEAST_SCORE = 0.1
"""Of the boxes that are kept, so that thresholds above it can be tried."""


def _unfiltered(config: Config) -> Config:
    free = {
        "box_threshold": _LEAST_SCORE,
        "nms_iou": 1.0,
        "cross_nms_iou": 1.0,
        "max_detections": 900,
    }
    return config.model_copy(update={"detect": config.detect.model_copy(update=free)})


def _path(folder: Path, key: SceneKey, part: str) -> Path:
    return folder / f"{key.name}.{part}.npz"


def _run_networks(pipeline: Pipeline, key: SceneKey, folder: Path) -> None:
    truth, pixels = draw_key(key)
    frames = [Frame(ImageRecord(key.name, key.name), pixels)]
    found = pipeline.detector.detect(frames, pipeline.ontology)[0].detections
    found.save(_path(folder, key, "detections"))
    pipeline.segmenter.embed(frames)[0].save(_path(folder, key, "embedding"))
    scores = pipeline.stuff_scorer.score(frames, pipeline.ontology)[0]
    scores.save(_path(folder, key, "scores"))
    # Last: a truth that is there means a scene that is whole.
    parts: dict[str, NDArray[np.generic]] = {
        "id_map": truth.id_map,
        "category_ids": truth.category_ids,
        "pixels": pixels,
    }
    write_archive(_path(folder, key, "truth"), "Truth", 1, parts)


def _read(key: SceneKey, folder: Path, segmenter: PromptableSegmenter) -> Outputs:
    truth = read_archive(_path(folder, key, "truth"), "Truth", 1)
    return Outputs(
        key.name,
        Truth(truth["id_map"].astype(np.int32), truth["category_ids"].astype(np.int32)),
        truth["pixels"].astype(np.uint8),
        Detections.load(_path(folder, key, "detections")),
        StuffScores.load(_path(folder, key, "scores")),
        Embedding.load(_path(folder, key, "embedding")),
        Remembering(segmenter),
    )


def suppress(detections: Detections, ontology: Ontology, options: DetectorOptions) -> Detections:
    """What `options` leave of detections that were kept unfiltered."""
    # Only the winner's prompt was kept, and only the winner's is asked for again.
    prompts = np.repeat(detections.prompt_ids[:, None], len(ontology.things), axis=1)
    return choose_detections(
        detections.boxes, detections.class_scores, prompts, ontology.things, options
    )
