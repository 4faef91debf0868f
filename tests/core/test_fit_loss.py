"""A loss of examples against what `fit` and `evaluate` take."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.data.examples import Examples
from keras_compress.data.fit_loss import FitLoss
from keras_compress.pruning.criteria.gradients import LossGradients
from keras_compress.pruning.scored import scored_model

# y = w x of w = 1: outputs are the inputs. By hand for (x - y)^2: loss 1/3, gradient 2/3 sum (x - y) x = 2.
X = np.array([[1.0], [2.0], [3.0]], np.float32)
Y = np.array([1.0, 2.0, 2.0], np.float32)


def own(targets, outputs):
    return keras.ops.square(targets - outputs)


@pytest.fixture(scope="module")
def line() -> keras.Model:
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, name="d")])
    model.layers[0].kernel.assign([[1.0]])
    return model


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (own, 1 / 3),
        ("mse", 1 / 3),
        (keras.losses.mean_squared_error, 1 / 3),
        (functools.partial(keras.losses.huber, delta=0.5), (0.5 * 1 - 0.125) / 3),
        (keras.losses.MeanSquaredError(reduction="sum"), 1 / 3),
        # Outputs 1, 2, 3 of targets 1, 2, 2: 1 - y x is negative; x - y log x.
        ("hinge", 0.0),
        ("poisson", (6.0 - 2.0 * np.log(2.0) - 2.0 * np.log(3.0)) / 3),
    ],
)
def test_targets_of_one_axis_are_not_broadcast(line, loss, expected) -> None:
    line.compile("sgd", loss)
    given = Examples.for_model(line, (X, Y), loss, {"inputs", "targets"}, "a test")
    compiled = Examples.for_model(line, (X, Y), None, {"inputs", "targets"}, "a test")
    for examples in (given, compiled, Examples((X, Y), keras.losses.get(loss))):
        for targets in (Y, Y[:, np.newaxis], Y.astype(int)):
            assert float(np.mean(examples.loss(targets, line(X)))) == pytest.approx(expected, abs=1e-6)
    if getattr(loss, "reduction", None) != "sum":
        assert line.evaluate(X, Y, verbose=0) == pytest.approx(expected, abs=1e-6)


def test_criteria_of_weights_and_of_channels_take_targets_of_one_axis(line) -> None:
    scored = scored_model(line, ["d"])
    for targets in (Y, Y[:, np.newaxis]):
        examples = Examples.for_model(line, (X, targets), own, {"inputs", "targets"}, "a test")
        np.testing.assert_allclose(kc.SNIP().scores(scored, examples)[0], [[2.0]], rtol=1e-6)
    net = keras.Sequential([keras.Input((1,)), layers.Dense(4, "relu", name="a"), layers.Dense(1, "sigmoid")])
    net.compile("adam", "binary_crossentropy")
    labels = np.array([0, 1, 1])
    assert kc.one_shot_of(kc.prune_one_shot(net, 0.5, "snip", (X, labels))).weights[0].after == 2
    for loss in ("binary_crossentropy", own):
        kept = [
            kc.prune_channels(net, 0.5, criterion="taylor", data=(X, y), loss=loss).get_layer("a").get_weights()
            for y in (labels, labels[:, np.newaxis])
        ]
        np.testing.assert_array_equal(kept[0][0], kept[1][0])


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
def test_sums_over_batches_of_unequal_sizes_are_means(line, reduction) -> None:
    """64 and 1 examples of error 1 and 65: the mean gradient is 2 (64 + 65) / 65."""
    x, y = np.ones((65, 1), np.float32), np.zeros((65, 1), np.float32)
    y[64] = -64.0
    examples = Examples((x, y), keras.losses.MeanSquaredError(reduction=reduction))
    (found,) = LossGradients(scored_model(line, ["d"]), examples.loss).mean(examples)
    assert float(found[0, 0]) == pytest.approx(2 * (64 + 65) / 65, rel=1e-6)


def test_several_outputs_as_compiled() -> None:
    inputs = keras.Input((1,))
    one, two = (layers.Dense(1, use_bias=False, name=name, kernel_initializer="ones")(inputs) for name in "pq")
    for outputs, losses, weights, targets in (
        ([one, two], [own, "mse"], [1.0, 2.0], [Y, Y]),
        ({"p": one, "q": two}, {"p": own, "q": "mse"}, {"p": 1.0, "q": 2.0}, {"p": Y, "q": Y}),
        ([one, two], "mse", None, [Y, Y]),
        ([one, two], {"p": own, "q": keras.losses.MeanSquaredError(reduction="sum")}, None, [Y, Y]),
    ):
        model = keras.Model(inputs, outputs)
        model.compile("sgd", losses, loss_weights=weights)
        metrics = [each.name for each in model.metrics]
        loss = FitLoss(model.loss, model)
        expected = 2 / 3 if weights is None else 1.0
        assert float(loss(targets, model(X))) == pytest.approx(expected, rel=1e-6)
        assert [each.name for each in model.metrics] == metrics
    halved = loss.changed(lambda each: (lambda values: values / 2) if each.reduction == "sum" else None)
    assert float(halved(targets, model(X))) == pytest.approx(1 / 3 + 1.5 / 3, rel=1e-6)  # 1/4 + 1 + 1/4


def test_a_function_of_all_outputs_is_given_all_of_them() -> None:
    loss = FitLoss(lambda target, outputs: keras.ops.square(outputs[0] - target) + 0.0 * outputs[1])
    assert float(np.mean(loss(X, [X + 2.0, X]))) == 4.0
    pairs = FitLoss(lambda targets, outputs: keras.ops.square(outputs[0] - targets[0]) + 0.0 * outputs[1])
    assert float(pairs([Y, Y], [X, X])) == pytest.approx(1 / 3)
