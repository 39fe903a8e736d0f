"""Pictures for people: image, label with names and scores, and one heat map, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from prelabel.coco import category_color
from prelabel.data import Explanation, Frame, Heatmap, Ontology, PanopticLabel, Segment
from prelabel.images import decode
from prelabel.job.explanations import read_explanations
from prelabel.label_files import iterate_labels
from prelabel.masks import resize_probs
from prelabel.review.drawing import draw_tag, edges, fit_size, middle, resize_ids

__all__ = ["draw_overlay", "most_doubtful", "write_overlays"]

_LONGEST = 480
"""Longest side of a panel, pixels."""
_GAP, _STRIP = 8, 40
_INK, _PAPER = (24, 24, 28), (250, 250, 250)
_HEAT = np.array(
    [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float32
)
"""Five stops of a scale that grows evenly in lightness, from nothing to most."""


def write_overlays(run: Path, ontology: Ontology) -> None:
    """`overlays/<key>.png` for every label of a run.

    Raises:
        ImageError: an image of the run can no longer be read.
    """
    folder = run / "overlays"
    folder.mkdir(exist_ok=True)
    for label, meta in iterate_labels(run):
        frame = decode(meta.record.uri, meta.record)
        overlay = draw_overlay(frame, label, ontology, read_explanations(run, meta.key))
        overlay.save(folder / f"{meta.key}.png")


def draw_overlay(
    frame: Frame,
    label: PanopticLabel,
    ontology: Ontology,
    explanations: Sequence[Explanation] = (),
) -> Image.Image:
    """Image, label and, where there are explanations, the most doubtful segment's heat map."""
    size = fit_size(frame.size, _LONGEST)
    image = Image.fromarray(frame.pixels).resize(size[::-1], Image.Resampling.LANCZOS)
    ids = resize_ids(label.id_map, size)
    panels = [
        (image, f"{label.image_id}  {frame.size[1]} x {frame.size[0]}"),
        (
            _draw_label(image, ids, label, ontology),
            f"{len(label.segments)} segments, score {label.score:.2f}",
        ),
    ]
    doubtful = most_doubtful(label)
    for explanation in explanations:
        if doubtful is not None and explanation.segment_id == doubtful.segment_id:
            panels.append(_draw_heat(image, ids, doubtful, explanation, ontology))
    return _side_by_side(panels)


def most_doubtful(label: PanopticLabel) -> Segment | None:
    """The segment of lowest score, or None in an empty label."""
    return min(label.segments, key=lambda segment: segment.score, default=None)


# --- the label --------------------------------------------------------------------------------


def _draw_label(
    image: Image.Image, ids: NDArray[np.int32], label: PanopticLabel, ontology: Ontology
) -> Image.Image:
    """Segments in their categories' colours, instances told apart by shade and outline."""
    colors = np.full((len(label.segments) + 1, 3), 0.0)
    for segment in label.segments:
        base = np.array(category_color(ontology.by_id[segment.category_id]), dtype=np.float64)
        shade = 1.0 if not segment.isthing else 0.75 + 0.25 * (segment.segment_id * 0.618 % 1)
        colors[segment.segment_id] = base * shade
    pixels = np.asarray(image, dtype=np.float64)
    blended = 0.35 * pixels + 0.65 * colors[ids]
    blended[edges(ids)] = 255
    panel = Image.fromarray(blended.astype(np.uint8))
    for segment in sorted(label.segments, key=lambda segment: segment.score):
        inside = ids == segment.segment_id
        if inside.any():
            name = ontology.by_id[segment.category_id].name
            draw_tag(panel, middle(inside), f"{name} {segment.score:.2f}")
    return panel


# --- the heat map -----------------------------------------------------------------------------


def _draw_heat(
    image: Image.Image,
    ids: NDArray[np.int32],
    segment: Segment,
    explanation: Explanation,
    ontology: Ontology,
) -> tuple[Image.Image, str]:
    """The map that best answers for the segment, over the greyed image, outlined."""
    name = ontology.by_id[segment.category_id].name
    runner_up = ontology.by_id[segment.runner_up].name if segment.runner_up else "nothing"
    title = (
        f"most doubtful: {name} {segment.score:.2f}, {runner_up} next, margin {segment.margin:.2f}"
    )
    heatmap = _best_map(explanation)
    if heatmap is None:
        return image.convert("L").convert("RGB"), title
    values = np.clip(resize_probs(heatmap.values[None], ids.shape)[0], 0, 1)
    colors = np.stack(
        [np.interp(values, np.linspace(0, 1, len(_HEAT)), _HEAT[:, i]) for i in range(3)], axis=2
    )
    grey = np.asarray(image.convert("L"), dtype=np.float64)[:, :, None]
    blended = 0.45 * grey + 0.55 * colors
    blended[edges((ids == segment.segment_id).astype(np.int32))] = 255
    return Image.fromarray(blended.astype(np.uint8)), f"{title}\n{heatmap.question}"


def _best_map(explanation: Explanation) -> Heatmap | None:
    for name in ("sampling", "rough", "attention"):
        if name in explanation.heatmaps:
            return explanation.heatmaps[name]
    return None


def _side_by_side(panels: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    """Panels in a row, each with its caption wrapped below it."""
    font = ImageFont.load_default(12)
    width, height = panels[0][0].size
    captions = [_wrap(caption, font, width) for _, caption in panels]
    strip = max(_STRIP, 8 + 15 * max(caption.count("\n") + 1 for caption in captions))
    sheet = Image.new("RGB", (len(panels) * (width + _GAP) + _GAP, height + _GAP + strip), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for index, ((panel, _), caption) in enumerate(zip(panels, captions, strict=True)):
        x = _GAP + index * (width + _GAP)
        sheet.paste(panel, (x, _GAP))
        pen.multiline_text((x, _GAP + height + 4), caption, font=font, fill=_INK, spacing=3)
    return sheet


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return "\n".join(lines)
