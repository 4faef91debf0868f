"""Passes, graph to graph."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_compress.ir.builder import Builder, integers
from keras_compress.ir.check import check
from keras_compress.ir.fuse import fuse_activations
from keras_compress.ir.fuse_padding import fuse_padding
from keras_compress.ir.fuse_transposes import fuse_transposes
from keras_compress.ir.merge_reshapes import merge_reshapes
from keras_compress.ir.order import depth_first
from keras_compress.ir.share import share_equal_nodes
from keras_compress.tflite.grids import Grid


def operators(graph):
    check(graph)
    return [node.operator for node in graph.nodes]


def settings(graph, operator):
    return [dict(node.attributes) for node in graph.nodes if node.operator == operator]


def sequence_of_relu(nets, point):
    """Conv1D -> (point) -> ReLU."""
    x = keras.Input((6, 2), name="x")
    y = layers.Conv1D(3, 2, name="c")(x)
    y = nets.point(y, 0.5, 0, "between") if point else y
    return nets.read(keras.Model(x, layers.ReLU(6.0)(y)))


def test_an_activation_goes_into_the_operator_before_it_through_a_reshape(nets):
    graph = sequence_of_relu(nets, point=False)
    assert operators(graph) == ["RESHAPE", "CONV_2D", "RESHAPE", "RELU6"]
    fuse_activations(graph)
    assert operators(graph) == ["RESHAPE", "CONV_2D", "RESHAPE"]
    assert settings(graph, "CONV_2D")[0]["activation"] == "RELU6"


def test_an_activation_behind_integers_stays(nets):
    graph = sequence_of_relu(nets, point=True)
    fuse_activations(graph)
    assert operators(graph) == ["RESHAPE", "CONV_2D", "RESHAPE", "RELU6"]


@pytest.mark.parametrize("case", ["two readers", "output", "already", "concatenation"])
def test_activations_that_stay(case):
    build = Builder("b")
    x = build.input("x", "x", (1, 4), "float32")
    if case == "concatenation":
        y = build.add("CONCATENATION", x, x, axis=1)
    else:
        y = build.add("ADD", x, x, activation="RELU6" if case == "already" else "NONE")
    z = build.add("RELU", y)
    build.output("z", z)
    if case == "two readers":
        build.output("again", build.add("ABS", y))
    if case == "output":
        build.output("y", y)
    before = operators(build.graph)
    fuse_activations(build.graph)
    assert operators(build.graph) == before


@pytest.mark.parametrize(
    ("size", "ends", "strides", "kernel", "fused"),
    [
        (8, ((0, 1), (0, 1)), 2, 3, True),
        (7, ((1, 1), (1, 1)), 2, 3, True),
        (8, ((1, 1), (1, 1)), 2, 3, False),
        (8, ((1, 1), (1, 1)), 1, 3, True),
        (8, ((2, 2), (1, 1)), 1, 3, False),
    ],
)
def test_padding(nets, size, ends, strides, kernel, fused):
    """`SAME` puts the odd zero behind: on 8 values with strides 2 there is none before."""
    x = keras.Input((size, size, 1), name="x")
    y = layers.Conv2D(2, kernel, strides=strides, name="c")(layers.ZeroPadding2D(ends)(x))
    graph = nets.read(keras.Model(x, y))
    fuse_padding(graph)
    assert operators(graph) == (["CONV_2D"] if fused else ["PAD", "CONV_2D"])
    assert settings(graph, "CONV_2D")[0]["padding"] == ("SAME" if fused else "VALID")


def test_a_transpose_of_matrices_goes_into_their_product(nets):
    x, y = keras.Input((3, 4), name="x"), keras.Input((3, 4), name="y")
    graph = nets.read(keras.Model([x, y], ops.matmul(x, ops.transpose(y, (0, 2, 1)))))
    fuse_transposes(graph)
    assert operators(graph) == ["BATCH_MATMUL"]
    assert settings(graph, "BATCH_MATMUL") == [{"adj_x": False, "adj_y": True}]


def test_reshapes_of_reshapes():
    build = Builder("b")
    x = build.input("x", "x", (1, 2, 6), "float32")
    y = build.add("RESHAPE", build.add("RESHAPE", x, integers(1, 12)), integers(1, 3, 4))
    back = build.add("RESHAPE", build.add("RESHAPE", x, integers(12)), integers(1, 2, 6))
    held = build.put_on_grid(build.add("RESHAPE", x, integers(1, 12)), Grid(0.5, 0))
    for number, tensor in enumerate((y, build.add("ABS", back), build.add("RESHAPE", held, integers(12)))):
        build.output(f"y{number}", tensor)
    merge_reshapes(build.graph)
    assert operators(build.graph) == ["RESHAPE", "RESHAPE", "ABS", "RESHAPE"]
    assert [node.inputs[0] for node in build.graph.nodes] == ["x", "x", "x", held.name]


def test_equal_nodes_become_one(nets):
    x = keras.Input((3, 4), name="x")
    graph = nets.read(keras.Model(x, x[:, 1] * x[:, 1]))
    assert operators(graph) == ["STRIDED_SLICE", "STRIDED_SLICE", "MUL"]
    share_equal_nodes(graph)
    assert operators(graph) == ["STRIDED_SLICE", "MUL"]
    assert len(set(graph.nodes[1].inputs)) == 1


def test_equal_nodes_on_two_grids_stay_two(nets):
    x = keras.Input((3, 4), name="x")
    parts = [nets.point(x[:, 1], scale, 0, f"p{scale}") for scale in (0.5, 0.25)]
    graph = nets.read(keras.Model(x, layers.Add()(parts)))
    share_equal_nodes(graph)
    assert operators(graph) == ["STRIDED_SLICE", "STRIDED_SLICE", "ADD"]


def test_steps_are_finished_one_by_one(nets):
    x = keras.Input((2, 4), name="x")
    steps = [layers.Dense(3, name=f"d{i}")(layers.ReLU(name=f"r{i}")(x[:, i])) for i in range(2)]
    graph = nets.read(keras.Model(x, layers.Concatenate(name="all")(steps)))
    depth_first(graph)
    assert operators(graph) == ["STRIDED_SLICE", "RELU", "FULLY_CONNECTED"] * 2 + ["CONCATENATION"]
    assert graph.nodes[2].path == "d0"


def test_constants_are_shared_where_they_are_small():
    build = Builder("b")
    x = build.input("x", "x", (1, 12), "float32")
    one, two = (build.add("RESHAPE", x, integers(3, 4)) for _ in range(2))
    assert build.graph.nodes[0].inputs[1] == build.graph.nodes[1].inputs[1]
    assert one.name != two.name
    assert build.add("ADD", x, np.zeros((1, 12), np.float32)).shape == (1, 12)
