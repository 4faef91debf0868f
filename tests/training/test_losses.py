"""Losses that layers add count exactly once, however deep the wrappers are."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_compress as kc

X = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
Y = np.zeros((8, 3), np.float32)
# Prunes after the test has ended: the wrapped layer computes what the plain one does.
LATE = kc.ConstantSparsity(0.5, begin_step=1000)


@keras.saving.register_keras_serializable("tests_training")
class Penalised(layers.Dense):
    """A layer that calls `add_loss` itself."""

    def call(self, inputs, training=None):
        self.add_loss(0.1 * ops.mean(ops.square(self.kernel)) + 0.2 * ops.mean(ops.abs(inputs)))
        return super().call(inputs)


def chain() -> list[keras.layers.Layer]:
    return [
        layers.Dense(6, activity_regularizer=keras.regularizers.L2(0.3), name="active"),
        Penalised(6, kernel_regularizer=keras.regularizers.L1(0.01), name="penalised"),
    ]


def flat() -> keras.Model:
    return keras.Sequential([keras.Input((6,)), *chain(), layers.Dense(3)])


def nested_and_called_twice() -> keras.Model:
    block = keras.Sequential([keras.Input((6,)), *chain()], name="block")
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3)(block(block(inputs))))


def in_two_wrappers() -> keras.Model:
    model = flat()
    inner = [kc.Compressed(layer, {"kernel": [kc.MagnitudePruner(LATE)]}) for layer in model.layers]
    block = keras.Sequential([keras.Input((6,)), *inner])
    # A wrapper in a wrapped Sequential in a wrapper.
    return keras.Sequential([keras.Input((6,)), kc.Compressed(kc.Compressed(block, {}, name="in"), {}, name="out")])


def pruned(model: keras.Model) -> keras.Model:
    return kc.prune_low_magnitude(model, LATE)


CASES = {
    "flat": (flat, lambda: pruned(flat())),
    "nested, called twice": (nested_and_called_twice, lambda: pruned(nested_and_called_twice())),
    "in two wrappers": (flat, in_two_wrappers),
    "prune, cluster": (lambda: kc.strip(clustered()), lambda: clustered()),
}


def clustered() -> keras.Model:
    return kc.cluster_weights(pruned(flat()), 256)


def seeded(make) -> keras.Model:
    keras.utils.set_random_seed(0)
    return make()


@pytest.mark.filterwarnings("ignore:.*pruning has not begun")
@pytest.mark.parametrize("name", CASES)
def test_the_sum_of_losses_is_the_plain_model_s(name: str) -> None:
    plain, wrapped = (seeded(make) for make in CASES[name])
    plain(X, training=True)
    expected = sum(float(loss) for loss in plain.losses)
    for _ in range(2):  # The losses of the call before are gone.
        wrapped(X, training=True)
        assert sum(float(loss) for loss in wrapped.losses) == pytest.approx(expected, rel=1e-5)
        assert len(wrapped.losses) == len(plain.losses)
    assert expected > 0.1


@pytest.mark.parametrize("settings", [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}], ids=str)
@pytest.mark.parametrize("name", ["nested, called twice", "in two wrappers"])
def test_the_loss_of_a_training_step_is_the_plain_model_s(name: str, settings: dict) -> None:
    found = []
    for make in CASES[name]:
        model = seeded(make)
        model.compile(keras.optimizers.SGD(0.1), "mse", **settings)
        found.append([float(model.train_on_batch(X, Y)) for _ in range(3)])
    # The second loss and the third say that the gradients were those of the plain model too.
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[0][2] < 0.9 * found[0][0]


def test_losses_count_once_in_a_stateless_call() -> None:
    found = []
    for make in (flat, lambda: pruned(flat())):
        model = seeded(make)
        values = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]
        _, _, losses = model.stateless_call(*values, X, training=True, return_losses=True)
        found.append([float(loss) for loss in losses])
    assert sorted(found[1]) == pytest.approx(sorted(found[0]), rel=1e-5)
    assert len(found[0]) == 3
