"""Every rule for a layer: what is cut is what is masked, and the multiply-accumulates are those counted by hand."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import Input, layers
from tests_structured import Case, checked, half, headed

import keras_compress as kc
from keras_compress.core.registry import entries
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.prune import removed_channels
from keras_compress.structured.rules.rule import rule_of
from keras_compress.structured.surgery import cut


def convolutions() -> keras.Model:
    x = Input((6, 6, 2))
    y = layers.Conv2D(4, 3, name="a")(x)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.ReLU()(y)
    y = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(y)
    y = layers.SeparableConv2D(4, 1, depth_multiplier=2, name="separable")(y)
    y = layers.PReLU(shared_axes=[1, 2], name="prelu")(y)
    y = layers.Conv2DTranspose(6, 2, strides=2, name="transposed")(y)
    return headed(x, layers.MaxPooling2D(2)(layers.ZeroPadding2D(1)(layers.UpSampling2D(2)(y))))


def grouped() -> keras.Model:
    x = Input((4, 4, 2))
    y = layers.Conv2D(8, 1, name="a")(x)
    y = layers.Conv2D(8, 1, groups=2, name="two")(y)
    y = layers.Conv2D(16, 1, groups=8, name="single")(y)
    return headed(x, layers.GlobalAveragePooling2D()(y))


def squeezed() -> keras.Model:
    x = Input((4, 4, 2))
    y = layers.Conv2D(8, 1, name="a")(x)
    s = layers.GlobalAveragePooling2D(keepdims=True)(y)
    s = layers.Conv2D(2, 1, activation="relu", name="less")(s)
    s = layers.Conv2D(8, 1, activation="sigmoid", name="more")(s)
    return headed(x, layers.Multiply()([y, s]))


def joined() -> keras.Model:
    x = Input((4, 4, 2))
    a = layers.Conv2D(4, 1, name="a")(x)
    b = layers.Conv2D(4, 1, name="b")(x)
    c = layers.Conv2D(6, 1, name="c")(x)
    return headed(x, layers.Concatenate()([layers.Add()([a, b]), c, x]))


def shuffled() -> keras.Model:
    x = Input((6, 6, 3))
    y = layers.Conv2D(8, 3, name="a")(x)
    y = layers.Reshape((4, 4, 2, 4))(y)
    y = layers.Permute((1, 2, 4, 3))(y)
    y = layers.Reshape((4, 4, 8))(y)
    return headed(x, layers.Conv2D(8, 1, groups=2, name="b")(y))


def normalized() -> keras.Model:
    x = Input((4, 2))
    y = layers.Conv1D(4, 1, name="a")(x)
    y = layers.GroupNormalization(4, name="each")(y)
    y = layers.UnitNormalization()(y)
    z = layers.LayerNormalization(name="over")(layers.Dense(4, name="b")(y))
    w = layers.GroupNormalization(2, name="groups")(layers.Dense(4, name="c")(y))
    return headed(x, layers.Add()([layers.Dense(4, name="d")(z), layers.Dense(4, name="e")(w)]))


def normalized_over_positions() -> keras.Model:
    """All lengths are 4: by its shape, no gamma tells what it belongs to."""
    x = Input((4, 4, 4))
    y = layers.Conv2D(4, 1, name="a")(x)
    y = layers.LayerNormalization(axis=(1, 2), name="positions")(y)
    y = layers.LayerNormalization(axis=1, name="rows")(layers.Conv2D(4, 1, name="b")(y))
    y = layers.BatchNormalization(axis=1, name="batch")(layers.Conv2D(4, 1, name="c")(y))
    y = layers.RMSNormalization(axis=1, name="rms")(layers.Conv2D(4, 1, name="d")(y))
    y = layers.Permute((3, 1, 2))(layers.Conv2D(4, 1, name="e")(y))
    y = layers.GroupNormalization(4, axis=1, name="each")(y)
    y = layers.UnitNormalization(axis=1)(layers.BatchNormalization(axis=1, name="first")(y))
    return headed(x, y)


@keras.saving.register_keras_serializable("tests")
def swish(t: Any) -> Any:
    return t * keras.ops.sigmoid(t)


@keras.saving.register_keras_serializable("tests")
def centred(t: Any) -> Any:
    return t - keras.ops.mean(t, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("tests")
def numbered(t: Any) -> Any:
    return t * keras.ops.arange(t.shape[-1], dtype=t.dtype)


@keras.saving.register_keras_serializable("tests")
def divided(t: Any) -> Any:
    return t / t.shape[-1]


@keras.saving.register_keras_serializable("tests")
def of_four(t: Any) -> Any:
    return keras.ops.reshape(t, (-1, 4))


def activated() -> keras.Model:
    """What activations do is tried: those that mix channels keep them, those that are only unknown do not."""
    x = y = Input((6,))
    for name, function in zip("abcde", (swish, centred, numbered, divided, of_four), strict=True):
        y = layers.Dense(4, activation=function, name=name)(y)
    return headed(x, layers.SimpleRNN(4, activation=centred, name="f")(layers.RepeatVector(2)(y)))


def scaled() -> keras.Model:
    """XNOR-Net++'s factors of channels, places and both; in the last one channels are where rows are."""
    x = Input((3, 4, 2))
    y = kc.XnorPlusPlusScale(4, name="outer")(layers.Conv2D(4, 1, name="a")(x))
    y = kc.XnorPlusPlusScale(2, name="all")(layers.Conv2D(6, 1, name="b")(kc.XnorPlusPlusScale(1, name="one")(y)))
    return headed(x, kc.XnorPlusPlusScale(3, name="rows")(layers.Permute((3, 1, 2))(y)))


