"""Lottery tickets and pruning with retraining, beside the same rounds in NumPy, and searches that are killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.pipelines.pruning_rounds import levels_of, masked, masks_in
from keras_compress.pipelines.round_training import LaterSchedule, RoundCallback, RoundStage, steps_of

pytestmark = pytest.mark.filterwarnings("ignore:.*does not apply to tf.data functions:UserWarning")
RNG = np.random.default_rng(5)
# One batch of a linear regression: gradients can be written down.
X = RNG.normal(size=(16, 10)).astype(np.float32)
Y = X @ np.array([3.0, -2.0, 1.5, 0.9, -0.7, 0.4, 0.2, -0.1, 0.05, 0.0], np.float32)[:, None]
STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def eager() -> Iterator[None]:
    """Compiling each round's program would take ten times as long as running these few steps."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def build() -> keras.Model:
    return keras.Sequential([keras.Input((10,)), keras.layers.Dense(1, use_bias=False, name="line")])


def rate(step: int) -> float:
    return 0.1 - 0.015 * step


def fit(model: keras.Model, stage: RoundStage, epochs: int = STEPS, callbacks: bool = True) -> None:
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, STEPS, 0.01)
    model.compile(keras.optimizers.SGD(schedule), "mse")
    passed = list(stage.callbacks) if callbacks else None
    model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=passed)


def negative_error(outputs: list[np.ndarray], y: np.ndarray) -> float:
    return -float(np.mean((outputs[0] - y) ** 2))


def found_ticket(**arguments: Any) -> kc.Ticket:
    settings = {"rounds": 2, "validation_data": (X, Y), "metric": negative_error, "fit": fit, "build_fn": build}
    return kc.find_ticket(**{**settings, "sparsity": 0.6, **arguments})


def kernel(model: keras.Model) -> np.ndarray:
    return np.asarray(kc.strip(model).get_layer("line").kernel)[:, 0]


def trained_by_hand(weight: np.ndarray, mask: np.ndarray, first: int = 0, last: int = STEPS) -> np.ndarray:
    """Gradient descent on the mean squared error; the gradient passes where the mask is 1."""
    for step in range(first, last):
        error = X @ (weight * mask) - Y[:, 0]
        weight = weight - rate(step) * mask * (2 * X.T @ error / len(X))
    return weight


def smallest_masked(weight: np.ndarray, mask: np.ndarray, kept: int) -> np.ndarray:
    scores = np.where(mask > 0, np.abs(weight), -1)
    return np.isin(np.arange(10), np.argsort(-scores)[:kept]).astype(float)


def initial() -> np.ndarray:
    keras.utils.set_random_seed(0)
    return np.asarray(build().get_layer("line").kernel, np.float64)[:, 0]


@pytest.mark.parametrize(("rewind", "rewind_to"), [("weights", 0), ("weights", 2), ("learning_rate", 2)])
def test_rounds_are_those_of_the_papers(rewind: str, rewind_to: int) -> None:
    begin = initial()
    dense = np.ones(10)
    early = trained_by_hand(begin, dense, 0, rewind_to)
    weight, mask = trained_by_hand(begin, dense), dense
    metrics = []
    # 1 - 0.4 ** (1 / 2) of 10 weights go in the first round, 4 weights are left at last.
    for kept in (6, 4):
        mask = smallest_masked(weight, mask, kept)
        weight = trained_by_hand(early if rewind == "weights" else weight, mask, rewind_to)
        metrics.append(-float(np.mean((X @ (weight * mask) - Y[:, 0]) ** 2)))
    ticket = found_ticket(rewind=rewind, rewind_to=rewind_to)
    np.testing.assert_allclose(kernel(ticket.model), weight * mask, atol=1e-5)
    assert [each.sparsity for each in ticket.rounds] == pytest.approx([0, 0.4, 0.6])
    assert [each.steps for each in ticket.rounds] == [STEPS, STEPS - rewind_to, STEPS - rewind_to]
    np.testing.assert_allclose([each.metric for each in ticket.rounds[1:]], metrics, atol=1e-5)
    assert ticket.rewound_to == rewind_to
    if rewind == "learning_rate":
        assert ticket.start is None
    else:
        np.testing.assert_allclose(kernel(ticket.start), early * mask, atol=1e-6)


