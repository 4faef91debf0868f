"""What the integer file holds: exact weights, biases and scales, names, islands, and refusals."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from keras_compress.convert.expand.lookups import Rows
from keras_compress.convert.lower import lower
from keras_compress.ir.check import check
from keras_compress.ir.emit import emit
from keras_compress.tflite.grids import Grid
from keras_compress.tflite.plan import LoweringPlan


def three_heads(q):
    """Three outputs of one shape, dict in and out, in an order that no sorting of layers gives."""
    inputs = {"photo": keras.Input((4, 4, 2), name="photo"), "aux": keras.Input((4, 4, 2), name="aux")}
    x = layers.Conv2D(3, 3, padding="same", name="a")(q(inputs["photo"], 0.03, 2, "photo_in"))
    y = layers.Conv2D(3, 3, padding="same", name="b")(q(inputs["aux"], 0.02, -2, "aux_in"))
    x, y = q(x, 0.03, 0, "a_out"), q(y, 0.025, 5, "b_out")
    z = q(layers.Add(name="sum")([x, y]), 0.04, 1, "sum_out")
    return keras.Model(inputs, {"z_first": z, "middle": x, "a_last": y})


def shared_layer(q):
    """One layer called twice on different grids: one weight buffer, two biases."""
    x = keras.Input((6,), name="x")
    dense = layers.Dense(6, name="shared", bias_initializer="normal")
    once = q(dense(q(x, 0.03, 2, "in")), 0.05, 3, "once")
    return keras.Model(x, q(dense(once), 0.08, -4, "twice"))


def island(q):
    """Squaring has no 8-bit kernel."""
    x = keras.Input((4, 4, 3), name="x")
    y = q(layers.Conv2D(3, 3, padding="same", name="c")(q(x, 0.03, 3, "in")), 0.02, 1, "conv")
    z = q(keras.ops.square(y), 0.02, -128, "squared")
    return keras.Model(x, q(layers.Dense(4, name="d")(z), 0.05, 0, "out"))


def splat_bias(q):
    x = keras.Input((5, 5, 2), name="x")
    y = layers.Conv2D(6, 3, name="c", bias_initializer=keras.initializers.Constant(0.25))
    return keras.Model(x, q(y(q(x, 0.03, 0, "in")), 0.03, 0, "out"))


@pytest.fixture(scope="module")
def heads(lab):
    return lab.bench(three_heads)


@pytest.fixture(scope="module")
def shared(lab):
    return lab.bench(shared_layer)


@pytest.fixture(scope="module")
def splat(lab):
    return lab.bench(splat_bias)


@pytest.fixture(scope="module")
def with_island(lab):
    return lab.bench(island)


@pytest.mark.parametrize("runtime", ["xnnpack", "reference", "tflm"])
def test_three_outputs_of_one_shape_keep_their_names_and_order(heads, lab, runtime):
    content = heads.lower().content
    inputs = lab.samples(heads.marked, count=4)
    outputs = lab.run(content, inputs, runtime)
    assert lab.signature_order(content) == (["aux", "photo"], ["a_last", "middle", "z_first"])
    expected = dict(zip(["a_last", "middle", "z_first"], heads.simulate(inputs)))
    for name, step in {"a_last": 0.025, "middle": 0.03, "z_first": 0.04}.items():
        assert np.abs(outputs[name] - expected[name]).max() <= 2.01 * step
        others = [np.abs(outputs[name] - expected[o]).max() for o in expected if o != name]
        assert min(others) > 10 * step, "the outputs must be told apart"


def test_points_name_the_tensors(heads, lab):
    lowered = heads.lower()
    assert lowered.point_tensors == {n: n for n in ("photo_in", "aux_in", "a_out", "b_out", "sum_out")}
    _, scale, zero_point, dtype = lab.tensor(lowered.content, "b_out")
    assert (scale.tolist(), zero_point, dtype) == ([np.float32(0.025)], 5, "int8")


def test_weights_and_biases_are_exact(splat, lab):
    content = splat.lower().content
    grid = splat.weights["c/kernel"]
    values, scale, _, dtype = lab.tensor(content, "c/kernel")
    assert dtype == "int8"
    np.testing.assert_array_equal(values, grid.values)
    np.testing.assert_array_equal(scale, grid.scale)
    bias, bias_scale, _, dtype = lab.tensor(content, "out/bias")
    assert dtype == "int32"
    product = np.float64(np.float32(0.03)) * grid.scale.astype(np.float64)
    np.testing.assert_array_equal(bias_scale, product.astype(np.float32))
    np.testing.assert_array_equal(bias, np.rint(0.25 / product))
    assert len(set(bias.tolist())) > 3, "one bias for all channels is a different integer in each"


def test_per_tensor_weights_have_one_scale_on_dimension_zero(lab):
    def net(q):
        x = keras.Input((5, 5, 2), name="x")
        return keras.Model(x, q(layers.DepthwiseConv2D(3, name="d")(q(x, 0.03, 3, "in")), 0.02, 1, "out"))

    bench = lab.bench(net, per_channel=False)
    content = bench.lower().content
    assert lab.tensor(content, "d/kernel")[1].shape == (1,)
    inputs = lab.samples(bench.marked)
    for runtime in lab.runtimes:
        got = lab.run(content, inputs, runtime)["d"]
        assert np.abs(got - bench.simulate(inputs)[0]).max() <= 1.01 * 0.02


def test_a_layer_called_twice_stores_its_weights_once(shared, lab):
    content = shared.lower().content
    grid = shared.weights["shared/kernel"]
    assert content.count(grid.values.tobytes()) == 1
    once, twice = lab.tensor(content, "once/bias")[0], lab.tensor(content, "twice/bias")[0]
    assert np.abs(once).min() > 0
    assert not np.array_equal(once, twice)
    inputs = lab.samples(shared.marked)
    for runtime in lab.runtimes:
        got = lab.run(content, inputs, runtime)["shared"]
        assert np.abs(got - shared.simulate(inputs)[0]).max() <= 2.01 * 0.08


def test_an_island_is_listed_and_computes(with_island, lab):
    lowered = with_island.lower()
    (left,) = lowered.float_ops
    assert (left.op, left.reason) == ("SQUARE", "no integer form of SQUARE is known")
    assert left.tensor == "squared"
    kinds = lab.operators(lowered.content)
    place = kinds.index("SQUARE")
    assert kinds[place - 1 : place + 2] == ["DEQUANTIZE", "SQUARE", "QUANTIZE"]
    inputs = lab.samples(with_island.marked)
    for runtime in lab.runtimes:
        (got,) = lab.run(lowered.content, inputs, runtime).values()
        assert np.abs(got - with_island.simulate(inputs)[0]).max() <= 2.01 * 0.05


def test_the_note_of_a_requantized_concat_input(lab):
    def net(q):
        x, y = keras.Input((4,), name="x"), keras.Input((4,), name="y")
        joined = layers.Concatenate()([q(x, 0.03, 2, "a"), q(y, 0.02, 0, "b")])
        return keras.Model([x, y], q(joined, 0.03, 2, "out"))

    notes = lab.bench(net).lower().notes
    assert len(notes) == 1
    assert "'b' requantized to scale 0.03" in notes[0]


@pytest.mark.parametrize(("io", "dtype"), [("int8", np.int8), ("uint8", np.uint8)])
@pytest.mark.parametrize("runtime", ["xnnpack", "reference", "tflm"])
def test_integer_interfaces(heads, lab, io, dtype, runtime):
    real = lab.samples(heads.marked, count=4)
    shift = 128 if io == "uint8" else 0
    grids = {"photo": (0.03, 2), "aux": (0.02, -2)}
    fed = {
        name: (np.clip(np.rint(real[name] / np.float32(s)) + z, -128, 127) + shift).astype(dtype)
        for name, (s, z) in grids.items()
    }
    outputs = lab.run(heads.lower(io=io).content, fed, runtime)
    expected = lab.run(heads.lower().content, real, runtime)
    for name, (scale, zero_point) in {
        "a_last": (0.025, 5),
        "middle": (0.03, 0),
        "z_first": (0.04, 1),
    }.items():
        assert outputs[name].dtype == dtype
        decoded = (outputs[name].astype(np.float32) - shift - zero_point) * np.float32(scale)
        np.testing.assert_allclose(decoded, expected[name], atol=1e-6)


def test_int16_interface(lab):
    bench = lab.bench(splat_bias, mode="16x8", io="int16")
    content = bench.lower().content
    assert lab.operators(content) == ["CONV_2D"]
    assert lab.tensor(content, "out/bias")[3] == "int64"
    real = lab.samples(bench.marked, count=4)
    scale = {p.name: p.scale for p in bench.points.values()}
    fed = {"x": np.clip(np.rint(real["x"] / scale["in"]), -32768, 32767).astype(np.int16)}
    for runtime in lab.runtimes:
        got = lab.run(content, fed, runtime)["c"]
        assert got.dtype == np.int16
        assert np.abs(got * scale["out"] - bench.simulate(real)[0]).max() <= 1.01 * scale["out"]


def test_same_bytes_every_time(heads):
    assert heads.lower().content == heads.lower().content


def test_permuted_weights_are_noticed(splat, lab):
    """The comparison with the simulation can fail."""
    grid = splat.weights["c/kernel"]
    flipped = dataclasses.replace(grid, values=grid.values[:, ::-1])
    inputs = lab.samples(splat.marked)
    got = lab.run(splat.lower(weights={"c/kernel": flipped}).content, inputs, "tflm")["c"]
    assert np.abs(got - splat.simulate(inputs)[0]).max() > 10 * 0.03


def test_unknown_weights_are_refused_by_name(splat):
    with pytest.raises(ValueError, match=r"weights of CONV_2D 'out' to be .*`call`.*tensor 'c/kernel'"):
        splat.lower(weights={})


def test_two_points_of_one_name_are_refused(splat):
    graph = splat.graph()
    graph.points[1] = dataclasses.replace(graph.points[1], name="in")
    with pytest.raises(ValueError, match=r"Received: \['in'\] more than once"):
        check(graph)


@pytest.mark.parametrize(
    ("scale", "zero_point", "bits", "message"),
    [
        (0.0, 0, 8, "positive scale"),
        (float("nan"), 0, 8, "positive scale"),
        (0.03, 128, 8, r"zero_point in \[-128, 127\]"),
        (0.03, 1, 16, r"zero_point in \[0, 0\]"),
        (0.03, 0, 7, "bits 8 or 16"),
    ],
)
def test_impossible_grids_are_refused(splat, scale, zero_point, bits, message):
    graph = splat.graph()
    tensor = graph.points[0].tensor
    graph.tensors[tensor] = dataclasses.replace(graph.tensors[tensor], grid=Grid(scale, zero_point, bits))
    with pytest.raises(ValueError, match=f"{message}.* at 'x'"):
        check(graph)


def test_a_bias_beyond_int32_is_refused(splat):
    graph = splat.graph()
    tensor = graph.points[0].tensor
    graph.tensors[tensor] = dataclasses.replace(graph.tensors[tensor], grid=Grid(1e-9, 0))
    with pytest.raises(ValueError, match="biases within int32 of CONV_2D 'out'"):
        lower(emit(graph), LoweringPlan())


def test_two_ranges_on_one_tensor_are_refused(lab):
    def net(q):
        x = keras.Input((4,), name="x")
        y = layers.Dense(4, name="d")(q(x, 0.03, 0, "in"))
        return keras.Model(x, [q(y, 0.03, 0, "left"), q(y, 0.04, 0, "right")])

    with pytest.raises(ValueError, match="'(left|right)' and '(left|right)' want"):
        lab.bench(net).lower()


def test_equal_ranges_on_one_tensor_are_one_tensor(lab):
    def net(q):
        x = keras.Input((4,), name="x")
        y = layers.Dense(4, name="d")(q(x, 0.03, 0, "in"))
        return keras.Model(x, [q(y, 0.03, 0, "left"), q(y, 0.03, 0, "right")])

    bench = lab.bench(net)
    lowered = bench.lower()
    assert lowered.point_tensors["left"] == lowered.point_tensors["right"]
    assert lab.operators(lowered.content).count("FULLY_CONNECTED") == 1
    got = list(lab.run(lowered.content, lab.samples(bench.marked), "xnnpack").values())
    np.testing.assert_array_equal(got[0], got[1])


def test_an_output_without_a_range_stays_float_unless_io_asks_otherwise(lab):
    def net(q):
        x = keras.Input((4,), name="x")
        return keras.Model(x, layers.Dense(4, name="d")(q(x, 0.03, 0, "in")))

    bench = lab.bench(net)
    (left,) = bench.lower().float_ops
    assert (left.op, left.reason) == ("FULLY_CONNECTED", "no activation range for 'd/fully_connected'")
    with pytest.raises(ValueError, match="Received: no activation range at 'd/fully_connected'"):
        bench.lower(io="int8")


@pytest.mark.parametrize(
    ("mode", "io"), [("int4", "float32"), ("int8", "float16"), ("dynamic", "int8"), ("int8", "int16")]
)
def test_modes_and_types_that_do_not_go_together(lab, heads, mode, io):
    with pytest.raises(ValueError, match="Expected"):
        lower(emit(heads.graph()), LoweringPlan(mode, io))


@pytest.mark.parametrize("known", [True, False], ids=["on its own grid", "on the output's grid"])
def test_embeddings(lab, known):
    def net(q):
        x = keras.Input((4,), dtype="int32", name="ids")
        layer = Rows(50, 8, name="e")
        layer.kernel.assign(values * np.float32(0.001))
        return keras.Model(x, q(layer(x), 0.0005, 0, "out"))

    values = np.random.default_rng(0).integers(-60, 60, (50, 8)).astype(np.int8)
    bench = lab.bench(net, per_channel=False)
    grid = dataclasses.replace(bench.weights["e/kernel"], values=values, scale=np.array([0.001], np.float32))
    lowered = bench.lower(weights={"e/kernel": grid} if known else {})
    kinds = ["GATHER", "MUL", "DEQUANTIZE"] if known else ["GATHER", "DEQUANTIZE"]
    assert lab.operators(lowered.content) == kinds
    assert lowered.float_ops == []
    ids = {"ids": np.array([[3, 49, 0, 7]], np.int32)}
    wanted = np.clip(values[ids["ids"][0]] * np.float32(0.001), -128 * 0.0005, 127 * 0.0005)
    for runtime in lab.runtimes:
        np.testing.assert_allclose(lab.run(lowered.content, ids, runtime)["e"][0], wanted, atol=1e-6)


def test_what_has_no_sixteen_bit_kernel_stays_float(lab):
    def net(q):
        x = keras.Input((4, 4, 2), name="x")
        return keras.Model(x, q(layers.Activation("hard_swish", name="h")(q(x, 0.03, 0, "in")), 0.03, 0, "out"))

    (left,) = lab.bench(net, mode="16x8").lower().float_ops
    assert (left.op, left.tensor, left.reason) == ("HARD_SWISH", "out", "HARD_SWISH has no 16-bit kernel")
    assert lab.bench(net).lower().float_ops == []
