"""The distiller: any student, any teacher, and nothing of the user's changed."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from tests_distillation import dense

import keras_compress as kc
from keras_compress.core import keras_private
from keras_compress.core.quiet import ignored_warnings
from keras_compress.distillation.distiller import Term
from keras_compress.graph.model import compressed_layers

CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def weights(model: keras.Model) -> list[np.ndarray]:
    return [np.array(each) for each in model.get_weights()]


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def fitted(distiller: keras.Model, x: Any, y: Any, loss: Any = CE, epochs: int = 1, **kwargs: Any) -> keras.Model:
    """Trained eagerly: there is nothing to compile for so few steps."""
    distiller.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    distiller.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, **kwargs)
    return distiller


def loss_of(student: keras.Model, teacher: Any, x: Any, method: Any = "soft_targets", **kwargs: Any) -> float:
    distiller = kc.distill(student, teacher, method, alpha=1.0, **kwargs)
    return float(distiller.compute_loss(x, y_pred=distiller(x)))


def copy_of(model: keras.Model) -> keras.Model:
    made = keras.models.clone_model(model)
    made.set_weights(model.get_weights())
    return made


def test_where_keras_is_right_it_is_keras(student, teacher, x, y) -> None:
    """Soft targets and labels of a plain student: the same steps as `keras.distillation.Distiller`."""
    theirs = copy_of(student)
    # By default, a function, it takes the divergence of the logits themselves.
    loss = keras.distillation.LogitsDistillation(3.0, keras.losses.KLDivergence())
    fitted(keras.distillation.Distiller(copy_of(teacher), theirs, loss, student_loss_weight=0.25), x, y)
    fitted(kc.distill(student, teacher, kc.SoftTargets(3.0), alpha=0.75), x, y)
    for ours, other in zip(weights(student), weights(theirs), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-4, atol=1e-6)


def test_a_loss_of_keras_stands_beside_ours(student, teacher, x) -> None:
    logits = teacher(x), student(x)
    soft = float(kc.SoftTargets(3.0).compute_loss(*logits))
    squared = float(ops.mean(ops.square(logits[0] - logits[1])))
    mse = keras.distillation.FeatureDistillation("mse", "out", "out")
    methods = [kc.SoftTargets(3.0), keras.distillation.LogitsDistillation(3.0), mse]
    assert loss_of(student, teacher, x, methods, weights=[0.0, 1.0, 2.0]) == pytest.approx(soft + 2 * squared, rel=1e-4)


def test_only_the_student_is_trained(student, teacher, x, y) -> None:
    before, start = weights(teacher), weights(student)
    distiller = fitted(kc.distill(student, teacher, hints=["hidden"], method=["soft_targets", "fit_nets"]), x, y)
    assert same(weights(teacher), before)
    assert teacher.trainable
    assert len(teacher.trainable_variables) == 6
    assert not same(weights(student), start)
    assert distiller.student is student
    assert distiller.teacher.models == [teacher]
    assert isinstance(distiller, keras.distillation.Distiller)
    regressor = {"regressor_0/kernel", "regressor_0/bias"}
    assert {v.path for v in distiller.trainable_variables} == {v.path for v in student.variables} | regressor


def test_the_whole_loss(student, teacher, x, y) -> None:
    """Labels and the teacher's term with the samples' weights, a regularizer, and `add_loss` of a layer."""
    inputs = keras.Input((6,))
    made = layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.1))(inputs)
    made = layers.Dense(3)(layers.ActivityRegularization(l2=0.01)(made))
    student = keras.Model(inputs, made)
    distiller = kc.distill(student, teacher, kc.LogitMatching(), alpha=0.25)
    distiller.compile("sgd", CE, jit_compile=False)
    share = np.linspace(0.0, 2.0, 32).astype(np.float32)
    found = distiller.evaluate(x, y, batch_size=32, sample_weight=share, verbose=0, return_dict=True)
    task = float(CE(y, student(x), share))
    term = 0.5 * float((share * np.square(np.array(teacher(x) - student(x))).sum(-1)).mean())
    others = float(sum(student.losses))
    assert others > 0.01
    assert found["loss"] == pytest.approx(0.75 * task + 0.25 * term + others, rel=1e-4)
    assert found["distillation_loss"] == pytest.approx(term, rel=1e-4)


def divergences(p: Any, q: Any, temperature: float = 4.0) -> np.ndarray:
    """Of two models' logits, in float64, `T^2 KL` of each sample."""
    p, q = (np.exp(np.array(each, np.float64) / temperature) for each in (p, q))
    p, q = (each / each.sum(-1, keepdims=True) for each in (p, q))
    return temperature**2 * (p * np.log(p / q)).sum(-1)


