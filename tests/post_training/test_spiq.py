from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from tests_post_training import images, outputs, residual_net, settled

import keras_compress as kc
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.post_training.equalize import equalize
from keras_compress.post_training.fold_batch_norms import fold_batch_norms
from keras_compress.post_training.record import NotApplicable, record_of
from keras_compress.post_training.spiq import spiq

# Of PReLU, which has nothing to be quantized.
pytestmark = pytest.mark.filterwarnings("ignore:Layers left as they are")


def chain() -> keras.Model:
    made = keras.Sequential([keras.Input((2,)), layers.Dense(3, "relu", name="a"), layers.Dense(2, name="b")])
    kernel, reader = [[4.0, 1.0, -1.0], [0.0, -1.0, 0.0]], [[1.0, -2.0], [3.0, 5.0], [7.0, 7.0]]
    made.set_weights([np.array(each) for each in (kernel, [0.0, 0.5, 0.0], reader, [1.0, 2.0])])
    return made


def test_a_step_for_each_channel_is_folded() -> None:
    """`W diag(s) round(X / s)`, worked out by hand: X = (8, 2, 0), (4, 1.5, 0), so s = (8, 2, .) / 127.

    One step for the tensor, S = 8 / 127, gives the same integers and sums when channel 1 is divided by 1/4.
    """
    data = np.array([[2.0, 0.5], [1.0, 0.0]], np.float32)
    made = spiq(chain(), data)
    kernel, bias, reader, other = made.get_weights()
    np.testing.assert_allclose(kernel, [[4.0, 4.0, -1.0], [0.0, -4.0, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(bias, [0.0, 2.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(reader, [[1.0, -2.0], [0.75, 1.25], [7.0, 7.0]], rtol=1e-6)
    np.testing.assert_allclose(other, [1.0, 2.0])
    # 4 / s_0 = 63.5 and 1.5 / s_1 = 95.25; with S alone, channel 1 would have 23.8.
    integers = np.rint(np.asarray(made.layers[0](data)) / (8 / 127))
    np.testing.assert_array_equal(integers, [[127, 127, 0], [64, 95, 0]])
    # 64 s_0 (1, -2) + 95 s_1 (3, 5) + (1, 2)
    np.testing.assert_allclose(8 / 127 * integers[1] @ reader + other, [9.519685, 1.417323], rtol=1e-6)


def test_half_of_the_way() -> None:
    """f = 1/4 to the power of 1/2."""
    kernel, _, reader, _ = spiq(chain(), np.array([[2.0, 0.5], [1.0, 0.0]], np.float32), power=0.5).get_weights()
    np.testing.assert_allclose(kernel, [[4.0, 2.0, -1.0], [0.0, -2.0, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(reader, [[1.0, -2.0], [1.5, 2.5], [7.0, 7.0]], rtol=1e-6)
    with pytest.raises(ValueError, match="Expected `power` above 0 and at most 1. Received: power=0"):
        spiq(chain(), power=0)


def test_ranges_of_statistics() -> None:
    """|beta| + 6 gamma behind a ReLU of (0, 1), (-1, 2), (5, 0.5) is 6, 11, 8."""
    norm = layers.BatchNormalization(epsilon=0.0)
    image = keras.Input((2,))
    model = keras.Model(image, layers.Dense(1, name="reader")(layers.ReLU()(norm(layers.Dense(3)(image)))))
    norm.set_weights([np.array([1.0, 2.0, 0.5]), np.array([0.0, -1.0, 5.0]), np.zeros(3), np.ones(3)])
    found = np.asarray(spiq(model).layers[-1].kernel) / np.asarray(model.get_layer("reader").kernel)
    np.testing.assert_allclose(found[:, 0], [6 / 11, 1.0, 8 / 11], rtol=1e-6)
    found = np.asarray(spiq(model, most=1.5).layers[-1].kernel) / np.asarray(model.get_layer("reader").kernel)
    np.testing.assert_allclose(found[:, 0], [1 / 1.5, 1.0, 8 / 11], rtol=1e-6)


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("ceiling", [None, 6.0])
def test_a_graph_of_all_layers_computes_the_same(ceiling: float | None, data: bool) -> None:
    model = residual_net(ceiling)
    made = spiq(model, images() if data else None)
    expected = outputs(model, images())
    np.testing.assert_allclose(outputs(made, images()), expected, atol=1e-5 * np.abs(expected).max())
    effects = {each.layer: each.note for each in record_of(made).effects}
    assert "input channels scaled by up to" in effects["pointwise"]
    assert "bits a channel" in effects["pointwise"]
    assert "first" not in effects or effects["first"].startswith("left: ")
    (note,) = [each for each in record_of(made).notes if each.startswith("Input channels scaled")]
    assert f"by {'data' if data else 'statistics'}" in note


def uneven() -> keras.Model:
    image = keras.Input((12, 12, 3), name="image")
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.0, name="norm")(layers.Conv2D(12, 3, name="a")(image)))
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.0)(layers.Conv2D(8, 3, name="b")(x)))
    model = settled(keras.Model(image, layers.Dense(5, name="logits")(layers.Flatten()(x))))
    factors = 2.0 ** np.random.default_rng(3).uniform(-4, 4, 12)
    for variable in (model.get_layer("norm").gamma, model.get_layer("norm").beta):
        variable.assign(variable * factors)
    reader = model.get_layer("b").kernel
    reader.assign(reader / factors.reshape(1, 1, -1, 1))
    return model


def test_what_layers_read_has_one_range_and_is_rounded_less() -> None:
    model, found = uneven(), {}
    for name in ("fold_batch_norms", "spiq"):
        passes = [name, "with_ranges"]
        made = kc.quantize_post_training(model, images(), activations="int4", passes=passes)
        found[name] = sqnr_db(outputs(model, images(32, 1)), outputs(made, images(32, 1)))
    assert found["spiq"] > found["fold_batch_norms"] + 4.0, found
    effects = {each.layer: each for each in kc.summary(made, print_fn=str).passes.effects}
    assert effects["b"].method == "spiq"
    assert effects["b"].note.startswith("11 of 12 input channels scaled")


@pytest.mark.parametrize("scaled", [equalize, spiq])
def test_one_channel_alone_has_its_ceiling_moved(scaled) -> None:
    """All ceilings of one channel are equal, but not to 6."""
    image = keras.Input((4,))
    x = layers.ReLU(6.0)(layers.Dense(1, name="a")(image))
    other = layers.Dense(3, "relu", name="other")(image)
    model = keras.Model(image, layers.Dense(2, name="b")(layers.Concatenate()([x, other])))
    data = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32) * 10.0
    model.get_layer("a").kernel.assign(model.get_layer("a").kernel * 100.0)
    made = scaled(model, data, relu6="clip") if scaled is spiq else scaled(model, "clip")
    expected = outputs(model, data)
    np.testing.assert_allclose(outputs(made, data), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigmas": 0.0}, "Expected `sigmas` > 0"),
        ({"most": 0.5}, "Expected `most` >= 1"),
        ({"relu6": "cut"}, "Expected `relu6` out of"),
        ({}, "Expected a model with BatchNormalizations"),
        ({"data": np.full((4, 2), np.nan, np.float32)}, "NaN or infinity in batch 0"),
        ({"data": np.zeros((4, 3), np.float32)}, "shape"),
    ],
)
def test_what_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spiq(chain(), **arguments)


def test_where_nothing_can_be_scaled_the_reasons_are_said() -> None:
    made = keras.Sequential([keras.Input((2,)), layers.Dense(3, "tanh", name="a"), layers.Dense(2, name="b")])
    with pytest.raises(NotApplicable, match="Received: .*: .*activation that they do not pass"):
        spiq(made, np.ones((4, 2), np.float32))
    with pytest.raises(ValueError, match="Expected a plain model"):
        spiq(kc.quantize_model(fold_batch_norms(chain())))
