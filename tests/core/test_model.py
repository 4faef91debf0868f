from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.graph import graph
from keras_compress.graph.initial_values import made_with_values
from keras_compress.graph.model import check_model, compressed_layers, copy_layer, positive_gammas, rebuild

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.normal(size=(4, 6, 6, 3)).astype(np.float32)
X = RANDOM.normal(size=(8, 6)).astype(np.float32)


def dense() -> keras.Model:
    hidden = layers.Dense(5, activation="relu", name="a")
    return keras.Sequential([keras.Input((6,)), hidden, layers.Dense(2, name="b")])


def conv_net() -> keras.Model:
    inputs = keras.Input((6, 6, 3), name="image")
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(inputs)
    y = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(y))
    z = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    z = layers.BatchNormalization(name="norm2")(z)
    y = layers.ReLU(name="relu2")(layers.Add(name="add")([y, z]))
    y = layers.GlobalAveragePooling2D(name="pool")(y)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(y))


def randomize(model: keras.Model) -> keras.Model:
    random = np.random.default_rng(3)
    for v in model.variables:
        if v.dtype == "float32":
            values = random.normal(size=v.shape) * 0.5
            v.assign(np.abs(values) + 0.5 if "variance" in v.path else values)
    return model


def same(first, second, inputs, atol: float = 1e-6) -> None:
    a, b = keras.tree.flatten(first(inputs)), keras.tree.flatten(second(inputs))
    assert len(a) == len(b)
    for left, right in zip(a, b):
        np.testing.assert_allclose(np.array(left), np.array(right), atol=atol)
        assert np.abs(np.array(left)).max() > 0


# Bad input


def test_tf_keras_model_is_refused_with_the_cure() -> None:
    fake = type("Sequential", (), {"__module__": "tf_keras.src.engine.sequential"})()
    with pytest.raises(TypeError, match="Received: a tf_keras .* unset TF_USE_LEGACY_KERAS"):
        kc.prune_low_magnitude(fake)


@pytest.mark.parametrize("thing", [None, "model.keras", layers.Dense(2)])
def test_not_a_model(thing) -> None:
    for entry in (kc.prune_low_magnitude, kc.cluster_weights, kc.quantize_model, kc.strip):
        with pytest.raises(TypeError, match="Expected a keras.Model"):
            entry(thing)


def test_unbuilt_model() -> None:
    model = keras.Sequential([layers.Dense(3)], name="raw")
    for entry in (kc.prune_low_magnitude, kc.cluster_weights, kc.quantize_model, kc.strip):
        with pytest.raises(ValueError, match="Expected a built model.*Received: 'raw'"):
            entry(model)


def test_model_without_a_compressible_layer() -> None:
    model = keras.Sequential([keras.Input((6,)), layers.ReLU()], name="empty")
    with pytest.raises(ValueError, match="Received: 'empty', which has none"):
        kc.prune_low_magnitude(model)


def test_channels_first() -> None:
    inputs = keras.Input((3, 6, 6))
    model = keras.Model(inputs, layers.Conv2D(2, 3, data_format="channels_first", name="bad")(inputs))
    with pytest.raises(ValueError, match="Received: layer 'bad' with 'channels_first'"):
        kc.quantize_model(model)


def test_model_that_keras_quantized() -> None:
    model = dense()
    model.layers[0].quantize("int8")
    with pytest.raises(ValueError, match="start from the float model. Received: layer 'a' in mode 'int8'"):
        kc.cluster_weights(model)


def test_another_backend_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="set KERAS_BACKEND=tensorflow. Received: jax"):
        check_model(dense())


@pytest.mark.parametrize("bits", [0, 1, 9, 33])
def test_bits_out_of_range(bits: int) -> None:
    for kwargs in ({"weights": f"int{bits}"}, {"activations": f"int{bits}"}):
        with pytest.raises(ValueError, match=f"Received: bits={bits}"):
            kc.quantize_model(dense(), **kwargs)


