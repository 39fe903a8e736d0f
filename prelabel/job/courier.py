"""One label of a run to a platform: from intent over sent to verified, each step in the outbox."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Literal

from prelabel.job.explanations import read_explanations
from prelabel.job.outbox import Outbox, OutboxRow
from prelabel.job.upload_terms import UploadOptions
from prelabel.label_files import LabelMeta, read_label
from prelabel.ports import Delivery, LabelPlatform, Outcome

__all__ = ["Courier"]

_SAMPLE = 20
"""One label in so many is read back where not all are."""


class Courier:
    """Takes labels to a platform and says in the outbox how far it came; for many threads."""

    def __init__(
        self, run: Path, platform: LabelPlatform, outbox: Outbox, options: UploadOptions
    ) -> None:
        self._run, self._platform = run, platform
        self._outbox, self._options = outbox, options
        self._rows = outbox.rows()

    def row(self, meta: LabelMeta) -> OutboxRow:
        """What the outbox says of this very label; of another one nothing is of use."""
        digest, found = _digest(meta), self._rows.get(meta.record.image_id)
        return found if found is not None and found.label == digest else OutboxRow(digest)

    def wants_proof(self, meta: LabelMeta) -> bool:
        """Whether this label is read back."""
        if self._options.verify == "sample":
            return int(meta.png_sha256[:8], 16) % _SAMPLE == 0
        return self._options.verify == "all"

    def deliver(self, meta: LabelMeta) -> OutboxRow:
        """Do what the outbox leaves to do.

        Raises:
            ConnectorError: the platform refuses, or cannot be asked.
            PrelabelError: the label or the image is wrong.
        """
        row = self.row(meta)
        delivery = self._delivery(meta, row)
        if row.state == "sent" and not self._platform.verify(delivery):
            return self._mark(meta, "verified")
        if self._push(meta, delivery) == "human":
            return self._mark(meta, "human")
        sent = self._mark(meta, "sent")
        if not self.wants_proof(meta):
            return sent
        if not self._platform.verify(delivery):
            return self._mark(meta, "verified")
        # Once more from scratch: what was noted may be what is wrong.
        self._mark(meta, "intent")
        if self._push(meta, replace(delivery, noted="")) == "human":
            return self._mark(meta, "human")
        if difference := self._platform.verify(delivery):
            return self.fail(meta, "differs", f"{meta.record.image_id}: {difference}")
        return self._mark(meta, "verified")

    def fail(self, meta: LabelMeta, kind: str, error: object) -> OutboxRow:
        """Say that this label will not be sent as it is."""
        return self._keep(meta, OutboxRow(_digest(meta), "failed", "", kind, str(error)))

    def _delivery(self, meta: LabelMeta, row: OutboxRow) -> Delivery:
        label, _ = read_label(self._run, meta.key)
        evidence = read_explanations(self._run, meta.key) if self._options.rules.pin_doubts else ()
        made = meta.provenance
        return Delivery(meta.record, label, evidence, made.tool, made.fingerprint, row.noted)

    def _push(self, meta: LabelMeta, delivery: Delivery) -> Outcome:
        def note(text: str) -> None:
            self._mark(meta, "intent", text)

        return self._platform.push(delivery, self._options.rules, note)

    def _mark(
        self,
        meta: LabelMeta,
        state: Literal["intent", "sent", "verified", "human"],
        noted: str = "",
    ) -> OutboxRow:
        return self._keep(meta, OutboxRow(_digest(meta), state, noted))

    def _keep(self, meta: LabelMeta, row: OutboxRow) -> OutboxRow:
        self._rows[meta.record.image_id] = row
        self._outbox.mark(meta.record.image_id, row)
        return row


def _digest(meta: LabelMeta) -> str:
    """What tells two labels of one image apart: pixels, and what is said of the segments."""
    parts = (meta.png_sha256, meta.segments, meta.provenance.tool, meta.provenance.fingerprint)
    return hashlib.sha256(repr(parts).encode()).hexdigest()