def test_weights_of_samples_without_labels(student, teacher, x, y) -> None:
    """With alpha=1 they count in the teacher's terms, or are refused where no term takes samples one by one."""
    share = (np.arange(32) % 2).astype(np.float32)
    expected = (share * divergences(teacher(x), student(x))).mean()
    distiller = kc.distill(student, teacher, alpha=1.0)
    distiller.compile("sgd", run_eagerly=True)
    found = distiller.evaluate(x, y, batch_size=32, sample_weight=share, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx(expected, rel=1e-4)
    for run in (distiller.evaluate, distiller.fit):
        with pytest.raises(ValueError, match="Expected `y` beside `sample_weight`, which Keras leaves out"):
            run(x, sample_weight=share, verbose=0)
    # Weights of classes are weights of samples.
    class_weight = {0: 0.0, 1: 1.0, 2: 2.0}
    of_samples = np.vectorize(class_weight.get)(y)
    expected = (of_samples * divergences(teacher(x), student(x))).mean()
    distiller.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    history = distiller.fit(x, y, batch_size=32, class_weight=class_weight, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-4)
    for method, hints in (("rkd_distance", []), ("similarity_preserving", ["hidden"])):
        distiller = kc.distill(student, teacher, method, hints=hints, alpha=1.0)
        with pytest.raises(ValueError, match="Expected no weights of samples or classes with alpha=1"):
            distiller.compute_loss(x, y_pred=distiller(x), sample_weight=share)


def test_weights_and_labels_find_their_outputs_by_name() -> None:
    """Whose order is not that of the names."""
    x = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)

    def net(width: int) -> keras.Model:
        made = layers.Dense(width, "relu")(inputs := keras.Input((6,)))
        return keras.Model(inputs, [layers.Dense(3, name="second")(made), layers.Dense(4, name="first")(made)])

    student, teacher = net(3), net(5)
    shares = {"first": np.arange(6, dtype=np.float32), "second": np.full((6, 1), 0.5, np.float32)}
    distiller = kc.distill(student, teacher, alpha=1.0)
    found = float(distiller.compute_loss(x, y_pred=distiller(x), sample_weight=shares))
    made = [divergences(*each) for each in zip(teacher(x), student(x), strict=True)]
    assert found == pytest.approx(0.5 * made[0].mean() + (np.arange(6) * made[1]).mean(), rel=1e-4)
    labels = {"first": np.full(6, 3), "second": np.full(6, 1)}
    distiller = kc.distill(student, teacher, "decoupled_kd", alpha=1.0)
    given = float(distiller.compute_loss(x, labels, distiller(x)))
    assert given == float(distiller.compute_loss(x, [labels["second"], labels["first"]], distiller(x)))
    with pytest.raises(ValueError, match="Expected weights of samples for all outputs or for 2. Received: 3"):
        distiller.compute_loss(x, labels, distiller(x), sample_weight=[shares["first"]] * 3)


def test_masks_and_averages_move_once_a_batch(student, teacher, x, y) -> None:
    """The student runs once, hints or not."""
    pruned = kc.prune_low_magnitude(student, kc.ConstantSparsity(0.5, begin_step=0, end_step=3))
    quantized = kc.quantize_model(pruned)
    fitted(kc.distill(quantized, teacher, ["soft_targets", "fit_nets"], hints=["hidden"]), x, y, epochs=2)
    pruners = [t for _, each in compressed_layers(quantized) for t in each.transform_list if isinstance(t, kc.Pruner)]
    assert {int(pruner.step) for pruner in pruners} == {4}
    assert np.mean(np.array(kc.strip(quantized).get_layer("hidden").kernel) == 0) >= 0.5


