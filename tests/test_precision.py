"""Lower precision is used where it was asked for, is possible, and changes little."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from prelabel.models.precision import PROBE_SIZE, Arithmetic, gate, probe_pixels


def test_a_cpu_keeps_to_fp32() -> None:
    assert Arithmetic.of("cpu", "bf16") == Arithmetic("cpu", None)
    assert Arithmetic.of("cuda", "fp32") == Arithmetic("cuda", None)
    assert Arithmetic.of("cuda:1", "bf16") == Arithmetic("cuda:1", torch.bfloat16)
    assert Arithmetic.of("cuda", "fp16") == Arithmetic("cuda", torch.float16)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_products_are_computed_in_the_asked_dtype_without_gradients(
    dtype: torch.dtype | None,
) -> None:
    a = torch.ones(2, 2, requires_grad=True)
    with Arithmetic("cpu", dtype)():
        product = a @ a
    assert product.dtype == (dtype or torch.float32)
    assert not product.requires_grad


def _probabilities(offset: float) -> NDArray[np.float32]:
    return np.array([0.5, 0.5 + offset], dtype=np.float32)


@pytest.mark.parametrize(
    ("offset", "kept"), [(0.01, True), (0.1, False), (float("nan"), False), (0.0, True)]
)
def test_the_gate_falls_back_where_results_change_too_much(
    offset: float, kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    low = Arithmetic("cpu", torch.bfloat16)

    def compute(arithmetic: Arithmetic) -> NDArray[np.float32]:
        return _probabilities(0.0 if arithmetic.dtype is None else offset)

    with caplog.at_level(logging.WARNING):
        chosen = gate(low, compute, 0.01, "the segmenter")
    assert chosen == (low if kept else Arithmetic("cpu"))
    assert ("the segmenter computes in fp32" in caplog.text) is not kept


def test_fp32_needs_no_comparison() -> None:
    def compute(_: Arithmetic) -> NDArray[np.float32]:
        raise AssertionError("nothing is to be compared")

    assert gate(Arithmetic("cpu"), compute, 0.01, "the detector") == Arithmetic("cpu")


def test_the_probe_is_a_picture_and_always_the_same() -> None:
    pixels = probe_pixels()
    assert pixels.shape == (*PROBE_SIZE, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, probe_pixels())
    assert pixels[210, 150].tolist() == [200, 40, 50]
    assert pixels[240, 380].tolist() == [40, 70, 160]
