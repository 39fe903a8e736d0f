"""Devices and memory, examined before a run and without loading torch."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from prelabel.cli.doctor_models import weights_bytes, weights_here
from prelabel.cli.findings import Finding, fail, ok, warn
from prelabel.config import Config
from prelabel.errors import ConfigError, ModelError
from prelabel.models.registry import ROLES
from prelabel.models.weights import NetworkOptions

__all__ = ["examine_device"]

_HEADROOM = 1.5
"""Memory that a network takes while it loads and runs, in sizes of its file; without images."""


def examine_device(config: Config) -> Iterator[Finding]:
    """Whether the device is there, and has room for the networks."""
    weights = sum(
        weights_bytes(found)
        for role in ROLES
        if isinstance(options := getattr(config, role), NetworkOptions)
        and (found := _quietly_here(options)) is not None
    )
    gpus = [] if config.device == "cpu" else _gpu_memory()
    built = _torch_cuda()
    if config.device == "cuda" and (not gpus or built is None):
        why = "the system shows no GPU" if not gpus else "torch is built without CUDA"
        yield fail("device", f"cuda is asked for, but {why}; set device: cpu, or mend that")
        return
    if gpus and built is None:
        yield warn("device", "there is a GPU, but torch is built without CUDA; the CPU is used")
    if gpus and built is not None:
        text = f"{len(gpus)} GPU, {min(gpus) / 1e9:.0f} GB each, torch for CUDA {built}"
        yield _judge_memory("device", text, min(gpus), weights)
        return
    free = _free_memory()
    text = "cpu" if free is None else f"cpu, {free / 1e9:.1f} GB of memory free"
    yield _judge_memory("device", text, free, weights)


def _judge_memory(subject: str, text: str, room: int | None, weights: int) -> Finding:
    needed = weights * _HEADROOM
    if room is not None and room < needed:
        return fail(
            subject,
            f"{text}; the networks alone need about {needed / 1e9:.1f} GB: choose smaller ones",
        )
    return ok(subject, text)


def _quietly_here(options: NetworkOptions) -> Path | None:
    try:
        return weights_here(options)
    except (ConfigError, ModelError):
        return None  # told by `examine_weights`


def _torch_cuda() -> str | None:
    """The CUDA version that the installed torch is built for, without importing it."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def _gpu_memory() -> list[int]:
    """Bytes of memory of each GPU that the NVIDIA driver shows to this process."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    sizes = []
    for index in range(count.value):
        device, size = ctypes.c_int(), ctypes.c_size_t()
        if not driver.cuDeviceGet(ctypes.byref(device), index) and not driver.cuDeviceTotalMem_v2(
            ctypes.byref(size), device
        ):
            sizes.append(size.value)
    return sizes


def _free_memory() -> int | None:
    """Bytes that processes may still take, as Linux estimates them; None elsewhere."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
