"""The graph itself: its text, its JSON, and what `check` refuses."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from keras_compress.ir.builder import Builder, integers
from keras_compress.ir.check import check
from keras_compress.ir.graph import Node
from keras_compress.ir.json import from_json, to_json
from keras_compress.tflite.grids import ConstantGrid, Grid


def small():
    """x -> FULLY_CONNECTED -> RELU -> y."""
    build = Builder("small")
    x = build.input("x", "x", (1, 2), "float32")
    build.path = build.label = "d"
    weight = ConstantGrid("d/kernel", np.array([[1, -2], [3, 4]], np.int8), np.array([0.5, 0.25], np.float32), 0)
    y = build.add("FULLY_CONNECTED", x, weight, np.array([1.0, 2.0], np.float32))
    y = build.put_on_grid(build.add("RELU", y), Grid(0.5, -128))
    build.point("d_out", y, -100)
    build.output("y", y)
    return build.graph


TEXT = """graph small
input x: x: float32[1,2]
d/fully_connected = FULLY_CONNECTED(x, d/kernel, d/fully_connected/operand2) {activation=NONE, keep_num_dims=False}
  d/kernel: float32[2,2] integers 0ae27179, 2 scales
  d/fully_connected/operand2: float32[2] = [1, 2]
  d/fully_connected: float32[1,2]
d/relu = RELU(d/fully_connected)
  d/relu: float32[1,2] int8 scale 0.5 zero -128
output y: d/relu
point d_out: d/relu from -100
"""


def test_text():
    check(small())
    assert str(small()) == TEXT


def test_json_loses_nothing():
    graph = small()
    graph.nodes.append(Node("ISLAND", ("d/relu",), (), {"content": b"\x00\xff"}, "lambda"))
    read = from_json(to_json(graph))
    assert str(read) == str(graph)
    assert to_json(read) == to_json(graph)
    assert read.nodes[-1].attributes["content"] == b"\x00\xff"
    grid = read.tensors["d/kernel"].values
    assert (grid.values.dtype, grid.values.tolist(), grid.scale.tolist()) == ("int8", [[1, -2], [3, 4]], [0.5, 0.25])
    with pytest.raises(ValueError, match="Expected the JSON of a graph"):
        from_json("{}")


def test_shapes_that_do_not_fit_are_refused_where_they_are_made():
    build = Builder("b")
    x = build.input("x", "x", (1, 4), "float32")
    build.path = "layer"
    with pytest.raises(ValueError, match="fit RESHAPE at 'layer'. Received: 4 values as \\(1, 5\\)"):
        build.add("RESHAPE", x, integers(1, 5))
    with pytest.raises(ValueError, match="fit ADD at 'layer'. Received: Expected attributes out of"):
        build.add("ADD", x, x, axis=1)


def replaced(graph, number, **changes):
    graph.nodes[number] = dataclasses.replace(graph.nodes[number], **changes)


def changed(graph, which, **changes):
    graph.tensors[which] = dataclasses.replace(graph.tensors[which], **changes)


def first_twice(graph):
    graph.nodes.append(graph.nodes[0])


def other_order(graph):
    graph.nodes.reverse()


def weight(values, scale):
    return ConstantGrid("d/kernel", np.array(values), np.array(scale, np.float32), 0)


PLANTED = [
    (
        other_order,
        "input 'd/fully_connected' before it is written, in node 0 RELU that makes .*'d/relu'.* of layer 'd'",
    ),
    (first_twice, "output 'd/fully_connected', which is written already, in node 2"),
    (lambda g: replaced(g, 0, inputs=("ghost", "d/kernel", None)), "unknown input 'ghost', in node 0 FULLY_CONNECTED"),
    (lambda g: replaced(g, 1, outputs=("ghost",)), "unknown output 'ghost', in node 1 RELU"),
    (lambda g: replaced(g, 0, operator="FULLY"), "unknown operator 'FULLY'"),
    (lambda g: replaced(g, 0, inputs=("x",)), "1 inputs, for 2 to 3"),
    (lambda g: replaced(g, 0, attributes={"axis": 1}), r"Received: \['axis'\], in node 0"),
    (lambda g: replaced(g, 0, attributes={"activation": "TANH"}), "activation='TANH', in node 0"),
    (lambda g: replaced(g, 0, attributes={"keep_num_dims": 1}), "keep_num_dims=1, in node 0"),
    (lambda g: changed(g, "d/relu", shape=(1, 3)), r"outputs of shapes \[\(1, 3\)\], for \[\(1, 2\)\], in node 1 RELU"),
    (lambda g: changed(g, "x", shape=(1, 3)), r"operands that do not fit \(weights for 2 inputs, on 3\)"),
    (lambda g: changed(g, "d/relu", grid=Grid(-1.0, 0)), "positive scale. Received: scale=-1.0 at 'd/relu'"),
    (lambda g: changed(g, "d/relu", name="other"), "tensor named 'other' under 'd/relu'"),
    (lambda g: changed(g, "d/fully_connected/operand2", values=np.array([1, np.inf], np.float32)), "not finite"),
    (lambda g: changed(g, "d/fully_connected/operand2", values=np.zeros(3, np.float32)), r"values of shape \(3,\)"),
    (lambda g: changed(g, "d/kernel", values=weight([[1, -2], [3, 400]], [0.5])), "integers from -2 to 400, for 8"),
    (lambda g: changed(g, "d/kernel", values=weight([[1, -2], [3, 4]], [0.5, 0.0])), "scales that are not positive"),
    (lambda g: changed(g, "d/kernel", values=weight([[1, -2], [3, 4]], [0.5] * 3)), "3 scales for 2 channels"),
    (lambda g: g.outputs.append(("z", "ghost")), "Received: 'ghost' for output 'z'"),
    (lambda g: g.outputs.append(("y", "d/relu")), r"one name per output. Received: \['y'\] more than once"),
    (lambda g: g.points.append(dataclasses.replace(g.points[0], name="p", tensor="ghost")), r"none for \['p'\]"),
]


@pytest.mark.parametrize(("plant", "message"), PLANTED, ids=[message[:30] for _, message in PLANTED])
def test_check_names_what_is_wrong(plant, message):
    graph = small()
    plant(graph)
    with pytest.raises(ValueError, match=message):
        check(graph)


def test_every_operator_of_the_table_has_its_options_in_the_schema():
    from ai_edge_litert import schema_py_generated as schema

    from keras_compress.ir.emit import _camel
    from keras_compress.ir.operators import ISLAND, OPERATORS

    for kind, operator in OPERATORS.items():
        if kind != ISLAND:
            assert isinstance(getattr(schema.BuiltinOperator, kind), int)
        if operator.options:
            fields = vars(getattr(schema, f"{operator.options}T")())
            names = {"fusedActivationFunction" if n == "activation" else _camel(n) for n in operator.settings}
            assert names <= set(fields), kind


def test_a_graph_holds_no_keras_object():
    from keras_compress.convert.export import export

    x = keras.Input((4,), name="x")
    graph = export(keras.Model(x, layers.Dense(2, name="d")(x))).graph
    for tensor in graph.tensors.values():
        assert type(tensor.values) in (type(None), np.ndarray, ConstantGrid)
    assert to_json(from_json(to_json(graph))) == to_json(graph)
