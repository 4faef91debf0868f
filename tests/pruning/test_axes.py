"""N:M groups and blocks lie on the matrix of inputs and outputs, wherever a layer keeps its outputs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.core.slots import slots_of
from keras_compress.graph.model import positive_gammas

ALWAYS = kc.ConstantSparsity(0.5, begin_step=0, frequency=1)
# Layer, shape of its inputs, slot, axes of the outputs.
LAYERS = {
    "dense": (layers.Dense(6), (None, 8), "kernel", (1,)),
    "conv": (layers.Conv2D(5, 3), (None, 8, 8, 4), "kernel", (3,)),
    "transposed": (layers.Conv2DTranspose(6, 2), (None, 8, 8, 4), "kernel", (2,)),
    "depthwise": (layers.DepthwiseConv2D(3, depth_multiplier=2), (None, 8, 8, 5), "kernel", (2, 3)),
    "separable": (layers.SeparableConv1D(6, 4), (None, 8, 5), "depthwise_kernel", (1, 2)),
    "heads": (layers.EinsumDense("abc,cde->abde", (None, 3, 6)), (None, 5, 8), "kernel", (1, 2)),
    "out_of_heads": (layers.EinsumDense("abcd,cde->abe", (None, 6)), (None, 5, 2, 4), "kernel", (2,)),
    "rows": (layers.EinsumDense("abc,dc->abd", (None, 6)), (None, 5, 8), "kernel", (0,)),
    "embedding": (layers.Embedding(7, 8), (None, 4), "embeddings", (0,)),
    "gru": (layers.GRU(4), (None, 5, 8), "cell.recurrent_kernel", (1,)),
}


def built(name: str, pruner):
    """The pruner of a built layer, and its scores, all different."""
    layer, shape, slot, outputs = LAYERS[name]
    layer = type(layer).from_config(layer.get_config())
    layer.build(shape)
    kc.Compressed(layer, {slot: [pruner]})
    shape = next(s for s in slots_of(layer) if s.name == slot).variable(layer).shape
    scores = np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape).astype(np.float32) + 1.0
    return scores, outputs


def columns(array: np.ndarray, outputs: tuple[int, ...]) -> list[np.ndarray]:
    """The inputs of each output, one by one."""
    places = np.ndindex(*(array.shape[axis] for axis in outputs))
    whole = [slice(None)] * array.ndim
    found = []
    for place in places:
        index = list(whole)
        for axis, position in zip(outputs, place, strict=True):
            index[axis] = position
        found.append(array[tuple(index)].ravel())
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_two_of_every_four_inputs(name: str) -> None:
    pruner = kc.NMPruner((2, 4), ALWAYS)
    scores, outputs = built(name, pruner)
    mask = np.array(pruner.choose(scores, 0.5))
    for kept, score in zip(columns(mask, outputs), columns(scores, outputs), strict=True):
        whole = len(kept) // 4 * 4
        groups, ranked = kept[:whole].reshape(-1, 4), score[:whole].reshape(-1, 4)
        assert kept[whole:].all()
        np.testing.assert_array_equal(groups, ranked >= np.sort(ranked, axis=1)[:, 2:3])


@pytest.mark.parametrize("name", LAYERS)
def test_blocks_of_two_inputs(name: str) -> None:
    pruner = kc.MagnitudePruner(ALWAYS, block_size=(2, 1), block_pooling_type="MAX")
    scores, outputs = built(name, pruner)
    mask = np.array(pruner.choose(scores, 0.5))
    pairs = np.concatenate([c[: len(c) // 2 * 2].reshape(-1, 2) for c in columns(mask, outputs)])
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert pairs.any()
    assert not pairs.all()


def test_block_of_outputs_of_a_transposed_convolution() -> None:
    pruner = kc.MagnitudePruner(ALWAYS, block_size=(1, 3))
    scores, _ = built("transposed", pruner)
    mask = np.moveaxis(np.array(pruner.choose(scores, 0.5)), 2, 3).reshape(-1, 2, 3)
    assert {int(row.sum()) for row in mask.reshape(-1, 3)} == {0, 3}


@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("block_size", [(1, 1), (2, 2)])
def test_one_weight_at_least_stays(regrow: bool, block_size: tuple[int, int]) -> None:
    schedule = kc.ConstantSparsity(0.95, begin_step=0, frequency=1)
    for scope in ("layer", "global"):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(12), layers.Dense(2), layers.Dense(1)])
        for layer, factor in zip(model.layers, (100.0, 1.0, 1e-3), strict=True):
            layer.kernel.assign(factor * np.arange(1.0, 1.0 + np.prod(layer.kernel.shape)).reshape(layer.kernel.shape))
        model = kc.prune_low_magnitude(model, schedule, block_size, scope=scope, regrow=regrow)
        for _ in range(3):
            model(np.ones((1, 4), np.float32), training=True)
        kernels = [np.array(layer.kernel) for layer in kc.strip(model).layers]
        block = block_size[0] * block_size[1]
        assert np.abs(kernels[2]).max() == np.float32(1e-3 * 2)
        assert (kernels[1] != 0).sum() in ((1,) if block == 1 else (4, 1))
        assert 1 <= (kernels[0] != 0).sum() <= 4 * block


def test_summary_says_what_was_reached() -> None:
    model = keras.Sequential([keras.Input((2,)), layers.Dense(20, name="wide"), layers.Dense(1, name="small")])
    made = kc.prune_low_magnitude(model, kc.ConstantSparsity(0.975, begin_step=0, frequency=1))
    made(np.ones((1, 2), np.float32), training=True)
    said: list[str] = []
    notes = kc.summary(made, print_fn=said.append).notes()
    assert [note for note in notes if "Sparsity" in note] == [
        "Sparsity reached: 0.95 of 0.975 at small kernel: 19 of 20 weights are zero."
    ]
    together = kc.prune_low_magnitude(model, kc.ConstantSparsity(0.98, begin_step=0, frequency=1), scope="global")
    together(np.ones((1, 2), np.float32), training=True)
    notes = kc.summary(together, print_fn=said.append).notes()
    # 60 weights, of which round(60 * 0.02) = 1 would stay: each of the two keeps one.
    assert [note for note in notes if "Sparsity" in note] == [
        "Sparsity reached: 0.9667 of 0.98 at the group global: 58 of 60 weights are zero."
    ]


@pytest.mark.parametrize("equation", ["abc,cde->abed"])
def test_a_norm_of_one_of_two_output_axes_is_not_folded(equation: str) -> None:
    """Its gammas are not the channels of the weight: a negative one stays where it is."""
    inputs = keras.Input((5, 8))
    norm = layers.BatchNormalization()
    outputs = norm(layers.EinsumDense(equation, (None, 3, 3))(inputs))
    norm.gamma.assign([-1.0, 2.0, -3.0])
    model = keras.Model(inputs, outputs)
    x = np.random.default_rng(0).normal(size=(4, 5, 8)).astype(np.float32)
    np.testing.assert_array_equal(np.array(positive_gammas(model)(x)), np.array(model(x)))
    frozen = kc.convert(model, representative_dataset=x).frozen
    error = np.abs(np.array(frozen(x)).reshape(-1) - np.array(model(x)).reshape(-1))
    assert error.max() < 0.03 * np.abs(np.array(model(x))).max()
