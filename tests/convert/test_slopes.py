"""Leaky and parametric ReLUs are made of kernels that LiteRT's fast path has."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.convert.freeze import freeze

PRODUCT_AND_EXTREME = {"DEPTHWISE_CONV_2D": 1, "MUL": 1}
FORMS = {
    "channel": ([1, 2], lambda r, s: r.uniform(0.1, 0.4, s), {**PRODUCT_AND_EXTREME, "MAXIMUM": 1}),
    "channel, some negative": ([1, 2], lambda r, s: r.uniform(-0.3, 0.5, s), {**PRODUCT_AND_EXTREME, "MAXIMUM": 1}),
    "channel, above 1": ([1, 2], lambda r, s: r.uniform(1.1, 1.5, s), {**PRODUCT_AND_EXTREME, "MINIMUM": 1}),
    "channel, around 1": ([1, 2], lambda r, s: r.uniform(0.5, 1.5, s), {"DEPTHWISE_CONV_2D": 2, "ADD": 1}),
    "one for all": ([1, 2], lambda r, s: np.full(s, 0.25), {"DEPTHWISE_CONV_2D": 1, "ADD": 1}),
    "row": ([2, 3], lambda r, s: r.uniform(0.1, 0.4, s), {"MUL": 2, "MAXIMUM": 1}),
    "position": (None, lambda r, s: r.uniform(0.1, 0.4, s), {"MUL": 2, "MAXIMUM": 1}),
}


def sloped(shared_axes, slopes, seed=0, shape=(8, 8, 3)):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(shape)
    prelu = layers.PReLU(shared_axes=shared_axes, name="prelu")
    model = keras.Model(inputs, prelu(layers.Conv2D(8, 3, name="conv")(inputs)))
    prelu.alpha.assign(slopes(np.random.default_rng(seed), tuple(prelu.alpha.shape)))
    return model


def samples(n, seed, shape=(8, 8, 3)):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def decibels(expected, values):
    return 10 * np.log10(np.sum(expected**2) / np.sum((expected - values) ** 2))


def beside(artifact):
    """Operators that are neither the convolution nor at the border."""
    left = dict(kc.inspect_tflite(artifact.content).operators)
    return {kind: n for kind, n in left.items() if kind not in ("CONV_2D", "QUANTIZE", "DEQUANTIZE")}


@pytest.mark.parametrize("form", FORMS)
def test_operators_of_each_form_and_each_value_is_rounded_as_prelu_does(form):
    shared_axes, slopes, expected = FORMS[form]
    model, x, unseen = sloped(shared_axes, slopes), samples(64, 1), samples(64, 2)
    parts = kc.convert(model, representative_dataset=x)
    one = kc.convert(model, "tflm", representative_dataset=x)
    assert beside(parts) == expected
    assert beside(one) == {"PRELU": 1}
    assert kc.verify(parts, model, unseen).ok
    assert kc.verify(one, model, unseen).ok
    truth = model.predict(unseen, verbose=0)
    lost = [decibels(truth, a.frozen.predict(unseen, verbose=0)) for a in (one, parts)]
    assert lost[1] > lost[0] - 0.3


def test_one_slope_is_exact_to_the_last_step():
    # What PRELU computes: the input's integers, one product, one rounding.
    model, x = sloped([1, 2, 3], lambda r, s: np.full(s, 0.25)), samples(64, 3)
    frozen = freeze(model, x)
    inside = keras.Model(frozen.input, frozen.get_layer("conv_quantized").output)(x).numpy()
    grid = frozen.layers[-1].quantizer
    steps = np.rint(np.where(inside < 0, 0.25 * inside, inside) / grid.scale) + grid.zero_point
    expected = grid.scale * (np.clip(steps, -128, 127) - grid.zero_point)
    np.testing.assert_allclose(frozen(x), expected, atol=1e-5)


@pytest.mark.parametrize("layer", [layers.LeakyReLU(0.1), layers.ReLU(negative_slope=0.1)], ids=["leaky", "relu"])
@pytest.mark.parametrize("shape", [(6, 6, 2), (5,)])
def test_leaky_relus_too(layer, shape):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    before = layers.Conv2D(4, 3) if len(shape) == 3 else layers.Dense(4)
    model = keras.Model(inputs, layer(before(inputs)))
    x = samples(64, 0, shape)
    artifact = kc.convert(model, representative_dataset=x)
    assert "ADD" in beside(artifact)
    assert "GATHER" not in beside(artifact)
    assert kc.verify(artifact, model, x).ok


@pytest.mark.filterwarnings("ignore:Layers left as they are")
def test_a_model_with_trained_ranges_needs_no_data():
    model = kc.quantize_model(sloped(*FORMS["channel"][:2]))
    model.compile("sgd", "mse", run_eagerly=True)
    x = samples(32, 0)
    model.fit(x, np.zeros((32, 6, 6, 8)), verbose=0)
    artifact = kc.convert(model)
    assert beside(artifact) == FORMS["channel"][2]
    assert kc.verify(artifact, model, x).ok


def test_slopes_in_16_bits_have_kernels():
    model, x = sloped(*FORMS["channel"][:2]), samples(32, 0)
    for target in ("litert", "tflm"):
        artifact = kc.convert(model, target, mode="16x8", representative_dataset=x)
        assert artifact.float_ops == ()
        assert kc.verify(artifact, model, x).ok


def test_in_front_of_a_concatenation_there_is_no_output_grid():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    slopes = keras.initializers.RandomUniform(0.1, 0.4, seed=1)
    branches = [layers.PReLU(slopes, shared_axes=[1, 2])(layers.Conv2D(4, 3)(inputs)) for _ in range(2)]
    model, x = keras.Model(inputs, layers.Concatenate()(branches)), samples(32, 0)
    artifact = kc.convert(model, representative_dataset=x)
    assert beside(artifact) == {"DEPTHWISE_CONV_2D": 2, "ADD": 2, "CONCATENATION": 1}
    assert kc.verify(artifact, model, x).ok


def test_values_that_are_never_negative_pass():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    made = layers.Activation("relu")(layers.Conv2D(4, 3)(inputs))
    model, x = keras.Model(inputs, layers.LeakyReLU(0.2)(made)), samples(32, 0)
    assert kc.verify(kc.convert(model, representative_dataset=x), model, x).ok


def test_slopes_of_one_change_nothing_and_load():
    """XNNPACK refuses a product with 0."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.LeakyReLU(1.0)(layers.Conv2D(4, 3)(image))
    model = keras.Model(image, layers.PReLU("ones", shared_axes=[1, 2])(layers.Conv2D(4, 3)(x)))
    data = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)
    assert kc.verify(kc.convert(model, representative_dataset=data), model, data).ok
