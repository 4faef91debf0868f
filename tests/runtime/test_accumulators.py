"""Widths of accumulators: literal sums, the worst input, and the kernels' own integers."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.cli.main import main
from keras_compress.runtime import accumulators, integer_model
from keras_compress.runtime.accumulators import bits_of
from keras_compress.tflite.flatbuffer import Graph, read_model
from keras_compress.tflite.segments import Segments

RNG = np.random.default_rng(4)
X = RNG.uniform(0, 1, size=(40, 6, 6, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def artifact() -> kc.Artifact:
    keras.utils.set_random_seed(5)
    net = [
        keras.Input((6, 6, 3)),
        layers.Conv2D(5, 3, padding="same", activation="relu", name="conv"),
        layers.MaxPooling2D(2),
        layers.DepthwiseConv2D(2, name="depthwise"),
        layers.Flatten(),
        layers.Dense(4, name="dense"),
    ]
    return kc.convert(keras.Sequential(net), representative_dataset=X)


def bias_of(graph: Graph, op: Any) -> list[int]:
    found = graph.constant(op.inputs[2]) if len(op.inputs) > 2 and op.inputs[2] >= 0 else None
    return [0] * math.prod(graph.shape(op.outputs[0])[-1:]) if found is None else [int(each) for each in found]


def test_a_width_holds_its_two_ends() -> None:
    # -2^(b-1) .. 2^(b-1) - 1
    wanted = {(0, 0): 1, (-1, 0): 1, (0, 1): 2, (-128, 127): 8, (-129, 0): 9, (0, 128): 9, (-32768, 32767): 16}
    assert {ends: bits_of(*ends) for ends in wanted} == wanted
    np.testing.assert_array_equal(integer_model.wrapped(np.array([127, 128, -129, 300]), 8), [127, -128, 127, 44])


def test_rows_are_the_sums_of_the_files_own_integers(artifact: kc.Artifact) -> None:
    found = kc.accumulator_bits(artifact)
    graph = Graph(read_model(artifact.content))
    by_kind = {row.operator: row for row in found.rows}
    assert list(by_kind) == ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"]
    for op in graph.operators:
        row = by_kind.get(graph.kind(op))
        if row is None:
            continue
        weight, bias = graph.constant(op.inputs[1]).astype(int), bias_of(graph, op)
        zero = int(graph.quantization(op.inputs[0])[1])
        # Behind a ReLU inputs begin at the zero point; the dense layer reads what nothing clips.
        low, high = (0, 127 - zero) if row.operator == "DEPTHWISE_CONV_2D" else (-128 - zero, 127 - zero)
        channels = weight.shape[3] if row.operator == "DEPTHWISE_CONV_2D" else len(weight)
        ends = []
        for channel in range(channels):
            own = weight[0, ..., channel] if row.operator == "DEPTHWISE_CONV_2D" else weight[channel]
            least = sum(min(int(w) * low, int(w) * high) for w in own.ravel()) + min(bias[channel], 0)
            most = sum(max(int(w) * low, int(w) * high) for w in own.ravel()) + max(bias[channel], 0)
            ends.append((least, most))
        assert (row.input_low, row.input_high) == (low, high)
        assert (row.low, row.high) == (min(e[0] for e in ends), max(e[1] for e in ends))
        assert row.bits == next(b for b in range(1, 40) if -(2 ** (b - 1)) <= row.low and row.high < 2 ** (b - 1))
        assert (row.terms, row.step) == (own.size, 1)
        assert row.stock_bits == 32
    assert found.bits == max(row.bits for row in found.rows)
    assert found.observed_bits is None


def test_sums_on_data_are_within_the_bound_and_fit_what_is_said(artifact: kc.Artifact) -> None:
    found = kc.accumulator_bits(artifact, X, bits=12)
    for row in found.rows:
        assert row.low <= row.observed_low < row.observed_high <= row.high
        assert row.observed_bits == bits_of(row.observed_low, row.observed_high) <= row.bits
        assert (row.overflows > 0) == (row.observed_bits > 12)
    assert any(row.overflows > 0 for row in found.rows)
    assert found.observed_bits == max(row.observed_bits for row in found.rows)
    assert "on the data" in repr(found)


def test_wrap_around_in_the_bits_seen_changes_nothing_and_one_less_does(artifact: kc.Artifact) -> None:
    file, tensors = Segments(artifact.content), set(artifact.points.values())
    target = next(t for t in artifact.points.values() if t.startswith("dense"))
    content, graph = file.extract(file.inputs_of(target, tensors), [target])
    shape = graph.shape(graph.inputs[0])[1:]
    values = RNG.integers(-128, 128, (200, *shape)).astype(np.int8)
    (op,) = [each for each in graph.operators if graph.kind(each) == "FULLY_CONNECTED"]
    whole = integer_model.sums(graph, op, values.reshape(200, -1))
    bits = bits_of(int(whole.min()), int(whole.max()))
    exact = integer_model.run(content, values)
    np.testing.assert_array_equal(integer_model.run(content, values, accumulator_bits=bits), exact)
    assert (integer_model.run(content, values, accumulator_bits=bits - 1) != exact).any()


def test_signs_need_few_bits() -> None:
    keras.utils.set_random_seed(6)
    net = [
        keras.Input((8, 8, 2)),
        layers.Conv2D(4, 3, use_bias=False, name="first"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(3, 3, use_bias=False, name="binary"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(2, name="last"),
    ]
    ends = [{"layers": ["first", "last"], "weights": "int8"}]
    model = kc.quantize_model(keras.Sequential(net), "bwn", "approx_sign", rules=ends)
    x = RNG.normal(size=(30, 8, 8, 2)).astype(np.float32)
    artifact = kc.convert(model, representative_dataset=x)
    (row,) = [row for row in kc.accumulator_bits(artifact, x).rows if row.terms == 36]
    assert (row.input_low, row.input_high) == (-1, 1)
    # Weights are shifted up in the file: in their own steps a sum has 36 signs and what of the bias is whole steps.
    graph = Graph(read_model(artifact.content))
    (op,) = [each for each in graph.operators if graph.name(each.outputs[0]) == row.layer]
    weight, bias = graph.constant(op.inputs[1]).astype(int), bias_of(graph, op)
    assert set(np.unique(np.abs(weight))) == {row.step}
    assert row.step > 1
    assert row.high == 36 + max(max(each // row.step, 0) for each in bias)
    assert row.low == -36 + min(min(each // row.step, 0) for each in bias)
    # Without the bias 36 signs need 7 bits.
    (alone,) = [row for row in kc.accumulator_bits(artifact, x, bias=False).rows if row.terms == 36]
    assert (alone.low, alone.high, alone.bits) == (-36, 36, 7)
    assert alone.observed_high - alone.observed_low <= 72
    assert alone.observed_high % 2 == 0


def test_all_inputs_of_a_small_sum_reach_the_bound() -> None:
    net = keras.Sequential([keras.Input((2,)), layers.Dense(1, name="line")])
    net.get_layer("line").kernel.assign([[0.5], [-1.0]])
    x = np.array(list(itertools.product(np.linspace(-1, 1, 129), repeat=2)), np.float32)
    artifact = kc.convert(net, representative_dataset=x)
    (row,) = kc.accumulator_bits(artifact, x).rows
    graph = Graph(read_model(artifact.content))
    (op,) = [each for each in graph.operators if graph.kind(each) == "FULLY_CONNECTED"]
    zero, weight = int(graph.quantization(op.inputs[0])[1]), graph.constant(op.inputs[1]).astype(int).ravel()
    whole = [int(w @ np.array(q)) for w in [weight] for q in itertools.product((-128 - zero, 127 - zero), repeat=2)]
    assert (row.low, row.high) == (min(whole), max(whole))


def test_files_without_integer_sums_say_why(tmp_path: Path) -> None:
    net = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense")])
    found = kc.accumulator_bits(kc.convert(net, mode="float32"))
    assert not found.rows
    assert found.bits == 0
    assert "it reads float32" in found.skipped[0]
    for bits in (1, 8.5, True):
        with pytest.raises(ValueError, match=rf"Expected `bits` as an integer in \[2, 63\]. Received: bits={bits}"):
            kc.accumulator_bits(b"", X, bits=bits)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Expected `x` to count overflows on"):
        kc.accumulator_bits(b"", bits=8)
    with pytest.raises(TypeError, match="Expected an Artifact"):
        kc.accumulator_bits(3)  # type: ignore[arg-type]


def test_the_command_prints_a_row_for_each_layer(
    artifact: kc.Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact.save(tmp_path / "m.tflite")
    np.savez(tmp_path / "data.npz", x_test=X)
    asked = ["keras-compress", "accumulator_bits", f"--model={tmp_path}/m.tflite", f"--data={tmp_path}/data.npz"]
    assert main([*asked, "--bits=12"]) == 0
    shown = capsys.readouterr().out
    assert "CONV_2D" in shown
    assert "Stock kernels add up in 32 bits" in shown
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["bits"] for row in found["rows"]] == [row.bits for row in kc.accumulator_bits(artifact).rows]


def test_intervals_pass_through_what_only_moves_values(artifact: kc.Artifact) -> None:
    graph = Graph(read_model(artifact.content))
    pool = next(op for op in graph.operators if graph.kind(op) == "MAX_POOL_2D")
    assert accumulators.centred_interval(graph, pool.outputs[0]) == accumulators.centred_interval(graph, pool.inputs[0])
