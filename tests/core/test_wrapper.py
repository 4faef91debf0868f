from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.core.transform import WeightTransform, check_order

X = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
LATE = kc.ConstantSparsity(0.5, begin_step=1000)


def steps(model: keras.Model) -> set[int]:
    return {
        int(t.step)
        for layer in model._flatten_layers()
        if isinstance(layer, kc.Compressed)
        for t in layer.transform_list
    }


def dense_model() -> keras.Model:
    return keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="relu"), layers.Dense(2)])


def pruned(model: keras.Model) -> keras.Model:
    return kc.prune_low_magnitude(model, LATE)


def test_an_unbuilt_layer_is_built_with_the_wrapper(tmp_path) -> None:
    clusterer = kc.CentroidClusterer(3)
    model = keras.Sequential([kc.Compressed(layers.Dense(5, name="late"), {"kernel": [clusterer]})])
    assert not model.layers[0].built
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    outputs = np.array(model(x))
    wrapper = model.layers[0]
    assert len(np.unique(np.array(wrapper.weight("kernel")))) == 3
    assert np.abs(np.array(clusterer.centroids)).min() > 0  # of the initial weights
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(outputs, np.array(keras.models.load_model(tmp_path / "m.keras")(x)))


class Late(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.late = kc.Compressed(layers.Dense(5, name="late"), {"kernel": [kc.CentroidClusterer(3)]})

    def call(self, inputs, training=False):
        return self.late(inputs)


def test_a_layer_that_fit_builds_while_it_traces_begins_with_its_weight() -> None:
    model = Late()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(np.zeros((4, 6)), np.zeros((4, 5)), verbose=0)
    expected = model.late.transform_list[0](model.late.latent("kernel").value)
    np.testing.assert_array_equal(np.array(model.late.weight("kernel")), np.array(expected))
    assert np.ptp(np.array(expected)) > 0


class Doubling(layers.Layer):
    """A layer to stand in a wrapper's other places."""

    def call(self, inputs, training=None):
        return inputs * (2.0 if training else 3.0)


def test_layers_before_and_behind_the_wrapped_one() -> None:
    keras.utils.set_random_seed(0)
    dense = layers.Dense(2, use_bias=False)
    dense.build((None, 3))
    x = np.ones((1, 3), np.float32)
    plain = np.array(dense(x))
    for training, factor in ((False, 3.0), (True, 2.0)):
        before = kc.Compressed(dense, {}, input_point=Doubling())(x, training=training)
        behind = kc.Compressed(dense, {}, gradients=Doubling())(x, training=training)
        np.testing.assert_allclose(np.array(before), factor * plain, atol=1e-5)
        np.testing.assert_allclose(np.array(behind), factor * plain, atol=1e-5)
    assert "gradients" not in kc.Compressed(dense, {}).get_config()


def test_an_unknown_slot_is_refused() -> None:
    layer = layers.Dense(2, name="d")
    layer.build((None, 3))
    with pytest.raises(ValueError, match=r"slots of Dense 'd': \['kernel'\]. Received: \['bias'\]"):
        kc.Compressed(layer, {"bias": [kc.UniformQuantizer(8)]})


def test_a_transform_without_wrapper_says_so() -> None:
    with pytest.raises(ValueError, match="no wrapper has built yet"):
        _ = kc.UniformQuantizer(8).weight_shape


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [quantizer(), clusterer()], "CentroidClusterer after UniformQuantizer, whose 'grid'"),
        (lambda: [clusterer(), pruner()], "MagnitudePruner after CentroidClusterer, whose 'codebook'"),
        (lambda: [clusterer(cluster_per_channel=True), pruner()], "whose 'channel_codebook'"),
        (lambda: [quantizer(), quantizer()], "UniformQuantizer after UniformQuantizer, whose 'grid'"),
        (lambda: [clusterer(), clusterer()], "CentroidClusterer after CentroidClusterer"),
        (lambda: [pruner(), quantizer(), clusterer()], "whose 'grid' it would break"),
    ],
)
def test_orders_that_break_a_promise_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_order(make())


def pruner() -> WeightTransform:
    return kc.MagnitudePruner(LATE)


def clusterer(**kwargs) -> WeightTransform:
    return kc.CentroidClusterer(4, **kwargs)


def quantizer() -> WeightTransform:
    return kc.UniformQuantizer(8)


def test_promises_add_up() -> None:
    assert check_order([]) == frozenset()
    assert check_order([pruner(), clusterer(), quantizer()]) == {"zeros", "codebook", "grid"}
    assert check_order([pruner(), clusterer(cluster_per_channel=True)]) == {"zeros", "channel_codebook"}
    assert check_order([quantizer(), pruner()]) == {"zeros", "grid"}


def test_wrong_order_is_refused_by_the_entry_points() -> None:
    quantized = kc.quantize_model(dense_model())
    with pytest.raises(ValueError, match="in the order prune, cluster, quantize"):
        kc.cluster_weights(quantized, 4)