class Block(layers.Layer):
    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inside = layers.Dense(units, "relu")

    def call(self, x: Any) -> Any:
        return self.inside(x) * 2.0


class Written(keras.Model):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.blocks = [Block(4), Block(5)]
        self.head = layers.Dense(3)

    def call(self, x: Any, training: bool = False) -> Any:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def nested(width: int) -> keras.Model:
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(width, "relu", name="deep")], name="encoder")
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3, name="out")(inner(inputs)))


def chain() -> keras.Model:
    return keras.Sequential([keras.Input((6,)), layers.Dense(5, "relu", name="deep"), layers.Dense(3, name="out")])


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (chain, "deep"),
        (lambda: nested(5), "encoder/deep"),
        (lambda: nested(5), "deep"),
        (lambda: nested(5), "encoder"),
        (Written, "blocks/1"),
        (Written, "blocks/1/inside"),
        (lambda: kc.quantize_model(nested(5)), "deep"),
    ],
    ids=["sequential", "path", "name", "model", "block", "inside", "wrapped"],
)
def test_hints_of_any_model(make, hint, teacher, x) -> None:
    student = make()
    if not student.built:
        student(x)
    distiller = kc.distill(student, teacher, "fit_nets", hints=[("hidden", hint)], alpha=1.0)
    (regressor,) = distiller.added
    assert tuple(regressor.kernel.shape) == (5, 16)
    start = weights(student)
    with ignored_warnings("Gradients do not exist"):
        fitted(distiller, x, None, loss=None)
    moved = [not np.array_equal(a, b) for a, b in zip(start, weights(student), strict=True)]
    # The layer and what is before it learn, what is behind it does not: out's kernel and bias, or the last Dense's.
    names = [variable.path for variable in student.weights]
    trained = {name for name, each in zip(names, moved, strict=True) if each}
    assert any("deep" in name or "inside" in name or "block" in name for name in trained)
    assert not [name for name in trained if name.startswith("out/") or "dense_2" in name]
    assert not any("call" in vars(layer) for layer in keras_private.flattened(student))
    np.testing.assert_allclose(np.array(distiller(x)), np.array(student(x)), rtol=1e-6)


def test_a_layer_that_is_called_twice_is_no_hint(teacher, x) -> None:
    shared = layers.Dense(6, "relu", name="shared")
    inputs = keras.Input((6,))
    student = keras.Model(inputs, layers.Dense(3)(shared(shared(inputs))))
    with pytest.raises(ValueError, match="Expected a layer that is called once .* Received: 'shared'.*called 2 times"):
        kc.distill(student, teacher, "fit_nets", hints=[("hidden", "shared")])


def with_activation(model: keras.Model, activation: str) -> keras.Model:
    return keras.Model(model.input, layers.Activation(activation)(model.output), name=f"{model.name}_{activation}")


@pytest.mark.parametrize("method", ["soft_targets", "decoupled_kd"])
def test_probabilities_are_as_good_as_logits(method, student, teacher, x) -> None:
    expected = loss_of(student, teacher, x, method)
    assert expected > 0.001
    for s, t in ((1, 0), (0, 1), (1, 1)):
        models = (
            with_activation(student, "softmax") if s else student,
            with_activation(teacher, "softmax") if t else teacher,
        )
        assert loss_of(*models, x, method) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("quantized", [False, True])
