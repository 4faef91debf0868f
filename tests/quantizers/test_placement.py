"""Where points appear. A point named `x_quantized` stands behind layer `x`."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.graph import graph
from keras_compress.quantizers.activation import ActivationQuantizer

IMAGE = (8, 8, 3)


def points(model: keras.Model) -> dict[str, ActivationQuantizer]:
    return {
        layer.name.removesuffix("_quantized"): layer.quantizer
        for _, layer in graph.walk(model)
        if isinstance(layer, kc.QuantizeActivation)
    }


def placed(inputs, outputs, **kwargs) -> set[str]:
    model = keras.Model(inputs, outputs)
    made = kc.quantize_model(model, **kwargs)
    data = keras.tree.map_structure(
        lambda t: np.random.default_rng(0).integers(0, 5, (4, *t.shape[1:])).astype(t.dtype), model._inputs_struct
    )
    outputs = keras.tree.flatten(made(data, training=True))
    for left, right in zip(outputs, keras.tree.flatten(model(data)), strict=True):
        scale = np.abs(np.array(right)).max()
        np.testing.assert_allclose(np.array(left), np.array(right), atol=0.2 * scale)
    return set(points(made))


def image(name: str = "in"):
    return keras.Input(IMAGE, name=name)


def conv(x, name: str, **kwargs):
    return layers.Conv2D(3, 3, padding="same", name=name, **kwargs)(x)


def test_one_point_behind_conv_norm_relu() -> None:
    x = image()
    y = layers.ReLU(name="relu")(layers.BatchNormalization(trainable=False, name="norm")(conv(x, "conv")))
    assert placed(x, y) == {"in", "relu"}


@pytest.mark.parametrize(
    ("activation", "expected"),
    [(None, {"in", "conv"}), ("relu", {"in", "conv"}), ("relu6", {"in", "conv"}), ("linear", {"in", "conv"})],
)
def test_fused_activations(activation: str | None, expected: set[str]) -> None:
    x = image()
    assert placed(x, conv(x, "conv", activation=activation)) == expected


def test_activation_inside_a_convolution_before_the_norm_ends_the_chain() -> None:
    x = image()
    y = layers.BatchNormalization(trainable=False, name="norm")(conv(x, "conv", activation="relu"))
    assert placed(x, y) == {"in", "conv", "norm"}


def test_an_output_in_the_middle_of_a_chain_has_a_point_too() -> None:
    x = image()
    middle = conv(x, "conv")
    assert placed(x, [middle, layers.ReLU(name="relu")(middle)]) == {"in", "conv", "relu"}


def test_residual_add_and_relu() -> None:
    x = image()
    y = layers.ReLU(name="relu")(conv(x, "conv1"))
    z = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    z = layers.BatchNormalization(trainable=False, name="norm")(z)
    total = layers.ReLU(name="relu2")(layers.Add(name="add")([y, z]))
    assert placed(x, total) == {"in", "relu", "norm", "relu2"}


def test_concatenation_gives_its_range_to_inputs_with_one_reader() -> None:
    x = image()
    joined = layers.Concatenate(name="concat")([conv(x, "a"), conv(x, "b", activation="relu")])
    assert placed(x, joined) == {"in", "concat"}


def test_concatenation_of_a_tensor_that_others_read() -> None:
    x = image()
    a = conv(x, "a")
    joined = layers.Concatenate(name="concat")([a, conv(x, "b")])
    assert placed(x, [joined, conv(a, "c")]) == {"in", "a", "concat", "c"}


def test_concatenation_of_a_fixed_grid() -> None:
    x = image()
    joined = layers.Concatenate(name="concat")([conv(x, "a", activation="sigmoid"), conv(x, "b")])
    assert placed(x, joined) == {"in", "a_linear", "a", "concat"}


@pytest.mark.parametrize(
    ("name", "scale", "zero_point"),
    [("softmax", 1 / 256, -128), ("sigmoid", 1 / 256, -128), ("tanh", 1 / 128, 0)],
)
@pytest.mark.parametrize("inside", [False, True])
def test_activations_with_a_fixed_grid(name: str, scale: float, zero_point: int, inside: bool) -> None:
    x = keras.Input((6,), name="in")
    if inside:
        y = layers.Dense(3, activation=name, name="head")(x)
    else:
        y = layers.Activation(name, name="head")(layers.Dense(3, name="head_linear")(x))
    model = kc.quantize_model(keras.Model(x, y))
    found = points(model)
    assert set(found) == {"in", "head_linear", "head"}
    assert isinstance(found["head"], kc.FixedGrid)
    assert (found["head"].scale, found["head"].zero_point) == (scale, zero_point)
    assert isinstance(found["head_linear"], kc.MovingAverageRange)
    wide = points(kc.quantize_model(keras.Model(x, y), activations="int16"))
    assert (wide["head"].bits, wide["head"].scale, wide["head"].zero_point) == (16, 1 / 32768, 0)


def test_an_activation_that_no_kernel_fuses_leaves_the_layer() -> None:
    x = keras.Input((6,), name="in")
    y = layers.Dense(3, activation="elu", name="d")(x)
    model = kc.quantize_model(keras.Model(x, y))
    assert [layer.name for layer in model.layers] == [
        "in", "in_quantized", "d", "d_linear_quantized", "d_elu", "d_quantized",
    ]  # fmt: skip
    assert isinstance(points(model)["d"], kc.MovingAverageRange)


@pytest.mark.parametrize(
    "layer",
    [
        lambda **k: layers.MaxPooling2D(2, **k),
        lambda **k: layers.AveragePooling2D(2, **k),
        layers.Flatten,
        lambda **k: layers.Dropout(0.5, **k),
        lambda **k: layers.ZeroPadding2D(**k),
        lambda **k: layers.UpSampling2D(**k),
        lambda **k: layers.UpSampling2D(interpolation="bilinear", **k),
        lambda **k: layers.Reshape((8, 24), **k),
    ],
)
def test_layers_that_keep_the_scale_have_no_point(layer) -> None:
    x = image()
    model = kc.quantize_model(keras.Model(x, layer(name="same")(conv(x, "conv"))))
    assert set(points(model)) == {"in", "conv"}


def test_free_operations_have_a_range_of_their_own() -> None:
    x, y = image("x"), image("y")
    product = layers.Multiply(name="multiply")([conv(x, "a"), conv(y, "b")])
    assert placed([x, y], layers.ReLU(name="relu")(product)) == {"x", "y", "a", "b", "relu"}


def test_a_separable_convolution() -> None:
    x = image()
    y = layers.SeparableConv2D(4, 3, name="separable")(x)
    assert placed(x, layers.ReLU(name="relu")(y)) == {"in", "relu"}


def test_a_layer_used_twice_has_two_points() -> None:
    x = keras.Input((6,), name="in")
    shared = layers.Dense(6, name="shared")
    model = kc.quantize_model(keras.Model(x, shared(shared(x))))
    names = [layer.name for layer in model.layers if isinstance(layer, kc.QuantizeActivation)]
    assert names == ["in_quantized", "shared_quantized", "shared_quantized_1"]
    quantizers = [layer.quantizer for layer in model.layers if isinstance(layer, kc.QuantizeActivation)]
    assert len({id(q) for q in quantizers}) == 3
    assert sum(isinstance(layer, kc.Compressed) for layer in model.layers) == 1


def test_a_nested_model_used_twice_has_its_points_inside() -> None:
    inner_in = keras.Input((6,), name="inner_in")
    base = keras.Model(inner_in, layers.ReLU(name="relu")(layers.Dense(6, name="d")(inner_in)), name="base")
    x = keras.Input((6,), name="in")
    assert placed(x, layers.Dense(2, name="head")(base(base(x)))) == {"in", "relu", "head"}


def test_integer_inputs_have_no_point() -> None:
    tokens, other = keras.Input((5,), dtype="int32", name="tokens"), keras.Input((4,), name="other")
    embedded = layers.Flatten(name="flat")(layers.Embedding(9, 4, name="embedding")(tokens))
    joined = layers.Concatenate(name="concat")([embedded, other])
    outputs = {"y": layers.Dense(2, name="y")(joined), "z": joined}
    assert placed({"tokens": tokens, "other": other}, outputs) == {"other", "concat", "y"}
    assert placed(tokens, layers.Dense(2, name="y")(embedded)) == {"embedding", "y"}


def test_points_are_placed_once() -> None:
    x = keras.Input((6,), name="in")
    model = keras.Model(x, layers.Dense(2, activation="softmax", name="head")(layers.Dense(4, name="d")(x)))
    once = kc.quantize_model(model, weights=None)
    twice = kc.quantize_model(once)
    assert [layer.name for layer in twice.layers] == [layer.name for layer in once.layers]


def test_rules_reach_weights_and_points_of_a_layer() -> None:
    x = image()
    y = layers.ReLU(name="relu1")(layers.BatchNormalization()(conv(x, "first")))
    y = layers.ReLU(name="relu2")(layers.BatchNormalization()(conv(y, "second")))
    model = keras.Model(x, conv(y, "third"))
    rules = [
        {"layers": "first", "weights": "int8", "activations": "int8"},
        {"layers": "last", "skip": True},
    ]
    made = kc.quantize_model(model, weights="int4", activations="int4", rules=rules)
    assert {name: q.bits for name, q in points(made).items()} == {"in": 4, "relu1": 8, "relu2": 4, "third": 4}
    wrappers = {layer.name: layer for layer in made.layers if isinstance(layer, kc.Compressed)}
    assert {name: w.transform_list[0].bits for name, w in wrappers.items()} == {"first": 8, "second": 4}


def test_activations_of_one_layer_may_be_left_alone() -> None:
    x = keras.Input((6,), name="in")
    y = layers.Dense(3, activation="softmax", name="head")(layers.Dense(4, name="d")(x))
    made = kc.quantize_model(keras.Model(x, y), rules=[{"layers": "head", "activations": None}])
    assert set(points(made)) == {"in", "d"}
    only = kc.quantize_model(keras.Model(x, y), activations=None, rules=[{"layers": "d", "activations": "int8"}])
    assert set(points(only)) == {"d"}


@pytest.mark.parametrize("identifier", ["LearnedRange", {"class_name": "LearnedRange", "config": {"bits": 5}}])
def test_quantizers_by_name_and_configuration(identifier) -> None:
    x = keras.Input((6,), name="in")
    made = kc.quantize_model(keras.Model(x, layers.Dense(2, name="d")(x)), activations=identifier)
    found = points(made)
    assert {type(q) for q in found.values()} == {kc.LearnedRange}
    assert len({id(q) for q in found.values()}) == 2
    assert found["d"].bits == (8 if isinstance(identifier, str) else 5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"weights": "MovingAverageRange"}, "or a quantizer out of"),
        ({"weights": kc.CentroidClusterer(4)}, "Expected a weight quantizer"),
        ({"activations": "UniformQuantizer"}, "or a quantizer out of"),
        ({"activations": kc.UniformQuantizer(4)}, "Expected an activation quantizer"),
        ({"weights": "float16"}, "Received: 'float16'"),
        ({"rules": [{"layers": "nothing", "skip": True}]}, "matches none of"),
        ({"filters": "re:nothing"}, "matches none of"),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    x = keras.Input((6,))
    with pytest.raises(ValueError, match=message):
        kc.quantize_model(keras.Model(x, layers.Dense(2)(x)), **kwargs)


def test_the_users_quantizer_object_is_a_template() -> None:
    x = keras.Input((6,), name="in")
    weights, activations = kc.UniformQuantizer(5, per_channel=False), kc.LearnedRange(6)
    made = kc.quantize_model(keras.Model(x, layers.Dense(2, name="d")(x)), weights, activations)
    wrapper = next(layer for layer in made.layers if isinstance(layer, kc.Compressed))
    used = wrapper.transform_list[0]
    assert used is not weights
    assert (used.bits, used.per_channel) == (5, False)
    assert all(q is not activations and q.bits == 6 for q in points(made).values())


def test_quantizers_of_non_negative_values_stand_behind_bounded_relus_too() -> None:
    x = image()
    y = layers.ReLU(max_value=1.0, name="bounded")(conv(x, "conv1"))
    y = layers.MaxPooling2D(name="pool")(layers.ReLU(name="relu")(conv(y, "conv2")))
    found = points(kc.quantize_model(keras.Model(x, conv(y, "conv3")), None, kc.Pact(4)))
    kinds = {name: type(made).__name__ for name, made in found.items()}
    assert kinds["bounded"] == kinds["relu"] == "Pact"
    assert kinds["in"] == kinds["conv3"] == "MovingAverageRange"


def test_quantizers_of_non_negative_values_stand_behind_no_join_with_a_linear_branch() -> None:
    """One branch that may be negative is enough."""
    x = image()
    relu, linear = layers.ReLU(name="relu")(conv(x, "conv1")), conv(x, "conv2")
    for branches in ([relu, linear], [linear, relu]):
        joined = keras.Model(x, layers.Concatenate(name="join")(branches))
        with pytest.raises(ValueError, match="Expected a model with a ReLU.*every point may hold negative values"):
            kc.quantize_model(joined, None, kc.Pact(4))
        added = kc.quantize_model(keras.Model(x, layers.Add(name="add")(branches)), None, kc.Pact(4))
        kinds = {name: type(made).__name__ for name, made in points(added).items()}
        assert kinds["relu"] == "Pact"
        assert kinds["add"] == kinds["conv2"] == "MovingAverageRange"
    both = layers.Concatenate(name="join")([relu, layers.ReLU(name="other")(linear)])
    found = points(kc.quantize_model(keras.Model(x, both), None, kc.Pact(4)))
    assert type(found["join"]).__name__ == "Pact"


def test_a_model_whose_channels_are_still_masked_is_refused_with_the_call_to_make_first() -> None:
    x = keras.Input((6,))
    model = keras.Model(x, layers.Dense(2)(layers.Dense(8, name="d", activation="relu")(x)))
    masked = kc.mask_channels(model, kc.ConstantSparsity(0.5, 0))
    for weights in ("int8", None):
        with pytest.raises(ValueError, match=r"kc\.cut_masked\(model\)"):
            kc.quantize_model(masked, weights)
