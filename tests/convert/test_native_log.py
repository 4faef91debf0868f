"""The converter's log: nothing of it where all goes well, causes and Keras layers where it does not."""

from __future__ import annotations

import os

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_compress as kc
from keras_compress.convert.float_flatbuffer import ConversionError, float_flatbuffer
from keras_compress.convert.native_log import LayerNames, NativeLog, cause_of, quiet_native_logs


class Inverse(layers.Layer):
    """Has no operator in TFLite."""

    def call(self, inputs):
        return ops.linalg.inv(inputs + 9 * ops.eye(3))


class Score(layers.Layer):
    """Has none either, behind a layer of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, name="dense")

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        return ops.erfinv(0.5 * ops.tanh(self.dense(inputs)))


@pytest.fixture
def refused():
    x = keras.Input((3, 3), name="x")
    encoder = keras.Sequential([keras.Input((3, 3)), Score(name="score"), layers.Dense(3, name="d")], name="encoder")
    return keras.Model(x, layers.Flatten(name="f")(Inverse(name="turn")(encoder(x))), name="net")


def lines(caught):
    return str(caught.value).splitlines()


REFUSED = [
    "The TFLite converter refused model 'net':",
    "  layer 'encoder/score' (Score): 'tf.Erfinv' op is neither a custom op nor a flex op",
    "  layer 'turn' (Inverse): 'tf.MatrixInverse' op is neither a custom op nor a flex op",
]


def test_a_refusal_names_the_operators_and_the_layers(refused, capfd):
    with pytest.raises(ConversionError) as caught:
        kc.convert(refused, mode="float32")
    assert lines(caught)[:3] == REFUSED
    assert "TFLite has no built-in operator" in lines(caught)[3]
    assert len(lines(caught)) == 4
    assert capfd.readouterr() == ("", "")


def test_so_does_one_of_an_integer_conversion(refused, capfd):
    data = np.random.default_rng(0).normal(size=(8, 3, 3)).astype(np.float32)
    with pytest.raises(ConversionError) as caught:
        kc.convert(refused, representative_dataset=data)
    assert lines(caught)[:3] == REFUSED
    assert capfd.readouterr() == ("", "")


def test_nested_models_are_named_by_path(refused):
    with pytest.raises(ConversionError) as caught:
        float_flatbuffer(refused)
    assert sorted(lines(caught)[:3]) == sorted(REFUSED)


def test_an_error_in_a_layer_is_told_in_three_lines(capfd):
    class Broken(layers.Layer):
        def call(self, inputs):
            if not keras.src.backend.in_stateless_scope():
                raise ZeroDivisionError("no such number\n" * 50)
            return inputs

    x = keras.Input((3,))
    with pytest.raises(ConversionError, match="no such number") as caught:
        float_flatbuffer(keras.Model(x, Broken(name="b")(x)))
    assert 2 <= len(lines(caught)) <= 4
    assert capfd.readouterr() == ("", "")


def test_places_of_the_log_become_layers(refused):
    names = LayerNames(refused)
    assert names.of("encoder.score_1/erfinv/Erfinv") == "'encoder/score' (Score)"
    assert names.of("encoder.score.dense_1/Tensordot/MatMul") == "'encoder/score/dense' (Dense)"
    assert names.of("net_1/encoder_1/d_1/MatMul") == "'encoder/d' (Dense)"
    assert names.of("StatefulPartitionedCall") is None
    log = NativeLog()
    place = 'loc(callsite(fused["Sin:", "turn_1/Sin@__inference_serve_4"] at fused["Call:", "Call"]))'
    log.text = (
        f"{place}: error: 'tf.Sin' op is odd\n<unknown>:0: note: {place}: called from\nerror: failed while converting"
    )
    told = cause_of(log, RuntimeError(f"<unknown>:0: error: {place}: 'tf.Sin' op is odd"), names)
    assert told == "  layer 'turn' (Inverse): 'tf.Sin' op is odd"


def test_many_causes_are_counted():
    log = NativeLog()
    log.text = "".join(f"error: cause {number}\n" for number in range(20))
    told = cause_of(log, RuntimeError(), LayerNames(keras.Sequential([keras.Input((1,)), layers.ReLU()])))
    assert told.splitlines()[0] == "  cause 0"
    assert told.splitlines()[-1] == "  and 12 more"
    assert len(told.splitlines()) == 9


def test_converting_and_verifying_print_nothing(capfd):  # warnings would be errors
    data = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.ReLU(), layers.Dense(3)])
    model.predict(data, verbose=0)
    capfd.readouterr()  # TensorFlow looks for devices when it first computes
    for _ in range(2):
        artifact = kc.convert(model, representative_dataset=data)
        kc.verify(artifact, model, data, kernels=["reference"])
    assert capfd.readouterr() == ("", "")


def test_one_warning_for_all_layers_and_batches():
    net = keras.Sequential([keras.Input((6,)), *(layers.Dense(6, name=f"d{i}") for i in range(12))])
    pruned = kc.prune_low_magnitude(net)
    with pytest.warns(UserWarning, match="pruning has not begun") as caught:
        kc.strip(pruned)
    (warning,) = caught
    assert str(warning.message).startswith("d0, d1, d2,")
    assert str(warning.message).endswith("d9 and 2 more: pruning has not begun: no training step was made")
    assert warning.filename == __file__
    quantized = kc.quantize_model(net)
    with pytest.warns(UserWarning, match="seen no training batch") as caught:  # noqa: PT031
        for size in (1, 2, 3, 5, 8):
            quantized(np.ones((size, 6), np.float32))
            quantized.predict(np.ones((size, 6), np.float32), verbose=0)
    assert len(caught) == 1


def test_captured_descriptors_are_restored_after_an_error(capfd):
    with pytest.raises(KeyError), quiet_native_logs() as log:  # noqa: PT012
        os.write(2, b"first line\nloc: error: the cause\nlast line\n")
        raise KeyError
    assert "the cause" in log.text
    os.write(1, b"after")
    assert capfd.readouterr() == ("after", "")


def test_descriptors_are_restored_after_ctrl_c(capfd):
    with pytest.raises(KeyboardInterrupt), quiet_native_logs():
        raise KeyboardInterrupt
    os.write(2, b"after")
    assert capfd.readouterr() == ("", "after")
