"""Stand-ins for torchvision and timm, of which the authors' packages use a few small functions.

There is no CPU build of torchvision, and one made for another build of torch breaks transformers;
timm needs it too. What a network's forward pass calls does here what it does there. What only
training or other parts of the packages call says so when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["missing_packages"]


def missing_packages() -> dict[str, ModuleType]:
    """Modules by their dotted name: timm and torchvision, where torchvision cannot be found."""
    if find_spec("torchvision") is not None:
        return {}
    return {**_torchvision(), **_timm()}


def _torchvision() -> dict[str, ModuleType]:
    boxes = _refusing("torchvision.ops.boxes", "nms", "batched_nms", "box_area")
    return _package(
        {
            # groundingdino reads the minor version as a number, to work around 0.6.
            "torchvision": {"__version__": "0.99", "_is_tracing": _never},
            "torchvision.models": {},
            "torchvision.models._utils": _refusing(
                "torchvision.models._utils", "IntermediateLayerGetter"
            ),
            "torchvision.ops": {},
            "torchvision.ops.boxes": boxes,
            "torchvision.transforms": {},
            "torchvision.transforms.functional": {"resize": _resize, "to_pil_image": _picture},
        }
    )


def _timm() -> dict[str, ModuleType]:
    from torch import nn

    layers = {
        # Drops paths in training only.
        "DropPath": lambda _share=0.0: nn.Identity(),
        "to_2tuple": lambda value: value if isinstance(value, tuple) else (value, value),
        "trunc_normal_": nn.init.trunc_normal_,
    }
    return _package({"timm": {}, "timm.models": {}, "timm.models.layers": layers})


def _package(contents: Mapping[str, Mapping[str, Any]]) -> dict[str, ModuleType]:
    """Modules with these contents, each an attribute of the one above it."""
    modules: dict[str, ModuleType] = {}
    for name, values in contents.items():
        module = modules[name] = ModuleType(name)
        module.__spec__ = ModuleSpec(name, loader=None, is_package=True)
        module.__path__ = []
        vars(module).update(values)
        above, _, leaf = name.rpartition(".")
        if above:
            setattr(modules[above], leaf, module)
    return modules


def _refusing(module: str, *names: str) -> dict[str, Callable[..., Any]]:
    def refuse(name: str) -> Callable[..., Any]:
        def call(*_args: object, **_kwargs: object) -> Any:
            raise NotImplementedError(f"{module}.{name} needs torchvision, which is not installed")

        return call

    return {name: refuse(name) for name in names}


def _never() -> bool:
    return False


def _picture(pixels: Any) -> Image:
    """uint8 (H, W, 3) as a Pillow image."""
    from PIL import Image

    return Image.fromarray(pixels)


def _resize(image: Image, size: tuple[int, int]) -> Image:
    """A Pillow image at (height, width), bilinear, as torchvision resizes Pillow images."""
    from PIL import Image

    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
