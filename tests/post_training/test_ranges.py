from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from tests_post_training import images, residual_net

import keras_compress as kc
from keras_compress.post_training.equalize import equalize
from keras_compress.post_training.fold_batch_norms import fold_batch_norms
from keras_compress.post_training.ranges import ranges_from_statistics
from keras_compress.post_training.record import NotApplicable
from keras_compress.post_training.start import with_ranges
from keras_compress.quantizers.activation import QuantizeActivation

# Of PReLU, which has nothing to be quantized.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Layers left as they are"),
    pytest.mark.filterwarnings("ignore:.*has seen no training batch"),
]


def with_norm(activation: layers.Layer) -> keras.Model:
    norm = layers.BatchNormalization(epsilon=0.0)
    image = keras.Input((2,))
    model = keras.Model(image, layers.Dense(1)(activation(norm(layers.Dense(3)(image)))))
    norm.set_weights([np.array([1.0, 2.0, 0.5]), np.array([0.0, -1.0, 5.0]), np.zeros(3), np.ones(3)])
    return model


def ranges(model: keras.Model) -> dict[str, tuple[float, float]]:
    points = [layer for layer in model.layers if isinstance(layer, QuantizeActivation) and layer.quantizer.trained()]
    return {point.name: tuple(float(end) for end in point.quantizer.range()) for point in points}


def test_the_paper_s_ranges() -> None:
    """beta +- 6 gamma of (0, 1), (-1, 2), (5, 0.5) is -13 to 11; a ReLU cuts at 0."""
    quantized = kc.quantize_model(with_norm(layers.ReLU()))
    assert list(ranges(ranges_from_statistics(quantized)).values()) == [(0.0, 11.0)]
    assert list(ranges(ranges_from_statistics(quantized, 2.0)).values()) == [(0.0, 6.0)]
    assert ranges(quantized) == {}
    quantized = kc.quantize_model(with_norm(layers.Identity()))
    assert list(ranges(ranges_from_statistics(quantized)).values()) == [(-13.0, 11.0)]
    quantized = kc.quantize_model(with_norm(layers.ReLU(6.0)))
    assert list(ranges(ranges_from_statistics(quantized)).values()) == [(0.0, 6.0)]


def test_few_bits_have_narrower_ranges() -> None:
    quantized = kc.quantize_model(with_norm(layers.Identity()), activations="int4")
    first = list(ranges(ranges_from_statistics(quantized)).values())[0]
    assert first == pytest.approx((-1 - 2.5591 * 2, 5 + 2.5591 * 0.5), rel=1e-4)


@pytest.mark.parametrize("make", [fold_batch_norms, lambda model: equalize(model, "clip")])
def test_ranges_take_in_what_the_data_have(make) -> None:
    model = make(residual_net(6.0))
    quantized = ranges_from_statistics(kc.quantize_model(model), made_from=model)
    known = ranges(quantized)
    points = {layer.name: layer for layer in quantized.layers if isinstance(layer, QuantizeActivation)}
    waiting = set(points) - set(known)
    assert {points[name].stands_for for name in waiting} == {
        *("image", "separable_depthwise", "up", "concatenate", "hidden", "logits"),
    }
    plain = keras.Model(quantized.input, [points[name].input for name in known])
    for (low, high), values in zip(known.values(), plain.predict(images(), verbose=0), strict=True):
        step = (high - low) / 255
        kept = np.mean((values >= low - 2 * step) & (values <= high + 2 * step))
        assert kept > 0.999, (low, high, values.min(), values.max())
        assert max(high, -low) < 4 * np.abs(values).max()


def test_known_ranges_stay_and_other_quantizers_are_left() -> None:
    model = with_norm(layers.ReLU())
    quantized = kc.quantize_model(model)
    point = next(layer for layer in quantized.layers if isinstance(layer, QuantizeActivation))
    point.quantizer.set_range(-1.0, 2.0)
    assert ranges(ranges_from_statistics(quantized))[point.name] == pytest.approx((-1.0, 2.0))


def test_measured_ranges_are_the_extremes_times_a_margin() -> None:
    image = keras.Input((3,))
    model = keras.Model(image, layers.Dense(2, name="out")(image))
    quantized = kc.quantize_model(model)
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    made = ranges(with_ranges(quantized, x, margin=1.5))
    first, last = made.values()
    assert first == pytest.approx((1.5 * x.min(), 1.5 * x.max()), rel=1e-5)
    values = x @ np.asarray(model.get_layer("out").kernel)
    assert last == pytest.approx((1.5 * values.min(), 1.5 * values.max()), rel=1e-4)
    assert ranges(with_ranges(with_ranges(quantized, x), 9 * x)) == ranges(with_ranges(quantized, x))


def test_models_without_statistics_are_refused() -> None:
    image = keras.Input((3,))
    quantized = kc.quantize_model(keras.Model(image, layers.Dense(2, "relu")(image)))
    with pytest.raises(NotApplicable, match="Expected a model with BatchNormalizations"):
        ranges_from_statistics(quantized)
    with pytest.raises(ValueError, match="Expected `sigmas` > 0. Received: sigmas=0"):
        ranges_from_statistics(quantized, 0.0)
