"""LiteRT.js in Node beside LiteRT: the same outputs; and what is said where it is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import keras_compress as kc
from keras_compress.runtime.litert_web import FOLDER, VERSION
from keras_compress.runtime.target import target

FILES = Path(__file__).parents[2] / "tflite_models"
MISSING = target("litert_web").available()
with_node = pytest.mark.skipif(MISSING is not None, reason=f"LiteRT.js: {MISSING}")


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 17, (5, 8, 8, 1)).astype("float32")


@with_node
def test_outputs_are_those_of_litert() -> None:
    content = (FILES / "digits_float.tflite").read_bytes()
    (web,), (litert,) = (target(name).run(content, [pixels()]) for name in ("litert_web", "litert"))
    assert np.abs(litert).max() > 1
    np.testing.assert_allclose(web, litert, rtol=1e-4, atol=1e-4)


@with_node
def test_figures_of_two_files_in_turns() -> None:
    path = FILES / "digits_float.tflite"
    found = kc.measure(path, pixels(), np.arange(5), target="litert_web", baseline=path)
    assert set(found) == {"model", "baseline"}
    for each in found.values():
        assert each.latency.median_ms > 0
        assert "WebAssembly, Node v" in each.latency.delegate
        assert each.memory["resident_memory_bytes"] > 0
        assert each.accuracy is not None


def test_what_has_no_arrays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    content = (FILES / "digits_int8.tflite").read_bytes()
    with pytest.raises(ValueError, match="such as those of io='float32'. Received: a file with .* of int8"):
        target("litert_web").describe(content)
    with pytest.raises(ValueError, match="Expected target 'litert' to read intermediate tensors"):
        target("litert_web").tensors(content, [], [])


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\n")
    node.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(FOLDER, str(tmp_path))
    said = target("litert_web").available()
    assert said is not None
    assert f"`npm install @litertjs/core@{VERSION}` there" in said
    package = tmp_path / "node_modules" / "@litertjs" / "core"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"version": "1.0.0"}')
    assert "version 1.0.0 is in" in str(target("litert_web").available())
    node.unlink()
    with pytest.raises(RuntimeError, match="Target 'litert_web' cannot be measured here: Node is not installed"):
        kc.measure(FILES / "digits_float.tflite", target="litert_web")
