"""Demo scenes as files: a folder of pictures, and their truth as COCO panoptic."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from prelabel.coco import PanopticWriter, measure_segments
from prelabel.demo.scenes import ONTOLOGY, draw_scene
from prelabel.errors import ConfigError

__all__ = ["write_scenes"]


def write_scenes(out: Path, *, split: str = "heldout", seed: int, count: int) -> None:
    """Write `images/scene-000001.png` …, `panoptic.json` and `panoptic/scene-000001.png` ….

    The pictures are lossless: a scene that shows JPEG artefacts was drawn with them, and the file
    holds exactly its pixels.

    Args:
        out: a folder, made where it is missing; files of the same names are replaced.
        split: "heldout" for everything that is shown or measured.
        seed: at least 0.
        count: how many scenes, at least 1; scene k of a larger count is the same scene.

    Raises:
        ConfigError: a number or the split is wrong, or the folder cannot be written.
    """
    if count < 1:
        raise ConfigError(f"expected a count of at least 1 demo scene, got {count}")
    images = Path(out) / "images"
    try:
        images.mkdir(parents=True, exist_ok=True)
        with PanopticWriter(Path(out) / "panoptic.json", ONTOLOGY) as writer:
            for index in range(count):
                scene = draw_scene(split, seed, index)
                name = f"scene-{index + 1:06d}.png"
                Image.fromarray(scene.pixels).save(images / name)
                categories = dict(enumerate(scene.category_ids, start=1))
                segments = measure_segments(scene.id_map, categories)
                writer.add_map(name, scene.id_map, segments, index + 1)
    except OSError as error:
        raise ConfigError(f"demo scenes cannot be written to {out}: {error.strerror}") from error