def test_small_probabilities_are_not_cut_off(quantized, x) -> None:
    """Float32 has none of logits 30 apart; what the softmax reads is compared, in front of an output's rounding too."""
    plain = [dense(4, "student"), dense(5, "teacher")]
    for each in plain:
        each.get_layer("out").kernel.assign(each.get_layer("out").kernel * 30.0)
    student, teacher = (with_activation(each, "softmax") for each in plain)
    assert float(ops.min(teacher(x))) < 1e-9
    if quantized:
        student = kc.quantize_model(student)
        student(x, training=True)
        assert float(ops.min(student(x))) == 0.0
    softmax = next(each for each in student.layers if isinstance(each, layers.Activation))
    z = [np.array(each, np.float64) for each in (plain[1](x), keras.Model(student.input, softmax.input)(x))]
    t, s = (each - each.mean(-1, keepdims=True) for each in z)
    squares = 0.5 * np.square(t - s).sum(-1).mean()
    assert loss_of(student, teacher, x, "logit_matching") == pytest.approx(squares, rel=1e-4)
    assert loss_of(student, teacher, x) == pytest.approx(divergences(*z).mean(), rel=1e-4)
    # Labels are learned as ever: from the grid that the device has.
    distiller = kc.distill(student, teacher, alpha=0.0)
    distiller.compile("sgd", "sparse_categorical_crossentropy")
    student.compile("sgd", "sparse_categorical_crossentropy")
    y = np.zeros(32)
    expected = student.compute_loss(x, y, student(x), training=False)
    assert float(distiller.compute_loss(x, y, distiller(x))) == pytest.approx(float(expected), rel=1e-6)


def test_labels_and_numbers(student, teacher, x) -> None:
    logits = teacher(x), student(x)
    labels = float(kc.SoftTargets().compute_loss(*logits, kinds=["sigmoid"]))
    numbers = float(kc.SoftTargets().compute_loss(*logits, kinds=["linear"]))
    assert loss_of(with_activation(student, "sigmoid"), with_activation(teacher, "sigmoid"), x) == pytest.approx(
        labels, rel=1e-4
    )
    assert loss_of(student, teacher, x, heads="linear") == pytest.approx(numbers, rel=1e-4)
    assert labels != pytest.approx(numbers, rel=0.01)


def test_the_loss_says_what_an_output_is(student, teacher, x) -> None:
    student.compile(loss="mse")
    assert loss_of(student, teacher, x) == pytest.approx(loss_of(student, teacher, x, heads="linear"))
    student.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    assert loss_of(student, teacher, x) == pytest.approx(loss_of(student, teacher, x, heads="sigmoid"))


def test_a_student_that_says_nothing_is_what_its_teacher_is(student, teacher, x, tmp_path) -> None:
    tagging = with_activation(teacher, "sigmoid")
    # By hand: a Bernoulli distribution for each label, softened by the default temperature of 4.
    p, q = (1.0 / (1.0 + np.exp(-np.array(each(x), np.float64) / 4.0)) for each in (teacher, student))
    expected = 16.0 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(-1).mean()
    assert loss_of(student, tagging, x) == pytest.approx(expected, rel=1e-4)
    assert loss_of(student, [teacher, tagging], x, "logit_matching") > 0.0
    outputs = kc.teacher_outputs(tagging, x, tmp_path)
    distiller = kc.distill(student, outputs, alpha=1.0)
    kept = float(distiller.compute_loss(x, outputs.targets(), y_pred=distiller(x)))
    assert kept == pytest.approx(expected, rel=1e-4)
    distiller = kc.distill(student, tagging)
    with pytest.raises(ValueError, match="Expected output 'out' to be of one kind.*Received: 'sigmoid' and 'softmax'"):
        distiller.compile("sgd", CE)
    distiller.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="Received: 'softmax' and 'sigmoid'"):
        loss_of(student, [with_activation(teacher, "softmax"), tagging], x)
    assert loss_of(with_activation(student, "softmax"), tagging, x, heads="sigmoid") > 0.0


def detector(width: int) -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    map_ = layers.Conv2D(width, 3, padding="same", activation="relu", name="map")(inputs)
    boxes = layers.Conv2D(4, 1, name="boxes")(map_)
    classes = layers.Conv2D(3, 1, activation="softmax", name="classes")(map_)
    return keras.Model(inputs, {"boxes": boxes, "classes": classes})


