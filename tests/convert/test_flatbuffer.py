"""Reading, editing and writing files."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from keras_compress.tflite.flatbuffer import Graph, read_model, write_model


def empty_model() -> schema.ModelT:
    model, subgraph = schema.ModelT(), schema.SubGraphT()
    model.version = 3
    model.buffers, model.operatorCodes, model.subgraphs = [schema.BufferT()], [], [subgraph]
    subgraph.tensors, subgraph.operators, subgraph.inputs, subgraph.outputs = [], [], [], []
    return model


@pytest.fixture
def graph() -> Graph:
    """x + [1, 2, 3] + [1, 2, 3], the constant stored twice, beside an unused tensor and constant."""
    graph = Graph(empty_model())
    values = np.array([1, 2, 3], np.float32)
    x, y, z = (graph.add_tensor(name, (1, 3), "float32") for name in "xyz")
    first, second = graph.add_constant("k", values), graph.add_constant("k", values)
    graph.add_constant("unused", np.arange(100, dtype=np.int16))
    graph.operators = [
        graph.make_operator("ADD", [x, first], [y], schema.AddOptionsT()),
        graph.make_operator("ADD", [y, second], [z], schema.AddOptionsT()),
    ]
    graph.set_interface([], [])
    graph.model.subgraphs[0].inputs, graph.model.subgraphs[0].outputs = [x], [z]
    return graph


def run(content: bytes) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter(model_content=content)
    model.allocate_tensors()
    model.set_tensor(model.get_input_details()[0]["index"], np.array([[10, 20, 30]], np.float32))
    model.invoke()
    return model.get_tensor(model.get_output_details()[0]["index"])


def test_written_files_run(graph):
    assert run(write_model(graph.model)).tolist() == [[12.0, 24.0, 36.0]]


def test_equal_constants_are_stored_once_and_unused_ones_dropped(graph):
    model = read_model(write_model(graph.model))
    assert len(model.buffers) == 2
    assert len(model.operatorCodes) == 1
    names = [t.name for t in model.subgraphs[0].tensors]
    assert names == [b"x", b"y", b"z", b"k", b"k_1"]


def test_constants_lie_on_16_bytes(graph):
    content = write_model(graph.model)
    assert content.index(np.array([1, 2, 3], np.float32).tobytes()) % 16 == 0


def test_out_of_line_buffers_are_taken_in(graph):
    """Large files keep constants behind the flatbuffer; TFLM would read zeros."""
    model = read_model(write_model(graph.model))
    payload = bytes(model.buffers[1].data)
    model.buffers[1].data, model.buffers[1].offset, model.buffers[1].size = None, 1, len(payload)
    content = bytearray(flatbuffer_utils.convert_object_to_bytearray(model))
    outside = schema.Model.GetRootAs(content, 0).Buffers(1)
    flatbuffer_utils.update_packed_buffer(outside, offset=len(content), size=len(payload))
    written = write_model(read_model(bytes(content) + payload))
    assert run(written).tolist() == [[12.0, 24.0, 36.0]]
    assert schema.Model.GetRootAs(written, 0).Buffers(1).Offset() == 0


def test_writing_again_changes_nothing(graph):
    content = write_model(graph.model)
    assert write_model(read_model(content)) == content


@pytest.mark.parametrize("content", [b"", b"TFL3", b"not a flatbuffer at all"])
def test_what_is_not_a_flatbuffer_is_refused(content):
    with pytest.raises(ValueError, match="Expected a TFLite flatbuffer"):
        read_model(content)


def test_constants_keep_type_and_shape(graph):
    values = np.array([[-3, 7], [2**40, 1]], np.int64)
    number = graph.add_constant("wide", values)
    assert graph.dtype(number) == "int64"
    np.testing.assert_array_equal(graph.constant(number), values)
    assert graph.constant(graph.inputs[0]) is None
    graph.set_quantization(number, np.array([0.5, 0.25], np.float32), 0, 1)
    scale, zero_point = graph.quantization(number)
    assert (scale.tolist(), zero_point) == ([0.5, 0.25], 0)
    assert graph.tensors[number].quantization.quantizedDimension == 1


def test_names_are_unique(graph):
    assert graph.rename(graph.inputs[0], "y") == "y_1"
    assert graph.rename(graph.inputs[0], "x") == "x"


def test_a_tensor_of_an_unknown_type_is_damage(graph):
    graph.tensors[0].type = 77
    with pytest.raises(ValueError, match="tensor type 77 is unknown"):
        read_model(write_model(graph.model))