def test_gradients_reach_the_latent_weight_and_the_inner_bias() -> None:
    layer = layers.Dense(2)
    layer.build((None, 3))
    layer.kernel.assign([[1.0, 0.1], [0.2, -3.0], [0.3, 2.0]])
    wrapper = kc.Compressed(layer, {"kernel": [kc.MagnitudePruner(kc.ConstantSparsity(0.5, 0))]})
    x = tf.constant([[1.0, 10.0, 100.0]])
    with tf.GradientTape() as tape:
        y = wrapper(x, training=True)
        loss = tf.reduce_sum(y)
    assert y.numpy().tolist() == [[1.0, 170.0]]
    to_kernel, to_bias = tape.gradient(loss, [layer.kernel.value, layer.bias.value])
    assert to_kernel.numpy().tolist() == [[1.0, 0.0], [0.0, 10.0], [0.0, 100.0]]
    assert to_bias.numpy().tolist() == [1.0, 1.0]
    assert len(wrapper.trainable_variables) == 2


def test_a_layer_used_twice_counts_one_step() -> None:
    inputs = keras.Input((6,))
    shared = layers.Dense(6)
    model = pruned(keras.Model(inputs, layers.Dense(2)(shared(shared(inputs)))))
    wrappers = [layer for layer in model.layers if isinstance(layer, kc.Compressed)]
    assert len(wrappers) == 2
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(X, np.zeros((8, 2)), batch_size=4, epochs=3, verbose=0)
    assert steps(model) == {6}


def test_a_model_called_twice_in_an_outer_model_counts_one_step() -> None:
    inner = pruned(keras.Sequential([keras.Input((6,)), layers.Dense(6)]))
    inputs = keras.Input((6,))
    outer = keras.Model(inputs, inner(inner(inputs)))
    outer.compile("sgd", "mse", run_eagerly=True)
    outer.fit(X, np.zeros((8, 6)), batch_size=4, verbose=0)
    assert steps(outer) == {2}


def test_a_nested_model_is_wrapped_inside_and_used_twice() -> None:
    base = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="d")], name="base")
    inputs = keras.Input((6,))
    model = pruned(keras.Model(inputs, base(base(inputs))))
    nested = model.get_layer("base")
    assert isinstance(nested.layers[0], kc.Compressed)
    assert len(model.trainable_variables) == 2
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(X, np.zeros((8, 6)), batch_size=8, epochs=2, verbose=0)
    assert steps(model) == {2}


def test_gradient_accumulation_counts_batches() -> None:
    model = pruned(dense_model())
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4), "mse", jit_compile=False)
    model.fit(X, np.zeros((8, 2)), batch_size=2, verbose=0)
    assert steps(model) == {4}


def test_steps_per_execution_counts_batches() -> None:
    model = pruned(dense_model())
    model.compile("sgd", "mse", jit_compile=False, steps_per_execution=2)
    model.fit(X, np.zeros((8, 2)), batch_size=2, verbose=0)
    assert steps(model) == {4}


@pytest.mark.parametrize("traced", [False, True])
def test_a_loop_of_ones_own_counts_steps(traced: bool) -> None:
    model = pruned(dense_model())
    optimizer = keras.optimizers.SGD(0.1)

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(x, training=True) ** 2)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)

    optimizer.build(model.trainable_variables)
    run = tf.function(step) if traced else step
    for _ in range(3):
        run(tf.constant(X))
    assert steps(model) == {3}


def test_inference_counts_nothing() -> None:
    model = pruned(dense_model())
    model(X)
    model.predict(X, verbose=0)
    model.compile("sgd", "mse", run_eagerly=True)
    model.evaluate(X, np.zeros((8, 2)), verbose=0)
    assert steps(model) == {0}


def test_subclassed_outer_model_trains_the_compressed_one_in_it() -> None:
    class Outer(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x, training=None):
            return self.inner(x, training=training)

    inner = kc.prune_low_magnitude(dense_model(), kc.ConstantSparsity(0.5, 0), scope="global")
    outer = Outer(inner)
    outer.compile("sgd", "mse", run_eagerly=True)
    outer.fit(X, np.zeros((8, 2)), batch_size=4, verbose=0)
    assert steps(inner) == {2}
    masks = np.concatenate([np.array(w.transform_list[0].mask).ravel() for w in inner.layers])
    assert masks.sum() == 20


def test_activity_regularizer_is_counted_once() -> None:
    def build(wrap: bool) -> float:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6,)), layers.Dense(3, activity_regularizer="l2")])
        model = pruned(model) if wrap else model
        model(X, training=True)
        return float(sum(model.losses))

    assert build(True) == pytest.approx(build(False), rel=1e-6)
    assert build(False) > 0


def test_moving_averages_inside_the_wrapper_move() -> None:
    """Spectral normalization assigns its vector during the call: the wrapper has to let that through."""

    class Counting(layers.Dense):
        def build(self, shape):
            super().build(shape)
            self.calls = self.add_weight(name="calls", trainable=False, initializer="zeros")

        def call(self, inputs, training=False):
            if training:
                self.calls.assign(self.calls + 1.0)
            return super().call(inputs)

    layer = Counting(2)
    layer.build((None, 6))
    wrapper = kc.Compressed(layer, {"kernel": [pruner()]})
    wrapper(X, training=True)
    wrapper(X, training=True)
    wrapper(X)
    assert float(layer.calls) == 2.0