def test_a_detector_with_two_heads() -> None:
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype(np.float32)
    student, teacher = detector(2), detector(6)
    distiller = kc.distill(
        student, teacher, ["soft_targets", "attention_transfer"], hints=["map"], heads={"boxes": "linear"}
    )
    losses = {"boxes": "huber", "classes": "sparse_categorical_crossentropy"}
    y = {"boxes": np.zeros((8, 8, 8, 4), np.float32), "classes": np.ones((8, 8, 8), np.int32)}
    history = []
    distiller.compile(keras.optimizers.Adam(0.02), losses, run_eagerly=True)
    for _ in range(2):
        history.append(distiller.fit(x, y, epochs=3, verbose=0).history["loss"][-1])
    assert history[1] < history[0]
    boxes = 0.5 * np.square(np.array(teacher(x)["boxes"]) - np.array(student(x)["boxes"])).sum(-1).mean()
    p, q = (np.array(each(x)["classes"], np.float64) for each in (teacher, student))
    p, q = (np.power(each, 0.25) / np.power(each, 0.25).sum(-1, keepdims=True) for each in (p, q))
    classes = 16.0 * (p * np.log(p / q)).sum(-1).mean()
    found = loss_of(student, teacher, x, heads={"boxes": "linear"})
    assert found == pytest.approx(boxes + classes, rel=1e-3)


def test_sequences(y) -> None:
    x = np.random.default_rng(0).normal(size=(32, 5, 6)).astype(np.float32)
    inputs = keras.Input((None, 6))

    def net(units: int) -> keras.Model:
        made = layers.GRU(units, return_sequences=True, name="steps")(inputs)
        return keras.Model(inputs, layers.Dense(3, name="out")(made))

    student, teacher = net(3), net(8)
    methods = ["soft_targets", "fit_nets", "attention_transfer", "similarity_preserving"]
    distiller = kc.distill(student, teacher, methods, hints=["steps"])
    before = loss_of(student, teacher, x)
    fitted(distiller, x, np.repeat(y[:, None], 5, 1), epochs=2)
    assert 0.0 < loss_of(student, teacher, x) < before


def test_padding_counts_in_no_term() -> None:
    """More of it changes nothing; the labels' loss leaves it out too."""
    words = np.array([[1, 2, 3, 0], [4, 5, 0, 0], [6, 1, 2, 3]])
    more = np.pad(words, ((0, 0), (0, 3)))

    def net(units: int) -> keras.Model:
        made = layers.Embedding(8, 4, mask_zero=True)(inputs := keras.Input((None,), dtype="int32"))
        made = layers.Dense(units, "relu", name="steps")(made)
        return keras.Model(inputs, layers.Dense(3, name="out")(made))

    student, teacher = net(3), net(3)
    methods = ["soft_targets", "decoupled_kd", "fit_nets", "attention_transfer", "fsp", "gram"]
    methods += ["similarity_preserving", "rkd_distance", "rkd_angle", "correlation_congruence"]
    for method in methods:
        reads = () if method in methods[:2] else ("steps", "steps") if method == "fsp" else ("steps",)
        distiller = kc.distill(student, teacher, method, hints=[(each, each) for each in reads], alpha=0.5)
        distiller.compile("sgd", CE)
        losses = [float(distiller.compute_loss(x, x % 3, distiller(x))) for x in (words, more)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4), method
        assert float(distiller.distillation_loss_tracker.result()) > 0.0


def test_weights_of_samples_count_in_hints(student, teacher, x, y) -> None:
    """Of a sample: the mean of its weights, where outputs have others."""
    share = np.arange(32, dtype=np.float32)
    distiller = kc.distill(student, teacher, "fit_nets", hints=["hidden"], alpha=1.0)
    found = float(distiller.compute_loss(x, y_pred=distiller(x), sample_weight=share))
    hints = [ops.relu(each.get_layer("hidden")(x)) for each in (teacher, student)]
    guess = distiller.added[0](hints[1])
    each = 0.5 * np.square(np.array(hints[0]) - np.array(guess)).mean(-1)
    assert found == pytest.approx((share * each).mean(), rel=1e-4)


