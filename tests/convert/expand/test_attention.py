"""Attention: projections, two products, a softmax."""

import numpy as np
import pytest
from keras import layers, ops

SEQUENCE = (3, 4)


def _gated():
    return layers.MultiHeadAttention(2, 3, use_gate=True)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.MultiHeadAttention(2, 3), SEQUENCE),
        (lambda: layers.MultiHeadAttention(2, 3, value_dim=2, output_shape=5, use_bias=False), SEQUENCE),
        (lambda: layers.MultiHeadAttention(2, 3, attention_axes=(1, 2)), (2, 3, 4)),
        (lambda: layers.GroupQueryAttention(3, 4, 2), SEQUENCE),
    ],
)
def test_self_attention(bench, layer, shape):
    flat = bench.same(bench.model(lambda x: layer()(x, x), shape))
    assert bench.kinds(flat).count("BatchedMatmul") == 2


def test_cross_attention_with_scores(bench):
    def build(x, y):
        return list(layers.MultiHeadAttention(2, 3)(x, y, return_attention_scores=True))

    flat = bench.same(bench.model(build, SEQUENCE, (5, 6)))
    assert [tuple(t.shape) for t in flat.outputs] == [(None, 3, 4), (None, 2, 3, 5)]


def test_the_root_of_the_size_is_in_the_scale_of_the_query(bench):
    model = bench.model(lambda x: layers.MultiHeadAttention(1, 4, name="attend")(x, x), SEQUENCE)
    flat = bench.flatten(model)
    (query,) = [layer for layer in flat.layers if layer.name == "attend.query.dense"]
    weight = query.transforms["kernel"][-1].integer_weight(None)
    whole = model.get_layer("attend")._query_dense.kernel.numpy().reshape(4, 4)
    np.testing.assert_allclose(weight.floats(), whole / 2, rtol=1e-6)
    np.testing.assert_array_equal(np.abs(weight.integers).max(axis=0), [127] * 4)


@pytest.mark.parametrize(
    "layer",
    [
        layers.Attention,
        lambda: layers.Attention(use_scale=True),
        layers.AdditiveAttention,
        lambda: layers.AdditiveAttention(use_scale=False),
    ],
)
def test_attention_of_two_tensors(bench, layer):
    bench.same(bench.model(lambda x, y: layer()([x, y]), SEQUENCE, (5, 4)), atol=2e-3)


def test_dot_product_attention(bench):
    bench.same(bench.model(lambda x: ops.nn.dot_product_attention(x, x, x), (3, 2, 4)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: layers.MultiHeadAttention(2, 3, name="a")(x, x, use_causal_mask=True), "use_causal_mask at 'a"),
        (
            lambda x: layers.Attention(score_mode="concat", name="b")([x, x]),
            "'concat' at 'b",
        ),
        (lambda x: layers.MultiHeadAttention(2, 3, attention_axes=2)(x[:, None], x[:, None]), None),
    ],
)
def test_refused_by_name(bench, build, message):
    model = bench.model(build, SEQUENCE)
    if message is None:
        message = "attention_axes=.*2"
    with pytest.raises(ValueError, match=message):
        bench.flatten(model)
