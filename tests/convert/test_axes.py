"""Normalizations over any axis, and layers whose names or kernels are the same: right on the device."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.core.batch_norm import foldable
from keras_compress.graph.model import positive_gammas

RNG = np.random.default_rng(0)


def decibels(expected, got):
    return 10 * np.log10((expected**2).sum() / max(((expected - got) ** 2).sum(), 1e-30))


def randomized(model):
    """Statistics and factors of both signs, as training leaves them."""
    rng = np.random.default_rng(1)
    for variable in model.variables:
        low = 0.3 if "variance" in variable.name else -1.5
        variable.assign(rng.uniform(low, 2.0, variable.shape))
    return model


def converted(model, x, **options):
    """The file, verified, and how far the frozen model's outputs are from the float one's, in dB: the worst."""
    artifact = kc.convert(model, representative_dataset=x, **options)
    kc.verify(artifact, model, x[:16])
    assert not artifact.float_ops
    both = (keras.tree.flatten(each.predict(x, verbose=0)) for each in (model, artifact.frozen))
    return artifact, min(decibels(one, two) for one, two in zip(*both, strict=True))


def over_steps(*behind, axis):
    """A convolution with as many steps as channels, and a BatchNormalization over one of the two."""
    norm = layers.BatchNormalization(axis=axis)
    return randomized(
        keras.Sequential([keras.Input((8, 3)), layers.Conv1D(8, 3, padding="same"), norm, *(make() for make in behind)])
    )


@pytest.mark.parametrize(("axis", "target"), [(1, "litert"), (-2, "tflm")])
def test_batch_normalization_over_steps(axis, target):
    x = RNG.normal(size=(48, 8, 3)).astype("float32")
    artifact, distance = converted(over_steps(layers.ReLU, axis=axis), x, target=target)
    assert distance > 30
    # Not folded: a kernel of its own.
    assert "DepthwiseConv2D" in {type(getattr(each, "layer", each)).__name__ for each in artifact.frozen.layers}


def test_a_trained_one_is_what_runs():
    x = RNG.normal(size=(48, 8, 3)).astype("float32")
    trained = kc.quantize_model(over_steps(layers.ReLU, lambda: layers.Conv1D(2, 1), axis=1))
    trained(x, training=True)
    artifact = kc.convert(trained)
    kc.verify(artifact, trained, x[:16])
    assert decibels(trained.predict(x, verbose=0), artifact.frozen.predict(x, verbose=0)) > 40


def test_a_point_behind_a_reshape_is_the_one_that_was_trained():
    x = RNG.normal(size=(48, 5, 4)).astype("float32")
    heads = layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de")
    made = [layers.Conv1DTranspose(3, 3), layers.BatchNormalization(), layers.ReLU(), heads]
    trained = kc.quantize_model(randomized(keras.Sequential([keras.Input((5, 4)), *made])))
    trained(x, training=True)
    artifact = kc.convert(trained)  # no data: each range was trained
    kc.verify(artifact, trained, x[:16])
    assert decibels(trained.predict(x, verbose=0), artifact.frozen.predict(x, verbose=0)) > 40


class Bent(layers.Layer):
    """A layer with a kernel that a factor does not pass through."""

    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 4))

    def get_compressible_weights(self):
        return {"kernel": (-1,)}

    def call(self, inputs):
        return keras.ops.relu(keras.ops.matmul(inputs, self.kernel))


def test_what_takes_factors_in():
    def norm(shape, axis=-1):
        made = layers.BatchNormalization(axis=axis)
        made.build(shape)
        return made

    def built(layer, shape):
        layer.build(shape)
        return layer

    dense = built(layers.Dense(4), (None, 4, 4))
    assert foldable(dense, norm((None, 4, 4)))
    assert foldable(dense, norm((None, 4, 4), axis=2))
    assert not foldable(dense, norm((None, 4, 4), axis=1))
    assert not foldable(dense, norm((None, 4, 4), axis=-2))
    assert foldable(built(layers.EinsumDense("abc,cd->abd", (None, 4)), (None, 4, 4)), norm((None, 4, 4)))
    assert not foldable(built(layers.EinsumDense("abc,cd->adb", (4, None)), (None, 4, 4)), norm((None, 4, 4)))
    heads = built(layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (None, 4, 4))
    assert not foldable(heads, norm((None, 4, 2, 3)))
    assert not foldable(built(Bent(), (None, 4)), norm((None, 4)))


def test_negative_factors_stay_behind_a_layer_of_the_users():
    model = keras.Sequential([keras.Input((4,)), Bent(), layers.BatchNormalization()])
    model.layers[1].gamma.assign([-1.0, 1.0, -2.0, 2.0])
    x = RNG.normal(size=(8, 4)).astype("float32")
    np.testing.assert_allclose(positive_gammas(model).predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


def test_right_on_the_device():
    keras.utils.set_random_seed(2)
    inputs = keras.Input((6, 8))
    outputs = [
        layers.LayerNormalization(axis=(1, 2))(inputs),
        layers.LayerNormalization()(layers.Rescaling(2.0)(inputs)),
        # Both have the numbers 1 / 8, one of them for each channel.
        layers.LayerNormalization()(layers.Rescaling(0.125)(inputs)),
        (inputs * np.linspace(1, 2, 48).reshape(6, 8)) * np.linspace(2, 1, 48).reshape(6, 8),
        layers.PReLU(alpha_initializer="random_normal")(layers.Dense(8)(inputs)),
        layers.Softmax(axis=1)(inputs),
    ]
    x = RNG.normal(size=(64, 6, 8)).astype("float32")
    assert converted(keras.Model(inputs, outputs), x)[1] > 30


def test_two_embeddings():
    first, second = keras.Input((6,)), keras.Input((6,))
    joined = layers.Concatenate()([layers.Embedding(10, 4)(first), layers.Embedding(10, 4)(second)])
    model = keras.Model([first, second], layers.Dense(2)(layers.Flatten()(joined)))
    x = [RNG.integers(0, 10, (32, 6)).astype("float32") for _ in range(2)]
    artifact = kc.convert(model, representative_dataset=x)
    kc.verify(artifact, model, x)
    assert decibels(model.predict(x, verbose=0), artifact.frozen.predict(x, verbose=0)) > 30


def test_rows_of_zeros_do_not_set_the_scale():
    x = RNG.normal(size=(64, 10, 8)).astype("float32")
    x[:, 7:] = 0
    inputs = keras.Input((10, 8))
    made = [layers.RMSNormalization(), layers.LayerNormalization(epsilon=1e-6), layers.UnitNormalization()]
    assert converted(keras.Model(inputs, [layer(inputs) for layer in made]), x)[1] > 33
