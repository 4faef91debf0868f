"""Pieces of a file."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_compress.tflite.segments import Segments, extract_segment, segment_inputs


@pytest.fixture(scope="module")
def content(lab):
    def net(q):
        x = keras.Input((6, 6, 3), name="x")
        a = q(layers.Conv2D(4, 3, padding="same", name="c1")(q(x, 0.03, 2, "in")), 0.03, 1, "a")
        b = q(layers.Conv2D(4, 3, padding="same", name="c2")(a), 0.02, 3, "b")
        total = q(layers.Add(name="sum")([a, b]), 0.05, -2, "total")
        return keras.Model(x, q(layers.Dense(5, name="d")(layers.Flatten()(total)), 0.1, 0, "out"))

    return lab.bench(net).lower().content


def invoke(content, *inputs):
    from ai_edge_litert import interpreter as litert

    model = litert.Interpreter(model_content=content, experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF)
    model.allocate_tensors()
    for detail, values in zip(model.get_input_details(), inputs):
        model.set_tensor(detail["index"], values)
    model.invoke()
    return [model.get_tensor(d["index"]) for d in model.get_output_details()]


def test_inputs_are_the_nearest_stops(content):
    points = {"in", "a", "b", "total", "out"}
    assert segment_inputs(content, "total", points) == ["a", "b"]
    assert segment_inputs(content, "out", points) == ["total"]
    assert segment_inputs(content, "out", {"a"}) == ["a"]
    assert segment_inputs(content, "a", set()) == ["serving_default_x:0"]


def test_segments_compose_to_the_whole(content, lab):
    x = lab.samples(keras.Sequential([keras.Input((6, 6, 3), name="x"), keras.layers.ReLU()]), count=1)
    whole = lab.run(content, x, "reference")["d"]
    values = {"in": np.clip(np.rint(x["x"] / np.float32(0.03)) + 2, -128, 127).astype(np.int8)}
    for name in ("a", "b", "total", "out"):
        needed = segment_inputs(content, name, set(values))
        segment = extract_segment(content, needed, [name])
        (values[name],) = invoke(segment, *(values[n] for n in needed))
        assert values[name].dtype == np.int8
        assert len(np.unique(values[name])) > 4
    np.testing.assert_allclose(values["out"] * np.float32(0.1), whole, atol=1e-6)


def test_inputs_in_the_order_asked_for(content, lab):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-128, 128, (1, 6, 6, 4), dtype=np.int8) for _ in "ab")
    forward = invoke(extract_segment(content, ["a", "b"], ["total"]), a, b)[0]
    backward = invoke(extract_segment(content, ["b", "a"], ["total"]), b, a)[0]
    np.testing.assert_array_equal(forward, backward)
    assert not np.array_equal(forward, invoke(extract_segment(content, ["a", "b"], ["total"]), b, a)[0])


def test_several_outputs_and_only_the_operators_between(content, lab):
    segment = extract_segment(content, ["in"], ["b", "a"])
    assert lab.operators(segment) == ["CONV_2D", "CONV_2D"]
    assert b"d/kernel" not in segment


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (["a"], ["nowhere"], "'nowhere'"),
        (["nowhere"], ["a"], "'nowhere'"),
        (["a"], ["a"], r"Received: \['a'\]"),
        (["a"], [], "no outputs"),
        (["b"], ["total"], "nothing for .*serving_default_x"),
        (["in", "total"], ["out"], r"depend on. Received: \['in'\]"),
    ],
)
def test_impossible_segments(content, inputs, outputs, message):
    with pytest.raises(ValueError, match=message):
        extract_segment(content, inputs, outputs)


def test_a_file_read_once_is_cut_many_times(content):
    file, points = Segments(content), {"in", "a", "b", "total", "out"}
    for name in ("out", "a", "total", "b", "a", "out"):
        inputs = file.inputs_of(name, points)
        assert inputs == segment_inputs(content, name, points)
        assert file.extract(inputs, [name])[0] == extract_segment(content, inputs, [name])