def embedded() -> keras.Model:
    x = Input((5,), dtype="int32")
    y = layers.Embedding(7, 4, mask_zero=True, name="embedding")(x)
    y = layers.LSTM(4, name="lstm")(y)
    y = layers.RepeatVector(3)(y)
    y = layers.Dropout(0.3, noise_shape=(None, 1, 4))(y)
    return headed(x, layers.TimeDistributed(layers.Dense(4), name="steps")(y))


def states() -> keras.Model:
    x = Input((5, 6))
    y = layers.Dense(8, name="a")(x)
    y, h, c = layers.LSTM(6, return_sequences=True, return_state=True, name="first")(y)
    return headed(x, layers.LSTM(6, name="second")(y, initial_state=[h, c]))


def gated() -> keras.Model:
    x = Input((5, 6))
    y = layers.GRU(6, return_sequences=True, name="after")(x)
    y = layers.GRU(6, reset_after=False, return_sequences=True, name="before")(y)
    y = layers.SimpleRNN(4, return_sequences=True, name="simple")(y)
    return headed(x, layers.RNN(layers.LSTMCell(2), name="cell")(y))


def both_ways() -> keras.Model:
    x = Input((5, 6))
    y, *states = layers.Bidirectional(
        layers.LSTM(6, return_sequences=True, return_state=True, name="f"), name="concatenated"
    )(x)
    y = layers.Bidirectional(layers.LSTM(6, return_sequences=True, name="f"), name="again")(y, initial_state=states)
    return headed(x, layers.Bidirectional(layers.GRU(4, name="g"), merge_mode="sum", name="summed")(y))


def film() -> keras.Model:
    x = Input((3, 6, 6, 2))
    y = layers.TimeDistributed(layers.Conv2D(4, 3, padding="same"), name="frames")(x)
    y = layers.TimeDistributed(layers.BatchNormalization(), name="norm")(y)
    y = layers.ConvLSTM2D(5, 3, return_sequences=True, name="first")(y)
    return headed(x, layers.ConvLSTM2D(4, 3, name="second")(y))


def attention() -> keras.Model:
    x = Input((5, 6))
    y = layers.Dense(8, name="a")(x)
    y = layers.MultiHeadAttention(4, 3, name="self")(y, y)
    z = layers.Dense(6, name="b")(x)
    settings: dict[str, Any] = {"value_dim": 2, "output_shape": 10, "use_bias": False}
    return headed(x, layers.MultiHeadAttention(2, 3, **settings, name="cross")(query=z, value=y, use_causal_mask=True))


def residual_attention() -> keras.Model:
    x = Input((5, 6))
    y = layers.Dense(8, name="a")(x)
    return headed(x, layers.Add()([y, layers.MultiHeadAttention(4, 3, name="self")(y, y)]))


def scores() -> keras.Model:
    x = Input((5, 6))
    y, s = layers.MultiHeadAttention(4, 3, name="self")(x, x, return_attention_scores=True)
    return keras.Model(x, [layers.Dense(3)(layers.Flatten()(y)), s])


def grouped_attention() -> keras.Model:
    x = Input((5, 6))
    y = layers.Dense(8, name="a")(x)
    return headed(x, layers.GroupQueryAttention(3, 8, 4, name="self")(y, y))


