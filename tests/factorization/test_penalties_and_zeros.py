"""Layers that read nothing but zeros in the data, and what a tensor train keeps or leaves."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.factorization.whitening import truncatable, values_of

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")


def test_a_layer_that_reads_zeros_is_factorized_as_without_data() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = layers.Dense(8, "relu", kernel_initializer="zeros", name="a")(inputs)
    model = keras.Model(inputs, layers.Dense(16, name="b")(x))
    with_data, without = (kc.factorize(model, "svd", 2, filters="b", data=data) for data in (X, None))
    assert np.isfinite(with_data.predict(X, verbose=0)).all()
    merged = [
        each.get_layer("b_basis").kernel.numpy() @ each.get_layer("b").kernel.numpy() for each in (with_data, without)
    ]
    np.testing.assert_allclose(merged[0], merged[1], atol=1e-5)
    first, second = (kc.factorization_of(each).layers[0].error for each in (with_data, without))
    assert first == pytest.approx(second)
    assert first > 0.1


def test_a_group_that_reads_zeros_counts_as_the_others_do() -> None:
    draw = np.random.default_rng(0)
    weight, rows = draw.normal(size=(2, 4, 3)), draw.normal(size=(50, 4))
    gram = np.stack([rows.T @ rows, np.zeros((4, 4))])
    left, values, right = truncatable(weight, gram)
    np.testing.assert_allclose((left * values[:, None]) @ right, weight, atol=1e-6)
    # The live group as if it stood alone.
    np.testing.assert_allclose(values[0], truncatable(weight[:1], gram[:1])[1][0])
    mean = np.trace(gram[0]) / 4
    np.testing.assert_allclose(values[1], np.sqrt(mean) * np.linalg.svd(weight[1])[1])
    np.testing.assert_allclose(values_of(weight, gram), values, rtol=1e-6)


def test_what_is_not_finite_is_no_weight() -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8, name="a"), layers.Dense(8, name="b")])
    # Squares of what comes out overflow.
    model.get_layer("a").bias.assign(np.full(8, 1e30))
    with pytest.raises(ValueError, match=r"finite values. Received: NaN or infinity in front of \['b'\]"):
        kc.factorize(model, "svd", 2, filters="b", data=X)
    model.get_layer("a").bias.assign(np.full(8, np.inf))
    with pytest.raises(ValueError, match="Expected finite weights.*'bias' of layer 'a'"):
        kc.factorize(model, "svd", 2, filters="b")


def test_a_dense_of_sequences_is_left_by_a_tensor_train() -> None:
    inputs = keras.Input((5, 8), name="words")
    x = layers.Dense(8, name="steps")(inputs)
    model = keras.Model(inputs, layers.Dense(8, name="row")(layers.GlobalAveragePooling1D()(x)))
    record = kc.factorization_of(kc.factorize(model, "tensor_train", 1))
    assert [each.path for each in record.layers] == ["row"]
    assert dict(record.left)["steps"] == "it reads (None, 5, 8), and a tensor train is for inputs (batch, features)"


def test_a_tensor_train_keeps_penalties() -> None:
    penalties = {name: keras.regularizers.L2(0.1) for name in ("kernel_regularizer", "bias_regularizer")}
    layer = layers.Dense(
        8, name="row", bias_initializer="ones", activity_regularizer=keras.regularizers.L1(1.0), **penalties
    )
    model = kc.factorize(keras.Sequential([keras.Input((8,)), layer]), "tensor_train", 1)
    last = model.get_layer("row_core3")
    outputs = np.abs(np.asarray(model(X[:, [0, 1, 2, 3] * 2]))).sum() / len(X)
    expected = 0.1 * float(np.square(last.kernel).sum()) + 0.1 * 8 + outputs
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
