"""Which devices a machine offers, one worker each."""

from __future__ import annotations

import os
from itertools import cycle, islice
from pathlib import Path

__all__ = ["worker_devices"]

_GPUS = Path("/proc/driver/nvidia/gpus")


def worker_devices(device: str, workers: int | None = None) -> tuple[str, ...]:
    """The device of each worker; `device` is "auto", "cpu" or "cuda".

    None is one worker per device of this machine; any other number goes round them. torch, which
    takes seconds to import, is asked only where the system shows a GPU.
    """
    devices = _all_devices(device)
    return devices if workers is None else tuple(islice(cycle(devices), workers))


def _all_devices(device: str) -> tuple[str, ...]:
    if device == "cpu" or (device == "auto" and not _shows_gpu()):
        return ("cpu",)
    import torch

    count = torch.cuda.device_count()
    if not count:
        # "cuda" without one: the worker says what is wrong.
        return ("cpu",) if device == "auto" else ("cuda",)
    return tuple(f"cuda:{index}" for index in range(count))


def _shows_gpu() -> bool:
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return False
    return not _GPUS.parent.parent.is_dir() or _GPUS.is_dir()
