"""Every quantizer runs on the device as it was simulated, or is refused. A new one is covered by being registered."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model

X = np.random.default_rng(0).normal(size=(40, 5, 5, 2)).astype(np.float32)


def trained(weights: Any, activations: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            layers.Conv2D(6, 3, use_bias=False, name="d"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flat"),
            layers.Dense(4, name="e"),
        ]
    )
    model = kc.quantize_model(model, weights, activations, rules=[{"layers": "e", "weights": "int8"}])
    for _ in range(2):
        model(X, training=True)
    return model


def with_weights_reversed(artifact: kc.Artifact) -> kc.Artifact:
    """The same file, the integers of its convolution in the wrong order."""
    graph = Graph(read_model(artifact.content))
    (op,) = (op for op in graph.operators if graph.kind(op) == "CONV_2D")
    buffer = graph.model.buffers[graph.tensors[op.inputs[1]].buffer]
    buffer.data = np.asarray(buffer.data)[::-1].copy()
    return dataclasses.replace(artifact, content=write_model(graph.model))


def check(model: keras.Model) -> None:
    artifact = kc.convert(model, "tflm", io="int8")
    assert not artifact.float_ops
    rows = kc.verify(artifact, None, X).rows
    assert {row.kernel for row in rows} == {"tflm"}
    assert [row for row in rows if row.max_lsb] == []  # bit for bit
    wrong = kc.verify(with_weights_reversed(artifact), None, X, strict=False)
    assert wrong.first_failure is not None
    kc.verify(kc.convert(model, "litert", io="int8"), None, X, kernels=["xnnpack"])


def test_weights(first_transform) -> None:
    made = first_transform.make()
    if not isinstance(made, kc.WeightQuantizer):
        pytest.skip("not a quantizer")
    model = trained(made, "int8")
    if made.float_only:
        with pytest.raises(ValueError, match="Expected integers times a scale.*Convert with mode='float32'"):
            kc.convert(model)
        return
    check(model)


def test_activations(quantizer) -> None:
    if quantizer.cls is kc.FixedGrid:
        pytest.skip("a part of a frozen model")
    check(trained("int8", quantizer.make()))