def test_one_cluster_and_full_sparsity() -> None:
    with pytest.raises(ValueError, match="Received: number_of_clusters=1"):
        kc.cluster_weights(dense(), number_of_clusters=1)
    config = {"class_name": "ConstantSparsity", "config": {"target_sparsity": 1.0, "begin_step": 0}}
    with pytest.raises(ValueError, match="Received: target_sparsity=1.0"):
        kc.prune_low_magnitude(dense(), config)


# Copies


def test_the_original_is_untouched() -> None:
    model = randomize(dense())
    before = [np.array(v) for v in model.variables]
    config = model.get_config()
    made = kc.quantize_model(kc.cluster_weights(kc.prune_low_magnitude(model), 4))
    made(X, training=True)
    for variable in made.trainable_variables:
        variable.assign(variable + 1.0)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, np.array(variable))
    assert model.get_config() == config
    assert not {id(v) for v in model.variables} & {id(v) for v in made.variables}


def test_layer_and_model_names_are_kept() -> None:
    model = conv_net()
    pruned = kc.prune_low_magnitude(model)
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in model.layers]
    assert pruned.name == model.name
    assert [tensor.name for tensor in pruned.inputs] == ["image"]
    assert isinstance(kc.prune_low_magnitude(dense()), keras.Sequential)


def test_trainable_flags_and_dtype_policies_are_kept() -> None:
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, dtype="mixed_float16", name="a"), layers.Dense(2, name="b")]
    )
    model.layers[1].trainable = False
    pruned = kc.prune_low_magnitude(model)
    assert [layer.layer.dtype_policy.name for layer in pruned.layers] == ["mixed_float16", "float32"]
    assert len(pruned.trainable_variables) == 2


def test_an_adapted_normalization_is_copied_with_its_values() -> None:
    norm = layers.Normalization()
    norm.adapt(X * 5 + 3)
    model = keras.Sequential([keras.Input((6,)), norm, layers.Dense(3)])
    same(model, kc.strip(model), X)
    same(model, kc.prune_low_magnitude(model), X)


def test_a_layer_whose_config_makes_other_variables_is_refused() -> None:
    class Odd(layers.Layer):
        def __init__(self, units=0, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, shape):
            self.extra = [self.add_weight(shape=(2,)) for _ in range(self.units)]

        def call(self, x):
            return x

    odd = Odd(2, name="odd")
    odd.build((None, 6))
    odd.get_config = lambda: {"name": "odd"}
    with pytest.raises(ValueError, match="Received: Odd 'odd': 0 variables instead of 2"):
        copy_layer(odd)


def test_inputs_and_outputs_in_dictionaries_keep_their_structure() -> None:
    inputs = {"b": keras.Input((6,), name="b"), "a": keras.Input((4,), name="a")}
    y = layers.Concatenate()([layers.Dense(3)(inputs["a"]), layers.Dense(3)(inputs["b"])])
    model = keras.Model(inputs, {"z": layers.Dense(1, name="z")(y), "k": [y, layers.Dense(2, name="k")(y)]})
    data = {"a": X[:, :4], "b": X}
    for made in (kc.prune_low_magnitude(model), kc.strip(model)):
        outputs = made(data)
        assert set(outputs) == {"z", "k"}
        assert isinstance(outputs["k"], list)
        assert {tensor.name for tensor in made.inputs} == {"a", "b"}
        same(model, made, data)
    points = kc.quantize_model(model)
    points(data, training=True)
    same(points, kc.strip(points), data)


def test_operations_between_layers_are_rebuilt() -> None:
    inputs = keras.Input((6,))
    y = layers.Dense(4)(inputs)
    y = keras.ops.concatenate([y * 2.0 + 1.0, keras.ops.reshape(y, (-1, 4))], axis=-1)
    model = keras.Model(inputs, layers.Dense(2)(y[:, 1:5]))
    same(model, kc.prune_low_magnitude(model), X)


def test_a_layer_used_twice_stays_one_layer() -> None:
    inputs = keras.Input((6,))
    shared = layers.Dense(6, name="shared")
    model = keras.Model(inputs, shared(shared(inputs)))
    pruned = kc.prune_low_magnitude(model)
    assert [path for path, _ in compressed_layers(pruned)] == ["shared"]
    assert len(pruned.trainable_variables) == 2
    same(model, pruned, X)