def test_pruning_with_retraining_is_that_of_the_paper() -> None:
    model = build()
    model.get_layer("line").kernel.assign(np.linspace(1.0, -0.8, 10, dtype=np.float32)[:, None])
    weight, mask = np.linspace(1.0, -0.8, 10), np.ones(10)
    for kept in (5, 3):
        mask = smallest_masked(weight, mask, kept)
        weight = trained_by_hand(weight, mask)
    found = kc.prune_iteratively(model, fit, [0.5, 0.7], validation_data=(X, Y), metric=negative_error)
    np.testing.assert_allclose(kernel(found.model), weight * mask, atol=1e-5)
    assert found.met
    assert found.rounds[0].metric == found.baseline == pytest.approx(negative_error([model(X).numpy()], Y))
    # The model that was given is as it was.
    np.testing.assert_allclose(np.asarray(model.get_layer("line").kernel)[:, 0], np.linspace(1.0, -0.8, 10), atol=1e-7)
    assert found.report()["rounds"][2]["steps"] == STEPS
    assert repr(found).startswith("PrunedInRounds: 70.0% zeros\n")


def test_a_round_that_loses_too_much_is_the_last_and_the_one_before_is_returned() -> None:
    model = build()
    fit(model, RoundStage("whole", "prune"), epochs=30)
    how = {"validation_data": (X, Y), "metric": negative_error}
    found = kc.prune_iteratively(model, fit, [0.3, 0.9, 0.95], max_drop=0.5, **how)
    assert [each.within_budget for each in found.rounds] == [True, True, False]
    assert found.sparsity == pytest.approx(0.3)
    assert int((kernel(found.model) == 0).sum()) == 3
    with pytest.warns(UserWarning, match="No round is within the budget: the first has"):
        none = kc.prune_iteratively(model, fit, sparsity=0.9, rounds=1, max_drop=0.5, **how)
    assert not none.met
    np.testing.assert_array_equal(kernel(none.model), kernel(model))


def test_levels_take_a_fifth_of_what_is_left() -> None:
    # Frankle and Carbin: 80, 64, 51.2, 41, 32.8, 26.2, 21, 16.8, 13.4, 10.7, 8.6, 6.9, 5.5 % are left, then 5 %.
    left = [1 - level for level in levels_of(0.95, None, None)]
    wanted = [0.8, 0.64, 0.512, 0.4096, 0.32768, 0.262144, 0.2097152, 0.16777216]
    np.testing.assert_allclose(left[:8], wanted)
    assert len(left) == 14
    assert left[-1] == pytest.approx(0.05)
    assert levels_of(0.488, 3, 0.2) == pytest.approx((0.2, 0.36, 0.488))


def test_the_control_has_the_masks_over_other_weights(tmp_path: Path) -> None:
    ticket = found_ticket(control="random_reinit", control_rounds=[2], folder=tmp_path, score_every=4)
    assert [each.control is None for each in ticket.rounds] == [True, True, False]
    keras.utils.set_random_seed(1)
    other = np.asarray(build().get_layer("line").kernel, np.float64)[:, 0]
    mask = (kernel(ticket.model) != 0).astype(float)
    trained = trained_by_hand(other, mask) * mask
    assert ticket.rounds[2].control == pytest.approx(-float(np.mean((X @ trained - Y[:, 0]) ** 2)), abs=1e-5)
    # The score before the first step, behind each fourth, and at the end.
    assert [step for step, _ in ticket.rounds[1].curve] == [0, 4, 6]
    assert ticket.rounds[1].curve[-1][1] == pytest.approx(ticket.rounds[1].metric)
    assert [step for step, _ in ticket.rounds[2].control_curve] == [0, 4, 6]
    assert "with the masks over other initial weights" in repr(ticket)
    # A trained ticket is an ordinary model: saved, loaded, trained on, its zeros held.
    ticket.model.save(tmp_path / "ticket.keras")
    again = keras.models.load_model(tmp_path / "ticket.keras")
    fit(again, RoundStage("more", "prune"))
    assert ((kernel(again) != 0) == (mask > 0)).all()


