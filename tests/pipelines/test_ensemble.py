"""Ensembles beside the same rounds in NumPy, as one model, and after they were killed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.pipelines.boosting import member_weight, next_weights, packed, unpacked, weighted_error
from keras_compress.pipelines.ensemble import MemberStage, bootstrap, labels_of

pytestmark = pytest.mark.filterwarnings("ignore:.*does not apply to tf.data functions:UserWarning")
RNG = np.random.default_rng(2)
X = RNG.normal(size=(24, 5)).astype(np.float32)
Y = (X @ RNG.normal(size=(5, 3)) + 0.8 * RNG.normal(size=(24, 3))).argmax(-1).astype(np.int32)
EPOCHS, RATE = 4, 0.5
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture
def eager() -> Iterator[None]:
    """Compiling each member's program would take ten times as long as running these few steps."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def build() -> keras.Model:
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, use_bias=False, name="line")])


def started() -> keras.Model:
    model = build()
    model.get_layer("line").kernel.assign(np.linspace(-0.5, 0.5, 15, dtype=np.float32).reshape(5, 3))
    return model


def descend(model: keras.Model, stage: MemberStage) -> None:
    """Gradient descent on all samples of the stage at once."""
    drawn = slice(None) if stage.samples is None else stage.samples
    weight = stage.sample_weight
    model.compile(keras.optimizers.SGD(RATE), LOSS)
    model.fit(X[drawn], Y[drawn], sample_weight=weight, batch_size=24, epochs=EPOCHS, shuffle=False, verbose=0)


def trained(**arguments: Any) -> kc.Ensemble:
    fit = kc.Training(fit=descend).on(X, Y)
    return kc.train_ensemble(**{"model": started(), "fit": fit, "validation_data": (X, Y), **arguments})


