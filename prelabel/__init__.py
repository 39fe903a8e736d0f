"""prelabel: panoptic pre-labels for images, by text, with a reason for every segment.

>>> from prelabel import Pipeline
>>> label = Pipeline.from_config("configs/demo.yaml").label("photo.jpg")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prelabel.pipeline import Pipeline

__all__ = ["Pipeline", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # Lazy, so that the command line can answer and refuse before anything heavy is imported.
    if name == "Pipeline":
        from prelabel.pipeline import Pipeline

        return Pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