def test_an_ensemble_teaches_by_the_mean_of_its_logits(student, x) -> None:
    teachers = [dense(5, "a"), dense(7, "b")]
    mean = (np.array(teachers[0](x)) + np.array(teachers[1](x))) / 2
    expected = float(kc.SoftTargets().compute_loss(tf.constant(mean), student(x)))
    assert loss_of(student, teachers, x) == pytest.approx(expected, rel=1e-4)


def test_an_ensemble_of_logits_and_probabilities_has_no_first(student, x) -> None:
    """What is added to all logits of a softmax is not known, and does not count."""
    teachers = [dense(5, "a"), with_activation(dense(7, "b"), "softmax")]
    for method in ("logit_matching", "soft_targets"):
        losses = [loss_of(student, order, x, method) for order in (teachers, teachers[::-1])]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_temperature_is_of_outputs(student, teacher) -> None:
    terms = kc.distill(student, teacher, ["soft_targets", "crd"], temperature=2.0, hints=["hidden"]).terms
    assert [term.loss.temperature for term in terms] == [2.0, 0.07]


def test_half_precision(teacher, x, y) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student = dense(4, "student")
    finally:
        keras.config.set_dtype_policy("float32")
    distiller = kc.distill(student, teacher, ["soft_targets", "fit_nets"], hints=["hidden"])
    before = loss_of(student, teacher, x)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), initial_scale=128.0)
    distiller.compile(optimizer, CE, run_eagerly=True)
    history = distiller.fit(x, y, batch_size=16, epochs=4, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert loss_of(student, teacher, x) < before


def test_a_training_that_was_stopped_goes_on_bit_for_bit(teacher, x, y, tmp_path) -> None:
    def made() -> keras.Model:
        keras.utils.set_random_seed(0)
        distiller = kc.distill(dense(4, "student"), teacher, ["soft_targets", "fit_nets"], hints=["hidden"])
        distiller.compile(keras.optimizers.Adam(0.01), CE, run_eagerly=True)
        return distiller

    def fit(distiller: keras.Model, epochs: int, folder: Any) -> keras.Model:
        backup = [keras.callbacks.BackupAndRestore(str(folder), delete_checkpoint=False)]
        distiller.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=backup)
        return distiller

    whole = fit(made(), 3, tmp_path / "whole")
    fit(made(), 2, tmp_path / "backup")
    again = fit(made(), 3, tmp_path / "backup")
    assert same(weights(again.student), weights(whole.student))
    assert same(weights(again.added[0]), weights(whole.added[0]))


