"""Input kernels of recurrent layers: exact at full rank, with masks, states and dropout, and on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.factorization.scheme import Place
from keras_compress.factorization.svd import SVD
from keras_compress.factorization.work import Row
from keras_compress.runtime.deployed import run
from keras_compress.runtime.target import target

STEPS, INPUTS = 5, 6
LAYERS: dict[str, Callable[[], Any]] = {
    "LSTM": lambda: layers.LSTM(8, return_sequences=True, name="cell"),
    "LSTM, states": lambda: layers.LSTM(8, return_state=True, go_backwards=True, name="cell"),
    "LSTM, dropout": lambda: layers.LSTM(8, dropout=0.3, recurrent_dropout=0.2, use_bias=False, name="cell"),
    "GRU": lambda: layers.GRU(8, name="cell"),
    "GRU, one bias": lambda: layers.GRU(8, reset_after=False, return_sequences=True, name="cell"),
    "SimpleRNN": lambda: layers.SimpleRNN(8, unroll=True, name="cell"),
    "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(8, return_sequences=True), name="cell"),
    "two kinds": lambda: layers.Bidirectional(
        layers.LSTM(8), backward_layer=layers.GRU(8, go_backwards=True), merge_mode="sum", name="cell"
    ),
}


def randomized(model: keras.Model) -> keras.Model:
    """Biases too; seeds of dropout as they are."""
    rng = np.random.default_rng(3)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0, 0.4, weight.shape))
    return model


def net(kind: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    steps = keras.Input((STEPS, INPUTS))
    return randomized(keras.Model(steps, LAYERS[kind]()(steps)))


def outputs(model: keras.Model, *x: Any) -> list[Any]:
    return [np.asarray(each) for each in keras.tree.flatten(model(x[0] if len(x) == 1 else list(x)))]


@pytest.mark.parametrize("kind", LAYERS)
def test_full_rank_is_the_layer(kind: str) -> None:
    """The full rank, that of 6 inputs, costs more than the layer: `factorize` would leave it."""
    model = net(kind)
    layer = model.get_layer("cell")
    factors = SVD().factors(Place(layer, (None, STEPS, INPUTS), (None, 8)))
    assert factors.full == (INPUTS,)
    steps = keras.Input((STEPS, INPUTS))
    made = keras.Model(steps, Row(factors, factors.full)(steps))
    assert made.get_layer("cell_basis").kernel.shape == (INPUTS, INPUTS)
    x = np.random.default_rng(5).normal(size=(3, STEPS, INPUTS)).astype("float32")
    for one, two in zip(outputs(model, x), outputs(made, x), strict=True):
        assert one.std() > 0.05
        np.testing.assert_allclose(two, one, atol=1e-5)
    other = keras.models.clone_model(made)
    other.set_weights(made.get_weights())
    np.testing.assert_array_equal(outputs(other, x)[0], outputs(made, x)[0])


def _recurrent(layer: Any) -> list[Any]:
    return [layer.forward_layer, layer.backward_layer] if hasattr(layer, "forward_layer") else [layer]


def test_an_lstm_of_literal_numbers() -> None:
    """One unit, two inputs; the gates' kernel is (1, 2) times (0.5, -1, 1, 0.25): of rank 1, the step written out."""
    steps = keras.Input((1, 2))
    layer = layers.LSTM(1, name="cell")
    model = keras.Model(steps, layer(steps))
    gates = np.array([0.5, -1.0, 1.0, 0.25])
    layer.cell.kernel.assign(np.outer([1.0, 2.0], gates))
    layer.cell.recurrent_kernel.assign(np.zeros((1, 4)))
    layer.cell.bias.assign([0.0, 0.0, 0.1, 0.0])
    made = kc.factorize(model, rank=1)
    # Input, forget, cell, output; no state yet. x = (3, -1): 3 - 2 = 1.
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    wanted = sigmoid(0.25) * np.tanh(sigmoid(0.5) * np.tanh(1.1))
    found = np.asarray(made(np.array([[[3.0, -1.0]]], "float32")))[0, 0]
    assert found == pytest.approx(0.259030, abs=1e-5)
    assert found == pytest.approx(wanted, abs=1e-6)
    assert made.get_layer("cell_basis").kernel.shape == (2, 1)


def test_masks_pass() -> None:
    words = keras.Input((STEPS,), dtype="int32")
    x = layers.Embedding(9, INPUTS, mask_zero=True)(words)
    model = randomized(keras.Model(words, layers.Bidirectional(layers.LSTM(8, dropout=0.1), name="cell")(x)))
    made = kc.factorize(model, rank=0.9999999, multiple=1, rules=[{"layers": "cell", "rank": 5}])
    # What is left out is put into the layer too: only the mask can differ.
    basis = made.get_layer("cell_basis").kernel.numpy()
    for old, new in zip(*(_recurrent(each.get_layer("cell")) for each in (model, made)), strict=True):
        old.cell.kernel.assign(basis @ new.cell.kernel.numpy())
    padded = np.array([[3, 4, 0, 0, 0], [1, 2, 8, 7, 6]])
    found = outputs(made, padded)[0]
    np.testing.assert_allclose(found, outputs(model, padded)[0], atol=1e-5)
    assert np.abs(found[0] - outputs(made, np.array([[3, 4, 1, 1, 1]]))[0][0]).max() > 0.01