def test_dropout_in_the_layer_follows_training_and_masks_pass() -> None:
    inputs = keras.Input((5,), dtype="int32")
    embedded = layers.Embedding(7, 4, mask_zero=True)(inputs)
    model = keras.Model(inputs, layers.LSTM(3, dropout=0.5)(embedded))
    tokens = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 6, 0]])
    wrapped = pruned(model)
    np.testing.assert_allclose(np.array(wrapped(tokens)), np.array(model(tokens)), atol=1e-6)
    assert np.abs(np.array(wrapped(tokens, training=True)) - np.array(wrapped(tokens))).max() > 1e-3


def test_explicit_initial_state_goes_through() -> None:
    inputs, state = keras.Input((4, 3)), keras.Input((2,))
    model = keras.Model([inputs, state], layers.GRU(2)(inputs, initial_state=state))
    x, s = np.ones((2, 4, 3), np.float32), np.full((2, 2), 0.7, np.float32)
    np.testing.assert_allclose(np.array(pruned(model)([x, s])), np.array(model([x, s])), atol=1e-6)


def test_float16_policy_leaves_latents_and_transforms_in_float32() -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        seen = []

        class Spy(kc.MagnitudePruner):
            def call(self, weight, training=False):
                seen.append((weight.dtype, float(tf.reduce_max(weight))))
                return super().call(weight, training)

        layer = layers.Dense(2)
        layer.build((None, 6))
        layer.kernel.assign(np.full((6, 2), 1.0009765, np.float32))
        wrapper = kc.Compressed(layer, {"kernel": [Spy(LATE)]})

        class Outer(keras.Model):
            def __init__(self):
                super().__init__()
                self.wrapper = wrapper

            def call(self, x):
                return self.wrapper(x)

        outputs = Outer()(X)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert outputs.dtype == tf.float16
    assert seen == [(tf.float32, np.float32(1.0009765))]
    assert {v.dtype for v in wrapper.variables} == {"float32", "bool", "int64"}


def test_a_frozen_layer_trains_no_centroid() -> None:
    model = dense_model()
    model.layers[0].trainable = False
    clustered = kc.cluster_weights(model, 4)
    clustered.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True)
    before = [np.array(v) for v in clustered.layers[0].variables]
    clustered.fit(X, np.ones((8, 2)), verbose=0)
    for old, new in zip(before, clustered.layers[0].variables):
        np.testing.assert_array_equal(old, np.array(new))
    assert len(clustered.trainable_variables) == 3
    again = kc.strip(clustered)
    assert [layer.trainable for layer in again.layers] == [False, True]


def test_calls_stack_in_one_wrapper() -> None:
    model = kc.prune_low_magnitude(dense_model(), kc.ConstantSparsity(0.5, 0))
    model = kc.quantize_model(kc.cluster_weights(model, 4), activations=None)
    for layer in model.layers:
        assert isinstance(layer, kc.Compressed)
        assert isinstance(layer.layer, layers.Dense)
        names = [type(t).__name__ for t in layer.transforms["kernel"]]
        assert names == ["MagnitudePruner", "CentroidClusterer", "UniformQuantizer"]
        assert layer.transform_list[1].made == {"zeros"}
        assert layer.transform_list[2].made == {"zeros", "codebook"}


def test_a_transform_sees_what_the_ones_before_it_made() -> None:
    layer = layers.Dense(1)
    layer.build((None, 4))
    layer.kernel.assign([[4.0], [3.0], [0.2], [0.1]])
    pruner = kc.MagnitudePruner(kc.ConstantSparsity(0.5, 0))
    quantizer = kc.UniformQuantizer(2)
    wrapper = kc.Compressed(layer, {"kernel": [pruner, quantizer]})
    wrapper(np.ones((1, 4), np.float32), training=True)
    assert np.array(wrapper.weight("kernel", stop_before=pruner)).ravel() == pytest.approx([4, 3, 0.2, 0.1])
    assert np.array(wrapper.weight("kernel", stop_before=quantizer)).ravel() == pytest.approx([4, 3, 0, 0])
    assert np.array(wrapper.weight("kernel")).ravel() == pytest.approx([4, 4, 0, 0])


def test_a_wrapped_layer_passes_on_the_mask_that_the_layer_would():
    inputs = keras.Input((3, 4))
    masked = keras.layers.Masking()(inputs)
    both = [keras.layers.LSTM(2)(masked), keras.layers.LSTM(2, return_sequences=True)(masked)]
    made = kc.prune_low_magnitude(keras.Model(inputs, both))(np.ones((2, 3, 4), np.float32))
    assert [getattr(y, "_keras_mask", None) is None for y in made] == [True, False]
