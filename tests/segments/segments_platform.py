"""What a Segments.ai server holds, written from its SDK's models: no network, no faults."""

from __future__ import annotations

import io
import itertools
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from PIL import Image

HUMAN = frozenset(
    {"REVIEWED", "REVIEWING_IN_PROGRESS", "LABELED", "LABELING_IN_PROGRESS", "REJECTED"}
    | {"SKIPPED", "VERIFIED"}
)
FLAGS = (
    *("enable_ratings", "enable_skip_labeling", "enable_skip_reviewing", "enable_save_button"),
    *("enable_label_status_verified", "enable_same_dimensions_track_constraint"),
    *("enable_3d_region_of_interest", "enable_interpolation", "use_timestamps_for_interpolation"),
    "enable_object_linking",
)


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass
class Asset:
    """A file that was announced; `data` is None until the store has it."""

    uuid: str
    filename: str
    data: bytes | None = None


@dataclass
class Dataset:
    full_name: str
    categories: list[dict[str, Any]]
    task_type: str = "segmentation-bitmap"
    labelsets: tuple[str, ...] = ("ground-truth",)

    def to_json(self) -> dict[str, Any]:
        owner, name = self.full_name.split("/")
        return {
            **{"name": name, "full_name": self.full_name, "description": "", "public": False},
            **{"category": "other", "archived": False, "created_at": now(), "label_stats": {}},
            **{"owner": {"username": owner, "created_at": now()}, "task_type": self.task_type},
            "task_attributes": {"format_version": "0.1", "categories": self.categories},
            "metadata": {},
            **dict.fromkeys(FLAGS, False),
        }


@dataclass
class Platform:
    """Datasets, samples, labels, assets and issues, and what went wrong with them.

    Attributes:
        violations: what a client did that the contract forbids.
        human_touched: labels of people that a client wrote over.
    """

    datasets: dict[str, Dataset] = field(default_factory=dict)
    samples: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    labels: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    assets: dict[str, Asset] = field(default_factory=dict)
    issues: list[dict[str, Any]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    human_touched: list[str] = field(default_factory=list)
    epoch: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    # --- what a test sets up ------------------------------------------------------------------

    def add_dataset(self, full_name: str, categories: list[dict[str, Any]], **more: Any) -> None:
        self.datasets[full_name] = Dataset(full_name, categories, **more)

    def add_sample(self, dataset: str, name: str, image: bytes = b"", **more: Any) -> str:
        key = str(uuid.UUID(int=next(self._numbers) + 2**100))
        self.samples[key] = {
            **{"uuid": key, "name": name, "metadata": {}, "priority": 0.0, "dataset": dataset},
            **{"created_at": now(), "created_by": "someone"},
            **more,
        }
        self.images[key] = image
        return key

    def edit(
        self,
        sample: str,
        id_map: np.ndarray,
        categories: dict[int, int],
        status: str = "LABELED",
        labelset: str = "ground-truth",
    ) -> None:
        """A person labels a sample."""
        asset = self.add_asset("label.png")
        rgba = np.zeros((*id_map.shape, 4), dtype=np.uint8)
        for plane in range(3):
            rgba[..., plane] = (id_map >> (8 * plane)) & 255
        rgba[..., 3] = 255
        stream = io.BytesIO()
        Image.fromarray(rgba).save(stream, format="PNG")
        asset.data = stream.getvalue()
        entries = [{"id": key, "category_id": value} for key, value in categories.items()]
        with self.lock:
            self.labels[sample, labelset] = self._label(
                sample,
                labelset,
                {
                    "label_status": status,
                    "attributes": {
                        "format_version": "0.1",
                        "annotations": entries,
                        "segmentation_bitmap": {"url": f"asset:{asset.uuid}"},
                    },
                },
                "a person",
            )

    def add_asset(self, filename: str) -> Asset:
        asset = Asset(str(uuid.uuid4()), filename)
        with self.lock:
            self.assets[asset.uuid] = asset
        return asset

    # --- what a client does -------------------------------------------------------------------

    def put_label(self, sample: str, labelset: str, body: dict[str, Any]) -> dict[str, Any]:
        """The upsert; as the real one it overwrites whatever is there."""
        with self.lock:
            before = self.labels.get((sample, labelset))
            if before is not None and before["label_status"] in HUMAN:
                self.human_touched.append(sample)
            self._check_label(sample, body)
            self.labels[sample, labelset] = self._label(sample, labelset, body, "prelabel")
            return self.labels[sample, labelset]

    def _label(
        self, sample: str, labelset: str, body: dict[str, Any], author: str
    ) -> dict[str, Any]:
        dataset = self.datasets[self.samples[sample]["dataset"]]
        return {
            **{"sample_uuid": sample, "labelset": labelset, "label_type": dataset.task_type},
            **{"created_at": now(), "updated_at": now(), "created_by": author},
            **{"label_status": body["label_status"], "attributes": body["attributes"]},
            "score": body.get("score"),
        }

    def _check_label(self, sample: str, body: dict[str, Any]) -> None:
        attributes = body["attributes"]
        known = {one["id"] for one in self.datasets[self.samples[sample]["dataset"]].categories}
        score = body.get("score")
        if score is not None and not 0 <= score <= 1:
            self.violations.append(f"score {score}")
        url = attributes["segmentation_bitmap"]["url"]
        asset = self.assets.get(url.rstrip("/").split("/")[-2])
        if asset is None or asset.data is None:
            self.violations.append(f"the bitmap {url} was never stored")
            return
        with Image.open(io.BytesIO(asset.data)) as image:
            pixels = np.asarray(image)
        if pixels.shape[2:] != (4,) or (pixels[..., 3] != 255).any():
            self.violations.append("a bitmap is not opaque RGBA")
        ids = set(np.unique(pixels[..., 0] + 256 * pixels[..., 1].astype(int)).tolist()) - {0}
        listed = {one["id"] for one in attributes["annotations"]}
        if ids != listed:
            self.violations.append(f"bitmap {sorted(ids)}, annotations {sorted(listed)}")
        for one in attributes["annotations"]:
            if one["category_id"] not in known:
                self.violations.append(f"category {one['category_id']} is unknown")
            if any(isinstance(value, (dict, list)) for value in one["attributes"].values()):
                self.violations.append("an object attribute is not flat")

    def add_issue(self, sample: str, body: dict[str, Any]) -> dict[str, Any]:
        issue = {
            **{"uuid": str(uuid.uuid4()), "sample_uuid": sample, "comments": []},
            **{"sample_name": self.samples[sample]["name"], "status": body["status"]},
            **{"created_at": now(), "updated_at": now(), "created_by": "x", "updated_by": "x"},
            **{"description": body["description"], "anchor": body.get("anchor")},
        }
        with self.lock:
            self.issues.append(issue)
        return issue

    def orphans(self) -> list[Asset]:
        """Announced files that no label points to."""
        used = {label["attributes"]["segmentation_bitmap"]["url"] for label in self.labels.values()}
        return [
            asset for asset in self.assets.values() if not any(asset.uuid in url for url in used)
        ]

    def bitmap(self, sample: str, labelset: str = "ground-truth") -> np.ndarray:
        """The ids int32 (H, W) of a label, decoded without prelabel."""
        url = self.labels[sample, labelset]["attributes"]["segmentation_bitmap"]["url"]
        key = url.removeprefix("asset:") if url.startswith("asset:") else url.split("/")[-2]
        with Image.open(io.BytesIO(self.assets[key].data or b"")) as image:
            wide = np.asarray(image).astype(np.int32)
        return wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]