def test_states_pass() -> None:
    steps, state = keras.Input((STEPS, INPUTS)), keras.Input((8,))
    model = randomized(keras.Model([steps, state], layers.GRU(8, name="cell")(steps, initial_state=state)))
    made = _of_rank_2(model)
    rng = np.random.default_rng(0)
    x, h = rng.normal(size=(3, STEPS, INPUTS)).astype("float32"), rng.normal(size=(3, 8)).astype("float32")
    np.testing.assert_allclose(outputs(made, x, h)[0], outputs(model, x, h)[0], atol=1e-5)
    assert np.abs(outputs(made, x, h)[0] - outputs(made, x, -h)[0]).max() > 0.01


def test_a_stateful_layer_goes_on() -> None:
    steps = keras.Input(batch_shape=(3, STEPS, INPUTS))
    model = randomized(keras.Model(steps, layers.LSTM(8, stateful=True, name="cell")(steps)))
    x = np.random.default_rng(0).normal(size=(3, STEPS, INPUTS)).astype("float32")
    first = outputs(model, x)[0]
    made = _of_rank_2(model, fresh=False)
    second = outputs(model, x)[0]
    np.testing.assert_allclose(outputs(made, x)[0], second, atol=1e-5)
    assert np.abs(first - second).max() > 0.01


def _of_rank_2(model: keras.Model, fresh: bool = True) -> keras.Model:
    """The model, whose input kernel becomes one of rank 2, factorized."""
    kernel = model.get_layer("cell").cell.kernel
    left, values, right = np.linalg.svd(kernel.numpy(), full_matrices=False)
    kernel.assign(left[:, :2] * values[:2] @ right[:2])
    return kc.factorize(model, rank=2)


def test_dropout_drops_the_same() -> None:
    """A rate near 1 leaves a feature out in all steps, in front of the factor: not a column of it."""
    model = net("LSTM, dropout")
    made = kc.factorize(model, rank=4)
    names = [type(each).__name__ for each in made.layers[1:]]
    assert names == ["SpatialDropout1D", "Dense", "LSTM"]
    assert (made.layers[1].rate, made.layers[3].dropout, made.layers[3].recurrent_dropout) == (0.3, 0.0, 0.2)
    own = layers.Bidirectional(layers.LSTM(8, dropout=0.1), backward_layer=layers.LSTM(8, go_backwards=True))
    steps = keras.Input((STEPS, INPUTS))
    with pytest.raises(ValueError, match="rates of their own"):
        kc.factorize(keras.Model(steps, own(steps)), rank=2)


def test_what_stays_is_said_and_costs_are_right() -> None:
    steps = keras.Input((STEPS, 16))
    x = layers.LSTM(16, return_sequences=True, name="cell")(steps)
    x = layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    model = keras.Model(steps, layers.Dense(4, name="head")(layers.GlobalAveragePooling1D()(x)))
    made = kc.factorize(model, rank=4, filters="re:cell|attention")
    record = kc.factorization_of(made)
    assert record is not None
    # 5 steps, 16 inputs, 64 columns.
    assert [(each.path, each.macs) for each in record.layers] == [("cell", (5 * 16 * 64, 5 * 4 * (16 + 64)))]
    before, after = (kc.Macs().of(each) for each in (model, made))
    assert before - after == 5 * 16 * 64 - 5 * 4 * (16 + 64)
    said = "\n".join(record.lines())
    assert "cell, its recurrent kernel: left as it is: it multiplies the state inside the loop" in said
    assert "attention: left as it is: the projections of a MultiHeadAttention are inside it" in said
    within = kc.factorize(model, target={"macs": 0.8}, multiple=2)
    assert kc.Macs().of(within) <= 0.8 * before


@pytest.mark.parametrize("kind", ["LSTM", "Bidirectional"])
def test_it_runs_on_integers(kind: str) -> None:
    model = net(kind)
    x = np.random.default_rng(5).normal(size=(64, STEPS, INPUTS)).astype("float32")
    made = kc.factorize(model, rank=4, data=x)
    artifact = kc.convert(made, representative_dataset=x)
    assert not artifact.float_ops
    assert kc.verify(artifact, made, x[:16]).ok
    (found,) = run(target("litert"), artifact.content, x[:16])
    assert sqnr_db(made.predict(x[:16], verbose=0), found) > 25