class Killed(BaseException):
    """What a test stops a run with."""


def noisy() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((10,)), layers.Dense(4, "relu"), layers.Dropout(0.3), layers.Dense(1, name="line")]
    )


def test_a_killed_search_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """With dropout, shuffling and a moment in epochs; killed in the control of round 1, then in round 2."""

    class Kills(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if len(trained) in kills and epoch == 1:
                raise Killed

    def shuffled(model: keras.Model, stage: RoundStage) -> None:
        trained.append(stage.name)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.5), "mse")
        model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[*stage.callbacks, Kills()])

    trained: list[str] = []
    kills = {3, 5}
    how = {"build_fn": noisy, "fit": shuffled, "rewind_to": "0.5 epochs", "control": "random_reinit"}
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    for _ in kills:
        with pytest.raises(Killed):
            found_ticket(folder=tmp_path, **how)
    resumed = found_ticket(folder=tmp_path, **how)
    names = ["round_0", "round_1", "control_1", "control_1", "round_2", "round_2", "control_2"]
    assert trained == names
    kills.clear()
    whole = found_ticket(**how)
    assert whole.rewound_to == 1
    for one, other in zip(whole.model.variables, resumed.model.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert whole.rounds == resumed.rounds
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    for other_work, name in (
        ({"sparsity": 0.7}, "levels"),
        ({"rewind_to": 1}, "rewind"),
        ({"seed": 4}, "control, model, seed"),
        ({"scope": "layer"}, "scope"),
        ({"control": None}, "control"),
        ({"fit": fit}, "fit"),
        ({"rules": [{"layers": "line", "skip": True}]}, "rules"),
    ):
        with pytest.raises(ValueError, match=f"which holds other work: {name}$"):
            found_ticket(folder=tmp_path, **how | other_work)


def test_a_training_of_the_library_knows_its_steps_and_seeds() -> None:
    training = kc.Training("mse", epochs=3, batch_size=8, learning_rate=0.05)
    ticket = found_ticket(fit=training.on(X, Y), rewind_to="1 epoch", scope="layer")
    assert ticket.rewound_to == 2
    assert [each.steps for each in ticket.rounds] == [6, 4, 4]
    with pytest.raises(ValueError, match=r"Expected `rewind_to` below the 6 steps of a training, 2 an epoch"):
        found_ticket(fit=training.on(X, Y), rewind_to=6)


def test_a_schedule_goes_on_where_it_was_and_the_moments_begin_anew() -> None:
    """The first step of Adam is the learning rate long: with its counter moved, it would be 3.16 times that."""
    weight = keras.Variable([1.0])
    cosine = keras.optimizers.schedules.CosineDecay(0.1, 10)
    optimizer = keras.optimizers.Adam(LaterSchedule(cosine, 5))
    optimizer.build([weight])
    optimizer.apply([keras.ops.convert_to_tensor([0.5])])
    # 0.1 * (1 + cos(pi / 2)) / 2
    assert float(weight[0]) == pytest.approx(1.0 - 0.05, abs=1e-6)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(LaterSchedule(cosine, 5)))
    assert float(again(2)) == pytest.approx(float(cosine(7)))


def test_several_batches_run_as_one_are_counted_and_mixed_precision_has_its_schedule_moved() -> None:
    model = build()
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 10, 0.0)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(schedule))
    model.compile(optimizer, "mse", steps_per_execution=2, run_eagerly=False)
    callback = RoundCallback(model, first_step=3, keep_at=7)
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    assert callback.steps == 8
    assert callback.kept is not None  # behind the fourth batch
    assert float(optimizer.inner_optimizer.learning_rate) == pytest.approx(float(schedule(11)), abs=1e-6)