def test_a_distiller_is_not_saved_but_its_student(student, teacher, tmp_path) -> None:
    distiller = kc.distill(student, teacher)
    with pytest.raises(ValueError, match="Expected `distiller.student` to be saved"):
        distiller.save(tmp_path / "distiller.keras")


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"alpha": 1.5}, ValueError, r"Expected `alpha` in \[0, 1\]. Received: alpha=1.5"),
    ({"alpha": -0.1}, ValueError, r"Expected `alpha` in \[0, 1\]"),
    ({"alpha": "half"}, ValueError, r"Expected `alpha` in \[0, 1\]"),
    ({"temperature": 0}, ValueError, "Expected `temperature` > 0"),
    (
        {"temperature": 2.0, "method": "logit_matching"},
        ValueError,
        "Expected a method by a name that has a temperature",
    ),
    ({"temperature": 2.0, "method": "crd"}, ValueError, "that has a temperature of outputs, such as 'soft_targets'"),
    ({"method": "hinton"}, ValueError, "Expected a distillation out of .* Received: 'hinton'"),
    ({"method": []}, ValueError, "Expected at least one method"),
    ({"method": 3}, TypeError, "Expected `method` as a name out of"),
    ({"weights": [1.0, 2.0]}, ValueError, "Expected 1 `weights` >= 0"),
    ({"weights": [-1.0]}, ValueError, "Expected 1 `weights` >= 0"),
    ({"weights": ["a"]}, ValueError, "Expected 1 `weights` >= 0"),
    ({"method": "fit_nets", "hints": "hidden"}, ValueError, "Expected `hints` as a list of names"),
    ({"method": "fit_nets"}, ValueError, "Expected `hints` for FitNets. Received: none"),
    ({"method": "fit_nets", "hints": ["hiden"]}, ValueError, r"Received: 'hiden' \(did you mean 'hidden'\?\)"),
    ({"method": "fit_nets", "hints": [("hidden", "a", "b")]}, ValueError, "Expected `hints` as names of layers"),
    ({"method": kc.FitNets(regressor=False), "hints": ["hidden"]}, ValueError, "Expected features of equal shape"),
    ({"hints": ["hidden"]}, ValueError, "Expected a method that reads hints"),
    ({"heads": "softmin"}, ValueError, "Expected `heads` out of"),
    ({"heads": ["softmax", "linear"]}, ValueError, "Expected `heads` out of"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_arguments(arguments, error, message, student, teacher) -> None:
    with pytest.raises(error, match=message):
        kc.distill(student, teacher, **arguments)


def test_bad_teachers(student, teacher, tmp_path) -> None:
    with pytest.raises(ValueError, match="Expected a teacher that is not the student"):
        kc.distill(student, student)
    with pytest.raises(ValueError, match="Expected a teacher with weights of its own"):
        kc.distill(student, with_activation(student, "softmax"))
    with pytest.raises(TypeError, match="Expected a teacher as a keras.Model"):
        kc.distill(student, lambda x: x)
    with pytest.raises(ValueError, match="Expected at least one teacher"):
        kc.distill(student, [])
    with pytest.raises(ValueError, match="Expected a teacher in a .keras file"):
        kc.distill(student, tmp_path / "model.tflite")
    with pytest.raises(ValueError, match="Expected a teacher with outputs of the student's shapes"):
        kc.distill(student, keras.Model(teacher.input, layers.Dense(4)(teacher.output)))
    with pytest.raises(ValueError, match="Expected one teacher for hints"):
        kc.distill(student, [teacher, copy_of(teacher)], "fit_nets", hints=["hidden"])
    with pytest.raises(ValueError, match="Expected `loss` for the labels"):
        kc.distill(student, teacher).compile("sgd")
    with pytest.raises(TypeError, match="Received: a kc.Teacher"):
        kc.distill(student, kc.Teacher(teacher))


# Two samples, two positions, and what the second one's hint is off by.
POSITIONS = np.array([[1.0, 0.0], [2.0, 4.0]], np.float32)
MEANS = POSITIONS.mean(1)


def off(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("output", "hint", "share"),
    [
        ((2, 2, 3), (2, 2, 4), POSITIONS),
        ((2, 2, 3), (2, 3, 4), MEANS[:, None]),  # half the steps, or more of them
        ((2, 2, 3), (2, 2, 5, 4), MEANS[:, None, None]),  # a map that is as high by chance
        ((2, 2, 3), (2, 4), MEANS),
        ((2, 2, 5, 3), (2, 2, 5, 4), POSITIONS[:, :, None]),
    ],
)
def test_weights_of_positions_count_in_hints_of_the_same_positions(known, output, hint, share) -> None:
    term = Term(kc.FitNets(regressor=False), 1.0, (0,), ())

    def of(logits, values):
        return term.value(([logits], [ops.zeros_like(values)]), ([logits], [values]), sample_weights=[POSITIONS])

    if not known:
        unknown = [(None,) * (len(each) - 1) + each[-1:] for each in (output, hint)]
        of = tf.function(of, input_signature=[tf.TensorSpec(each) for each in unknown])
    values = off(*hint)
    expected = (share * 0.5 * np.square(values).mean(-1)).mean()
    assert float(of(off(*output), values)) == pytest.approx(expected, rel=1e-5)
