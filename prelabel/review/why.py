"""Why a pixel is what it is: who claimed it, who won, and by which rule, from a run's trace."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prelabel.data import VOID, Candidate, PanopticLabel, Segment, Trace, image_key
from prelabel.errors import ConfigError
from prelabel.label_files import list_labels, read_label

__all__ = ["Claim", "PixelStory", "read_story", "tell_pixel"]

_SENTENCES: Mapping[str, str] = {
    "only-claim": "nobody else claimed it",
    "in-front": "a thing stands in front of stuff",
    "on-top": "it lies inside a much larger thing, so it lies on top of it",
    "better-score": "the better score keeps what two of a kind share",
    "likelier-here": "of two regions of stuff, score × rough probability at this pixel decides",
    "same-segment": "both are one segment of one stuff category",
    "filled": "nobody who stands claimed it; of the stuff in the picture this is likeliest here",
    "duplicate": "it is the same object as a better candidate, seen twice",
    "covered": "too little of it stayed visible",
    "too-small": "too small a part of the image",
    "low-score": "its score is below the least",
    "unclaimed": "no candidate claimed it, and no stuff in the picture is likely here",
    "dropped": "whoever claimed it was dropped, and no stuff in the picture is likely here",
}


@dataclass(frozen=True, slots=True)
class Claim:
    """A candidate whose mask, as it was proposed, holds the pixel.

    Attributes:
        candidate: it, as merge left it.
        won: whether the pixel is its.
        rule: why it won, lost or was dropped; a key of `reason`'s sentences.
        beaten_by: the candidate that it lost to, or "".
    """

    candidate: Candidate
    won: bool
    rule: str
    beaten_by: str = ""

    @property
    def reason(self) -> str:
        return _SENTENCES[self.rule]


@dataclass(frozen=True, slots=True)
class PixelStory:
    """Who got a pixel and why.

    Attributes:
        image_id: as in the record.
        x: column from 0.
        y: row from 0.
        segment: whose pixel it is, or None for void.
        rule: what decided, as in `Claim`; or "filled", "unclaimed", "dropped".
        claims: who claimed it, in the order in which merge considered them.
    """

    image_id: str
    x: int
    y: int
    segment: Segment | None
    rule: str
    claims: tuple[Claim, ...]

    @property
    def winner(self) -> Claim | None:
        """The claim that won, or None where nobody's did."""
        return next((claim for claim in self.claims if claim.won), None)

    @property
    def reason(self) -> str:
        return _SENTENCES[self.rule]

    def to_json(self, names: Mapping[int, str]) -> dict[str, object]:
        """`names` are the categories', by category_id."""
        winner, segment = self.winner, self.segment
        return {
            "image_id": self.image_id,
            "x": self.x,
            "y": self.y,
            "segment": None
            if segment is None
            else {
                "segment_id": segment.segment_id,
                "category_id": segment.category_id,
                "category": names[segment.category_id],
                "isthing": segment.isthing,
                "area": segment.area,
                "score": segment.score,
            },
            "winner": None if winner is None else winner.candidate.candidate_id,
            "rule": self.rule,
            "reason": self.reason,
            "claims": [_claim_json(claim, names) for claim in self.claims],
        }


def _claim_json(claim: Claim, names: Mapping[int, str]) -> dict[str, object]:
    candidate = claim.candidate
    return {
        "candidate_id": candidate.candidate_id,
        "category_id": candidate.category_id,
        "category": names[candidate.category_id],
        "isthing": candidate.isthing,
        "score": candidate.score,
        "area": candidate.mask.area,
        "segment_id": candidate.segment_id or None,
        "won": claim.won,
        "rule": claim.rule,
        "reason": claim.reason,
        "beaten_by": claim.beaten_by or None,
    }


