from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import keras_compress as kc
from keras_compress.graph import graph
from keras_compress.post_training.lockstep import Lockstep, as_floats, called_with, unquantized
from keras_compress.post_training.start import with_ranges
from keras_compress.post_training.steps import stepped_weights, with_steps
from keras_compress.quantizers.round_average import RoundAverage

Tiny = tuple[keras.Model, np.ndarray]


def test_both_models_are_run_to_their_outputs(tiny: Tiny) -> None:
    model, values = tiny
    quantized = with_ranges(kc.quantize_model(model, weights="int4"), values)
    lock = Lockstep(quantized, quantized, values, 50)
    for position in lock:
        lock.run([position])
    (output,) = lock.flat.outputs
    np.testing.assert_allclose(lock.float(output), model(values[:50]), atol=1e-5)
    np.testing.assert_allclose(lock.quantized(output), quantized(values[:50]), atol=1e-6)
    # Nothing else is held any more.
    assert len(lock._floats) == len(lock._quantized) == 1


def test_inputs_are_the_quantized_models_where_layers_before_are_rounded(tiny: Tiny) -> None:
    model, values = tiny
    quantized = with_ranges(kc.quantize_model(model, weights="int4"), values)
    lock = Lockstep(quantized, quantized, values, 50)
    for position in lock:
        if lock.calls[position].operation.name == "logits":
            break
        lock.run([position])
    (read,) = lock.inputs_of([position])
    upto = {"model": model, "quantized": quantized}
    found = {
        name: keras.Model(graph.functional(m).inputs, m.get_layer("logits").input)([values[:50]])
        for name, m in upto.items()
    }
    np.testing.assert_allclose(lock.float(read), found["model"], atol=1e-5)
    np.testing.assert_allclose(lock.quantized(read), found["quantized"], atol=1e-6)
    aim, made = lock.tried(position)
    np.testing.assert_allclose(aim, model(values[:50]), atol=1e-5)
    assert not np.allclose(aim, made)


def test_a_wrapper_is_called_with_other_weights(tiny: Tiny) -> None:
    model, values = tiny
    wrapper = kc.quantize_model(model, weights="int2").get_layer("stem")
    np.testing.assert_array_equal(called_with(wrapper, unquantized(wrapper), values), model.get_layer("stem")(values))
    np.testing.assert_array_equal(wrapper.latent("kernel"), model.get_layer("stem").kernel)


def test_uniform_weights_with_steps_are_the_same_weights(tiny: Tiny) -> None:
    model, values = tiny
    quantized = kc.quantize_model(model, weights="int3", activations=None)
    stepped = with_steps(quantized)
    np.testing.assert_array_equal(stepped(values), quantized(values))
    assert [each.path for each in stepped_weights(stepped)] == ["stem", "depthwise", "pointwise", "logits"]


def test_ranges_are_those_of_the_float_model(tiny: Tiny) -> None:
    """Two bits move what the layers give; the ranges do not follow."""
    model, values = tiny
    made = with_ranges(kc.quantize_model(model, weights="int2"), values)
    point = made.get_layer("depthwise_relu_quantized").quantizer
    expected = keras.Model(model.inputs, model.get_layer("depthwise_relu").output)([values])
    np.testing.assert_allclose(float(point.range()[1]), np.max(expected), rtol=1e-5)
    # Again, by another rule: what was known is measured anew.
    narrower = with_ranges(made, values, "hodges_lehmann", again=True)
    assert float(narrower.get_layer("depthwise_relu_quantized").quantizer.range()[1]) < np.max(expected)


def test_as_floats_an_average_is_not_rounded() -> None:
    """Though its range is known: the reference may be the quantized model itself."""
    image = keras.Input((4, 4, 2))
    x = keras.layers.AveragePooling2D(2)(keras.layers.Conv2D(2, 1)(image))
    model = keras.Model(image, keras.layers.Conv2D(2, 1)(x))
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 2)).astype(np.float32)
    quantized = with_ranges(kc.quantize_model(model), x)
    assert any(isinstance(layer, RoundAverage) for layer in quantized.layers)
    found = graph.Rebuild(as_floats).run(quantized, [tf.constant(x)], "", 0)
    np.testing.assert_allclose(found, model(x), atol=1e-6)
