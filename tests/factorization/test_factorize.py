"""Low rank: exact at full rank, the least error at each rank, budgets kept, and what cannot be done said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.core.registry import lookup
from keras_compress.factorization.cp import CP
from keras_compress.factorization.evbmf import evbmf_rank
from keras_compress.factorization.scheme import Place
from keras_compress.factorization.svd import SVD
from keras_compress.factorization.tensor_train import TensorTrain
from keras_compress.factorization.work import Row

CONVOLUTIONS: dict[str, Callable[[], Any]] = {
    "same": lambda: layers.Conv2D(6, 3, padding="same", activation="relu"),
    "strides": lambda: layers.Conv2D(6, (3, 2), strides=2),
    "uneven strides": lambda: layers.Conv2D(6, 3, strides=(2, 1), padding="same"),
    "dilation": lambda: layers.Conv2D(6, 3, dilation_rate=2, padding="same"),
    "no bias": lambda: layers.Conv2D(6, 3, use_bias=False),
    "groups": lambda: layers.Conv2D(6, 3, groups=2),
    "1x1": lambda: layers.Conv2D(6, 1, strides=2),
}


def net(layer: Any, shape: tuple[int, ...], seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input(shape), layer])
    for weight in layer.weights:
        weight.assign(np.random.default_rng(seed).normal(size=weight.shape))
    return model


def differs(model: keras.Model, other: keras.Model, shape: tuple[int, ...]) -> float:
    x = np.random.default_rng(7).normal(size=(3, *shape)).astype("float32")
    one, two = model.predict(x, verbose=0), other.predict(x, verbose=0)
    return float(np.abs(one - two).max() / np.abs(one).max())


@pytest.mark.parametrize("method", ["svd", "spatial", "tucker"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_full_rank_is_the_layer(kind: str, method: str) -> None:
    model = net(CONVOLUTIONS[kind](), (9, 8, 4))
    if kind in ("groups", "1x1") and method != "svd":
        with pytest.raises(ValueError, match="no kernel"):
            kc.factorize(model, method, rank=1)
        return
    # It costs more than the layer.
    assert kc.factorization_of(kc.factorize(model, method, rank=0.9999999999)).left  # type: ignore[union-attr]
    layer = model.layers[0]
    factors = lookup("factorization", method)().factors(Place(layer, (None, 9, 8, 4), layer.output.shape))
    row = Row(factors, factors.full)
    inputs = keras.Input((9, 8, 4))
    assert differs(model, keras.Model(inputs, row(inputs)), (9, 8, 4)) < 1e-5
    assert np.abs(factors.merged(factors.full) - layer.kernel.numpy()).max() < 1e-5


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.Dense(30, activation="softmax"), (24,)),
        (lambda: layers.Conv1D(8, 3, padding="causal", dilation_rate=2), (12, 4)),
        (lambda: layers.EinsumDense("abc,cd->abd", (None, 30), bias_axes="d", activation="relu"), (5, 24)),
        (lambda: layers.EinsumDense("...x,xy->...y", (30,)), (5, 24)),
        (lambda: layers.EinsumDense("abc,cde->abde", (None, 4, 6), bias_axes="de"), (5, 24)),
        (lambda: layers.EinsumDense("abcd,cde->abe", (None, 20), bias_axes="e"), (5, 4, 6)),
    ],
)
def test_matrices_of_low_rank_are_kept(layer: Callable[[], Any], shape: tuple[int, ...]) -> None:
    model = net(layer(), shape)
    kernel = model.layers[0].kernel
    factors = SVD().factors(Place(model.layers[0], (None, *shape), model.layers[0].output.shape))
    kernel.assign(factors.merged((2,)))
    made = kc.factorize(model, "svd", rank=2)
    assert differs(model, made, shape) < 1e-5
    assert [each.name for each in made.layers] == [f"{model.layers[0].name}_basis", model.layers[0].name]
    (done,) = kc.factorization_of(made).layers  # type: ignore[union-attr]
    assert done.error < 1e-9


def test_error_is_the_energy_of_what_is_left_out() -> None:
    # Singular values 3, 2, 1 of a Dense: rank 2 loses 1 of 14, rank 1 loses 5 of 14.
    model = net(layers.Dense(3), (3,))
    model.layers[0].kernel.assign(np.diag([1.0, 3.0, 2.0]))
    factors = SVD().factors(Place(model.layers[0], (None, 3), (None, 3)))
    assert [factors.option((rank,)).error for rank in (1, 2, 3)] == pytest.approx([5 / 14, 1 / 14, 0.0])
    assert factors.of_energy(0.9) == (2,)
    np.testing.assert_allclose(factors.merged((1,)), np.diag([0.0, 3.0, 0.0]), atol=1e-12)


@pytest.mark.parametrize("method", ["svd", "spatial", "tucker", "cp", "tensor_train"])
def test_errors_fall_with_the_rank_and_are_those_of_the_weights(method: str) -> None:
    dense = method == "tensor_train"
    model = net(layers.Dense(64) if dense else layers.Conv2D(8, 3), (64,) if dense else (6, 6, 8))
    layer = model.layers[0]
    factors = lookup("factorization", method)().factors(Place(layer, layer.input.shape, layer.output.shape))
    ranks = [(1, 1), (4, 4), (7, 7)] if method == "tucker" else [(1,), (3,), (8,)]
    errors = []
    for rank in ranks:
        lost = np.square(factors.merged(rank) - layer.kernel.numpy()).sum() / np.square(layer.kernel.numpy()).sum()
        # Of Tucker-2 it is a bound.
        assert lost <= factors.option(rank).error + 1e-6
        assert lost == pytest.approx(factors.error(rank), abs=1e-6)
        errors.append(lost)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.9 * errors[0]


def test_a_train_is_its_matrix() -> None:
    model = net(layers.Dense(64, activation="softmax"), (24,))
    made = kc.factorize(model, "tensor_train", rank=4)
    (done,) = kc.factorization_of(made).layers  # type: ignore[union-attr]
    assert done.rank == (4,)
    layer = model.layers[0]
    layer.kernel.assign(TensorTrain().factors(Place(layer, (None, 24), (None, 64))).merged((4,)))
    assert differs(model, made, (24,)) < 1e-4


def test_terms_are_their_kernel() -> None:
    model = net(layers.Conv2D(16, 3, strides=2, padding="same"), (8, 8, 16))
    made = kc.factorize(model, "cp", rank=6)
    layer = model.layers[0]
    layer.kernel.assign(CP().factors(Place(layer, layer.input.shape, layer.output.shape)).merged((6,)))
    assert differs(model, made, (8, 8, 16)) < 1e-4


def test_data_tell_which_directions_count() -> None:
    """Inputs that use three of twelve directions: rank 3 is exact on them, whatever the weight."""
    rng = np.random.default_rng(3)
    model = net(layers.Dense(12), (12,))
    x = (rng.normal(size=(200, 3)) @ rng.normal(size=(3, 12))).astype("float32")
    with_data = kc.factorize(model, "svd", rank=3, data=x)
    without = kc.factorize(model, "svd", rank=3)
    wanted = model.predict(x, verbose=0)
    errors = [np.abs(each.predict(x, verbose=0) - wanted).max() for each in (with_data, without)]
    assert errors[0] < 0.02 * errors[1]


def test_noise_is_told_from_signal() -> None:
    rng = np.random.default_rng(0)
    signal = 3.0 * rng.normal(size=(60, 5)) @ rng.normal(size=(5, 100))
    values = np.linalg.svd(signal + rng.normal(size=(60, 100)), compute_uv=False)
    assert evbmf_rank(values, 60, 100) == 5
    assert evbmf_rank(np.linalg.svd(rng.normal(size=(60, 100)), compute_uv=False), 60, 100) == 0
    assert evbmf_rank(np.zeros(4), 4, 4) == 0


@pytest.fixture(scope="module")
def small() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="one")(inputs)
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(32, 3, padding="same", name="two")(x))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Flatten(name="flat")(layers.MaxPooling2D(4, name="pool")(x))
    return keras.Model(inputs, layers.Dense(10, name="head")(layers.Dense(64, name="wide")(x)))


@pytest.mark.parametrize("target", [{"macs": 0.5}, {"params": 0.3}, {"macs": 0.6, "params": 0.4}])
def test_budgets_are_kept_and_used(small: keras.Model, target: dict[str, float]) -> None:
    made = kc.factorize(small, target=target, multiple=2)
    costs = {"macs": kc.Macs(), "params": kc.Params()}
    left = {name: costs[name].of(made) / costs[name].of(small) for name in target}
    assert all(left[name] <= most for name, most in target.items())
    assert max(left[name] / most for name, most in target.items()) > 0.85
    assert made.get_layer("head").units == 10
    assert made.output_shape == small.output_shape


def test_what_is_left_is_said(small: keras.Model) -> None:
    made = kc.factorize(small, target={"macs": 0.5})
    said = "\n".join(kc.factorization_of(made).lines())  # type: ignore[union-attr]
    assert "depthwise: left as it is: DepthwiseConv2D" in said
    costly = kc.factorization_of(kc.factorize(small, "tucker", rank=[3, 16], filters="one"))
    assert costly.lines() == ["Low rank: one: left as it is: tucker of rank 3x16 would cost more than the layer"]
    text: list[str] = []
    kc.summary(made, print_fn=text.append)
    assert "Low rank: two: " in text[0]


def test_a_measured_cost_is_kept(small: keras.Model) -> None:
    made = kc.factorize(small, "svd", target={"bytes": 0.6})
    before, after = (len(kc.convert(each, mode="float32").content) for each in (small, made))
    assert after <= 0.6 * before


def test_it_goes_on_to_the_device(small: keras.Model) -> None:
    made = kc.factorize(small, target={"macs": 0.4})
    x = np.random.default_rng(0).normal(size=(32, 16, 16, 3)).astype("float32")
    artifact = kc.convert(made, representative_dataset=x)
    assert kc.verify(artifact, made, x).ok
    assert not artifact.float_ops


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "number from 1 to"),
        ({"rank": 1000}, "number from 1 to"),
        ({"rank": 1.5}, "number from 1 to"),
        ({"rank": True}, "number from 1 to"),
        ({"rank": 4, "target": {"macs": 0.5}}, "both"),
        ({"target": {"macs": 0.01}}, "low rank can keep"),
        ({"method": "svdd"}, "Expected a factorization out of"),
        ({"multiple": 0}, "`multiple` >= 1"),
        ({"multiple": 2.5}, "`multiple` >= 1"),
        ({"method": None}, "Expected `method` out of .*'auto'"),
        ({"filters": "depthwise"}, "layer that can be factorized"),
        ({"method": "cp", "rank": "evbmf"}, "singular values"),
    ],
)
def test_refusals(small: keras.Model, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.factorize(small, **arguments)


def test_transforms_are_refused(small: keras.Model) -> None:
    with pytest.raises(ValueError, match="without transforms"):
        kc.factorize(kc.prune_low_magnitude(small))
