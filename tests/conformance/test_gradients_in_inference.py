"""A model in inference has the gradients of training: saliency maps, attacks, and loops without `training=True`."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.convert.freeze import freeze
from keras_compress.core import registry
from keras_compress.tflite.storage import Storage

X = np.linspace(-3.0, 3.0, 48, dtype=np.float32).reshape(4, 12)
UPSTREAM = np.random.default_rng(3).normal(size=X.shape).astype(np.float32)


def trained(made) -> kc.QuantizeActivation:
    layer = kc.QuantizeActivation(made)
    # The range is narrower than the values that follow.
    layer(X[1:3], training=True)
    if not made.trainable_variables:
        # Else the batch would move the averages.
        made.trainable = False
    return layer


def gradients(layer, training: bool, made) -> list[np.ndarray]:
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training) * UPSTREAM
    found = tape.gradient(y, [x, *(v.value for v in made.trainable_variables)])
    assert all(each is not None for each in found)
    return [each.numpy() for each in found]


def test_activation_has_the_gradients_of_training(quantizer) -> None:
    made = quantizer.make()
    layer = trained(made)
    expected = gradients(layer, True, made)
    eager = gradients(layer, False, made)
    assert np.abs(eager[0]).max() > 0
    graph = tf.function(lambda: gradients_in_graph(layer, made))()
    for wanted, found, traced in zip(expected, eager, graph, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(traced.numpy(), wanted, rtol=1e-4, atol=1e-4)


def gradients_in_graph(layer, made) -> list[tf.Tensor]:
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x) * UPSTREAM
    return tape.gradient(y, [x, *(v.value for v in made.trainable_variables)])


def inside(low: float, high: float):
    return lambda x: ((x >= low) & (x <= high)).astype(np.float32)


# Class -> how it is set to known ends, and the derivative that its docstring states.
DOCUMENTED = {
    "MovingAverageRange": (lambda q: q.set_range(-1.0, 2.0), inside(-1.0, 2.0)),
    "LearnedRange": (lambda q: q.set_range(-1.0, 2.0), inside(-1.0, 2.0)),
    "FixedGrid": (lambda q: None, None),
    "Pact": (lambda q: q.set_learned(2.0), lambda x: ((x >= 0) & (x < 2.0)).astype(np.float32)),
    "LSQActivation": (lambda q: q.set_learned(2.0 / q.highest), lambda x: ((x > 0) & (x < 2.0)).astype(np.float32)),
    "DoReFaActivation": (lambda q: None, inside(0.0, 1.0)),
    "HalfWaveGaussian": (lambda q: None, lambda x: ((x > 0) & (x <= 3 * 0.538837)).astype(np.float32)),
    "WRPNActivation": (lambda q: None, inside(0.0, 1.0)),
    "ABCNetActivation": (
        # Thresholds -2/3, 0 and 2/3: each third passes half a unit around its own.
        lambda q: None,
        lambda x: sum((np.abs(x - t) <= 0.5) / 3 for t in (-2 / 3, 0.0, 2 / 3)).astype(np.float32),
    ),
    "RSign": (lambda q: None, lambda x: np.maximum(2 - 2 * np.abs(x), 0)),
    "SteSignActivation": (lambda q: None, inside(-1.0, 1.0)),
    "ApproxSignActivation": (lambda q: None, lambda x: np.maximum(2 - 2 * np.abs(x), 0)),
    "SwishSignActivation": (
        lambda q: None,
        lambda x: 5 * (2 - 5 * x * np.tanh(2.5 * x)) / (1 + np.cosh(5 * x)),
    ),
}


def test_activation_has_the_documented_gradient(quantizer) -> None:
    name = quantizer.cls.__name__
    made = quantizer.cls(0.01, 20) if name == "FixedGrid" else quantizer.cls()
    known = {**DOCUMENTED, "FixedGrid": (lambda q: None, inside(-1.48, 1.07))}
    set_up, derivative = known[name]
    set_up(made)
    found = gradients(kc.QuantizeActivation(made), False, made)[0]
    np.testing.assert_allclose(found, UPSTREAM * derivative(X), rtol=1e-4, atol=1e-4)


def test_an_untrained_point_passes_the_gradient_as_it_passes_the_values(quantizer, recwarn) -> None:
    made = quantizer.make()
    if made.trained():
        return
    found, *others = gradients(kc.QuantizeActivation(made), False, made)
    np.testing.assert_array_equal(found, UPSTREAM)
    assert all((other == 0).all() for other in others)
    recwarn.clear()  # that it has seen no batch


def test_weight_has_the_gradients_of_training(transform, bench) -> None:
    """Of a loss that is linear in the outputs, so that it does not matter which weights a step has drawn."""
    model = bench.with_transforms(transform)
    wrapper = bench.wrapper(model)
    upstream = np.random.default_rng(4).normal(size=(12, 8)).astype(np.float32)
    variables = [wrapper.layer.kernel, *wrapper.transform_list[0].trainable_variables]

    def found(training: bool) -> list:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(wrapper(bench.x, training=training) * upstream)
        return tape.gradient(loss, [v.value for v in variables])

    expected, eager, graph = found(True), found(False), tf.function(lambda: found(False))()
    if transform.cls.draws:
        # Training sees other weights than inference: that the gradient of the weight passes is what they share.
        assert all(np.abs(each[0].numpy()).max() > 0 for each in (expected, eager, graph))
        return
    assert not transform.cls.trains or max(np.abs(each.numpy()).max() for each in expected) > 0
    for wanted, here, traced in zip(expected, eager, graph, strict=True):
        if not transform.cls.trains:
            assert here is None
            assert traced is None
            continue
        np.testing.assert_allclose(here.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(traced.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-5)


class Tuned(keras.Model):
    """A model that is trained with its statistics frozen."""

    def __init__(self, base: keras.Model) -> None:
        super().__init__()
        self.base = base

    def call(self, inputs):
        return self.base(inputs, training=False)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fits_with_frozen_statistics(bench, jit_compile: bool) -> None:
    """Every quantizer in one model; of those that XLA compiles, where it has none for a condition, two."""
    inputs = keras.Input((6,))
    branches = []
    for name, cls in registry.entries("activation_quantizer").items():
        if not jit_compile or name in ("LearnedRange", "Pact"):
            branch = keras.layers.Dense(4)(inputs)
            branches.append(kc.QuantizeActivation(cls(**cls.samples()[0]))(branch))
    joined = keras.layers.BatchNormalization()(keras.layers.Concatenate()(branches))
    base = kc.quantize_model(keras.Model(inputs, keras.layers.Dense(3)(joined)), weights="lsq", activations=None)
    base(bench.x * 0.5, training=True)
    model = Tuned(base)
    before = [np.array(v) for v in base.variables]
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=not jit_compile, jit_compile=jit_compile)
    model.fit(bench.x, bench.y, epochs=2, verbose=0)
    moved = {v.path for v, old in zip(base.variables, before, strict=True) if (np.array(v) != old).any()}
    assert {v.path for v in base.trainable_variables} == moved


@pytest.mark.parametrize("runtime", ["litert", "tflm"])
def test_frozen_model_has_the_gradient_of_its_weights(runtime: str) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    frozen = freeze(model, x, storage=Storage("int8", runtime))
    kernel = next(np.array(w.weight("kernel")) for w in frozen.layers if isinstance(w, kc.Compressed))
    upstream = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    values = tf.constant(x[:5] * 0.5)
    with tf.GradientTape() as tape:
        tape.watch(values)
        y = frozen(values) * upstream
    np.testing.assert_allclose(tape.gradient(y, values).numpy(), upstream @ kernel.T, rtol=1e-5, atol=1e-6)


def test_every_registered_quantizer_is_in_the_table() -> None:
    assert set(DOCUMENTED) == set(registry.entries("activation_quantizer"))
