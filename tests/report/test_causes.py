"""Why files did not shrink and are not faster, in words that follow from the figures."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.report import causes as module
from keras_compress.tflite.arithmetic import arithmetic


def row(name: str, kind: str, raw: int, payload: int, ms: float, **figures: Any) -> dict[str, Any]:
    latency = {"median": ms, "p10": 0.9 * ms, "p90": 1.1 * ms}
    base = {"gzip_bytes": raw // 2, "sparsity": 0.8, "litert_latency_ms": latency}
    return {"name": name, "arithmetic": kind, "raw_bytes": raw, "weight_payload_bytes": payload, **base, **figures}


FLOAT = row("float", "float32", 100_000, 96_000, 1.0)


def test_zeros_in_float32_take_their_bytes_and_their_time() -> None:
    size, time = module.causes([FLOAT, row("pruned", "float32", 100_000, 96_000, 1.02, gzip_bytes=10_000)])
    assert "1.00 times smaller than float's, because each weight takes 4 bytes, a zero too (80% are zeros)" in size
    assert "gzipped is 5.00 times smaller" in size
    assert "1.02 times float's 1.0000 ms" in time
    assert "kernels multiply zeros" in time


@pytest.mark.parametrize(("has", "said"), [(False, True), (True, False), (None, False)])
def test_int8_without_byte_products(has: bool | None, said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "multiplies_bytes", lambda: has)
    (time,) = module.causes([FLOAT, row("int8", "int8", 25_000, 24_000, 0.98)])
    assert "is better by less than the spread: 0.98 times" in time
    assert ("VNNI" in time) == said


def test_small_nets_start_operators_and_small_files_hold_names() -> None:
    first = row("float", "float32", 5_000, 2_000, 0.01)
    size, time = module.causes([first, row("int8", "int8", 4_500, 500, 0.01)])
    assert "1.11 times smaller than float's, because 4,000 of its bytes are no weights" in size
    assert "starting operators" in time


def test_what_is_smaller_and_faster_needs_no_cause() -> None:
    assert module.causes([FLOAT, row("small", "int8", 20_000, 19_000, 0.3)]) == []


def test_a_file_of_several_kinds_is_told_by_its_weights() -> None:
    size, *_ = module.causes([FLOAT, row("mixed", "float32+int8", 99_000, 95_000, 1.0)])
    assert "because its weights take 95,000 bytes of 96,000" in size


def test_a_transposed_convolution_multiplies_its_values_not_its_shape() -> None:
    layers = keras.layers
    model = keras.Sequential([keras.Input((4, 4, 2)), layers.Conv2DTranspose(3, 3, strides=2)])
    samples = np.random.default_rng(0).normal(size=(8, 4, 4, 2)).astype(np.float32)
    assert arithmetic(kc.convert(model, mode="float32").content) == "float32"
    assert arithmetic(kc.convert(model, representative_dataset=samples).content) == "int8"