def test_paths_of_nested_models() -> None:
    base = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="d")], name="base")
    middle_in = keras.Input((6,))
    middle = keras.Model(middle_in, layers.Dense(6, name="m")(base(middle_in)), name="middle")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(1, name="head")(middle(base(inputs))))
    paths = [path for path, _ in graph.walk(model) if not path.startswith("keras_tensor")]
    assert [p for p in paths if "input" not in p] == ["base/d", "middle/m", "head"]
    pruned = kc.prune_low_magnitude(model, filters="middle/m")
    assert [path for path, _ in compressed_layers(pruned)] == ["middle/m"]
    same(model, pruned, X)


# Negative gammas


def gammas(model: keras.Model) -> list[float]:
    return [float(g) for layer in model.layers if hasattr(layer, "gamma") for g in np.array(layer.gamma)]


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Conv2D(4, 3),
        lambda: layers.Conv2D(4, 3, use_bias=False),
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        lambda: layers.Conv2DTranspose(4, 3),
        lambda: layers.Dense(4),
    ],
)
def test_negative_gammas_change_sign_with_the_channel(layer) -> None:
    model = keras.Sequential([keras.Input((6, 6, 3)), layer(), layers.BatchNormalization(), layers.ReLU()])
    randomize(model)
    gamma = model.layers[1].gamma
    gamma.assign(gamma * np.resize([-1, 1], gamma.shape))
    assert min(gammas(model)) < 0
    made = positive_gammas(model)
    assert min(gammas(made)) > 0
    np.testing.assert_allclose(gammas(made), np.abs(gammas(model)))
    same(model, made, IMAGE)


def test_negative_gammas_of_models_from_files_and_of_models_made_here(tmp_path) -> None:
    model = randomize(keras.Sequential([keras.Input((6,)), layers.Dense(3), layers.BatchNormalization()]))
    model.save(tmp_path / "m.keras")
    for made in (keras.models.load_model(tmp_path / "m.keras"), kc.strip(model)):
        assert min(gammas(made)) < 0
        assert min(gammas(kc.prune_low_magnitude(made))) > 0
        same(made, kc.prune_low_magnitude(made), X)


def test_a_normalization_shared_with_another_tensor_is_left_alone() -> None:
    inputs = keras.Input((6,))
    norm = layers.BatchNormalization()
    model = randomize(keras.Model(inputs, [norm(layers.Dense(6)(inputs)), norm(inputs)]))
    assert min(gammas(model)) < 0
    same(model, kc.prune_low_magnitude(model), X)


def test_gammas_stay_where_folding_is_impossible() -> None:
    inputs = keras.Input((6,))
    y = layers.Dense(3, activation="relu")(inputs)
    z = layers.Dense(3)(inputs)
    outputs = [layers.BatchNormalization()(y), layers.BatchNormalization()(z), z]
    model = randomize(keras.Model(inputs, outputs))
    made = kc.prune_low_magnitude(model)
    assert gammas(made) == gammas(model)
    same(model, made, X)


# strip


def compressed(model: keras.Model, x: np.ndarray) -> keras.Model:
    schedule = kc.ConstantSparsity(0.5, 0, end_step=0)
    made = kc.quantize_model(kc.cluster_weights(kc.prune_low_magnitude(model, schedule), 5))
    made(x, training=True)
    made(x, training=True)
    for variable in made.trainable_variables:  # as if it had learned something
        variable.assign(variable * 1.01)
    return made