def read_story(run: Path, image_id: str, x: int, y: int) -> PixelStory:
    """The story of one pixel of a run.

    Args:
        run: the run's folder.
        image_id: as the run lists it.
        x: column of the pixel from 0.
        y: row of the pixel from 0.

    Raises:
        ConfigError: the folder is no run or keeps no traces, the image is not in it, or the pixel
            is not in the image.
        LabelError: a file of the run is damaged.
    """
    key = image_key(image_id)
    if not (run / "labels" / f"{key}.json").is_file():
        known = [meta.record.image_id for meta in list_labels(run)]
        close = difflib.get_close_matches(image_id, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f", which holds {len(known)} labels"
        raise ConfigError(f"{run} has no label of the image {image_id!r}{hint}")
    path = run / "traces" / f"{key}.npz"
    if not path.is_file():
        raise ConfigError(
            f"{run} keeps no trace of {image_id!r} ({path} is missing), so nothing tells how its "
            "label was made; label the image again"
        )
    label, _ = read_label(run, key)
    return tell_pixel(label, Trace.load(path), x, y)


def tell_pixel(label: PanopticLabel, trace: Trace, x: int, y: int) -> PixelStory:
    """The story of one pixel, from its label and the trace that made it.

    Raises:
        ConfigError: the pixel is not in the image.
    """
    height, width = label.size
    if not (0 <= x < width and 0 <= y < height):
        raise ConfigError(
            f"the pixel x {x}, y {y} is not in {label.image_id!r}, which is {width} x {height}: "
            f"x goes from 0 to {width - 1}, y from 0 to {height - 1}"
        )
    segment_id = int(label.id_map[y, x])
    segment = None if segment_id == VOID else label.segments[segment_id - 1]
    claimants = [row for row in trace.candidates if _holds(row, x, y)]
    owners = [row for row in claimants if segment_id != VOID and row.segment_id == segment_id]
    winner = _winner(owners, claimants, trace)
    claims = [_claim(row, winner, owners, trace) for row in claimants]
    rule = _deciding_rule(segment, winner, claims)
    claims = [replace(claim, rule=rule) if claim.won else claim for claim in claims]
    return PixelStory(label.image_id, x, y, segment, rule, tuple(claims))


def _holds(candidate: Candidate, x: int, y: int) -> bool:
    x0, y0, x1, y1 = candidate.mask.box
    return x0 <= x < x1 and y0 <= y < y1 and bool(candidate.mask.bitmap[y - y0, x - x0])


def _winner(
    owners: Sequence[Candidate], claimants: Sequence[Candidate], trace: Trace
) -> Candidate | None:
    """Of the winning segment's candidates here, the one that beat most of the others."""
    beaten = [
        sum((row.candidate_id, owner.candidate_id) in trace.losses for row in claimants)
        for owner in owners
    ]
    return owners[beaten.index(max(beaten))] if owners else None


def _claim(
    candidate: Candidate, winner: Candidate | None, owners: Sequence[Candidate], trace: Trace
) -> Claim:
    if winner is not None and candidate.candidate_id == winner.candidate_id:
        return Claim(candidate, True, "only-claim")
    if not candidate.segment_id:
        return Claim(candidate, False, candidate.rule, candidate.beaten_by)
    if winner is None:
        # It stands, but the pixel is void or filled: no trace of ours says so.
        raise ConfigError(
            f"the trace of {trace.image_id!r} does not belong to its label; label the image again"
        )
    for owner in (winner, *owners):
        rule = trace.loss_rules.get((candidate.candidate_id, owner.candidate_id))
        if rule is not None:
            return Claim(candidate, False, rule, owner.candidate_id)
    return Claim(candidate, False, "same-segment", winner.candidate_id)


def _deciding_rule(
    segment: Segment | None, winner: Candidate | None, claims: Sequence[Claim]
) -> str:
    """The rule by which the winner beat the best of those that stand."""
    if segment is None:
        return "dropped" if claims else "unclaimed"
    if winner is None:
        return "filled"
    rivals = [
        claim.rule
        for claim in claims
        if not claim.won and claim.candidate.segment_id not in (0, segment.segment_id)
    ]
    return rivals[0] if rivals else "only-claim"