class Doubled(keras.layers.Layer):
    """A layer of the user's own, which nobody registered, with one sub-layer that it calls twice."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inside = keras.layers.Dense(10)

    def build(self, input_shape: Any) -> None:
        self.inside.build(input_shape)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.inside(self.inside(inputs))


def own() -> keras.Model:
    inputs = keras.Input((10,))
    return keras.Model(inputs, keras.layers.Dense(1, name="line")(Doubled(name="own")(inputs)))


def test_layers_of_the_users_own_and_a_teacher() -> None:
    teacher = build()
    teacher.get_layer("line").kernel.assign(np.linspace(1, -1, 10)[:, None])
    taught = kc.Training("mse", epochs=1, batch_size=8, teacher=kc.Teacher(teacher, method="logit_matching"))
    ticket = found_ticket(build_fn=own, rounds=1, fit=taught.on(X, Y), rewind_to=1)
    assert [each.steps for each in ticket.rounds] == [2, 1]
    assert ticket.sparsity == pytest.approx(0.6)


def test_frozen_layers_stay_as_they_are() -> None:
    model = noisy()
    model.layers[0].trainable = False
    before = np.array(model.layers[0].kernel)
    how = {"validation_data": (X, Y), "metric": negative_error}
    found = kc.prune_iteratively(model, fit, [0.5], **how)
    assert found.sparsity == 0.5
    np.testing.assert_array_equal(kc.strip(found.model).layers[0].kernel, before)
    model.trainable = False
    with pytest.raises(ValueError, match="Expected a layer to prune that is trained"):
        kc.prune_iteratively(model, fit, [0.5], **how)


def zeros_first() -> keras.Model:
    inputs = keras.Input((10,))
    hidden = keras.layers.Dense(10, kernel_initializer="identity", name="first")(inputs)
    added = keras.layers.Add()([hidden, keras.layers.Dense(10, kernel_initializer="zeros", name="zero")(hidden)])
    return keras.Model(inputs, keras.layers.Dense(1, name="line")(added))


def test_weights_that_are_zero_at_first_are_pruned_by_what_they_become() -> None:
    ticket = found_ticket(
        build_fn=zeros_first, rounds=1, sparsity=0.5, scope="layer", rules=[{"layers": "line", "skip": True}]
    )
    zero = ticket.model.get_layer("zero")
    assert int(np.asarray(zero.transform_list[0].mask).sum()) == 50
    assert np.asarray(kc.strip(ticket.model).get_layer("zero").kernel).any()
    # What a rule takes out is no part of the figures.
    assert ticket.sparsity == 0.5


def _changing() -> Callable[[], keras.Model]:
    widths = iter(range(3, 99))
    return lambda: keras.Sequential([keras.Input((10,)), keras.layers.Dense(next(widths)), keras.layers.Dense(1)])


def _drawing() -> Callable[[], keras.Model]:
    numbers = np.random.default_rng(0)

    def made() -> keras.Model:
        model = build()
        model.set_weights([numbers.normal(size=(10, 1))])
        return model

    return made


def _seeded() -> keras.Model:
    keras.utils.set_random_seed(7)
    return build()


def never(model: keras.Model, stage: RoundStage) -> None:
    pytest.fail("refused before anything is trained")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": 0}, "Expected `rounds` as an integer >= 1"),
        ({"rounds": 3, "share": 0.2, "sparsity": 0.95}, "Expected rounds >= 14 to reach sparsity=0.95 by share=0.2"),
        ({"sparsity": 1.0}, r"Expected `sparsity` as a number in \[0, 1\)"),
        ({"sparsity": 0.0}, r"Expected `sparsity` in \(0, 1\)"),
        ({"share": 1.0}, r"Expected `share` in \(0, 1\)"),
        ({"scope": "model"}, "Expected `scope` as 'global' or 'layer'"),
        ({"rewind": "weight"}, "did you mean 'weights'"),
        ({"rewind_to": -1}, "Expected `rewind_to` as a step >= 0"),
        ({"rewind_to": 0.5}, "such as '0.5 epochs'"),
        ({"rewind_to": "half an epoch"}, "such as '0.5 epochs'"),
        ({"control": "reinit"}, "Expected `control` out of"),
        ({"control_rounds": [1]}, "Expected `control_rounds` with control='random_reinit'"),
        ({"score_every": 0}, "Expected `score_every` as a number of steps >= 1"),
        ({"max_drop": -1.0}, "Expected `max_drop` >= 0"),
        ({"fit": None}, r"Expected `fit` as kc\.Training"),
        ({"fit": kc.Training().on(X, Y)}, "Expected `fit` with a loss, or a compiled model"),
        ({"build_fn": _changing()}, "Expected `build_fn` to give models of the same shapes each time"),
        ({"build_fn": _drawing()}, "Expected `build_fn` to give the same weights each time"),
        ({"build_fn": _seeded, "control": "random_reinit"}, "Expected `build_fn` to give other weights with other"),
        ({"rules": [{"layers": "line", "pruner": "x"}]}, "Expected rules of the form"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found_ticket(**{"fit": never, **arguments})


def test_a_model_in_the_place_of_what_builds_one() -> None:
    with pytest.raises(TypeError, match="Expected `build_fn` as a function without arguments"):
        found_ticket(build_fn=build())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsities": [0.5], "sparsity": 0.5}, "Expected `sparsities` or `sparsity`, one of them"),
        ({}, "Expected `sparsities` or `sparsity`, one of them"),
        ({"sparsities": [0.5], "rounds": 2}, "Expected `rounds` and `share` with `sparsity` alone"),
        ({"sparsities": [0.5, 0.4]}, r"Expected `sparsities` in \(0, 1\), ascending"),
        ({"sparsities": []}, r"Expected `sparsities` in \(0, 1\), ascending"),
        ({"sparsities": [1.5]}, r"Expected `sparsities` as a number in \[0, 1\)"),
    ],
)
def test_wrong_arguments_of_pruning_with_retraining(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.prune_iteratively(build(), never, validation_data=(X, Y), metric=negative_error, **arguments)


def test_a_step_that_was_not_kept_is_said() -> None:
    with pytest.raises(ValueError, match=r"Expected `fit` to give `stage\.callbacks` to `model\.fit"):
        found_ticket(rewind_to=2, fit=lambda model, stage: fit(model, stage, callbacks=False))
    with pytest.raises(ValueError, match=r"Expected `rewind_to` as a step .* below its 6 .*Received: rewind_to=6"):
        found_ticket(rewind_to=6)


def test_rounds_and_share_that_contradict_each_other_and_numpy_s_integers() -> None:
    with pytest.raises(
        ValueError, match=r"Expected rounds=1, which reach sparsity=0.5 by share=0.5.*Received: rounds=10"
    ):
        levels_of(0.5, 10, 0.5)
    assert levels_of(0.75, 2, 0.5) == (0.5, 0.75) == levels_of(0.75, np.int64(2), None)
    assert steps_of(np.int64(3), 10) == 3
    assert type(steps_of(np.int64(3), None)) is int


def test_masks_of_kernels_that_begin_at_zero_are_open() -> None:
    net = [keras.Input((4,)), keras.layers.Dense(4, kernel_initializer="zeros", name="z"), keras.layers.Dense(2)]
    assert [int(mask.sum()) for mask in masks_in(masked(keras.Sequential(net), None, None))] == [16, 8]


def test_quantized_activations_are_refused_before_anything_is_trained() -> None:
    values, labels = np.zeros((8, 4), np.float32), np.zeros(8)
    quantized = kc.quantize_model(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="net"))
    held_out = (values, labels)
    said = "activations are not quantized yet.*Received: 'net' with"
    with pytest.raises(ValueError, match=said):
        kc.prune_iteratively(quantized, kc.Training("mse").on(values, labels), [0.5], validation_data=held_out)
    with pytest.raises(ValueError, match=said):
        kc.deep_compression(quantized, values, labels, validation_data=held_out)
