"""Valid files that others made: each command does its work, or says what the file is not for."""

import contextlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

import keras_compress as kc
from keras_compress.convert.native_log import quiet_native_logs
from keras_compress.runtime.target import target
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model

X = np.random.default_rng(0).random((16, 8, 8, 8), np.float32)


def converted(function, shape, quantized=False, calibrated=False, half=False):
    """What TensorFlow's converter makes of a function."""
    signature = [tf.TensorSpec(shape, tf.float32)]
    concrete = tf.function(function, input_signature=signature).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    if quantized or half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if calibrated:
        converter.representative_dataset = lambda: ([X[i : i + 1]] for i in range(4))
    if half:
        converter.target_spec.supported_types = [tf.float16]
    with quiet_native_logs(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return converter.convert()


@pytest.fixture(scope="module")
def files():
    random = np.random.default_rng(1)
    kernel = tf.constant(random.normal(size=(3, 3, 8, 64)).astype(np.float32))
    weight = tf.constant(random.normal(size=(64, 64)).astype(np.float32))

    def net(x):
        return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME")), [1, 2]) @ weight

    def looped(x):
        return tf.while_loop(lambda i, a: i < 3, lambda i, a: (i + 1, tf.tanh(a @ weight)), [0, x])[1]

    return {
        "int8": converted(net, (1, 8, 8, 8), quantized=True, calibrated=True),
        "dynamic": converted(net, (1, 8, 8, 8), quantized=True),
        "float16": converted(net, (1, 8, 8, 8), half=True),
        "loop": converted(looped, (1, 64)),
        "dynamic loop": converted(looped, (1, 64), quantized=True),
        "open": converted(net, (1, None, None, 8)),
    }


def with_operator(content, builtin, inputs, outputs, version=1):
    """The file with one more operator at its end; `outputs` are names of new tensors."""
    model = read_model(content)
    subgraph = model.subgraphs[0]
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = builtin, version
    code.deprecatedBuiltinCode = min(builtin, 127)
    model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = inputs(subgraph), outputs
    subgraph.operators = [*subgraph.operators, operator]
    return write_model(model)


def test_dynamic_range_is_not_for_tflite_micro(files, tmp_path):
    said = r"has int8 weights and float activations \(dynamic range\); convert with mode='int8'"
    for name, kind in (("dynamic", "CONV_2D"), ("dynamic loop", "FULLY_CONNECTED")):
        with pytest.raises(ValueError, match=f"Expected a file that TFLite-Micro runs. Received: .*{kind} '.*' {said}"):
            kc.compress_tflite(files[name])
    path = tmp_path / "dynamic.tflite"
    path.write_bytes(files["dynamic"])
    for work in (lambda: kc.export_c(path, tmp_path / "out"), lambda: kc.measure(path, target="tflm")):
        with pytest.raises(ValueError, match=rf"Received: {path}, not for TFLite-Micro: CONV_2D '.*' {said}$"):
            work()
    assert kc.measure(path).latency.median_ms > 0
    with pytest.raises(ValueError, match="not for TFLite-Micro: '.*' is stored in float16; convert with mode='int8'"):
        kc.measure(files["float16"], target="tflm")


def test_what_shrinks_and_what_does_not(files):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smaller = kc.compress_tflite(files["int8"])
    assert len(smaller) < len(files["int8"])
    runner = target("tflm")
    scale = runner.describe(files["int8"]).inputs[0]
    np.testing.assert_array_equal(runner.run(smaller, [X]), runner.run(files["int8"], [X]), err_msg=str(scale))
    with pytest.warns(UserWarning, match=r"Nothing became smaller: [\d,]+ bytes before, [\d,]+ now \(") as caught:
        again = kc.compress_tflite(smaller)
    assert caught[0].filename == __file__
    assert len(again) == len(smaller)


def test_an_operator_that_tflite_micro_lacks(files):
    """Its weights would be encoded for a runtime that does not take the file."""

    def behind(subgraph):
        tensor = schema.TensorT()
        last = subgraph.tensors[subgraph.outputs[0]]
        tensor.shape, tensor.type, tensor.buffer, tensor.name = last.shape, last.type, 0, b"end"
        subgraph.tensors.append(tensor)
        before = list(subgraph.outputs)
        subgraph.outputs = [len(subgraph.tensors) - 1]
        behind.added = subgraph.outputs
        return before

    model = read_model(files["int8"])
    behind(model.subgraphs[0])
    content = with_operator(files["int8"], schema.BuiltinOperator.SIGN, behind, behind.added, version=2)
    if target("tflm").available() is None:
        with pytest.raises(ValueError, match="not for TFLite-Micro: SIGN, which its resolver cannot add"):
            kc.compress_tflite(content)


def test_packed_weights_say_what_they_are_for(tmp_path):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(8, 3, name="c"), keras.layers.Flatten()]
    net = keras.Sequential([*layers, keras.layers.Dense(10, name="d")])
    packed = kc.quantize_model(net, weights=kc.UniformQuantizer(4))
    x = X[..., :1]
    artifact = kc.convert(packed, representative_dataset=x, weights_storage="int4")
    said = "not for TFLite-Micro: FULLY_CONNECTED 'd.*' has INT4 weights; convert with target='tflm'"
    for work in (lambda: kc.measure(artifact, target="tflm"), lambda: kc.export_c(artifact, tmp_path)):
        with pytest.raises(ValueError, match=said) as caught:
            work()
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="FULLY_CONNECTED 'd.*' has INT4 weights"):
        kc.compress_tflite(artifact.content)
    with contextlib.suppress(RuntimeError), pytest.raises(ValueError, match="Expected int8 weights.*INT4 'c/kernel'"):
        kc.estimate(artifact, "ethos_u")


def test_estimates_say_what_the_file_leaves_open(files):
    notes = " ".join(kc.estimate(files["loop"], "cortex_m", measure_ram=False).notes)
    assert "operators of other subgraphs (what WHILE and IF run, other signatures)" in notes
    model = read_model(files["int8"])
    before = kc.estimate(files["int8"], "cortex_m", measure_ram=False)
    assert "Too low" not in " ".join(before.notes)
    graph = Graph(model)
    graph.tensors[graph.inputs[0]].shapeSignature = [1, -1, -1, 8]
    after = kc.estimate(write_model(model), "cortex_m", measure_ram=False)
    assert "has open sizes [1, -1, -1, 8], counted as 1" in " ".join(after.notes)


def test_an_operator_that_gives_nothing_out(files):
    """As writing a variable does."""
    from keras_compress.runtime.ethos_u import _operators

    content = with_operator(files["int8"], schema.BuiltinOperator.CALL_ONCE, lambda subgraph: [], [])
    assert ("CALL_ONCE", "CALL_ONCE") in _operators(content)
    assert kc.inspect_tflite(content).operators["CALL_ONCE"] == 1
    assert kc.estimate(content, "cortex_m", measure_ram=False).layers[-1]["name"] == ""
