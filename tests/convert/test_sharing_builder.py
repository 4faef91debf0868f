"""A file in which equal tables are written once, beside one by the library's own builder."""

from __future__ import annotations

from typing import Any

import flatbuffers
import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import keras_compress as kc
from keras_compress.runtime.litert import LiteRT
from keras_compress.runtime.tflm import TFLM
from keras_compress.tflite import flatbuffer
from keras_compress.tflite.sharing_builder import SharingBuilder


def values_of(found: Any) -> Any:
    """All that a schema object holds, as lists and dictionaries."""
    if isinstance(found, np.ndarray):
        return found.tolist()
    if isinstance(found, (list, tuple)):
        return [values_of(each) for each in found]
    return {k: values_of(v) for k, v in vars(found).items()} if hasattr(found, "__dict__") else found


@pytest.fixture(scope="module")
def files() -> tuple[bytes, bytes, np.ndarray]:
    """A GRU over five steps by this package's builder and by the library's, and data."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 4), name="x")
    model = keras.Model(inputs, keras.layers.GRU(6, name="gru")(inputs))
    x = np.random.default_rng(0).normal(size=(32, 5, 4)).astype(np.float32)
    shared = kc.convert(model, "tflm", representative_dataset=x, recurrent="unrolled").content
    read = flatbuffer.read_model(shared)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(read.Pack(builder), file_identifier=b"TFL3")
    return shared, bytes(builder.Output()), x


def test_the_same_in_less_room(files):
    shared, plain, _ = files
    assert values_of(flatbuffer.read_model(shared)) == values_of(flatbuffer.read_model(plain))
    assert len(shared) < 0.75 * len(plain)
    assert flatbuffer.write_model(flatbuffer.read_model(shared)) == shared  # once more


def test_runtimes_compute_the_same(files):
    shared, plain, x = files
    for runner in (LiteRT(), TFLM()):
        (first,), (second,) = runner.run(shared, [x]), runner.run(plain, [x])
        assert np.ptp(first) > 0.1
        np.testing.assert_array_equal(first, second)


def test_vectors_of_other_elements_and_of_references_stay_apart():
    from keras_compress.tflite.sharing_builder import SharingBuilder

    builder = SharingBuilder(1024)
    ints, again = (builder.CreateNumpyVector(np.array([1, 0, 2, 0], np.int32)) for _ in range(2))
    assert ints == again
    # The same bytes behind the count of four; eight bytes an element must lie on eight.
    assert builder.CreateNumpyVector(np.array([1, 2, 0, 0], np.int64)) != ints
    assert builder.CreateNumpyVector(np.array([1, 0, 2, 0], np.float32)) != ints

    def references(target: int) -> int:
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(target)
        return int(builder.EndVector())

    name, other = builder.CreateString("name"), builder.CreateString("other")
    assert builder.CreateString("name") == name != other
    first = references(name)
    assert references(other) not in (first, references(name))


@pytest.mark.parametrize("turned", [(True, False), (False, True), (True, True), (False, False)])
def test_tables_that_differ_in_which_field_they_have(turned):
    """Fields of one byte, alone in their tables: what differs is where the table says that they are."""
    made = schema.ModelT()
    made.subgraphs = [schema.SubGraphT()]
    made.subgraphs[0].operators = []
    for adj_x, adj_y in ((True, False), turned, (False, True)):
        op = schema.OperatorT()
        op.builtinOptionsType = schema.BuiltinOptions.BatchMatMulOptions
        op.builtinOptions = schema.BatchMatMulOptionsT()
        op.builtinOptions.adjX, op.builtinOptions.adjY = adj_x, adj_y
        made.subgraphs[0].operators.append(op)
    builder = SharingBuilder(1024)
    builder.Finish(made.Pack(builder), file_identifier=b"TFL3")
    again = schema.ModelT.InitFromPackedBuf(bytes(builder.Output()), 0)
    found = [(op.builtinOptions.adjX, op.builtinOptions.adjY) for op in again.subgraphs[0].operators]
    assert found == [(True, False), turned, (False, True)]


@pytest.mark.parametrize("mode", ["float32", "int8"])
def test_products_of_matrices_turned_in_two_ways(mode):
    x, b = keras.Input((4, 6), name="x"), keras.Input((5, 6), name="b")
    scores = keras.ops.relu(keras.ops.matmul(b, keras.ops.transpose(x, (0, 2, 1))))
    model = keras.Model([x, b], keras.ops.matmul(keras.ops.transpose(scores, (0, 2, 1)), b))
    data = [
        np.random.default_rng(seed).normal(size=(16, *t.shape[1:])).astype(np.float32) for seed, t in enumerate((x, b))
    ]
    artifact = kc.convert(model, mode=mode, representative_dataset=data)
    expected = np.asarray(model(data))
    found = LiteRT().run(artifact.content, data)[0]
    assert np.abs(found - expected).max() < (1e-5 if mode == "float32" else 0.05) * np.abs(expected).max()
