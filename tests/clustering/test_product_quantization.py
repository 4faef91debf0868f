"""Product-quantized layers: their gradients by hand, their sizes, what the file holds, and what is refused."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.data.input_products import input_products
from keras_compress.graph.as_matrix import as_matrix
from keras_compress.graph.model import compressed_layers
from keras_compress.tflite.flatbuffer import Graph, read_model


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(16, 3, activation="relu", name="conv")(inputs)
    x = layers.Dense(12, activation="relu", name="dense")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def clusterers(model: keras.Model) -> dict[str, kc.VectorClusterer]:
    return {path: wrapper.transform_list[0] for path, wrapper in compressed_layers(model)}


def test_a_codeword_gets_the_mean_gradient_of_its_vectors() -> None:
    # Stock et al., section 3.3: c <- c - Adam(1 / |J_c| * sum of dL/db over J_c).
    layer = layers.Dense(4, use_bias=False)
    layer.build((None, 2))
    layer.kernel.assign(np.float32([[0.0, 0.1, -0.1, 5.0], [0.0, 0.1, -0.1, 7.0]]))
    clusterer = kc.VectorClusterer(2, vector_size=2)
    wrapper = kc.Compressed(layer, {"kernel": [clusterer]})
    wrapper.initialize(clusterer)
    np.testing.assert_allclose(wrapper.weight("kernel"), [[0, 0, 0, 5], [0, 0, 0, 7]], atol=1e-7)
    with tf.GradientTape() as tape:
        # dL/dy of outputs 0 to 3 are 1, 2, 6 and 10 for an input of (1, 3).
        loss = tf.reduce_sum(wrapper(tf.constant([[1.0, 3.0]])) * tf.constant([1.0, 2.0, 6.0, 10.0]))
    codewords, kernel = tape.gradient(loss, [clusterer.codewords, layer.kernel])
    of_zeros, of_last = np.argsort(np.array(clusterer.codewords)[0, :, 0])
    np.testing.assert_allclose(codewords[0, of_zeros], [3.0, 9.0], rtol=1e-6)
    np.testing.assert_allclose(codewords[0, of_last], [10.0, 30.0], rtol=1e-6)
    assert not np.any(kernel)


def test_sizes_and_numbers() -> None:
    found = clusterers(kc.product_quantize(net(), 8))
    # 64 vectors of a 3x3 kernel; 24 of 8 inputs, of which a quarter; 6 of 6, of which 2 at least.
    assert {path: each.codewords.shape for path, each in found.items()} == {
        "conv": (1, 8, 9),
        "dense": (1, 6, 8),
        "logits": (1, 2, 6),
    }
    # (64 codes of 3 bits + 8 * 9 bytes) / 576 weights
    assert found["conv"].bits_per_weight == pytest.approx((64 * 3 + 8 * 9 * 8) / 576)


def test_bits_decide_on_the_number_of_codewords() -> None:
    rules = [{"layers": "logits", "skip": True}, {"layers": "dense", "vector_size": 4, "number_of_codebooks": 2}]
    found = clusterers(kc.product_quantize(net(), bits=3.0, rules=rules))
    assert set(found) == {"conv", "dense"}
    assert found["dense"].codewords.shape[0] == 2
    for each in found.values():
        assert each.bits_per_weight <= 3.0
    # Twice as many would be too many: (64 * 5 + 32 * 72) / 576 = 4.6.
    assert found["conv"].codewords.shape[1] == 16


def test_a_layer_too_small_for_the_bits_is_left_and_said() -> None:
    # 6 vectors of 6 weights: (6 codes of a bit + 2 * 6 bytes) / 36.
    with pytest.warns(UserWarning, match="logits: two codewords of 6 weights take 2.83 bits for each of its weights"):
        made = kc.product_quantize(net(), bits=2.5)
    assert set(clusterers(made)) == {"conv", "dense"}


def test_training_moves_codewords_alone() -> None:
    model = kc.product_quantize(net(), 8)
    before = {path: (np.array(each.codes), np.array(each.codewords)) for path, each in clusterers(model).items()}
    x = np.random.default_rng(0).normal(size=(32, 6, 6, 4)).astype("float32")
    model.compile("adam", "mse", jit_compile=False)
    model.fit(x, np.ones((32, 3)), verbose=0)
    for path, wrapper in compressed_layers(model):
        each = wrapper.transform_list[0]
        np.testing.assert_array_equal(each.codes, before[path][0])
        assert np.any(np.array(each.codewords) != before[path][1])
    plain = kc.strip(model)
    rows = clusterers(model)["conv"].vectors.rows(np.array(plain.get_layer("conv").kernel))
    assert len(np.unique(rows, axis=0)) <= 8


def test_inputs_weigh_the_errors() -> None:
    model = net()
    random = np.random.default_rng(1)
    # Channels of the image are nearly what their neighbours are: smooth errors count.
    x = np.repeat(random.normal(size=(64, 1, 1, 4)), 36, axis=1).reshape(64, 6, 6, 4)
    x = (x + 0.05 * random.normal(size=x.shape)).astype("float32")
    plain, weighed = (
        kc.product_quantize(model, 8, filters="conv"),
        kc.product_quantize(model, 8, data=x, filters="conv"),
    )
    conv = keras.Model(model.input, model.get_layer("conv").output)
    errors = [
        float(np.square(conv(x) - keras.Model(each.input, each.get_layer("conv").output)(x)).mean())
        for each in (plain, weighed)
    ]
    assert errors[1] < 0.7 * errors[0]


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.body = net()
        self.head = layers.Dense(2)

    def call(self, x: Any) -> Any:
        return self.head(self.body(x))


def test_inputs_weigh_the_errors_of_a_subclassed_model() -> None:
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 4)).astype("float32") ** 2
    model = Subclassed()
    model(x)
    found = clusterers(kc.product_quantize(model, 8, data=x, filters="re:body/conv"))
    expected = clusterers(kc.product_quantize(model.body, 8, data=x, filters="conv"))
    plain = clusterers(kc.product_quantize(model.body, 8, filters="conv"))
    np.testing.assert_allclose(found["body/conv"].codewords, expected["conv"].codewords, rtol=1e-5)
    assert not np.allclose(plain["conv"].codewords, expected["conv"].codewords)


def test_a_fixed_batch_above_the_samples_is_taken_whole() -> None:
    inputs = keras.Input(batch_shape=(300, 2))
    dense = layers.Dense(3, use_bias=False, name="dense")
    model = keras.Model(inputs, dense(inputs))
    x = np.random.default_rng(0).normal(size=(310, 2)).astype("float32")
    form = as_matrix(dense)
    assert form is not None
    gram = input_products(model, {id(dense): ("dense", form)}, x, samples=256)["dense"]
    np.testing.assert_allclose(gram[0], 2 * x[:300].T @ x[:300], rtol=1e-4)
    # Of a smaller batch, whole batches within the samples.
    gram = input_products(model, {id(dense): ("dense", form)}, np.concatenate([x, x]), samples=610)["dense"]
    both = np.concatenate([x, x])[:600]
    np.testing.assert_allclose(gram[0], 2 * both.T @ both, rtol=1e-4)
    with pytest.raises(ValueError, match=r"Expected data with at least 300 samples, a batch .* Received: 299"):
        input_products(model, {id(dense): ("dense", form)}, x[:299], samples=256)


def test_the_file_holds_as_many_vectors() -> None:
    model = kc.quantize_model(kc.product_quantize(net(), 8))
    x = np.random.default_rng(0).normal(size=(32, 6, 6, 4)).astype("float32")
    model(x, training=True)
    graph = Graph(read_model(kc.convert(model, target="tflm", weights_storage="int8").content))
    conv = next(op for op in graph.operators if graph.kind(op) == "CONV_2D")
    integers = graph.constant(conv.inputs[1])
    assert integers is not None
    assert len(np.unique(integers.transpose(0, 3, 1, 2).reshape(64, 9), axis=0)) <= 8


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a size that does not divide": ({"vector_size": 7}, r"out of \[1, 3, 9, 18, 36\] for layer 'conv'.*vector_size=7"),
    "of a rule": ({"rules": [{"layers": "dense", "vector_size": 5}]}, "for layer 'dense'.*vector_size=5"),
    "too few bits": (
        {"bits": 0.2},
        "made of vectors. Received: conv: two codewords of 9 weights take 0.361 bits.*logits:",
    ),
    "no bits": ({"bits": 0}, r"Expected `bits` in \(0, 8\]"),
    "one codeword": ({"number_of_codewords": 1}, "Expected `number_of_codewords` as an integer from 2"),
    "nine codebooks": ({"number_of_codebooks": 9}, "Expected `number_of_codebooks` as an integer from 1 to 8"),
    "data that do not fit": ({"data": np.zeros((4, 5, 5, 4), np.float32)}, "Expected"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    settings, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        kc.product_quantize(net(), **settings)


def test_zeros_of_a_pruned_model_are_not_undone() -> None:
    with pytest.raises(ValueError, match="VectorClusterer after MagnitudePruner, whose 'zeros' it would"):
        kc.product_quantize(kc.prune_low_magnitude(net()))


def test_a_prime_number_of_inputs_is_left_and_said() -> None:
    model = keras.Sequential([keras.Input((13,)), layers.Dense(8, name="odd"), layers.Dense(4, name="even")])
    with pytest.warns(UserWarning, match="Weights left as they are: odd: its number of inputs is a prime"):
        made = kc.product_quantize(model)
    assert set(clusterers(made)) == {"even"}
