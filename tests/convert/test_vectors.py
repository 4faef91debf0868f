"""Weights stored as codes of vectors: the same integers on TFLite-Micro, in fewer bytes, and back."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.runtime.target import target
from keras_compress.tflite.encoding.vectors import coded
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model


def few_vectors(model: keras.Model, codewords: dict[str, tuple[int, int]]) -> keras.Model:
    """Weights out of random codebooks: name -> how many vectors of how many weights."""
    random = np.random.default_rng(0)
    for name, (number, size) in codewords.items():
        kernel = model.get_layer(name).kernel
        book = random.normal(size=(number, size))
        shape = tuple(kernel.shape)
        rows = book[random.integers(0, number, int(np.prod(shape)) // size)]
        if len(shape) == 4:
            order = (2, 3, 0, 1) if name == "depthwise" else (3, 2, 0, 1)
            kernel.assign(rows.reshape([shape[a] for a in order]).transpose(np.argsort(order)))
        else:
            kernel.assign(rows.reshape(shape[::-1]).T)
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 8))
    x = layers.Conv2D(256, 3, activation="relu", name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, activation="relu", name="depthwise")(x)
    x = layers.Conv2D(64, 1, activation="relu", name="pointwise")(x)
    x = layers.Dense(64, activation="relu", name="dense")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, layers.Dense(5, name="logits")(x))
    sizes = {"conv": (200, 9), "depthwise": (4, 9), "pointwise": (100, 8), "dense": (300, 4)}
    return few_vectors(model, sizes)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(16, 6, 6, 8)).astype("float32")


@pytest.fixture(scope="module")
def files(model: keras.Model, x: np.ndarray) -> dict[str, bytes]:
    quantized = kc.quantize_model(model, weights=kc.UniformQuantizer(8, per_channel=False), preserve=None)
    how = {"target": "tflm", "representative_dataset": x}
    return {s: kc.convert(quantized, weights_storage=s, **how).content for s in ("int8", "auto", "vectors")}


def kinds(content: bytes) -> list[str]:
    graph = Graph(read_model(content))
    return [graph.kind(op) for op in graph.operators]


def test_the_file_is_smaller_runs_exactly_and_expands_to_the_plain_one(files: dict[str, bytes], x: np.ndarray) -> None:
    plain, vectors = files["int8"], files["vectors"]
    # 18,432, 2,304, 16,384 and 4,096 weights: 2,048 codes and 200 * 9 bytes; 256 and 4 * 9; 2,048 and 100 * 8; 1,024
    # of two bytes and 300 * 4. Beside them, up to 700 bytes for the operators of each.
    saved = 18_432 - 3_848 + 2_304 - 292 + 16_384 - 2_848 + 4_096 - 3_248
    assert saved - 4 * 700 < len(plain) - len(vectors) < saved
    assert len(vectors) < 0.6 * len(files["auto"])
    assert kinds(vectors).count("GATHER") == 4
    # 100 codewords need no offset, 300 have codes of two bytes.
    assert kinds(vectors).count("ADD") == 1
    run = target("tflm")
    outputs = [run.run(content, [x])[0] for content in (plain, vectors)]
    np.testing.assert_array_equal(*outputs)
    assert len(np.unique(outputs[0])) > 20
    assert kc.expand(vectors) == plain


def test_what_is_read_back(files: dict[str, bytes]) -> None:
    plain, vectors = (kc.inspect_tflite(files[name]) for name in ("int8", "vectors"))
    assert [w.storage for w in vectors.weights] == ["vectors", "vectors", "vectors", "vectors", "raw"]
    for old, new in zip(plain.weights, vectors.weights, strict=True):
        assert (old.name, old.shape, old.elements, old.distinct_values) == (
            new.name,
            new.shape,
            new.elements,
            new.distinct_values,
        )
        assert old.entropy_bits == pytest.approx(new.entropy_bits)
    assert vectors.weights[0].bytes == 2048 + 200 * 9


def test_a_file_of_another_converter(files: dict[str, bytes]) -> None:
    assert kc.compress_tflite(files["int8"], "vectors") == files["vectors"]


def test_verify(model: keras.Model, x: np.ndarray) -> None:
    quantized = kc.quantize_model(model, weights=kc.UniformQuantizer(8, per_channel=False), preserve=None)
    artifact = kc.convert(quantized, target="tflm", weights_storage="vectors", representative_dataset=x)
    assert any("vectors: " in note and "2,048 codes of 200 vectors of 9" in note for note in artifact.notes)
    assert kc.verify(artifact, None, x, kernels=["tflm", "reference"]).ok


@pytest.mark.parametrize("number", [20, 128, 129, 256, 257])
def test_codes_and_codebooks_give_the_values_back(number: int) -> None:
    random = np.random.default_rng(0)
    book = np.unique(random.integers(-127, 128, (number + 20, 8)).astype(np.int8), axis=0)[:number]
    codes = np.concatenate([np.arange(number), random.integers(0, number, 1500 - number)])
    values = book[codes].reshape(500, 24)
    found = coded(values)
    assert found is not None
    assert found.codewords.shape == (number, 8)
    stored = found.stored_codes
    assert stored.dtype == (np.int8 if number <= 256 else np.int16)
    assert found.bytes == number * 8 + 1500 * stored.dtype.itemsize
    np.testing.assert_array_equal(found.codewords[stored.astype(int) + found.offset].reshape(500, 24), values)


def test_values_without_equal_vectors_have_no_such_form() -> None:
    assert coded(np.random.default_rng(0).integers(-127, 128, (64, 3, 3, 16)).astype(np.int8)) is None


def test_damaged_codes_are_refused_by_name(files: dict[str, bytes]) -> None:
    graph = Graph(read_model(files["vectors"]))
    gather = next(op for op in graph.operators if graph.kind(op) == "GATHER")
    book = graph.constant(gather.inputs[0])
    assert book is not None
    graph.set_constant(gather.inputs[0], book[:-20])
    with pytest.raises(ValueError, match="a code has no codeword"):
        kc.expand(write_model(graph.model))
    with pytest.raises(ValueError, match="a code has no codeword"):
        kc.inspect_tflite(write_model(graph.model))


def test_litert_is_not_given_such_a_file(model: keras.Model, x: np.ndarray) -> None:
    with pytest.raises(ValueError, match="Expected target='tflm'.*weights_storage='vectors'"):
        kc.convert(model, target="litert", weights_storage="vectors", representative_dataset=x)


def test_layers_with_looked_up_weights_are_not_split(
    model: keras.Model, files: dict[str, bytes], x: np.ndarray
) -> None:
    how = {"target": "tflm", "weights_storage": "vectors", "representative_dataset": x}
    with pytest.raises(ValueError, match="are not split. Received: weights_storage='vectors', max_arena_bytes=9000"):
        kc.convert(model, max_arena_bytes=9000, **how)
    with pytest.raises(ValueError, match="are not split"):
        kc.compress_tflite(files["int8"], "vectors", max_arena_bytes=9000)
