"""Data in the forms that users bring."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.data.examples import Examples

X = np.arange(12, dtype=np.float32).reshape(6, 2)
Y = np.arange(6, dtype=np.float32).reshape(6, 1)
NEEDS = frozenset({"inputs", "targets"})


class _Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int):
        return X[2 * index : 2 * index + 2], Y[2 * index : 2 * index + 2]


@pytest.mark.parametrize(
    ("data", "sizes"),
    [
        ((X, Y), [6]),
        ((X, Y, np.ones(6)), [6]),
        ((tf.constant(X), tf.constant(Y)), [6]),
        ([(X[:4], Y[:4]), (X[4:], Y[4:])], [4, 2]),
        (tf.data.Dataset.from_tensor_slices((X, Y)).batch(4), [4, 2]),
        (tf.data.Dataset.from_tensor_slices((X, Y, np.ones(6))).batch(3), [3, 3]),
        (_Batches(), [2, 2, 2]),
        (lambda: ((X[i : i + 2], Y[i : i + 2]) for i in (0, 2, 4)), [2, 2, 2]),
    ],
    ids=["arrays", "weighted", "tensors", "list", "dataset", "weighted dataset", "PyDataset", "function"],
)
def test_every_form_gives_the_same_examples_twice(data, sizes: list[int]) -> None:
    examples = Examples(data)
    for _ in range(2):
        batches = list(examples)
        assert [len(x) for x, _ in batches] == sizes
        np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), X)
        np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), Y)
    parts = list(examples.batches_of(4))
    assert max(len(x) for x, _ in parts) <= 4
    np.testing.assert_array_equal(np.concatenate([y for _, y in parts]), Y)


@pytest.mark.parametrize("inputs", [{"a": X, "b": X + 1}, (X, X + 1), [X, X + 1]], ids=["dict", "tuple", "list"])
def test_several_inputs_are_cut_together(inputs) -> None:
    many = keras.tree.map_structure(lambda x: np.tile(x, (20, 1)), inputs)
    batches = list(Examples((many, np.tile(Y, (20, 1)))))
    assert [len(y) for _, y in batches] == [64, 56]
    first, second = keras.tree.flatten(batches[1][0])
    np.testing.assert_array_equal(second, first + 1)
    assert list(Examples({"a": X, "b": X}))[0][1] is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, r"Expected `data=\(x, y\)`, which me needs.*data=None"),
        (X, "Received: inputs only"),
        (((X, Y) for _ in range(2)), "more than once.*Received: generator"),
        ((X[:0], Y[:0]), "at least one example.*Received: none"),
        ([], "at least one example.*Received: none"),
        ((X, Y[:4]), r"as many inputs as targets. Received: arrays of \[4, 6\]"),
        (3, "Expected `data` as arrays.*Received: int"),
    ],
    ids=["none", "no targets", "generator", "empty", "no batches", "lengths", "number"],
)
def test_bad_data(data, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Examples.for_model(keras.Sequential(), data, "mse", NEEDS, "me")


def test_losses() -> None:
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    with pytest.raises(ValueError, match="Expected a loss, which me needs"):
        Examples.for_model(model, (X, Y), None, NEEDS, "me")
    with pytest.raises(ValueError, match=r"Received: loss=\['mse'\]"):
        Examples.for_model(model, (X, Y), ["mse"], NEEDS, "me")
    model.compile("sgd", loss="mse")
    assert Examples.for_model(model, (X, Y), None, NEEDS, "me").loss.losses == "mse"
    assert Examples.for_model(model, None, None, frozenset(), "me").loss is None


def test_the_loss_of_several_outputs_is_the_compiled_one_without_regularizers() -> None:
    keras.utils.set_random_seed(0)
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    hidden = layers.Dense(4, activation="relu", kernel_regularizer="l2")(layers.Concatenate()([a, b]))
    model = keras.Model([a, b], [layers.Dense(1, name="p")(hidden), layers.Dense(1, name="q")(hidden)])
    model.compile("sgd", loss={"p": "mse", "q": "mae"}, loss_weights={"p": 1.0, "q": 2.0})
    data = ({"a": X, "b": X}, {"p": Y, "q": Y})
    graph = kc.channel_graph(model)
    compiled = kc.Taylor().scores(graph, Examples.for_model(model, data, None, NEEDS, "me"))

    def by_hand(targets, outputs):
        return tf.reduce_mean((outputs[0] - targets["p"]) ** 2) + 2.0 * tf.reduce_mean(abs(outputs[1] - targets["q"]))

    expected = kc.Taylor().scores(graph, Examples(data, by_hand))
    np.testing.assert_allclose(compiled, expected, rtol=1e-4)
    assert expected[graph.prunable[0].units].max() > 0


def test_a_list_of_one_array_for_each_input_is_no_list_of_batches() -> None:
    first, second = keras.Input((2,)), keras.Input((2,))
    model = keras.Model([first, second], layers.Dense(3)(layers.Concatenate()([first, second])))
    for data in ([X, 2 * X], (X, 2 * X)):
        ((inputs, targets),) = Examples.fed_to(model, data)
        np.testing.assert_array_equal(inputs[1], 2 * X)
        assert targets is None
    # Batches of a model with one input stay batches.
    plain = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    assert len(list(Examples.fed_to(plain, [X, 2 * X]))) == 2


def test_arrays_are_cut_into_the_batches_that_a_model_was_made_for() -> None:
    model = keras.Sequential([keras.Input((2,), batch_size=4), layers.Dense(1)])
    assert [len(inputs) for inputs, _ in Examples.fed_to(model, (X, Y))] == [4]
    with pytest.raises(ValueError, match="at least 4 examples, a batch of the model.*Received: fewer"):
        Examples.for_model(model, (X[:3], Y[:3]), "mse", NEEDS, "Taylor")


def test_what_reads_data_takes_models_that_keep_their_state() -> None:
    inputs = keras.Input((3, 2), batch_size=1)
    model = keras.Model(inputs, layers.Dense(4, name="out")(layers.LSTM(4, stateful=True)(inputs)))
    values = np.random.default_rng(0).normal(size=(8, 3, 2)).astype(np.float32)
    assert kc.sensitivity(model, of="ranks", data=values, ratios=[0.5]).groups
    assert kc.factorize(model, rank=2, data=values, filters="out")(values[:1]).shape == (1, 4)
    pruned = kc.prune_one_shot(model, 0.5, "wanda", data=values, filters="out")
    assert np.count_nonzero(kc.strip(pruned).get_layer("out").kernel) == 8
