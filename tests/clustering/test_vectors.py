"""Vectors of weights and their codebooks, by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_compress.clustering.product_quantization import gram_of_vectors
from keras_compress.clustering.vectors import Codebooks, Vectors, error_of, fitted, sizes_that_fit, usual_size
from keras_compress.graph.as_matrix import as_matrix, hessian


def test_a_vector_is_a_kernel_of_one_input_and_one_output() -> None:
    weight = np.arange(16).reshape(2, 2, 2, 2)  # height, width, inputs, outputs
    rows = Vectors((2, 2, 2, 2), (-1,), 4).rows(weight)
    assert rows.tolist() == [[0, 4, 8, 12], [2, 6, 10, 14], [1, 5, 9, 13], [3, 7, 11, 15]]
    back = Vectors((2, 2, 2, 2), (-1,), 8).weight(keras.ops.convert_to_tensor(rows.reshape(2, 8)))
    np.testing.assert_array_equal(back, weight)


def test_of_a_dense_layer_it_is_neighbouring_inputs_of_one_output() -> None:
    rows = Vectors((4, 2), (-1,), 2).rows(np.arange(8).reshape(4, 2))
    assert rows.tolist() == [[0, 2], [4, 6], [1, 3], [5, 7]]


@pytest.mark.parametrize(
    ("shape", "axes", "size"),
    [
        ((3, 3, 16, 32), (-1,), 9),
        ((5, 5, 8, 4), (-1,), 5),
        ((1, 1, 16, 4), (-1,), 8),
        ((3, 3, 32, 16), (-2,), 9),  # transposed: outputs before inputs
        ((3, 3, 8, 1), (-2, -1), 9),
        ((784, 300), (-1,), 8),
        ((7, 3), (-1,), 7),
        ((13, 3), (-1,), 1),
        ((100, 12), (), 6),  # a table: of one row
    ],
)
def test_the_usual_size(shape: tuple[int, ...], axes: tuple[int, ...], size: int) -> None:
    assert usual_size(shape, axes) == size
    assert size in sizes_that_fit(shape, axes)


def test_k_means_by_hand() -> None:
    vectors = np.array([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 2.0]])
    found = fitted(vectors, 2)
    assert sorted(found.codewords[0].tolist()) == [[0.0, 1.0], [10.0, 1.0]]
    assert found.codes[0, 0] == found.codes[0, 1] != found.codes[0, 2] == found.codes[0, 3]
    assert error_of(vectors, found) == pytest.approx(4.0)


def test_inputs_decide_which_error_counts() -> None:
    # Inputs of which one is ten times the other: an error along the first counts a hundredfold.
    vectors = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0], [1.0, 3.0]])
    x = np.array([[10.0, 0.0], [0.0, 1.0]])
    gram = x.T @ x
    plain, weighed = fitted(vectors, 2), fitted(vectors, 2, gram=gram)
    assert sorted(plain.codewords[0].tolist()) == [[0.5, 0.0], [0.5, 3.0]]
    assert sorted(weighed.codewords[0].tolist()) == [[0.0, 1.5], [1.0, 1.5]]
    # sum ||x (c - v)||^2: 4 * (10 * 0.5)^2 = 100, and 4 * 1.5^2 = 9.
    for found, error in ((plain, 100.0), (weighed, 9.0)):
        assert error_of(vectors, found, gram) == pytest.approx(error, rel=1e-5)
        assert np.square((found.vectors() - vectors) @ x.T).sum() == pytest.approx(error)


def test_an_error_along_what_inputs_share() -> None:
    # (1, 1) G (1, 1)^T = 6 and (1, -1) G (1, -1)^T = 2 for G = [[2, 1], [1, 2]].
    gram = np.array([[2.0, 1.0], [1.0, 2.0]])
    zero = Codebooks(np.zeros((1, 1, 2)), np.zeros((1, 1), np.int32))
    assert error_of(np.array([[1.0, 1.0]]), zero, gram) == pytest.approx(6.0)
    assert error_of(np.array([[1.0, -1.0]]), zero, gram) == pytest.approx(2.0)


def test_sums_of_two_codebooks() -> None:
    first, second = np.array([[0.0, 0.0], [8.0, 8.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    vectors = (first[:, np.newaxis] + second).reshape(-1, 2)
    vectors = np.concatenate([vectors, vectors])
    assert error_of(vectors, fitted(vectors, 2, codebooks=2)) == pytest.approx(0.0, abs=1e-12)
    # Two codewords alone leave each vector (1/2, 1/2) away.
    assert error_of(vectors, fitted(vectors, 2)) == pytest.approx(8 * 0.5)


def test_more_codebooks_leave_less() -> None:
    vectors = np.random.default_rng(0).normal(size=(150, 4))
    errors = [error_of(vectors, fitted(vectors, 6, codebooks=count)) for count in (1, 2, 3)]
    assert errors[1] < 0.75 * errors[0]
    assert errors[2] < 0.75 * errors[1]


def test_the_products_of_a_convolutions_inputs() -> None:
    random = np.random.default_rng(0)
    layer = keras.layers.Conv2D(3, 2, padding="valid")
    x = random.normal(size=(5, 4, 4, 2)).astype("float32")
    layer(x)
    form = as_matrix(layer)
    assert form is not None
    found = gram_of_vectors(Vectors((2, 2, 2, 3), (-1,), 4), form, hessian(form, x))
    patches = np.stack([x[:, i : i + 3, j : j + 3] for i in range(2) for j in range(2)], axis=-1)
    rows = patches.reshape(-1, 4).astype(np.float64)  # of each channel, one behind the other
    np.testing.assert_allclose(found, 2.0 * rows.T @ rows / len(rows), rtol=1e-5)


def test_the_products_of_a_dense_layers_inputs() -> None:
    x = np.random.default_rng(0).normal(size=(9, 6)).astype("float32") * np.float32([1, 2, 3, 4, 5, 6])
    layer = keras.layers.Dense(4)
    layer(x)
    form = as_matrix(layer)
    assert form is not None
    found = gram_of_vectors(Vectors((6, 4), (-1,), 3), form, hessian(form, x))
    rows = x.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(found, 2.0 * rows.T @ rows / len(rows), rtol=1e-5)
