"""Compact forms: the least error of each, exact where nothing is lost, budgets kept, and what cannot be done said."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.core.registry import lookup
from keras_compress.factorization.forms import KIND
from keras_compress.factorization.scheme import Place
from keras_compress.factorization.similar import paired
from keras_compress.factorization.work import Row


def convolution(shape: tuple[int, ...] = (9, 8, 4), **settings: Any) -> tuple[keras.Model, Any]:
    keras.utils.set_random_seed(0)
    layer = layers.Conv2D(**{"filters": 8, "kernel_size": 3, "padding": "same", "activation": "relu", **settings})
    model = keras.Sequential([keras.Input(shape), layer])
    for weight in layer.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    return model, layer


def factors_of(method: str, layer: Any) -> Any:
    return lookup(KIND, method)().factors(Place(layer, tuple(layer.input.shape), tuple(layer.output.shape)))


def differs(model: keras.Model, other: keras.Model) -> float:
    x = np.random.default_rng(7).normal(size=(3, *model.input_shape[1:])).astype("float32")
    one, two = np.array(model(x)), np.array(other(x))
    return float(np.abs(one - two).max() / np.abs(one).max())


@pytest.mark.parametrize(
    "settings", [{}, {"strides": 2}, {"dilation_rate": 2, "use_bias": False}, {"kernel_size": (5, 2)}]
)
@pytest.mark.parametrize(("method", "rank"), [("separable", 2), ("grouped", 2), ("ghost", 4), ("shift", 1)])
def test_layers_compute_what_the_merged_kernel_does(method: str, rank: int, settings: dict[str, Any]) -> None:
    model, layer = convolution(**settings)
    factors = factors_of(method, layer)
    row = Row(factors, (rank,))
    inputs = keras.Input((9, 8, 4))
    made = keras.Model(inputs, row(inputs))
    merged = factors.merged((rank,))
    lost = np.square(merged - layer.kernel.numpy()).sum() / np.square(layer.kernel.numpy()).sum()
    option = factors.option((rank,))
    assert option.error == pytest.approx(lost, abs=1e-6)
    assert 0 < lost < 1
    kernels = [v for v in made.trainable_variables if v.name == "kernel"]
    assert option.params == sum(int(np.prod(v.shape)) for v in kernels)
    assert option.macs == kc.Macs().of(made)
    layer.kernel.assign(merged)
    assert differs(model, made) < 1e-5


@pytest.mark.parametrize(
    ("method", "rank", "rows"),
    [("separable", 9, [12, 12]), ("grouped", 1, None), ("ghost", 1, None), ("shift", 2, None)],
)
def test_all_kernels_of_a_separable_form_lose_nothing(method: str, rank: int, rows: Any) -> None:
    model, layer = convolution(filters=12)
    factors = factors_of(method, layer)
    if rows is None:
        with pytest.raises(ValueError, match=f"Expected `rank` out of .*for '{method}'.*Received: rank={rank}"):
            factors.option((rank,))
        return
    assert factors.option((rank,)).error < 1e-12
    assert np.abs(factors.merged((rank,)) - layer.kernel.numpy()).max() < 1e-5


def test_the_least_error_by_hand() -> None:
    # One channel, four filters; as taps and filters the matrix has the singular values 3, 2 and 1.
    _, layer = convolution((6, 6, 1), filters=4, kernel_size=2, use_bias=False)
    layer.kernel.assign(np.diag([3.0, 1.0, 2.0, 0.0]).reshape(2, 2, 1, 4))
    errors = [factors_of("separable", layer).option((rank,)).error for rank in (1, 2, 3)]
    assert errors == pytest.approx([5 / 14, 1 / 14, 0.0], abs=1e-12)
    # A shift keeps the tap with the weight 3.
    assert factors_of("shift", layer).option((1,)).error == pytest.approx(5 / 14)
    assert factors_of("shift", layer).displacements().tolist() == [[0, 0]]
    # Filters that are multiples of their neighbour: a ghost of 2 loses nothing. Orthogonal ones lose the smaller.
    layer.kernel.assign(np.array([[2.0, -4.0, 3.0, 0.0], [1.0, -2.0, 0.0, 1.0], [0] * 4, [0] * 4]).reshape(2, 2, 1, 4))
    assert factors_of("ghost", layer).option((2,)).error == pytest.approx(1 / 35)


def test_a_grouped_form_keeps_what_groups_span() -> None:
    # Two channels in two groups, 1 filter each: the larger singular value of each channel's matrix stays.
    _, layer = convolution((6, 6, 2), filters=2, kernel_size=(1, 2), use_bias=False)
    kernel = np.zeros((1, 2, 2, 2))
    kernel[0, :, 0], kernel[0, :, 1] = np.diag([4.0, 2.0]), np.diag([1.0, 3.0])
    layer.kernel.assign(kernel)
    assert factors_of("grouped", layer).option((2,)).error == pytest.approx((4 + 1) / 30)


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = image = keras.Input((8, 8, 3))
    for number, filters in enumerate((16, 16, 24)):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(image, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("method", ["auto", "separable", "grouped", "ghost", "shift"])
def test_a_target_is_kept_and_told(method: str) -> None:
    model = net()
    made = kc.compact(model, method, target={"macs": 0.6})
    assert kc.Macs().of(made) <= 0.6 * kc.Macs().of(model)
    record = kc.compact_of(made)
    assert record is not None
    lines = record.lines()
    assert all(line.startswith("Compact: ") for line in lines)
    wanted = "conv2: " if method == "auto" else f"conv2: {method}, "
    assert any(wanted in line and "of the energy lost" in line for line in lines)
    assert {layer.path for layer in record.layers} | {path for path, _ in record.left} >= {"conv0", "conv1", "conv2"}
    assert sum(layer.macs[0] - layer.macs[1] for layer in record.layers) == kc.Macs().of(model) - kc.Macs().of(made)


def test_alike_channels_come_together_and_change_nothing() -> None:
    model = net()
    kernel = np.array(model.get_layer("conv1").kernel)
    # Filters 0 to 7 again in another order, times factors: ghosts of 2 are exact once pairs are neighbours.
    kernel[..., 8:] = kernel[..., [3, 1, 0, 7, 5, 4, 6, 2]] * np.linspace(-2, 1.8, 8)
    model.get_layer("conv1").kernel.assign(kernel)
    ordered, as_they_lie = (
        kc.compact(model, "ghost", 2, filters="conv1", reorder=reorder) for reorder in (True, False)
    )
    errors = [kc.compact_of(each).layers[0].error for each in (ordered, as_they_lie)]  # type: ignore[union-attr]
    assert errors[0] < 1e-10 < 0.1 < errors[1]
    assert differs(model, ordered) < 1e-5
    assert ordered.get_layer("conv1").name in {layer.name for layer in ordered.layers}
    assert paired(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.0, -1.0], [1.0, 1.0]])).tolist() == [1, 3, 0, 2, 4]


def test_what_costs_more_or_does_not_fit_is_left_with_its_reason() -> None:
    made = kc.compact(net(), "separable", 9)
    record = kc.compact_of(made)
    assert record is not None
    assert dict(record.left)["conv1"] == "separable, 9 spatial kernels a channel would cost more than the layer"
    model, _ = convolution(padding="valid")
    with pytest.raises(ValueError, match="layer that can be compact.*this convolution does not pad"):
        kc.compact(model, "shift")
    model, _ = convolution(filters=7)
    with pytest.raises(ValueError, match="4 channels and 7 filters have no groups in common"):
        kc.compact(model, "grouped")
    with pytest.raises(ValueError, match="Expected a method by its name for `rank`"):
        kc.compact(net(), rank=2)
    with pytest.raises(ValueError, match=r"Expected `rank` as a number from 1 to 8.*Received: rank=16"):
        kc.compact(net(), "grouped", 16)
    with pytest.raises(ValueError, match="Expected a budget that compact forms can keep"):
        kc.compact(net(), target={"macs": 0.01})


def test_a_compact_model_is_exact_in_a_file() -> None:
    model = net()
    rules = [{"layers": "conv0", "method": "ghost", "rank": 2}, {"layers": "conv1", "method": "shift", "rank": 1}]
    made = kc.compact(model, "grouped", 4, rules=rules)
    record = kc.compact_of(made)
    assert record is not None
    assert [layer.scheme for layer in record.layers] == ["ghost", "shift", "grouped"]
    x = np.random.default_rng(0).normal(size=(24, 8, 8, 3)).astype("float32")
    artifact = kc.convert(made, representative_dataset=x)
    assert not artifact.float_ops
    assert kc.verify(artifact, made, x[:8]).ok


def test_a_shift_of_images_whose_padding_differs_is_refused() -> None:
    def called(*shapes: tuple[int | None, ...]) -> keras.Model:
        keras.utils.set_random_seed(0)
        inputs = [keras.Input(shape) for shape in shapes]
        layer = layers.Conv2D(8, 3, strides=2, padding="same", name="conv")
        return keras.Model(inputs, [layer(each) for each in inputs])

    # Stride 2 puts a row of zeros in front of an odd length, and none in front of an even one.
    with pytest.raises(ValueError, match=r"conv: where strides begin differs .* sizes \[\(8, 9\), \(11, 10\)\]"):
        kc.compact(called((11, 10, 4), (8, 9, 4)), "shift")
    with pytest.raises(ValueError, match="conv: where strides begin depends on the size of the image"):
        kc.compact(called((11, 10, 4), (None, 9, 4)), "shift")
    model = called((11, 10, 4), (9, 8, 4))
    layer, made = model.get_layer("conv"), kc.compact(model, "shift", 1)
    layer.kernel.assign(factors_by_tap(np.array(layer.kernel)))
    x = [np.random.default_rng(7).normal(size=(2, *each.shape[1:])).astype("float32") for each in model.inputs]
    for one, two in zip(model(x), made(x), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def factors_by_tap(kernel: Any) -> Any:
    """The kernel with one tap for each input channel, that of the most energy."""
    energy = np.square(kernel).sum(axis=3, keepdims=True)
    return np.where(energy == energy.max(axis=(0, 1)), kernel, 0.0)