def by_hand(kernel: np.ndarray, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Softmax regression: gradient of the mean of `weights * cross-entropy`."""
    for _ in range(EPOCHS):
        logits = x @ kernel
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        kernel = kernel - RATE * x.T @ ((shares - np.eye(3)[y]) * weights[:, None]) / len(x)
    return kernel


def kernels(ensemble: kc.Ensemble) -> list[np.ndarray]:
    members = [layer for layer in ensemble.model.layers if layer.name.startswith("member_")]
    return [np.asarray(member.get_layer("line").kernel, np.float64) for member in members]


START = np.linspace(-0.5, 0.5, 15).reshape(5, 3)


def test_numbers_of_adaboost_are_those_of_the_papers() -> None:
    # Five samples, the second is wrong: e = 1/5, so ln(4) / 2, and half of all weight is on it afterwards.
    wrong = np.array([False, True, False, False, False])
    assert weighted_error(wrong, np.ones(5)) == pytest.approx(0.2)
    alpha = member_weight(0.2, 10, "boosting", 5)
    assert alpha == pytest.approx(0.5 * math.log(4))
    np.testing.assert_allclose(next_weights(np.ones(5), wrong, alpha, "boosting"), [0.625, 2.5, 0.625, 0.625, 0.625])
    # SAMME of ten classes: ln(4) + ln(9) = ln(36), so that one weighs 36 times as much as the others.
    alpha = member_weight(0.2, 10, "samme", 5)
    assert alpha == pytest.approx(math.log(36))
    np.testing.assert_allclose(next_weights(np.ones(5), wrong, alpha, "samme"), 5 * np.array([1, 36, 1, 1, 1]) / 40)
    # With two classes both are AdaBoost, SAMME's alpha twice the other.
    twice = member_weight(0.3, 2, "samme", 5)
    assert twice == pytest.approx(2 * member_weight(0.3, 2, "boosting", 5))
    np.testing.assert_allclose(
        next_weights(np.ones(5), wrong, twice, "samme"), next_weights(np.ones(5), wrong, twice / 2, "boosting")
    )
    assert member_weight(0.0, 10, "boosting", 50) == pytest.approx(0.5 * math.log(99))
    np.testing.assert_array_equal(unpacked(packed(wrong), 5), wrong)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("warm_start", [False, True])
def test_bagging_trains_each_member_on_samples_drawn_for_it(warm_start: bool) -> None:
    found = trained(members=2, warm_start=warm_start)
    first, second = (bootstrap(24, 0, number) for number in (1, 2))
    assert len(set(first)) < 24
    assert (first != second).any()
    kernel = by_hand(START, X[first], Y[first], np.ones(24))
    other = by_hand(kernel if warm_start else START, X[second], Y[second], np.ones(24))
    for made, wanted in zip(kernels(found), (kernel, other), strict=True):
        np.testing.assert_allclose(made, wanted, atol=1e-5)
    np.testing.assert_allclose(found.model.predict(X, verbose=0), X @ (kernel + other) / 2, atol=1e-5)
    assert [each.weight for each in found.members] == [1, 1]
    accuracies = [float((X @ k).argmax(-1).__eq__(Y).mean()) for k in (kernel, other)]
    assert [each.metric for each in found.members] == pytest.approx(accuracies)
    assert found.members[1].together == pytest.approx(float(((X @ (kernel + other)).argmax(-1) == Y).mean()))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("method", ["boosting", "samme"])
def test_boosting_weighs_the_samples_in_the_loss_and_the_members_in_the_vote(method: str) -> None:
    found = trained(members=3, method=method)
    weights, wanted, alphas = np.ones(24), [], []
    for _ in range(3):
        kernel = by_hand(START, X, Y, weights)
        wrong = (X @ kernel).argmax(-1) != Y
        error = weights[wrong].sum() / weights.sum()
        alpha = 0.5 * np.log((1 - error) / error) if method == "boosting" else np.log((1 - error) / error) + np.log(2)
        weights = weights * np.exp(alpha * wrong) * (np.exp(-alpha * ~wrong) if method == "boosting" else 1.0)
        weights = weights / weights.mean()
        wanted.append(kernel)
        alphas.append(alpha)
    for made, kernel in zip(kernels(found), wanted, strict=True):
        np.testing.assert_allclose(made, kernel, atol=1e-4)
    assert [each.weight for each in found.members] == pytest.approx(alphas, abs=1e-4)
    vote = sum(alpha * (X @ kernel) for alpha, kernel in zip(alphas, wanted, strict=True)) / sum(alphas)
    np.testing.assert_allclose(found.model.predict(X, verbose=0), vote, atol=1e-4)
    assert repr(found).startswith(f"Ensemble: 3 members by {method}\n")
    assert found.report()["members"][0]["error"] == pytest.approx(found.members[0].error)


@pytest.mark.usefixtures("eager")
def test_an_ensemble_that_was_killed_goes_on_and_takes_more_members(tmp_path: Path) -> None:
    whole = trained(members=3, method="boosting")
    begun: list[str] = []

    def dying(model: keras.Model, stage: MemberStage) -> None:
        begun.append(stage.name)
        if stage.name == "member_2" and len(begun) == 2:
            raise KeyboardInterrupt
        descend(model, stage)

    fit = kc.Training(fit=dying).on(X, Y)
    with pytest.raises(KeyboardInterrupt):
        trained(members=2, method="boosting", fit=fit, folder=tmp_path)
    trained(members=2, method="boosting", fit=fit, folder=tmp_path)
    found = trained(members=3, method="boosting", fit=fit, folder=tmp_path)
    assert begun == ["member_1", "member_2", "member_2", "member_3"]
    for made, wanted in zip(kernels(found), kernels(whole), strict=True):
        np.testing.assert_array_equal(made, wanted)
    with pytest.raises(ValueError, match="which holds other work: method"):
        trained(members=2, method="samme", fit=fit, folder=tmp_path)


@pytest.mark.usefixtures("eager")
def test_members_of_a_function_begin_with_weights_of_their_own() -> None:
    fit = kc.Training(LOSS, epochs=1, learning_rate=1e-6, batch_size=24).on(X, Y)
    found = kernels(kc.train_ensemble(build, fit, 2))
    for number, kernel in enumerate(found):
        keras.utils.set_random_seed(number)
        np.testing.assert_allclose(kernel, np.asarray(build().get_layer("line").kernel), atol=1e-5)


@pytest.mark.usefixtures("eager")
def test_boosting_ends_before_a_member_that_is_no_better_than_chance() -> None:
    def worse(model: keras.Model, stage: MemberStage) -> None:
        sign = 1.0 if stage.name == "member_1" else -1.0
        model.get_layer("line").kernel.assign(sign * by_hand(START, X, Y, np.ones(24)).astype(np.float32))

    with pytest.warns(UserWarning, match="Boosting ends before member 2, which gets"):
        found = trained(members=3, method="boosting", fit=kc.Training(fit=worse).on(X, Y))
    assert len(found.members) == 1

    def wrong(model: keras.Model, stage: MemberStage) -> None:
        model.get_layer("line").kernel.assign(-by_hand(START, X, Y, np.ones(24)).astype(np.float32))

    with pytest.raises(ValueError, match="Expected a member that is better than chance"):
        trained(members=2, method="boosting", fit=kc.Training(fit=wrong).on(X, Y))


def test_a_teachers_outputs_are_drawn_with_the_samples(tmp_path: Path) -> None:
    teacher = kc.teacher_outputs(started(), X, tmp_path / "all")
    seen: list[Any] = []

    class Kept(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            seen.append(self.model)

    training = kc.Training(LOSS, epochs=1, batch_size=24, teacher=teacher, callbacks=[Kept()])
    found = kc.train_ensemble(started(), training.on(X, Y), 1)
    drawn = bootstrap(24, 0, 1)
    again = started()
    outputs = kc.teacher_outputs(started(), X[drawn], tmp_path / "drawn")
    kc.Training(LOSS, epochs=1, batch_size=24, teacher=outputs).on(X[drawn], Y[drawn])(again, None)
    np.testing.assert_allclose(kernels(found)[0], np.asarray(again.get_layer("line").kernel), atol=1e-6)
    assert len(seen) == 1


def binary() -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((6, 6, 2)),
        keras.layers.Conv2D(6, 3, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.Conv2D(8, 3, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.Flatten(),
        keras.layers.Dense(3),
    ]
    ends = [{"layers": ["first", "last"], "weights": "int8"}]
    return kc.quantize_model(keras.Sequential(layers), "bwn", "approx_sign", rules=ends)


@pytest.mark.parametrize("vote", ["outputs", "softmax"])
def test_an_ensemble_of_binary_nets_is_one_file_in_integers(vote: str, tmp_path: Path) -> None:
    x = RNG.normal(size=(64, 6, 6, 2)).astype(np.float32)
    y = (x.mean((1, 2)) @ np.array([[4.0, -4.0, 0.0], [0.0, 4.0, -4.0]])).argmax(-1)
    fit = kc.Training(LOSS, epochs=1, learning_rate=1e-2, batch_size=16).on(x, y)
    found = kc.train_ensemble(binary(), fit, 2, vote=vote)
    found.model.save(tmp_path / "ensemble.keras")
    again = keras.models.load_model(tmp_path / "ensemble.keras")
    np.testing.assert_array_equal(found.model.predict(x, verbose=0), again.predict(x, verbose=0))
    artifact = kc.convert(again, representative_dataset=x[:16])
    assert not artifact.float_ops
    assert kc.verify(artifact, again, x[:16]).ok
    # Without the second member the outputs are others.
    outputs = [member.predict(x, verbose=0) for member in again.layers if member.name.startswith("member_")]
    if vote == "softmax":
        outputs = [np.exp(o) / np.exp(o).sum(-1, keepdims=True) for o in outputs]
    wanted = (outputs[0] + outputs[1]) / 2
    step = float(np.ptp(wanted)) / 64
    np.testing.assert_allclose(artifact.frozen.predict(x, verbose=0), wanted, atol=step)
    assert np.abs(outputs[0] - wanted).max() > 2 * step


def two_inputs(*names: str, dtype: str = "float32", doubled: str = "left") -> keras.Model:
    inputs = {name: keras.Input((2,), dtype=dtype, name=name) for name in names}
    double = keras.layers.Rescaling(2.0)(inputs[doubled])
    return keras.Model(list(inputs.values()), keras.layers.Add()([double, *(0 * t for t in inputs.values())]))


def test_inputs_of_one_name_are_one_in_whatever_order() -> None:
    left, right = np.array([[1.0, 2.0]], np.float32), np.array([[70.0, 80.0]], np.float32)
    found = kc.join_models([two_inputs("left", "right"), two_inputs("right", "left")])
    np.testing.assert_allclose(found.predict([left, right], verbose=0), [[2, 4]])
    with pytest.raises(
        ValueError, match=r"have the same names. Received: \['left', 'right'\] of .*\['left', 'other'\]"
    ):
        kc.join_models([two_inputs("left", "right"), two_inputs("left", "other")])
    with pytest.raises(ValueError, match=r"have the same names"):
        kc.join_models([two_inputs("left", "right"), two_inputs("left")])
    # A single input needs no name, and may have that of a layer of the vote.
    names = ("members", "vote", "member_1")
    for vote in ("outputs", "softmax"):
        found = kc.join_models([two_inputs(name, doubled=name) for name in names], vote=vote)
        wanted = 2 * left if vote == "outputs" else [[1 / (1 + math.e**2), 1 / (1 + math.e**-2)]]
        np.testing.assert_allclose(found.predict(left, verbose=0), wanted, rtol=1e-5)
    found = kc.join_models([two_inputs(*names, doubled="vote"), two_inputs(*names[::-1], doubled="vote")])
    np.testing.assert_allclose(found.predict([right, left, right], verbose=0), 2 * left)


@pytest.mark.usefixtures("eager")
def test_an_input_that_models_have_in_other_places_has_one_range() -> None:
    def quantized(*names: str, most: float) -> keras.Model:
        inputs = {name: keras.Input((2,), name=name) for name in names}
        held = {name: keras.layers.Dense(2, name=f"of_{name}")(inputs[name]) for name in names}
        net = keras.Model(list(inputs.values()), keras.layers.Add()([held["left"], held["right"]]))
        made = kc.quantize_model(net, "int8", "int8")
        values = {"left": np.full((4, 2), most, np.float32), "right": np.full((4, 2), 100.0, np.float32)}
        for _ in range(3):
            made([values[name] for name in names], training=True)
        return made

    found = kc.join_models([quantized("left", "right", most=1.0), quantized("right", "left", most=2.0)])
    for member in (layer for layer in found.layers if layer.name.startswith("member_")):
        points = {
            point.input.name: point.quantizer.range()
            for point in member.layers
            if isinstance(point, kc.QuantizeActivation) and point.input.name in ("left", "right")
        }
        assert float(points["left"][1]) == pytest.approx(2.0, rel=0.02)
        assert float(points["right"][1]) == pytest.approx(100.0, rel=0.02)


@pytest.mark.parametrize("method", ["boosting", "samme"])
def test_boosting_without_an_output_for_each_class_is_refused_before_any_training(method: str) -> None:
    def never(model: keras.Model, stage: MemberStage) -> None:
        raise AssertionError("trained")

    one = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, activation="sigmoid")], name="one")
    said = r"Expected outputs of shape \(samples, classes\), classes >= 2, .*Received: \(None, 1\) of 'one'"
    with pytest.raises(ValueError, match=said):
        trained(model=one, method=method, fit=kc.Training(fit=never).on(X, Y))


def test_what_is_no_ensemble_is_an_error() -> None:
    fit = kc.Training(LOSS).on(X, Y)
    for given, said in (
        ({"members": 0}, "Expected `members` as an integer >= 1"),
        ({"method": "boost"}, "Expected `method` out of"),
        ({"vote": "mean"}, "Expected `vote` out of"),
        ({"fit": descend}, r"Expected `fit` as kc.Training\(...\).on\(x, y\)"),
        ({"fit": kc.Training(LOSS).on(tf.data.Dataset.from_tensors((X, Y)))}, "Expected arrays in kc.Training"),
        ({"fit": kc.Training(LOSS).on(X, X[:, 0]), "method": "boosting"}, "Expected `y` as an array of classes"),
    ):
        with pytest.raises(ValueError, match=said):
            kc.train_ensemble(**{"model": started(), "fit": fit, **given})
    with pytest.raises(ValueError, match="Expected `y` as an array of classes"):
        labels_of(X[:, :1])
    np.testing.assert_array_equal(labels_of(np.eye(3)[[2, 0]]), [2, 0])
    with pytest.raises(ValueError, match=r"Expected 2 `weights` > 0. Received: weights=\[1.0, 0.0\]"):
        kc.join_models([build(), build()], [1.0, 0.0])
    wide = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="Expected models with one output of the same shape"):
        kc.join_models([build(), wide])
    longer = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="Expected models of the same inputs, in shape and dtype"):
        kc.join_models([build(), longer])
    embedding = [keras.Input((5,), dtype="int32"), keras.layers.Embedding(4, 3), keras.layers.GlobalMaxPooling1D()]
    with pytest.raises(ValueError, match="in shape and dtype. Received: .*float32.*int32"):
        kc.join_models([build(), keras.Sequential(embedding)])
    given = keras.Input((5,))
    flat = keras.Model(given, keras.ops.sum(given, -1), name="flat")
    with pytest.raises(ValueError, match=r"a last axis of known size, .* Received: \(None,\) of 'flat'"):
        kc.join_models([flat, flat])
    with pytest.raises(ValueError, match="Expected at least one model"):
        kc.join_models([])
