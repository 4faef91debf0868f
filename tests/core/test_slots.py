from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.core.slots import SLOTS, skip_reason, slots_of

SAMPLES = {
    "Dense": (lambda: layers.Dense(5), (2, 3), {"kernel": (3, 5)}),
    "Conv1D": (lambda: layers.Conv1D(5, 2), (2, 6, 3), {"kernel": (2, 3, 5)}),
    "Conv2D": (lambda: layers.Conv2D(5, 2), (2, 6, 6, 3), {"kernel": (2, 2, 3, 5)}),
    "Conv3D": (lambda: layers.Conv3D(5, 2), (2, 4, 4, 4, 3), {"kernel": (2, 2, 2, 3, 5)}),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(5, 2), (2, 6, 3), {"kernel": (2, 5, 3)}),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(5, 2), (2, 4, 4, 3), {"kernel": (2, 2, 5, 3)}),
    "Conv3DTranspose": (lambda: layers.Conv3DTranspose(5, 2), (1, 2, 2, 2, 3), {"kernel": (2, 2, 2, 5, 3)}),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(2, depth_multiplier=2), (2, 6, 3), {"kernel": (2, 3, 2)}),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(2), (2, 6, 6, 3), {"kernel": (2, 2, 3, 1)}),
    "SeparableConv1D": (
        lambda: layers.SeparableConv1D(5, 2),
        (2, 6, 3),
        {"depthwise_kernel": (2, 3, 1), "pointwise_kernel": (1, 3, 5)},
    ),
    "SeparableConv2D": (
        lambda: layers.SeparableConv2D(5, 2),
        (2, 6, 6, 3),
        {"depthwise_kernel": (2, 2, 3, 1), "pointwise_kernel": (1, 1, 3, 5)},
    ),
    "Embedding": (lambda: layers.Embedding(7, 4), (2, 3), {"embeddings": (7, 4)}),
    "LSTM": (lambda: layers.LSTM(2), (2, 4, 3), {"cell.kernel": (3, 8), "cell.recurrent_kernel": (2, 8)}),
    "GRU": (lambda: layers.GRU(2), (2, 4, 3), {"cell.kernel": (3, 6), "cell.recurrent_kernel": (2, 6)}),
    "SimpleRNN": (lambda: layers.SimpleRNN(2), (2, 4, 3), {"cell.kernel": (3, 2), "cell.recurrent_kernel": (2, 2)}),
    "EinsumDense": (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 5)), (2, 4, 3), {"kernel": (3, 2, 5)}),
    "MultiHeadAttention": (
        lambda: layers.MultiHeadAttention(2, 3),
        (2, 4, 5),
        {
            "_query_dense.kernel": (5, 2, 3),
            "_key_dense.kernel": (5, 2, 3),
            "_value_dense.kernel": (5, 2, 3),
            "_output_dense.kernel": (2, 3, 5),
        },
    ),
    "GroupedQueryAttention": (
        lambda: layers.GroupQueryAttention(3, 4, 2),
        (2, 4, 5),
        {
            "_query_dense.kernel": (5, 4, 3),
            "_key_dense.kernel": (5, 2, 3),
            "_value_dense.kernel": (5, 2, 3),
            "_output_dense.kernel": (4, 3, 5),
        },
    ),
    "Bidirectional": (
        lambda: layers.Bidirectional(layers.SimpleRNN(2)),
        (2, 4, 3),
        {
            "forward_layer.cell.kernel": (3, 2),
            "forward_layer.cell.recurrent_kernel": (2, 2),
            "backward_layer.cell.kernel": (3, 2),
            "backward_layer.cell.recurrent_kernel": (2, 2),
        },
    ),
    "TimeDistributed": (lambda: layers.TimeDistributed(layers.Dense(5)), (2, 4, 3), {"layer.kernel": (3, 5)}),
    "SpectralNormalization": (
        lambda: layers.SpectralNormalization(layers.Conv2D(4, 2)),
        (2, 6, 6, 3),
        {"layer.kernel": (2, 2, 3, 4)},
    ),
    "RNN": (
        lambda: layers.RNN(layers.StackedRNNCells([layers.LSTMCell(2), layers.GRUCell(3), layers.SimpleRNNCell(2)])),
        (2, 4, 3),
        {
            "cell.cells.0.kernel": (3, 8),
            "cell.cells.0.recurrent_kernel": (2, 8),
            "cell.cells.1.kernel": (2, 9),
            "cell.cells.1.recurrent_kernel": (3, 9),
            "cell.cells.2.kernel": (3, 2),
            "cell.cells.2.recurrent_kernel": (2, 2),
        },
    ),
    "ConvLSTM1D": (
        lambda: layers.ConvLSTM1D(2, 2),
        (2, 3, 4, 3),
        {"cell.kernel": (2, 3, 8), "cell.recurrent_kernel": (2, 2, 8)},
    ),
    "ConvLSTM2D": (
        lambda: layers.ConvLSTM2D(2, 2),
        (2, 3, 4, 4, 3),
        {"cell.kernel": (2, 2, 3, 8), "cell.recurrent_kernel": (2, 2, 2, 8)},
    ),
    "ConvLSTM3D": (
        lambda: layers.ConvLSTM3D(1, 2),
        (1, 2, 3, 3, 3, 2),
        {"cell.kernel": (2, 2, 2, 2, 4), "cell.recurrent_kernel": (2, 2, 2, 1, 4)},
    ),
}
CELLS = {"LSTMCell", "GRUCell", "SimpleRNNCell", "StackedRNNCells"}  # which stand in RNN, never alone


