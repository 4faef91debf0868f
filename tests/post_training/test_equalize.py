from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from tests_post_training import images, largest_difference, outputs, residual_net, settled

from keras_compress.post_training.equalize import equalize
from keras_compress.post_training.record import NotApplicable, record_of

# Of PReLU, which has nothing to be quantized.
pytestmark = pytest.mark.filterwarnings("ignore:Layers left as they are")


def chain(
    first: list[list[float]], bias: list[float], second: list[list[float]], activation: str = "relu"
) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((len(first),)),
            layers.Dense(len(bias), activation, name="a"),
            layers.Dense(len(second[0]), name="b"),
        ]
    )
    model.set_weights([np.array(first), np.array(bias), np.array(second), np.zeros(len(second[0]))])
    return model


def test_the_paper_s_equation() -> None:
    """r1 = (8, 1), r2 = (2, 4): s = sqrt(r1 / r2) = (2, 1/2), and both ranges become sqrt(r1 r2) = (4, 2)."""
    model = chain([[8.0, 1.0], [-4.0, -0.5]], [6.0, 3.0], [[2.0, -1.0], [1.0, 4.0]])
    equal = equalize(model)
    kernel, bias, reader, _ = equal.get_weights()
    np.testing.assert_allclose(kernel, [[4.0, 2.0], [-2.0, -1.0]], rtol=1e-6)
    np.testing.assert_allclose(bias, [3.0, 6.0], rtol=1e-6)
    np.testing.assert_allclose(reader, [[4.0, -2.0], [0.5, 2.0]], rtol=1e-6)


def test_ranges_become_equal_to_convergence_and_outputs_stay() -> None:
    random = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((5,))])
    for width in (6, 7, 8):
        model.add(layers.Dense(width, "relu"))
    model.add(layers.Dense(3))
    for layer in model.layers:
        scales = 2.0 ** random.uniform(-5, 5, layer.units)
        layer.set_weights([random.normal(size=layer.kernel.shape) * scales, random.normal(size=layer.units)])
    x = random.normal(size=(50, 5)).astype(np.float32)
    equal = equalize(model)
    expected = outputs(model, x)
    np.testing.assert_allclose(outputs(equal, x), expected, atol=1e-5 * np.abs(expected).max())
    for maker, reader in zip(equal.layers, equal.layers[1:], strict=False):
        made, read = np.abs(maker.kernel).max(axis=0), np.abs(reader.kernel).max(axis=1)
        np.testing.assert_allclose(made, read, rtol=1e-4)


@pytest.mark.parametrize("relu6", ["auto", "clip", "keep"])
@pytest.mark.parametrize("ceiling", [None, 6.0])
def test_a_graph_of_all_layers_computes_the_same(ceiling: float | None, relu6: str) -> None:
    model = residual_net(ceiling)
    assert largest_difference(model, equalize(model, relu6)) < 1e-5


def test_ranges_in_a_graph_are_equal_where_channels_are_free() -> None:
    equal = equalize(residual_net())

    def made(name: str, axes: tuple[int, ...]) -> np.ndarray:
        return np.abs(equal.get_layer(name).kernel).max(axis=axes).reshape(-1)

    np.testing.assert_allclose(made("first", (0, 1, 2)), made("depthwise", (0, 1, 3)), rtol=1e-4)
    np.testing.assert_allclose(made("depthwise", (0, 1)), made("pointwise", (0, 1, 3)), rtol=1e-4)
    # A sum ties two makers, of which the larger counts; its readers are those of both.
    both = np.maximum(made("conv", (0, 1, 2)), made("pointwise", (0, 1, 2)))
    hidden = np.abs(equal.get_layer("hidden").kernel).max(axis=1).reshape(36, 12)[:, :8].max(axis=0)
    readers = np.maximum.reduce([made("separable_depthwise", (0, 1, 3)), made("up", (0, 1, 2)), hidden])
    np.testing.assert_allclose(both, readers, rtol=1e-4)


def test_statistics_are_scaled_with_their_channels() -> None:
    equal = equalize(residual_net())
    for name, known in record_of(equal).statistics.items():
        values = outputs(keras.Model(equal.input, equal.get_layer(name).output), images())
        np.testing.assert_allclose(known.mean, values.mean(axis=(0, 1, 2)), rtol=1e-2, atol=1e-3 * np.abs(values).max())
        np.testing.assert_allclose(known.std, values.std(axis=(0, 1, 2)), rtol=1e-2)


def relu6_net(beta: float) -> keras.Model:
    image = keras.Input((12, 12, 3))
    x = layers.ReLU(6.0, name="six")(layers.BatchNormalization(momentum=0.0)(layers.Conv2D(4, 3)(image)))
    model = settled(keras.Model(image, layers.Conv2D(2, 1)(x)))
    norm = model.layers[2]
    norm.gamma.assign(np.ones(4))
    norm.beta.assign(np.full(4, beta))
    return model


