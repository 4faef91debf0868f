from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from tests_post_training import images, largest_difference, outputs, residual_net

import keras_compress as kc
from keras_compress.post_training import fold_batch_norms as folding
from keras_compress.post_training.fold_batch_norms import fold_batch_norms
from keras_compress.post_training.record import record_of

# Of PReLU, which has nothing to be quantized.
pytestmark = pytest.mark.filterwarnings("ignore:Layers left as they are")


def test_the_paper_s_arithmetic() -> None:
    """gamma 2, variance 3 + epsilon 1, mean 1, beta 5: W and b are multiplied by 1, and b gets 5 - 1."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, name="dense"), layers.BatchNormalization(epsilon=1.0)])
    model.layers[0].set_weights([np.array([[3.0], [4.0]]), np.array([0.5])])
    model.layers[1].set_weights([np.array([2.0]), np.array([5.0]), np.array([1.0]), np.array([3.0])])
    folded = fold_batch_norms(model)
    assert [layer.name for layer in folded.layers] == ["dense"]
    kernel, bias = folded.layers[0].get_weights()
    assert kernel.tolist() == [[3.0], [4.0]]
    assert bias.tolist() == [4.5]
    known = record_of(folded).statistics["dense"]
    assert known.mean.tolist() == [5.0]
    assert known.std.tolist() == pytest.approx([2 * np.sqrt(3 / 4)])


def test_the_function_stays_and_statistics_are_those_of_the_data() -> None:
    model = residual_net()
    folded = fold_batch_norms(model)
    assert largest_difference(model, folded) < 1e-5
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in folded.layers)
    statistics = record_of(folded).statistics
    assert set(statistics) == {"first", "depthwise", "pointwise", "separable", "conv"}
    for name, known in statistics.items():
        values = outputs(keras.Model(folded.input, folded.get_layer(name).output), images())
        np.testing.assert_allclose(known.mean, values.mean(axis=(0, 1, 2)), atol=1e-3)
        np.testing.assert_allclose(known.std, values.std(axis=(0, 1, 2)), atol=1e-3)


def test_nested_models_and_layers_called_twice() -> None:
    inner_input = keras.Input((12, 12, 3))
    inner = keras.Model(
        inner_input, layers.BatchNormalization()(layers.Conv2D(4, 3, name="conv")(inner_input)), name="in"
    )
    shared = layers.Dense(4, name="shared")
    x = image = keras.Input((12, 12, 3))
    x = shared(shared(inner(x)))
    model = keras.Model(image, layers.BatchNormalization(name="left")(x))
    norm = inner.layers[-1]
    norm.moving_mean.assign(np.arange(4.0))
    folded = fold_batch_norms(model)
    assert largest_difference(model, folded) < 1e-5
    assert [layer.name for layer in folded.get_layer("in").layers][-1] == "conv"
    assert set(record_of(folded).statistics) == {"in/conv", "left"}
    assert "left" in record_of(folded).notes[0]


def test_every_weighted_layer_has_a_bias_of_zeros() -> None:
    image = keras.Input((12, 12, 3))
    x = layers.Conv2DTranspose(4, 2, use_bias=False)(layers.DepthwiseConv2D(3, use_bias=False)(image))
    x = layers.EinsumDense("abcd,de->abce", output_shape=(None, None, 5))(layers.Dense(3, use_bias=False)(x))
    model = keras.Model(image, x)
    folded = fold_batch_norms(model)
    assert largest_difference(model, folded) == 0.0
    assert [np.abs(layer.bias).max() for layer in folded.layers[1:]] == [0.0] * 4


def test_what_is_no_plain_model_is_refused() -> None:
    quantized = kc.quantize_model(residual_net(), activations=None)
    with pytest.raises(ValueError, match=r"Expected a plain model.*kc.strip.*'first'"):
        fold_batch_norms(quantized)
    image = keras.Input((4,))
    points = kc.quantize_model(keras.Model(image, layers.Dense(2)(image)), weights=None)
    with pytest.raises(ValueError, match="Expected a plain model"):
        fold_batch_norms(points)


def test_subclassed_models_are_opened() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = layers.Conv2D(4, 3), layers.BatchNormalization()

        def call(self, x):
            return keras.ops.relu(self.norm(self.conv(x)))

    model = Own()
    model(images())
    model.norm.moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    assert largest_difference(model, fold_batch_norms(model)) < 1e-5


def test_what_a_pass_made_of_a_folded_model_is_not_folded_again() -> None:
    """A pass reads such a model as it is; of any other one a folded copy."""
    model = residual_net()
    made = fold_batch_norms(model)
    assert folding.folded(made) is made
    assert folding.folded(model) is not model
    bare = keras.Sequential([keras.Input((3,)), layers.Dense(2, use_bias=False)])
    assert folding.folded(bare).layers[-1].bias is not None
    with pytest.raises(ValueError, match="Expected a plain model"):
        folding.folded(kc.quantize_model(made))