def plain_attention() -> keras.Model:
    x = Input((5, 6))
    a, b, c = (layers.Dense(n, name=name)(x) for name, n in (("a", 8), ("b", 8), ("c", 4)))
    return headed(x, layers.Concatenate()([layers.Attention()([a, b]), layers.AdditiveAttention()([a, c, b])]))


def products() -> keras.Model:
    x = Input((5, 6))
    a, b, c = (layers.Dense(n, name=name)(x) for name, n in (("a", 8), ("b", 8), ("c", 4)))
    return headed(x, layers.Dot((2, 1))([layers.Dot((2, 2), normalize=True)([a, b]), c]))


def einsums() -> keras.Model:
    x = Input((5, 6))
    y = layers.EinsumDense("abc,cde->abde", (5, 4, 3), bias_axes="de", name="two")(x)
    y = layers.EinsumDense("abde,def->abf", (5, 7), bias_axes="f", name="joined")(y)
    y = layers.EinsumDense("...x,xy->...y", 9, bias_axes="y", activation="relu", name="dots")(y)
    return headed(x, layers.EinsumDense("abc,c->abc", (5, 9), bias_axes="c", name="factors")(y))


def activations() -> keras.Model:
    x = Input((6,))
    y = layers.Dense(4, activation="sigmoid", name="a")(x)
    return headed(x, layers.Softmax()(layers.Dense(4, activation="softmax", name="b")(y)))