def test_strip_gives_plain_keras_with_the_same_outputs(tmp_path) -> None:
    model = compressed(randomize(conv_net()), IMAGE)
    plain = kc.strip(model)
    np.testing.assert_array_equal(np.array(model(IMAGE)), np.array(plain(IMAGE)))
    assert np.abs(np.array(plain(IMAGE))).max() > 0
    for operation in plain.operations:
        assert type(operation).__module__.startswith("keras."), operation
    kernel = np.array(plain.get_layer("conv").kernel)
    assert (kernel == 0).mean() >= 0.5
    assert len(np.unique(kernel)) <= 5
    plain.save(tmp_path / "plain.keras")
    with open(tmp_path / "plain.keras", "rb") as file:
        assert b"keras_compress" not in file.read()
    again = keras.models.load_model(tmp_path / "plain.keras")
    np.testing.assert_array_equal(np.array(again(IMAGE)), np.array(plain(IMAGE)))


def test_strip_under_float16() -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = compressed(dense(), X)
        plain = kc.strip(model)
        np.testing.assert_array_equal(np.array(model(X)), np.array(plain(X)))
        assert np.array(plain(X)).dtype == np.float16
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_strip_of_a_plain_model_is_a_copy() -> None:
    model = randomize(conv_net())
    plain = kc.strip(model)
    np.testing.assert_array_equal(np.array(model(IMAGE)), np.array(plain(IMAGE)))
    assert plain is not model
    assert plain.get_layer("conv") is not model.get_layer("conv")


def test_strip_keeps_shared_layers_and_nested_models() -> None:
    base = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="d")], name="base")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(2)(base(base(inputs))))
    made = compressed(model, X)
    plain = kc.strip(made)
    np.testing.assert_array_equal(np.array(made(X)), np.array(plain(X)))
    assert len(plain.trainable_variables) == 4


def test_strip_says_which_schedules_have_not_ended() -> None:
    model = kc.prune_low_magnitude(dense(), kc.PolynomialDecay(0.0, 0.5, 0, 10), filters="a")
    with pytest.warns(UserWarning, match="a: pruning has not begun: no training step was made"):
        kc.strip(model)
    model(X, training=True)
    with pytest.warns(UserWarning, match="a: pruning stopped at step 1, before its end_step 10"):
        kc.strip(model)


def test_strip_of_a_point_with_a_grid_of_its_own() -> None:
    inputs = keras.Input((6,))
    grid = kc.FixedGrid(0.25, 3, lowest=-2, rounding="half_away")
    model = keras.Model(inputs, kc.QuantizeActivation(grid)(layers.Dense(4)(inputs)))
    values = [np.array(m(X)) for m in (model, kc.strip(model))]
    np.testing.assert_array_equal(*values)
    assert values[0].min() == -1.25  # (-2 - 3) / 4
    names = [op.name for op in kc.strip(model).operations]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.LSTM(4, stateful=True),
        lambda: layers.LSTM(300, stateful=True),
        lambda: layers.Bidirectional(layers.GRU(3, stateful=True)),
        lambda: layers.RNN([layers.LSTMCell(2), layers.GRUCell(3)], stateful=True),
    ],
)
def test_recurrent_layers_that_keep_their_states_are_copied(make) -> None:
    """Keras makes states of tensors, which cannot be put off until the values of the original are at hand."""
    steps = keras.Input(batch_shape=(2, 5, 3))
    model = keras.Model(steps, make()(steps))
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    fresh = np.array(model(x))
    copy = rebuild(model)
    after = np.array(model(x))
    assert not np.allclose(fresh, after)
    # States are no part of a layer's variables, nor of a file: a copy begins with zeros, and goes on as the original.
    for expected in (fresh, after):
        np.testing.assert_array_equal(np.array(copy(x)), expected)


def test_what_cannot_be_put_off_is_made_at_once() -> None:
    """States of a convolution over time; and a layer of Keras's with variables that begin with tensors."""
    steps = keras.Input(batch_shape=(1, 3, 4, 4, 2))
    model = keras.Model(steps, layers.ConvLSTM2D(2, 3, stateful=True)(steps))
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(np.array(rebuild(model)(x)), np.array(model(x)))
    source = layers.Dense(2)
    source.build((None, 3))

    def make() -> layers.Layer:
        made = layers.Dense(2)
        made.steps = keras.Variable(np.float32(3.0))
        made.build((None, 3))
        return made

    made, known = made_with_values(source, make)
    assert not known
    assert float(made.steps) == 3.0