def test_every_class_of_the_table_has_a_sample() -> None:
    assert set(SAMPLES) | CELLS == set(SLOTS)


def test_channels_of_an_einsum_are_the_axes_that_stay_in_its_output() -> None:
    for equation, shape, axes in (
        ("ab,bc->ac", (4, 3), (1,)),
        ("...x,xyz->...yz", (4, 3), (1, 2)),
        ("abcd,cde->abe", (4, 2, 3), (2,)),
        ("abc,dc->abd", (2, 4, 3), (0,)),
    ):
        layer = layers.EinsumDense(equation, (2,) * (len(equation.split("->")[1].replace("...", "")) - 1))
        assert slots_of(layer)[0].channel_axes == axes, shape


def test_layers_held_by_a_model_inside_a_wrapper_are_reached_by_their_place() -> None:
    body = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.ReLU(), layers.Dense(2)])
    layer = layers.TimeDistributed(body)
    layer.build((None, 5, 3))
    assert [slot.name for slot in slots_of(layer)] == ["layer.layers.0.kernel", "layer.layers.2.kernel"]
    assert slots_of(layer)[1].variable(layer) is body.layers[2].kernel


# `SpectralNormalization` changes its kernel in training itself: see `tests/core/test_spectral.py`.
@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "SpectralNormalization"])
def test_pruned_layer_computes_with_pruned_weights(name: str) -> None:
    """Half of each weight is zero after one training call, and the layer's outputs are those of such weights."""
    make, shape, expected = SAMPLES[name]
    layer = make()
    inputs = np.random.default_rng(0).integers(0, 7, shape).astype("int32" if name == "Embedding" else "float32")
    call = [inputs, inputs] if "Attention" in name else [inputs]
    layer(*call)
    assert {slot.name: tuple(slot.variable(layer).shape) for slot in slots_of(layer)} == expected
    pruners = {slot: [kc.MagnitudePruner(kc.ConstantSparsity(0.5, 0))] for slot in expected}
    wrapper = kc.Compressed(layer, pruners)
    before = {slot: np.array(wrapper.latent(slot)) for slot in expected}
    outputs = np.array(wrapper(*call, training=True))
    for slot, weight in before.items():
        np.testing.assert_array_equal(np.array(wrapper.latent(slot)), weight)  # the latent weight stays
        pruned = np.array(wrapper.weight(slot))
        assert (pruned == 0).sum() == weight.size - round(weight.size * 0.5)
        np.testing.assert_array_equal(pruned[pruned != 0], weight[pruned != 0])
        wrapper.latent(slot).assign(pruned)
    np.testing.assert_allclose(np.array(layer(*call)), outputs, rtol=1e-5, atol=1e-6)
    assert np.abs(outputs).max() > 0


def test_depthwise_channels_are_two_axes() -> None:
    layer = layers.DepthwiseConv2D(2, depth_multiplier=2)
    layer.build((None, 6, 6, 3))
    quantizer = kc.UniformQuantizer(8)
    kc.Compressed(layer, {"kernel": [quantizer]})
    assert quantizer.integer_weight(layer.kernel).scale.shape == (1, 1, 3, 2)


def test_transposed_convolution_has_its_channels_before_the_last_axis() -> None:
    layer = layers.Conv2DTranspose(5, 2)
    layer.build((None, 4, 4, 3))
    quantizer = kc.UniformQuantizer(8)
    kc.Compressed(layer, {"kernel": [quantizer]})
    assert quantizer.integer_weight(layer.kernel).scale.shape == (1, 1, 5, 1)


class Custom(layers.Layer):
    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 3), name="matrix")

    def call(self, inputs):
        return inputs @ self.matrix

    def compute_output_shape(self, shape):
        return (*shape[:-1], 3)


class Declared(Custom):
    def get_compressible_weights(self):
        return {"matrix": (-1,)}


class MyDense(layers.Dense):
    pass


def test_user_layers() -> None:
    for made in (Custom(), Declared(), MyDense(3)):
        made.build((None, 4))
        names = [slot.name for slot in slots_of(made)]
        assert names == {"Custom": [], "Declared": ["matrix"], "MyDense": ["kernel"]}[type(made).__name__]
    custom = Custom()
    custom.build((None, 4))
    assert "Custom is not in the table" in skip_reason(custom)
    assert slots_of(custom, {"matrix": (0,)})[0].channel_axes == (0,)
    norm = layers.BatchNormalization()
    norm.build((None, 4))
    assert skip_reason(norm) is None


def test_a_layer_that_is_skipped_is_listed_once_or_refused() -> None:
    model = keras.Sequential([keras.Input((4,)), Custom(name="odd"), layers.Dense(2)])
    with pytest.warns(UserWarning, match="Layers left as they are: odd: Custom is not in the table") as caught:
        kc.quantize_model(model)
    assert len(caught) == 1
    with pytest.raises(ValueError, match=r"strict=True\). Received: odd"):
        kc.prune_low_magnitude(model, strict=True)


def test_mapping_by_hand() -> None:
    layer = Custom()
    layer.build((None, 4))
    wrapper = kc.Compressed(layer, {"matrix": [kc.UniformQuantizer(2)]}, slots={"matrix": [1]})
    assert len(np.unique(np.array(wrapper.weight("matrix")) > 0)) == 2
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(wrapper), custom_objects={"Custom": Custom}
    )
    assert again.slot_axes == {"matrix": [1]}
