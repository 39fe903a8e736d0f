"""The authors' own `.pth` checkpoints, read safely and written in transformers' layout.

`reading` opens a file without running what is in it, `layouts` says whose it is, `meta_sam` and
`grounding_dino` hold the maps of names, `converting` checks and writes, `cache` keeps the result.
"""

from prelabel.models.conversion.cache import (
    conversions,
    converted,
    converted_folder,
    converted_root,
)
from prelabel.models.conversion.converting import convert_checkpoint, open_original
from prelabel.models.conversion.reading import check_header
from prelabel.models.conversion.tokenizer import locate_tokenizer

__all__ = [
    "check_header",
    "conversions",
    "convert_checkpoint",
    "converted",
    "converted_folder",
    "converted_root",
    "locate_tokenizer",
    "open_original",
]
