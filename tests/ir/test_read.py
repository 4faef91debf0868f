"""What is read from Keras graphs, as text."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_compress.ir.check import check


def lines(graph):
    """The nodes, without their tensors."""
    return [line for line in str(graph).splitlines() if " = " in line and not line.startswith(" ")]


def test_a_convolution_a_pooling_and_a_dense_layer(nets):
    x = keras.Input((4, 4, 1), name="x")
    conv = layers.Conv2D(2, 3, padding="same", activation="relu", name="conv", bias_initializer="ones")
    integers = np.arange(18) - 9
    y = nets.frozen(conv, integers, [0.5, 0.25], (None, 4, 4, 1))(nets.point(x, 0.5, 3, "in"))
    y = layers.Flatten(name="flat")(layers.MaxPooling2D(name="pool")(nets.point(y, 0.25, -128, "conv_out")))
    dense = nets.frozen(layers.Dense(1, name="dense"), [1, -1] * 4, [1.0], (None, 8))
    graph = nets.read(keras.Model(x, nets.point(dense(y), 2.0, 0, "out"), name="net"))
    check(graph)
    assert str(graph) == (
        "graph net\n"
        "input x: x: float32[1,4,4,1] int8 scale 0.5 zero 3\n"
        "conv/conv_2d = CONV_2D(x, conv/kernel, conv/conv_2d/operand2) {padding=SAME, stride_h=1, stride_w=1, "
        "dilation_h_factor=1, dilation_w_factor=1, activation=NONE}\n"
        "  conv/kernel: float32[2,3,3,1] integers 0f6441d5, 2 scales\n"
        "  conv/conv_2d/operand2: float32[2] = [1, 1]\n"
        "  conv/conv_2d: float32[1,4,4,2]\n"
        "conv/relu = RELU(conv/conv_2d)\n"
        "  conv/relu: float32[1,4,4,2] int8 scale 0.25 zero -128\n"
        "pool/max_pool_2d = MAX_POOL_2D(conv/relu) {padding=VALID, stride_h=2, stride_w=2, filter_height=2, "
        "filter_width=2, activation=NONE}\n"
        "  pool/max_pool_2d: float32[1,2,2,2]\n"
        "flat/reshape = RESHAPE(pool/max_pool_2d, flat/reshape/operand1) {new_shape=(1, 8)}\n"
        "  flat/reshape/operand1: int32[2] = [1, 8]\n"
        "  flat/reshape: float32[1,8]\n"
        "dense/fully_connected = FULLY_CONNECTED(flat/reshape, dense/kernel, -) {activation=NONE, "
        "keep_num_dims=False}\n"
        "  dense/kernel: float32[1,8] integers 08bb0caa, scale 1\n"
        "  dense/fully_connected: float32[1,1] int8 scale 2 zero 0\n"
        "output y0: dense/fully_connected\n"
        "point in: x\n"
        "point conv_out: conv/relu\n"
        "point out: dense/fully_connected\n"
    )


def test_the_kernel_is_in_the_layout_of_the_file(nets):
    x = keras.Input((4, 4, 2), name="x")
    conv = nets.frozen(layers.Conv2D(3, 1, name="conv"), [[1, 2, 3], [4, 5, 6]], [1.0, 2.0, 4.0], (None, 4, 4, 2))
    grid = nets.read(keras.Model(x, conv(x))).tensors["conv/kernel"].values
    assert grid.values.tolist() == [[[[1, 4]]], [[[2, 5]]], [[[3, 6]]]]
    assert grid.floats().reshape(-1).tolist() == [1, 4, 4, 10, 12, 24]
    assert (grid.name, grid.quantized_dimension) == ("conv/kernel", 0)


def test_a_causal_dilated_convolution_of_a_sequence(nets):
    x = keras.Input((6, 2), name="x")
    model = keras.Model(x, layers.Conv1D(3, 2, dilation_rate=2, padding="causal", name="c")(x))
    graph = nets.read(model)
    check(graph)
    assert lines(graph) == [
        "c/pad = PAD(x, c/pad/operand1)",
        "c/reshape = RESHAPE(c/pad, c/reshape/operand1) {new_shape=(1, 1, 8, 2)}",
        "c/conv_2d = CONV_2D(c/reshape, c/kernel, c/conv_2d/operand2) {padding=VALID, stride_h=1, stride_w=1, "
        "dilation_h_factor=1, dilation_w_factor=2, activation=NONE}",
        "c/reshape_1 = RESHAPE(c/conv_2d, c/reshape/operand1_1) {new_shape=(1, 6, 3)}",
    ]
    assert graph.tensors["c/pad/operand1"].array().tolist() == [[0, 0], [2, 0], [0, 0]]


@pytest.mark.parametrize(
    ("take", "begin", "end", "strides", "shrunk", "shape"),
    [
        (lambda x: x[:, 1], [0, 1, 0], [1, 2, 6], [1, 1, 1], 2, (1, 6)),
        (lambda x: x[:, -1:], [0, 3, 0], [1, 4, 6], [1, 1, 1], 0, (1, 1, 6)),
        (lambda x: x[..., 1:6:2], [0, 0, 1], [1, 4, 6], [1, 1, 2], 0, (1, 4, 3)),
        (lambda x: x[:, ::-1], [0, 3, 0], [1, -1, 6], [1, -1, 1], 0, (1, 4, 6)),
    ],
    ids=["one", "last", "every second", "backwards"],
)
def test_slices(nets, take, begin, end, strides, shrunk, shape):
    x = keras.Input((4, 6), name="x")
    graph = nets.read(keras.Model(x, take(x)))
    check(graph)
    (node,) = graph.nodes
    read = [graph.tensors[name].array().tolist() for name in node.inputs[1:]]
    assert (node.operator, read) == ("STRIDED_SLICE", [begin, end, strides])
    assert node.attributes["shrink_axis_mask"] == shrunk
    assert node.attributes["end_mask"] == (2 if -1 in end else 0)
    assert graph.tensors[node.outputs[0]].shape == shape


@pytest.mark.parametrize(
    ("make", "operators"),
    [
        (lambda x: layers.Dense(3)(x), ["FULLY_CONNECTED"]),
        (lambda x: layers.Permute((2, 1))(x), ["TRANSPOSE"]),
        (lambda x: layers.Permute((2, 1))(x[:, :1]), ["STRIDED_SLICE", "RESHAPE"]),
        (lambda x: layers.Reshape((4, 6))(x), []),
        (lambda x: layers.Dropout(0.5)(x), []),
        (lambda x: layers.GlobalAveragePooling1D()(x), ["MEAN"]),
        (lambda x: layers.GlobalAveragePooling1D()(x[:, :1]), ["STRIDED_SLICE", "RESHAPE"]),
        (lambda x: ops.stack([x, x], axis=1), ["PACK"]),
        (lambda x: ops.split(x, 2, axis=2)[1], ["SPLIT"]),
        (lambda x: ops.split(x, [1, 3], axis=2)[1], ["STRIDED_SLICE"] * 3),
        (lambda x: ops.expand_dims(x, 1), ["RESHAPE"]),
        (lambda x: ops.max(x, axis=(1, 2)), ["REDUCE_MAX"]),
        (lambda x: ops.argmax(x, axis=-1), ["ARG_MAX"]),
        (lambda x: ops.argmin(x, axis=1, keepdims=True), ["ARG_MIN", "RESHAPE"]),
        (lambda x: layers.Softmax()(x), ["SOFTMAX"]),
        (lambda x: layers.Activation("tanh")(x), ["TANH"]),
        (lambda x: ops.clip(x, -1.0, 1.0), ["RELU_N1_TO_1"]),
        (lambda x: layers.AveragePooling1D(2)(x), ["RESHAPE", "AVERAGE_POOL_2D", "RESHAPE"]),
        (lambda x: x * 2.0 - x, ["MUL", "SUB"]),
    ],
)
def test_operators(nets, make, operators):
    x = keras.Input((4, 6), name="x")
    graph = nets.read(keras.Model(x, make(x)))
    check(graph)
    assert [node.operator for node in graph.nodes] == operators


def test_a_batch_of_several(nets):
    x = keras.Input((4, 6), name="x")
    graph = nets.read(keras.Model(x, layers.Flatten()(layers.Dense(3)(x))), batch=5)
    assert [graph.tensors[node.outputs[0]].shape for node in graph.nodes] == [(5, 4, 3), (5, 12)]


def test_a_point_behind_a_point_moves_the_integers_once(nets):
    x = keras.Input((4,), name="x")
    first = nets.point(x, 0.5, 0, "first")
    outputs = [nets.point(first, 0.25, 1, "a"), nets.point(first, 0.25, 1, "b"), nets.point(first, 0.5, 0, "c")]
    graph = nets.read(keras.Model(x, outputs))
    (node,) = graph.nodes
    assert (node.operator, node.inputs) == ("QUANTIZE", ("x",))
    assert [tensor for _, tensor in graph.outputs] == [node.outputs[0], node.outputs[0], "x"]


def test_two_ranges_on_one_tensor_are_refused(nets):
    x = keras.Input((4,), name="x")
    y = layers.Dense(2, name="d")(x)
    model = keras.Model(x, [nets.point(y, 0.5, 0, "a"), nets.point(y, 0.25, 0, "b")])
    with pytest.raises(ValueError, match="Expected one range per tensor. Received: '[ab]' and '[ab]' want"):
        nets.read(model)


def test_what_is_not_known_is_refused_by_name_or_left_to_an_island(nets):
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Lambda(lambda t: ops.cumsum(t, axis=1), name="sums")(x))
    with pytest.raises(ValueError, match="Received: Lambda at 'sums'"):
        nets.read(model)
    graph = nets.read(model, island=lambda *call: (b"float", [((1, 4), "float32")]))
    check(graph)
    assert lines(graph) == ["sums/island = ISLAND(x) {content=5 bytes}"]


def test_copies_of_a_layer_share_their_kernel(nets):
    x = keras.Input((2,), name="x")
    one, two = (nets.frozen(layers.Dense(2, name=name), [[1, 2], [3, 4]], [0.5], (None, 2)) for name in "ab")
    graph = nets.read(keras.Model(x, two(one(x))))
    assert [node.inputs[1] for node in graph.nodes] == ["a/kernel", "a/kernel"]


def test_names_in_any_alphabet(nets):
    x = keras.Input((2,), name="x y")
    graph = nets.read(keras.Model(x, layers.Dense(2, name="слой 1 (щ)")(x)))
    assert graph.nodes[0].outputs == ("слой 1 (щ)/fully_connected",)
    assert graph.inputs == [("x y", "x y")]
