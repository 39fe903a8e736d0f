"""The categories of the demo scenes."""

from __future__ import annotations

from prelabel.data import Category, Ontology

__all__ = ["ONTOLOGY"]

ONTOLOGY = Ontology(
    (
        Category(1, "person", True, ("person", "human", "pedestrian"), (220, 38, 60)),
        Category(2, "car", True, ("car", "automobile"), (30, 80, 200)),
        Category(3, "bus", True, ("bus", "coach"), (0, 170, 190)),
        Category(4, "dog", True, ("dog", "puppy", "hound"), (150, 75, 20)),
        Category(5, "tree", True, ("tree", "palm tree"), (20, 110, 50)),
        Category(6, "house", True, ("house", "building", "cottage"), (235, 130, 60)),
        Category(7, "boat", True, ("boat", "ship", "sailboat"), (120, 40, 160)),
        Category(8, "ball", True, ("ball", "football"), (255, 215, 0)),
        Category(9, "umbrella", True, ("umbrella", "parasol"), (255, 105, 180)),
        Category(10, "bench", True, ("bench", "park bench"), (105, 85, 140)),
        Category(11, "sky", False, ("sky", "clouds"), (135, 200, 250)),
        Category(12, "road", False, ("road", "street", "asphalt"), (90, 90, 100)),
        Category(13, "sidewalk", False, ("sidewalk", "pavement", "footpath"), (200, 170, 200)),
        Category(14, "grass", False, ("grass", "lawn", "meadow"), (120, 200, 70)),
        Category(15, "sand", False, ("sand", "beach"), (240, 220, 160)),
        Category(16, "water", False, ("water", "sea", "lake"), (40, 130, 170)),
        Category(17, "mountain", False, ("mountain", "hill"), (130, 120, 110)),
    )
)
"""Ten things and seven kinds of stuff; ids and names are part of the demo networks' training."""