def test_relu6_is_replaced_where_it_never_clips_and_has_ceilings_where_it_does() -> None:
    harmless, clipping = relu6_net(-0.5), relu6_net(3.0)
    equal = equalize(harmless)
    assert equal.get_layer("six").max_value is None
    assert "replaced by ReLU where statistics say that it never clips: six" in record_of(equal).notes[0]
    equal = equalize(clipping)
    assert largest_difference(clipping, equal) < 1e-5
    assert "ceiling for each channel at 1 places" in record_of(equal).notes[-1]
    assert any(type(operation).__name__ == "Minimum" for operation in equal.operations)
    # The same function no longer.
    assert largest_difference(clipping, equalize(clipping, "replace")) > 1e-3
    with pytest.raises(NotApplicable, match="activation that they do not pass"):
        equalize(clipping, "keep")


@pytest.mark.parametrize("how", ["layer", "activation", "fused", "operation"])
def test_ceilings_of_every_kind_of_relu6(how: str) -> None:
    image = keras.Input((4,))
    x = layers.Dense(6, activation="relu6" if how == "fused" else None)(image)
    made = {
        "layer": layers.ReLU(6.0),
        "activation": layers.Activation("relu6"),
        "operation": keras.ops.relu6,
        "fused": lambda tensor: tensor,
    }
    model = keras.Model(image, layers.Dense(3)(made[how](x)))
    model.layers[1].kernel.assign(np.random.default_rng(0).normal(size=(4, 6)) * 20 ** np.linspace(0, 1, 6))
    x = np.random.default_rng(1).normal(size=(100, 4)).astype(np.float32)
    equal = equalize(model)
    assert (outputs(keras.Model(model.input, model.layers[-1].input), x) == 6.0).any()
    np.testing.assert_allclose(outputs(equal, x), outputs(model, x), atol=1e-4)
    assert not np.allclose(equal.layers[1].kernel, model.layers[1].kernel)


def test_nets_without_a_pair_are_refused_with_the_reasons() -> None:
    with pytest.raises(NotApplicable, match=r"two weighted layers .*'a' has an activation|a has an activation"):
        equalize(chain([[1.0]], [0.0], [[1.0]], "tanh"))
    image = keras.Input((3,))
    with pytest.raises(NotApplicable, match="two weighted layers"):
        equalize(keras.Model(image, layers.Dense(2)(image)))
    with pytest.raises(ValueError, match=r"Expected `relu6` out of .* Received: relu6='no'"):
        equalize(chain([[1.0]], [0.0], [[1.0]]), "no")


def test_what_a_sum_with_an_input_or_a_product_reads_is_left() -> None:
    """The input has no scale of its own, and a product of two tensors would have the product of their scales."""
    image = keras.Input((4,))
    a, b = layers.Dense(4, name="a")(image), layers.Dense(4, name="b")(image)
    x = layers.ReLU()(layers.Add()([layers.Dense(4, name="c")(layers.Multiply()([a, b])), image]))
    x = layers.Dense(4, "relu", name="d")(x)
    model = keras.Model(image, layers.Dense(2, name="e")(x + 1.0))
    with pytest.raises(NotApplicable):
        equalize(model)


def test_shared_layers_and_nested_models() -> None:
    inner_input = keras.Input((6,))
    inner = keras.Model(inner_input, layers.Dense(6, "relu", name="held")(inner_input), name="inner")
    image = keras.Input((6,))
    shared = layers.Dense(6, "relu", name="shared")
    x = inner(shared(shared(layers.Dense(6, "relu", name="first")(image))))
    model = keras.Model(image, layers.Dense(2, name="last")(x))
    random = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(random.normal(size=variable.shape) * 3.0 ** random.uniform(-2, 2, variable.shape[-1]))
    x = random.normal(size=(20, 6)).astype(np.float32)
    equal = equalize(model)
    expected = outputs(model, x)
    np.testing.assert_allclose(outputs(equal, x), expected, atol=1e-5 * np.abs(expected).max())
    held = equal.get_layer("inner").get_layer("held").kernel
    np.testing.assert_allclose(np.abs(held).max(axis=0), np.abs(equal.get_layer("last").kernel).max(axis=1), rtol=1e-4)


def test_channels_of_nothing_are_left_alone() -> None:
    model = chain([[0.0, 1.0, 1e-12]], [1.0, 1.0, 1.0], [[2.0], [0.0], [1.0]])
    with pytest.raises(NotApplicable):
        equalize(model)