class Doubled(layers.Dense):
    """Not what its base class is."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        return super().call(inputs) * keras.ops.arange(self.units, dtype="float32")


def unknown() -> keras.Model:
    x = Input((6, 6, 3))
    y = layers.Conv2D(8, 3, name="a")(x)
    y = layers.SpectralNormalization(layers.Conv2D(4, 1), name="spectral")(y)
    y = layers.Normalization(mean=0.0, variance=1.0, name="data")(layers.Conv2D(4, 1, name="b")(y))
    y = Doubled(4, name="own")(layers.Conv2D(4, 1, name="c")(y))
    y = layers.Masking(1.0, name="masking")(layers.Reshape((16, 4))(layers.Dense(4, name="d")(y)))
    return headed(x, layers.GlobalAveragePooling1D()(y))


def open_lengths() -> keras.Model:
    image, series = Input((None, None, 3), name="image"), Input((None, 6), name="series")
    x = layers.Conv2D(8, 3, name="a")(image)
    x = layers.GlobalAveragePooling1D()(layers.Reshape((-1, 8), name="line")(x))
    y = layers.Reshape((-1, 2, 4))(layers.Dense(8, name="b")(series))
    y = layers.Dense(6, name="c")(y)
    y = layers.GlobalMaxPooling2D()(y)
    return keras.Model([image, series], [layers.Dense(3, name="d")(x), layers.Dense(3, name="e")(y)])


CASES = [
    # 16*18*4 + 4*9*8 + 4*(16+16*4) + 4*4*4*6 + head; half: 16*18*2 + 4*9*4 + 4*(8+8*2) + 4*4*2*3 + half of the head.
    Case(
        convolutions,
        {"a": 4, "separable": 4, "transposed": 6},
        (1152 + 288 + 320 + 384 + 450, 576 + 144 + 96 + 96 + 225),
    ),
    # A channel of "a" goes with one of the other half, "two" likewise, and "single" with what it reads.
    Case(grouped, {"a": 4, "two": 4}, (256 + 512 + 256 + 48, 128 + 128 + 128 + 24)),
    Case(squeezed, {"a": 8, "less": 2}, (256 + 16 + 16 + 384, 128 + 4 + 4 + 192)),
    Case(joined, {"a": 4, "c": 6}, (2 * 128 + 192 + 16 * 12 * 3, 2 * 64 + 96 + 16 * 7 * 3)),
    Case(shuffled, {"a": 2, "b": 4}, (3456 + 512 + 384, 1728 + 128 + 192)),
    Case(
        normalized,
        {"a": 4, "d": 4},
        (4 * (8 + 4 * 16) + 48, 4 * (4 + 2 * 8 + 2 * 8) + 24),
        {"b": "over normalizes over it", "c": "groups normalizes over it"},
    ),
    # Channels go one by one through norms over positions, and through those over their own axis, wherever that is.
    Case(
        normalized_over_positions,
        {"a": 4, "b": 4, "e": 4},
        (5 * 256 + 192, 128 + 64 + 128 + 256 + 128 + 96),
        {"c": "batch takes statistics over it", "d": "rms has a scale that Keras lays along it"},
        exact=False,
    ),
    Case(
        activated,
        {"a": 4},
        (24 + 4 * 16 + 64 + 12, 12 + 8 + 3 * 16 + 64 + 12),
        dict.fromkeys("bcdef", "which is not known to act on each of them alone"),
    ),
    Case(scaled, {"a": 4, "b": 6}, (12 * 8 + 12 * 24 + 72 * 3, 12 * 4 + 12 * 6 + 36 * 3)),
    Case(embedded, {"embedding": 4, "lstm": 4, "steps": 4}, (5 * 128 + 48 + 36, 5 * 32 + 12 + 18)),
    Case(states, {"a": 8, "first": 6}, (240 + 1680 + 1440 + 18, 120 + 5 * (48 + 36) + 5 * 72 + 9)),
    Case(
        gated,
        {"after": 6, "before": 6, "simple": 4, "cell": 2},
        (1080 + 1080 + 5 * 40 + 5 * 48 + 6, 5 * 81 + 5 * 54 + 5 * 10 + 5 * 12 + 3),
    ),
    Case(
        both_ways,
        {"concatenated/forward_f": 6, "summed/forward_g": 4},
        (2 * 5 * (288 + 432 + 192) + 12, 2 * 5 * (108 + 108 + 48) + 6),
    ),
    Case(
        film,
        {"frames": 4, "first": 5, "second": 4},
        (7776 + 34560 + 43200 + 8640 + 6912 + 48, 3888 + 10368 + 15552 + 2592 + 1728 + 24),
    ),
    Case(
        attention,
        {"a": 8, "self/heads": 4, "self": 8, "b": 6, "cross/heads": 2, "cross": 10},
        (2760 + 180 + 180 + 240 + 160 + 250 + 200 + 150, 900 + 90 + 45 + 60 + 40 + 125 + 50 + 75),
    ),
    Case(residual_attention, {"a": 8, "self/heads": 4}, (240 + 1440 + 600 + 480 + 120, 120 + 360 + 300 + 120 + 60)),
    Case(
        scores, {"self": 6}, (3 * 360 + 600 + 360 + 90, 3 * 360 + 600 + 180 + 45), {"self/heads": "scores of each away"}
    ),
    Case(
        grouped_attention,
        {"a": 8, "self/heads": 4},
        (240 + 960 + 960 + 1200 + 960 + 120, 120 + 240 + 240 + 600 + 240 + 60),
    ),
    Case(plain_attention, {"a": 8, "c": 4}, (600 + 400 + 300 + 180, 300 + 200 + 150 + 90)),
    Case(products, {"a": 8, "c": 4}, (600 + 200 + 100 + 60, 300 + 100 + 50 + 30)),
    Case(
        einsums,
        {"two/d": 4, "two": 3, "joined": 7, "dots": 9},
        (360 + 420 + 315 + 45 + 135, 5 * 24 + 5 * 16 + 5 * 20 + 25 + 75),
    ),
    Case(
        activations,
        {"a": 4},
        (24 + 16 + 12, 12 + 8 + 12),
        {"b": "softmax"},
        exact=False,
    ),
    Case(
        unknown,
        {},
        (3456 + 256 + 256 + 256 + 12, 3456 + 256 + 256 + 256 + 12),
        {
            "a": "divides by a norm of the whole kernel",
            "spectral": "divides by a norm of the whole kernel",
            "b": "mean and a variance",
            "c": "own is a Doubled, for which there is no channel rule",
            "own": "own is a Doubled, for which there is no channel rule",
            "d": "any takes the Any over it",
        },
    ),
    Case(
        open_lengths,
        {"b": 4, "c": 6},
        (216 + 24 + 48 + 48 + 18, 216 + 24 + 24 + 12 + 9),
        {"a": "line reshapes it to a shape that is not known"},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.build.__name__)
def test_cut_is_masked(case: Case) -> None:
    checked(case)


def test_inexact_channels_are_removed_where_it_is_allowed() -> None:
    graph = channel_graph(normalized(), allow_inexact=True)
    assert {group.name: len(group) for group in graph.prunable} == {"a": 4, "b": 4, "c": 2, "d": 4}


def test_attention_keeps_its_configuration_where_the_width_of_the_queries_says_enough() -> None:
    tied, free = (channel_graph(build()) for build in (residual_attention, attention))
    layer = cut(tied, half(tied)).get_layer("self")
    assert layer.get_config()["output_shape"] is None
    assert layer.num_heads == 2
    smaller = cut(free, half(free))
    assert smaller.get_layer("self").get_config()["output_shape"] is None
    assert smaller.get_layer("cross").get_config()["output_shape"] == (5,)
    wide = removed_channels(free, {"self": [0, 1, 2]})
    assert cut(free, wide).get_layer("self").get_config()["output_shape"] == (5,)


def test_stateful_layers_and_cells_of_others_stay() -> None:
    x = Input((5, 6), batch_size=2)
    y = layers.GRU(4, stateful=True, return_sequences=True, name="stateful")(layers.Dense(4, name="a")(x))
    y = layers.RNN([layers.LSTMCell(2), layers.LSTMCell(2)], name="stacked")(layers.Dense(4, name="b")(y))
    reasons = {group.name: str(group.reason) for group in channel_graph(headed(x, y)).frozen}
    assert "keeps its states from batch to batch" in reasons["stateful"]
    assert "StackedRNNCells" in reasons["b"]
    assert "StackedRNNCells" in reasons["stacked"]


def test_a_factor_for_each_channel_keeps_them() -> None:
    x = Input((4,))
    y = layers.Rescaling([1.0, 2.0, 3.0], name="scaled")(layers.Dense(3, name="a")(x))
    if y.shape[-1] != 3:
        pytest.skip("this Keras gives it another shape")
    reasons = {group.name: group.reason for group in channel_graph(headed(x, y)).frozen}
    assert reasons["a"] == "scaled joins it to values of fixed width"


def test_handles_are_names_of_keras() -> None:
    ops = [keras.src.ops.numpy, keras.src.ops.nn, keras.src.ops.core, keras.src.ops.math, keras.src.ops.image]
    applications = [keras.src.applications.convnext, keras.src.applications.inception_resnet_v2]
    known = {name for module in [*ops, *applications] for name in vars(module)}
    known |= {value.__name__ for value in vars(layers).values() if isinstance(value, type)} | {"ConvLSTM"}
    handles = [
        handle for rule in entries("channel_rule").values() for handle in rule.handles if isinstance(handle, str)
    ]
    assert len(handles) == len(set(handles))
    newer = tuple(int(n) for n in keras.__version__.split(".")[:2]) < (3, 15)
    assert newer or set(handles) <= known, set(handles) - known


def test_a_class_with_a_call_of_its_own_has_no_rule_of_its_base() -> None:
    named = type("Named", (layers.Dense,), {})
    assert rule_of(named(3)) is not None
    assert rule_of(Doubled(3)) is None
    # Keras asks for `convolution_op` to be changed where kernels are to be normalized.
    changed = type("Changed", (layers.Conv2D,), {"convolution_op": lambda self, x, kernel: x})
    described = type("Described", (layers.Conv2D,), {"__init__": lambda self: layers.Conv2D.__init__(self, 3, 1)})
    assert rule_of(changed(3, 1)) is None
    assert rule_of(described()) is not None


def test_heads_are_removed_from_every_weight() -> None:
    keras.utils.set_random_seed(0)
    model = residual_attention()
    graph = channel_graph(model)
    heads = next(group for group in graph.prunable if group.name == "self/heads")
    removed = graph.none_removed()
    removed[heads.units[[0, 2]]] = True
    old, new = model.get_layer("self"), cut(graph, removed).get_layer("self")
    np.testing.assert_array_equal(new.query_dense.kernel, np.asarray(old.query_dense.kernel)[:, [1, 3]])
    np.testing.assert_array_equal(new.value_dense.bias, np.asarray(old.value_dense.bias)[[1, 3]])
    np.testing.assert_array_equal(new.output_dense.kernel, np.asarray(old.output_dense.kernel)[[1, 3]])


@pytest.mark.parametrize("queries", [True, False])
def test_features_that_attention_compares_with_fixed_ones_stay(queries: bool) -> None:
    x = Input((5, 6))
    made = layers.Dense(6, name="a")(x)
    graph = channel_graph(headed(x, layers.Attention()([made, x] if queries else [x, x, made])))
    (reason,) = (str(group.reason) for group in graph.frozen if group.name == "a")
    assert "compares it with features of fixed width" in reason
