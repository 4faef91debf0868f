"""Calls of users that ask for the size of the batch."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_compress as kc

FORMS = {
    "broadcast_to": lambda token, x, n: ops.broadcast_to(token, (n, 1, 4)),
    "tile": lambda token, x, n: ops.tile(token, [n, 1, 1]),
    "repeat": lambda token, x, n: ops.repeat(token, n, axis=0),
    "zeros": lambda token, x, n: ops.zeros((n, 1, 4)) + token,
    "ones_like": lambda token, x, n: ops.ones_like(x[:, :1]) * token,
}


class Tokens(layers.Layer):
    """The token of a class before the others, and positions."""

    def __init__(self, form="broadcast_to", **kwargs):
        super().__init__(**kwargs)
        self.form = form

    def build(self, shape):
        self.token = self.add_weight(name="token", shape=(1, 1, shape[-1]), initializer="random_normal")
        self.places = self.add_weight(name="places", shape=(1, shape[1] + 1, shape[-1]))

    def call(self, x):
        token = FORMS[self.form](self.token, x, ops.shape(x)[0])
        return ops.concatenate([token, x], axis=1) + self.places

    def get_config(self):
        return {**super().get_config(), "form": self.form}


class Patches(layers.Layer):
    """Patches of 2 x 2, as rows."""

    def call(self, images):
        batch, height, width, channels = ops.shape(images)
        patches = ops.image.extract_patches(images, size=2)
        return ops.reshape(patches, (batch, (height // 2) * (width // 2), 4 * channels))


class Stacked(layers.Layer):
    """Every number of a sample, twice, with -1 in the shape."""

    def call(self, x):
        return ops.stack([x, ops.full((ops.shape(x)[0], 3, 4), 2.0)], axis=1) + ops.reshape(
            x, (ops.shape(x)[0], 1, -1, 4)
        )


@pytest.mark.parametrize("form", FORMS)
def test_tokens(bench, form):
    # Positions are integers of 8 bits in the flat model.
    bench.same(bench.model(lambda x: Tokens(form)(x), (5, 4)), atol=1e-2)


def test_patches_and_shapes(bench):
    flat = bench.same(bench.model(lambda x: Patches()(x), (5, 4, 3)), bench_images())
    assert not {"Conv2D", "ExtractPatches"} & set(bench.kinds(flat))
    bench.same(bench.model(lambda x: Stacked()(x), (3, 4)))


def bench_images():
    return np.random.default_rng(0).normal(size=(3, 5, 4, 3)).astype("float32")


def test_constants_that_differ_between_samples_are_refused(bench):
    class Numbered(layers.Layer):
        def call(self, x):
            return x + ops.reshape(ops.arange(ops.shape(x)[0], dtype="float32"), (-1, 1))

    with pytest.raises(ValueError, match="the same for each sample.*numbered"):
        bench.flatten(bench.model(lambda x: Numbered(name="numbered")(x), (4,)))


def test_patches_and_a_token_on_the_device():
    keras.utils.set_random_seed(4)
    inputs = keras.Input((4, 4, 3))
    x = layers.LayerNormalization(epsilon=1e-6)(Tokens()(layers.Dense(4)(Patches()(inputs))))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    data = np.random.default_rng(5).normal(size=(48, 4, 4, 3)).astype("float32")
    artifact = kc.convert(model, representative_dataset=data)
    kc.verify(artifact, model, data[:16])
    assert not artifact.float_ops
    expected = model.predict(data, verbose=0)
    error = artifact.frozen.predict(data, verbose=0) - expected
    assert (error**2).mean() < 0.003 * (expected**2).mean()
