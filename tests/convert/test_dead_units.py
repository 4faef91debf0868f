"""Dead units cut out of integer graphs: the same integers from fewer weights, on every runtime."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tests_integer_nets import RELU, IntegerNet, run_everywhere, shapes

from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.passes.drop_dead_units import drop_dead_units


def cut(content: bytes, **options: float) -> tuple[Graph, bytes, list[str]]:
    graph = Graph(read_model(content))
    notes = drop_dead_units(graph, **options)
    return graph, write_model(graph.model), notes


def samples(content: bytes, count: int = 50, seed: int = 0) -> np.ndarray:
    graph = Graph(read_model(content))
    shape, dtype = graph.shape(graph.inputs[0])[1:], graph.dtype(graph.inputs[0])
    lowest, highest = (-128, 128) if dtype == "int8" else (-20_000, 20_000)
    return np.random.default_rng(seed).integers(lowest, highest, (count, *shape)).astype(dtype)


def checked(content: bytes, **options: float) -> tuple[Graph, list[str]]:
    """The graph after the cut, and the notes; outputs are compared on 50 inputs and three runtimes."""
    graph, smaller, notes = cut(content, **options)
    inputs = samples(content)
    before, after = run_everywhere(content, inputs), run_everywhere(smaller, inputs)
    for name in before:
        for expected, got in zip(before[name], after[name], strict=True):
            np.testing.assert_array_equal(got, expected, err_msg=name)
            assert np.ptp(expected.reshape(len(inputs), -1).astype(int), axis=0).max() > 5
    return graph, notes


def widths(graph: Graph) -> list[tuple[int, ...]]:
    """Shape of each weight."""
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    return [graph.shape(op.inputs[1]) for op in graph.operators if graph.kind(op) in kinds]


def kinds(graph: Graph) -> list[str]:
    return [graph.kind(op) for op in graph.operators]


def weights(
    rng: np.random.Generator, *shape: int, rows: float = 0.0, columns: float = 0.0, axis: int = 0
) -> np.ndarray:
    """Integers without zeros, but for dead rows and columns."""
    made = rng.integers(1, 60, shape) * rng.choice([-1, 1], shape)
    made[(slice(None),) * axis + (rng.random(shape[axis]) < rows,)] = 0
    made[..., rng.random(shape[-1]) < columns] = 0
    return made


class Random:
    """A net of random layers and random dead rows and columns."""

    def __init__(self, seed: int, bits: int) -> None:
        self.rng, self.net = np.random.default_rng(seed), IntegerNet(1, 8, 8, 3, bits=bits)

    def chance(self) -> bool:
        return bool(self.rng.random() < 0.5)

    def grid(self) -> tuple[float, int]:
        return float(self.rng.uniform(0.02, 0.1)), int(self.rng.integers(-100, 100))

    def conv(self, x: int, channels: int, taps: int, same: bool, out: tuple[float, int] | None = None) -> int:
        shape = (channels, taps, taps, self.net.graph.shape(x)[-1])
        values = weights(self.rng, *shape, rows=0.4, columns=0.3)
        scales = self.rng.uniform(0.001, 0.01, channels)
        bias = self.rng.integers(-2000, 2000, channels)
        return self.net.conv(x, values, bias, scales=scales, out=out or self.grid(), act=int(self.chance()), same=same)

    def middle(self, x: int, kind: str) -> int:
        net, rng = self.net, self.rng
        if kind == "depthwise":
            values = weights(rng, 1, 3, 3, 16, rows=0.4, axis=3)
            scales = rng.uniform(0.001, 0.01, 16)
            bias = rng.integers(-2000, 2000, 16)
            return net.conv(x, values, bias, scales=scales, out=self.grid(), same=self.chance(), depthwise=True)
        if kind == "concat":
            return net.concat([x, self.conv(net.input, 4, 3, True, net.grid(x))])
        if kind == "constant":
            other = net.graph.add_constant("k", rng.integers(-50, 50, 8).astype(f"int{net.bits}"))
            net.graph.set_quantization(other, np.array([0.03], np.float32), 2 if net.bits == 8 else 0)
            return net.binary("MUL", x, other)
        return net.binary(kind.upper(), x, self.conv(net.input, 8, 1, True), act=int(self.chance()))

    def file(self, kind: str) -> bytes:
        net, rng = self.net, self.rng
        x = self.middle(self.conv(net.input, 8, 3, True), kind)
        x = net.unary("QUANTIZE", x, self.grid()) if self.chance() else x
        x = net.pool(self.conv(x, 8, 3, self.chance()), "MAX_POOL_2D" if self.chance() else "AVERAGE_POOL_2D")
        x = net.flatten(x)
        values = weights(rng, 12, net.graph.shape(x)[-1], rows=0.4, columns=0.3)
        x = net.dense(x, values, rng.integers(-2000, 2000, 12), out=self.grid(), act=RELU)
        last = weights(rng, 5, 12, columns=0.3)
        return net.file(net.dense(x, last, rng.integers(-2000, 2000, 5), scales=0.02, out=self.grid()))


@pytest.mark.parametrize("kind", ["depthwise", "concat", "constant", "add", "mul"])
@pytest.mark.parametrize("bits", [8, 16])
def test_random_dead_rows_and_columns(kind, bits):
    for seed in range(2):
        content = Random(seed, bits).file(kind)
        _, smaller, notes = cut(content)
        checked(content)
        assert len(smaller) < 0.85 * len(content)
        assert notes


def chain(bias: list[int], act: int = 0, **options) -> tuple[IntegerNet, int]:
    """Three units on a grid of 1/8 with zero point -5, the second without weights, scale of the sum 1/64."""
    net = IntegerNet(1, 4, scale=0.5, zero_point=0)
    values = [[9, -8, 7, 3], [0, 0, 0, 0], [5, 6, -7, 8]]
    return net, net.dense(net.input, values, bias, scales=1 / 32, out=(1 / 8, -5), act=act, **options)


@pytest.mark.parametrize(
    ("bias", "act", "expected"),
    [
        # 32 / 64 = 0.5 is 4 steps of 1/8: the second unit holds -5 + 4 = -1, and adds 4 * 10 and 4 * -3.
        (32, 0, [140, 188]),
        (32, RELU, [140, 188]),
        (-32, 0, [60, 212]),
        # Below 0: the zero point, which adds nothing.
        (-32, RELU, [100, 200]),
        # Beyond the grid: 127 - -5 = 132 steps.
        (10_000, 0, [1420, -196]),
    ],
)
def test_a_constant_unit_goes_into_the_next_bias(bias, act, expected):
    net, x = chain([100, bias, -100], act)
    graph, notes = checked(net.file(net.dense(x, [[4, 10, -9], [6, -3, 2]], [100, 200], scales=1 / 32)))
    assert widths(graph) == [(2, 4), (2, 2)]
    last = graph.operators[-1]
    assert graph.constant(last.inputs[2]).tolist() == expected
    assert graph.constant(last.inputs[1]).tolist() == [[4, -9], [6, 2]]
    assert graph.constant(graph.operators[0].inputs[2]).tolist() == [100, -100]
    assert notes == [
        "FULLY_CONNECTED 'fully_connected': 2 of 3 outputs are left",
        "FULLY_CONNECTED 'fully_connected_1': 2 of 3 inputs are left",
    ]


def test_a_layer_without_bias_gets_one():
    net, x = chain([100, 32, -100])
    graph, _ = checked(net.file(net.dense(x, [[4, 10, -9], [6, -3, 2]], scales=1 / 32)))
    bias = graph.operators[-1].inputs[2]
    assert graph.constant(bias).tolist() == [40, -12]
    assert graph.quantization(bias)[0].tolist() == [1 / 256]


# 28 is 3.5 steps; 27 is 3.375, which TFLite-Micro rounds to 3.5 first; 26 is 3.25, and 29 is 3.625.
@pytest.mark.parametrize(("bias", "left"), [(28, 3), (27, 3), (26, 2), (29, 2)])
def test_a_constant_on_which_roundings_differ_stays(bias, left):
    net, x = chain([100, bias, -100])
    graph, _ = checked(net.file(net.dense(x, [[4, 10, -9], [6, -3, 2]], [100, 200], scales=1 / 32)))
    assert widths(graph) == [(left, 4), (2, left)]


@pytest.mark.parametrize(("bias", "left"), [(2**31 - 40, 3), (2**31 - 41, 2)])
def test_a_bias_that_would_overflow_stays(bias, left):
    net, x = chain([100, 32, -100])
    content = net.file(net.dense(x, [[0, 10, 0], [6, -3, 2]], [bias, 200], scales=1 / 32))
    assert widths(cut(content)[0]) == [(left, 4), (2, left)]


def test_16_bits_without_a_bias_get_none():
    # The kernels round otherwise where there is a bias of 64 bits.
    for bias, left in ((0, 2), (32, 3)):
        net = IntegerNet(1, 4, bits=16, scale=0.001)
        values = [[9, -8, 7, 3], [0, 0, 0, 0], [5, 6, -7, 8]]
        x = net.dense(net.input, values, [100, bias, -100], scales=1 / 32, out=(0.0001, 0))
        graph, _ = checked(net.file(net.dense(x, [[4, 10, -9], [6, -3, 2]], scales=1 / 32, out=(0.001, 0))))
        assert widths(graph) == [(left, 4), (2, left)]


def two_convolutions(bias: int, taps: int, same: bool, stride: int = 1) -> bytes:
    rng = np.random.default_rng(2)
    net = IntegerNet(1, 8, 8, 3)
    first = weights(rng, 4, 3, 3, 3)
    first[1] = 0
    x = net.conv(net.input, first, [0, bias, 100, -100], out=(0.2, -5))
    second = weights(rng, 5, taps, taps, 4)
    return net.file(net.conv(x, second, np.arange(5), out=(0.5, 4), same=same, stride=stride))


@pytest.mark.parametrize(
    ("bias", "taps", "same", "stride", "left"),
    [
        (4000, 3, False, 1, 3),
        (4000, 3, True, 1, 4),  # a constant other than 0 is missing at the edges
        (0, 3, True, 1, 3),
        (4000, 1, True, 1, 3),  # SAME, but nothing is padded
        (4000, 2, True, 2, 3),
        (4000, 3, True, 2, 4),
    ],
)
def test_padding_decides(bias, taps, same, stride, left):
    graph, _ = checked(two_convolutions(bias, taps, same, stride))
    assert widths(graph) == [(left, 3, 3, 3), (5, taps, taps, left)]


def branches(dead: tuple[list[int], list[int]], ignored: list[int], kind: str = "ADD") -> bytes:
    """Two convolutions joined, then one that ignores some channels."""
    rng = np.random.default_rng(3)
    net = IntegerNet(1, 6, 6, 2)
    ends = []
    for rows in dead:
        values = weights(rng, 4, 3, 3, 2)
        values[rows] = 0
        ends.append(net.conv(net.input, values, [3000, -2000, 900, 2300], out=(0.2, -5)))
    x = net.concat(ends) if kind == "CONCATENATION" else net.binary(kind, *ends, out=(0.5, 4))
    last = weights(rng, 3, 3, 3, net.graph.shape(x)[-1])
    last[..., ignored] = 0
    return net.file(net.conv(x, last, np.arange(3), out=(0.5, 4)))


@pytest.mark.parametrize(
    ("dead", "ignored", "kind", "left"),
    [
        (([1], [1]), [], "ADD", (3, 3, 3)),
        (([1], [2]), [], "ADD", (4, 4, 4)),
        (([], []), [1, 3], "ADD", (2, 2, 2)),
        (([1], [2]), [1], "MUL", (3, 3, 3)),
        (([1], [2, 3]), [], "CONCATENATION", (3, 2, 5)),
        (([], []), [1, 4, 5], "CONCATENATION", (3, 2, 5)),
        (([0, 1, 2, 3], []), [], "CONCATENATION", (1, 4, 5)),  # one unit stays
    ],
)
def test_branches_lose_what_is_dead_in_both(dead, ignored, kind, left):
    graph, _ = checked(branches(dead, ignored, kind))
    assert widths(graph) == [(left[0], 3, 3, 2), (left[1], 3, 3, 2), (3, 3, 3, left[2])]


def test_a_product_with_zero_is_constant():
    # Bias 0 and no weights: the channel is 0, whatever the other factor.
    rng = np.random.default_rng(4)
    net = IntegerNet(1, 6, 6, 2)
    gate = weights(rng, 4, 3, 3, 2)
    gate[2] = 0
    x = net.conv(net.input, weights(rng, 4, 3, 3, 2), np.arange(4), out=(0.2, 7))
    x = net.binary("MUL", x, net.conv(net.input, gate, np.zeros(4), out=(0.2, -5)), out=(2.0, 4))
    graph, _ = checked(net.file(net.conv(x, weights(rng, 3, 3, 3, 4), np.arange(3), out=(2.0, 4), same=True)))
    assert widths(graph) == [(3, 3, 3, 2), (3, 3, 3, 2), (3, 3, 3, 3)]


def test_channels_go_through_depthwise_pool_and_flatten():
    rng = np.random.default_rng(5)
    net = IntegerNet(1, 10, 10, 2)
    first = weights(rng, 4, 3, 3, 2)
    scales = np.array([1, 2, 3, 4, 5, 6, 7, 8]) / 256
    x = net.conv(net.input, first, np.arange(4), scales=scales[:4], out=(0.2, -5))
    x = net.conv(x, weights(rng, 1, 3, 3, 8), np.arange(8), scales=scales, out=(1.0, -5), depthwise=True)
    x = net.flatten(net.pool(x, "AVERAGE_POOL_2D"))  # 3 x 3 x 8
    dense = weights(rng, 6, 3, 3, 8)
    dense[..., [2, 3, 7]] = 0  # both outputs of channel 1, one of channel 3
    graph, notes = checked(net.file(net.dense(x, dense.reshape(6, 72), np.arange(6), out=(1.0, 4))))
    assert widths(graph) == [(3, 3, 3, 2), (1, 3, 3, 6), (6, 54)]
    conv, depthwise, pool, reshape, _ = graph.operators
    assert graph.quantization(conv.inputs[1])[0].tolist() == [1 / 256, 3 / 256, 4 / 256]
    assert graph.quantization(depthwise.inputs[1])[0].tolist() == [1 / 256, 2 / 256, 5 / 256, 6 / 256, 7 / 256, 8 / 256]
    assert graph.constant(depthwise.inputs[2]).tolist() == [0, 1, 4, 5, 6, 7]
    assert graph.shape(pool.outputs[0]) == (1, 3, 3, 6)
    assert graph.constant(reshape.inputs[1]).tolist() == reshape.builtinOptions.newShape == [1, 54]
    assert notes[1] == "DEPTHWISE_CONV_2D 'depthwise_conv_2d': 6 of 8 outputs are left"


def test_what_becomes_dead_goes_too():
    # Unit 2 of the last hidden layer is ignored; only it read unit 0 before; only that read unit 1 before.
    rng = np.random.default_rng(6)
    net = IntegerNet(1, 5)
    one, two, three, four = (weights(rng, *shape) for shape in ((4, 5), (4, 4), (4, 4), (3, 4)))
    four[:, 2] = 0
    three[[0, 1, 3], 0] = 0
    two[1:, 1] = 0
    x = net.dense(net.input, one, np.arange(4), out=(0.2, 3))
    x = net.dense(net.dense(x, two, np.arange(4), out=(0.2, 3)), three, np.arange(4), out=(0.2, 3))
    graph, _ = checked(net.file(net.dense(x, four, np.arange(3), out=(0.2, 3))))
    assert widths(graph) == [(3, 5), (3, 3), (3, 3), (3, 3)]


@pytest.mark.parametrize(("second", "left"), [([1, 2], 2), ([2, 3], 3)])
def test_a_shared_weight_is_cut_where_both_readers_agree(second, left):
    rng = np.random.default_rng(7)
    net = IntegerNet(1, 5)
    shared = net.weight(weights(rng, 4, 5), 0.01)
    outputs = []
    for ignored in ([1, 2], second):
        last = weights(rng, 3, 4)
        last[:, ignored] = 0
        x = net.dense(net.input, shared, np.arange(4) * 50, out=(0.1, len(outputs)))
        outputs.append(net.dense(x, last, np.arange(3)))
    graph, _ = checked(net.file(*outputs))
    assert widths(graph) == [(left, 5), (3, left)] * 2
    first, other = (op.inputs[1] for op in graph.operators[::2])
    assert first == other


def test_a_weight_shared_with_what_no_rule_knows_stays_whole():
    rng = np.random.default_rng(12)
    net = IntegerNet(1, 5)
    last = weights(rng, 3, 4)
    last[:, 1] = 0
    shared = net.weight(weights(rng, 4, 5), 0.01)
    outputs = [net.dense(net.dense(net.input, shared, np.arange(4)), last, np.arange(3)), net.dense(net.input, shared)]
    # A bias that is computed: zeros times zeros.
    zeros = net.graph.add_constant("zeros", np.zeros(4, np.int32))
    computed = net.graph.add_tensor("computed", (4,), "int32")
    net.add("ADD", [zeros, zeros], computed, schema.AddOptionsT())
    reader = net.graph.operators[2]
    reader.inputs = [*reader.inputs, computed]
    graph = Graph(read_model(net.file(*outputs)))
    assert drop_dead_units(graph) == []
    assert widths(graph) == [(4, 5), (3, 4), (4, 5)]


def test_what_no_rule_knows_stays_whole():
    rng = np.random.default_rng(8)
    for softmax, left in ((True, 4), (False, 3)):
        net = IntegerNet(1, 5)
        first, last = weights(rng, 4, 5), weights(rng, 3, 4)
        first[1] = 0
        x = net.dense(net.input, first, np.arange(4) * 50)
        outputs = [net.dense(x, last, np.arange(3))]
        if softmax:
            options = schema.SoftmaxOptionsT()
            options.beta = 1.0
            outputs.append(net.add("SOFTMAX", [x], net.activation("softmax", (1, 4), 1 / 256, -128), options))
        graph, _ = checked(net.file(*outputs))
        assert widths(graph) == [(left, 5), (3, left)]


def test_packed_weights_are_left_alone():
    net, x = chain([100, 32, -100])
    output = net.dense(x, [[4, 7, -7], [6, -3, 2]], [100, 200], scales=1 / 32)
    net.graph.pack_constant(net.graph.operators[1].inputs[1], 4)
    content = net.file(output)
    _, same, notes = cut(content)
    assert same == content
    assert notes == []


def test_outputs_keep_their_shape_and_a_second_time_finds_nothing():
    net, x = chain([100, 32, -100])
    graph, _ = checked(net.file(net.dense(x, [[4, 10, -9], [0, 0, 0]], [100, 200], scales=1 / 32), x))
    assert [graph.shape(t) for t in graph.outputs] == [(1, 2), (1, 3)]
    content = Random(0, 8).file("depthwise")
    graph, smaller, _ = cut(content)
    assert drop_dead_units(graph) == []
    assert write_model(graph.model) == smaller


def image_net(alive: np.ndarray, rows: int = 32, flat: bool = False) -> bytes:
    """A dense layer on 20 x 20 pixels that reads some of them."""
    net = IntegerNet(1, 400) if flat else IntegerNet(1, 20, 20, 1)
    values = weights(np.random.default_rng(9), rows, 400)
    values[:, ~alive.reshape(-1)] = 0
    x = net.input if flat else net.flatten(net.input)
    return net.file(net.dense(x, values, np.arange(rows), out=(2.0, 4)))


BOX = np.zeros((20, 20), bool)
BOX[3:15, 4:12] = True
SCATTERED = np.zeros((20, 20), bool)
SCATTERED[::7, ::7] = True


def test_a_slice_takes_the_part_of_the_image_that_is_read():
    graph, notes = checked(image_net(BOX))
    assert kinds(graph) == ["SLICE", "RESHAPE", "FULLY_CONNECTED"]
    assert graph.shape(graph.inputs[0]) == (1, 20, 20, 1)
    assert graph.shape(graph.operators[0].outputs[0]) == (1, 12, 8, 1)
    assert widths(graph) == [(32, 96)]
    assert notes == ["SLICE before FULLY_CONNECTED 'fully_connected': 96 of 400 inputs are used"]


def test_a_slice_takes_any_number_of_samples_where_the_file_leaves_it_open():
    graph = Graph(read_model(image_net(BOX)))
    reshape = graph.operators[0]
    graph.set_constant(reshape.inputs[1], np.array([-1, 400], np.int32))
    reshape.builtinOptions.newShape = [-1, 400]
    for tensor in (graph.inputs[0], reshape.outputs[0], graph.outputs[0]):
        graph.tensors[tensor].shapeSignature = [-1, *graph.shape(tensor)[1:]]
    content = write_model(graph.model)
    graph, _ = checked(content)
    assert kinds(graph) == ["SLICE", "RESHAPE", "FULLY_CONNECTED"]
    four = samples(content, 4)
    found = []
    for file in (content, write_model(graph.model)):
        interpreter = Interpreter(model_content=file, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
        place = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(place, four.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(place, four)
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    assert found[0].shape == (4, 32)
    np.testing.assert_array_equal(found[1], found[0])


def test_a_slice_of_a_vector():
    alive = np.zeros(400, bool)
    alive[60:240] = True
    graph, _ = checked(image_net(alive, flat=True))
    assert kinds(graph) == ["SLICE", "FULLY_CONNECTED"]
    assert widths(graph) == [(32, 180)]


def test_a_gather_takes_scattered_inputs():
    graph, notes = checked(image_net(SCATTERED))
    assert kinds(graph) == ["RESHAPE", "GATHER", "FULLY_CONNECTED"]
    assert widths(graph) == [(32, 9)]
    assert notes == ["GATHER before FULLY_CONNECTED 'fully_connected': 9 of 400 inputs are used"]


@pytest.mark.parametrize(("alive", "rows"), [(BOX, 9), (SCATTERED, 5)])
def test_nothing_is_inserted_that_does_not_pay(alive, rows):
    # 304 inputs of 9 neurons are 342 bytes at 1 bit each, a SLICE 368; 391 of 5 are 244, a GATHER 256 and 9 indices.
    content = image_net(alive, rows)
    graph, same, notes = cut(content)
    assert (same, notes) == (content, [])
    assert kinds(graph) == ["RESHAPE", "FULLY_CONNECTED"]
    assert cut(content, bits_per_weight=8.0)[2]


def test_estimated_costs_are_those_of_the_file():
    for alive, saved in ((BOX, 32 * 304 - 368), (SCATTERED, 32 * 391 - 256 - 4 * 9)):
        content = image_net(alive)
        assert (
            abs(len(content) - len(cut(content, bits_per_weight=8.0)[1]) - saved) < 96
        )  # of equal tables the file has one


def test_ignored_channels_of_the_input_and_positions_of_a_flatten():
    rng = np.random.default_rng(10)
    net = IntegerNet(1, 8, 8, 6)
    first = weights(rng, 16, 3, 3, 6)
    first[..., [0, 4, 5]] = 0
    x = net.flatten(net.conv(net.input, first, np.arange(16), out=(0.3, 4)))
    dense = weights(rng, 32, 6, 6, 16)
    dense[:, :, 4:] = 0
    content = net.file(net.dense(x, dense.reshape(32, 576), np.arange(32), out=(3.0, 4)))
    graph, _ = checked(content, bits_per_weight=8.0)
    assert kinds(graph) == ["GATHER", "CONV_2D", "SLICE", "RESHAPE", "FULLY_CONNECTED"]
    assert widths(graph) == [(16, 3, 3, 3), (32, 6 * 4 * 16)]


def test_16_bits_are_sliced_but_not_gathered():
    for alive, kind in ((np.arange(40) % 9 == 0, "FULLY_CONNECTED"), (np.arange(40) < 9, "SLICE")):
        net = IntegerNet(1, 40, bits=16, scale=0.001)
        values = weights(np.random.default_rng(11), 64, 40)
        values[:, ~alive] = 0
        content = net.file(net.dense(net.input, values, np.zeros(64), out=(0.01, 0)))
        graph, _ = checked(content, bits_per_weight=8.0)
        assert kinds(graph)[0] == kind


def test_bits_per_weight_are_checked():
    with pytest.raises(ValueError, match="Expected bits_per_weight >= 0. Received: bits_per_weight=-1"):
        drop_dead_units(IntegerNet(1, 4).graph, bits_per_weight=-1)


def test_names_of_tensors_that_stay_do_not_change():
    content = two_convolutions(4000, 3, False)
    _, smaller, _ = cut(content)
    assert shapes(smaller).keys() == shapes(content).keys()
