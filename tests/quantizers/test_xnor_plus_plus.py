"""XNOR-Net++: the paper's four cases of scale factors."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_compress as kc


def test_weights_literal(prepare, gradients) -> None:
    quantizer = kc.XnorPlusPlus()
    weight = prepare(quantizer, [[1.5, -0.5], [-0.5, 0.0]])
    assert quantizer.learned.numpy().tolist() == [[1.0, 0.25]]  # means of |w|
    quantizer.learned.assign([[2.0, -3.0]])
    assert quantizer(weight).numpy().tolist() == [[2.0, 3.0], [-2.0, -3.0]]
    found = quantizer.integer_weight(weight)
    assert (found.integers.tolist(), found.scale.tolist(), found.bits) == ([[1, 1], [-1, -1]], [[2.0, 3.0]], 2)
    to_weight, to_alpha = gradients(quantizer, weight, [[1, 10], [100, 1000]])
    # alpha where |w| <= 1; sums of upstream * sign(w).
    assert to_weight.tolist() == [[0, -30], [200, -3000]]
    assert to_alpha.tolist() == [[-99, 990]]


def test_an_alpha_of_zero_gives_zeros(prepare) -> None:
    quantizer = kc.XnorPlusPlus(per_channel=False)
    weight = prepare(quantizer, np.ones((2, 2)))
    quantizer.learned.assign([[0.0]])
    assert quantizer(weight).numpy().tolist() == [[0.0, 0.0]] * 2
    found = quantizer.integer_weight(weight)
    assert (found.integers.tolist(), found.scale.tolist()) == ([[0, 0]] * 2, [[1.0]])


@pytest.mark.parametrize(
    ("case", "shapes"),
    [
        (1, [(1, 1, 4)]),
        (2, [(2, 3, 4)]),
        (3, [(1, 1, 4), (2, 3, 1)]),
        (4, [(1, 1, 4), (2, 1, 1), (1, 3, 1)]),
    ],
)
def test_cases(case: int, shapes: list) -> None:
    layer = kc.XnorPlusPlusScale(case)
    x = np.random.default_rng(case).normal(size=(5, 2, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(layer(x), x)  # all factors begin as 1
    assert [tuple(f.shape) for f in layer.factors] == shapes
    rng = np.random.default_rng(9)
    factors = [rng.uniform(0.5, 2.0, shape) for shape in shapes]
    for variable, value in zip(layer.factors, factors, strict=True):
        variable.assign(value)
    # Written out by indices, as the outer product of the paper: Gamma[c, h, w] = alpha_c beta_h gamma_w.
    at = {1: lambda h, w, c: [(0, 0, c)], 2: lambda h, w, c: [(h, w, c)]}
    at |= {3: lambda h, w, c: [(0, 0, c), (h, w, 0)], 4: lambda h, w, c: [(0, 0, c), (h, 0, 0), (0, w, 0)]}
    for h, w, c in np.ndindex(2, 3, 4):
        gamma = np.prod([f[i] for f, i in zip(factors, at[case](h, w, c), strict=True)])
        np.testing.assert_allclose(np.array(layer(x))[:, h, w, c], x[:, h, w, c] * gamma, rtol=1e-5)


def test_sizes_have_to_be_known() -> None:
    with pytest.raises(ValueError, match=r"whose size is known, or `case=1`. Received: shape \(None, None, 3, 4\)"):
        kc.XnorPlusPlusScale(3)(keras.Input((None, 3, 4)))
    kc.XnorPlusPlusScale(1)(keras.Input((None, 3, 4)))


@pytest.mark.parametrize("case", [1, 4])
def test_files_have_the_factors(case: int) -> None:
    """Those of channels in the scale of the convolution; those of places in one MUL."""
    from keras_compress.tflite.flatbuffer import Graph, read_model

    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    y = kc.BinaryConv2D(4, 3, kernel_quantizer="ste_sign", input_quantizer="ste_sign", name="conv")(inputs)
    y = kc.XnorPlusPlusScale(case, name="scale")(y)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(y)))
    rng = np.random.default_rng(1)
    for factor in model.get_layer("scale").factors:
        factor.assign(rng.uniform(0.5, 1.5, factor.shape))
    x = rng.normal(size=(50, 6, 6, 3)).astype(np.float32)
    artifact = kc.convert(model, representative_dataset=x)
    assert not artifact.float_ops
    kc.verify(artifact, model, x, kernels=["xnnpack"])
    graph = Graph(read_model(artifact.content))
    kinds = [graph.kind(op) for op in graph.operators]
    # The 1x1 depthwise convolution takes the signs of the inputs.
    assert (kinds.count("MUL"), kinds.count("DEPTHWISE_CONV_2D")) == (int(case == 4), 1)
    floats = kc.measure(kc.convert(model, mode="float32"), x[:20], np.array(model(x[:20])).argmax(-1))
    assert floats.accuracy == 1.0
