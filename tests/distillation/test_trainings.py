"""Whole ways of teaching."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from tests_distillation import dense

import keras_compress as kc
from keras_compress.distillation.mutual import Learners

CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture
def fitting(x, y):
    return kc.Training(CE, epochs=1, learning_rate=0.01, batch_size=16).on(x, y)


def same(model: keras.Model, weights: list) -> list[bool]:
    return [np.array_equal(a, b) for a, b in zip(model.get_weights(), weights, strict=True)]


def test_the_first_stage_trains_up_to_the_guided_layer(student, teacher, fitting, x, monkeypatch) -> None:
    stages = []
    before = student.get_weights()
    call = type(fitting).__call__

    def seen(self, model, stage=None):
        call(self, model, stage)
        stages.append((self.training.teacher.method, same(model, before)))

    monkeypatch.setattr(type(fitting), "__call__", seen)
    assert kc.two_stages(student, teacher, ["hidden"], fitting, method="logit_matching", alpha=0.5) is student
    assert stages == [("fit_nets", [False, False, True, True]), ("logit_matching", [False] * 4)]


def test_generations_are_taught_by_the_one_before(teacher, fitting) -> None:
    made = []

    def make() -> keras.Model:
        made.append(dense(5, f"generation{len(made)}"))
        return made[-1]

    students = kc.born_again(make, teacher, fitting, generations=2, alpha=1.0)
    assert students == made
    alone = dense(5, "alone")
    alone.set_weights(dense(5, "other").get_weights())
    assert not any(same(students[1], students[0].get_weights())[::2])
    kc.distill(alone, students)


def test_generations_begin_elsewhere_though_each_training_sets_the_seed(teacher, fitting) -> None:
    starts = []

    def make() -> keras.Model:
        inputs = keras.Input(teacher.input_shape[1:])
        model = keras.Model(inputs, keras.layers.Dense(teacher.output_shape[-1])(inputs))
        starts.append(np.array(model.get_weights()[0]))
        return model

    kc.born_again(make, teacher, fitting, generations=3)
    assert not any(np.array_equal(a, b) for a, b in zip(starts, (*starts[1:], starts[0]), strict=True))


def test_assistants_stand_between(teacher, fitting, monkeypatch) -> None:
    assistant, student = dense(8, "assistant"), dense(2, "student")
    teachers = []
    call = type(fitting).__call__

    def seen(self, model, stage=None):
        found = self.training.teacher.model
        teachers.append((model.name, [each.name for each in (found if isinstance(found, list) else [found])]))
        call(self, model, stage)

    monkeypatch.setattr(type(fitting), "__call__", seen)
    assert kc.teach_down([teacher, assistant, student], fitting) is student
    kc.teach_down([teacher, assistant, student], fitting, densely=True)
    assert teachers[:2] == [("assistant", ["teacher"]), ("student", ["assistant"])]
    assert teachers[2:] == [("assistant", ["teacher"]), ("student", ["teacher", "assistant"])]


def test_mutual_learning(x, y, fitting) -> None:
    first, second = dense(3, "first"), dense(5, "second", activation="softmax")
    learners = Learners([first, second], 1.0)
    learners.compile("sgd", "sparse_categorical_crossentropy")
    learners._heads[0] = type(learners._heads[0])("softmax")  # it gives logits, whatever this loss says
    p, q = (np.array(tf.nn.softmax(first(x)), np.float64), np.array(second(x), np.float64))
    kl = (p * np.log(p / q)).sum(-1).mean() + (q * np.log(q / p)).sum(-1).mean()
    shares = np.array(keras.losses.sparse_categorical_crossentropy(y, first(x))).mean()
    tasks = shares - np.log(q[np.arange(32), y]).mean()
    assert float(learners.compute_loss(x, y, learners(x))) == pytest.approx(tasks + kl, rel=1e-4)
    share = np.linspace(0.0, 2.0, 32).astype(np.float32)
    kl = (share * ((p * np.log(p / q)).sum(-1) + (q * np.log(q / p)).sum(-1))).mean()
    shares = share * np.array(keras.losses.sparse_categorical_crossentropy(y, first(x)))
    tasks = (shares - share * np.log(q[np.arange(32), y])).mean()
    assert float(learners.compute_loss(x, y, learners(x), share)) == pytest.approx(tasks + kl, rel=1e-4)
    plain = [dense(3, "third"), dense(3, "fourth")]
    before = [each.get_weights()[0] for each in plain]
    assert kc.mutual_learning(plain, fitting) == plain
    assert not any(np.array_equal(a, each.get_weights()[0]) for a, each in zip(before, plain, strict=True))


def test_padding_counts_for_no_learner() -> None:
    """In the labels' loss neither, given as a function or as an object."""
    words = np.array([[1, 2, 3, 0], [4, 5, 0, 0]])
    more = np.pad(words, ((0, 0), (0, 3)))

    def net() -> keras.Model:
        made = keras.layers.Embedding(8, 4, mask_zero=True)(inputs := keras.Input((None,), dtype="int32"))
        return keras.Model(inputs, keras.layers.Dense(3)(made))

    learners = Learners([net(), net()], 1.0)
    of_losses = []
    for loss in ("mse", keras.losses.MeanSquaredError()):
        learners.compile("sgd", loss)
        of_losses += [float(learners.compute_loss(x, np.stack([x] * 3, -1), learners(x))) for x in (words, more)]
    assert of_losses == pytest.approx(of_losses[:1] * 4, rel=1e-5)


def test_models_that_learn_from_each_other_are_of_one_kind() -> None:
    """A loss of the user's own says nothing of a linear output, a sigmoid does."""
    learners = Learners([dense(3, "first"), dense(5, "second", activation="sigmoid")], 1.0)
    learners.compile("sgd", lambda y, out: tf.reduce_mean(tf.square(y - out)))
    assert [head.kind for head in learners._heads] == ["sigmoid", "sigmoid"]
    other = Learners([dense(3, "first", activation="softmax"), dense(5, "second", activation="sigmoid")], 1.0)
    with pytest.raises(ValueError, match="Received: 'softmax' and 'sigmoid'"):
        other.compile("sgd", "mse")


BAD = [
    (lambda t, f: kc.born_again(lambda: dense(3, "s"), t, f, generations=0), ValueError, "Expected `generations` >= 1"),
    (lambda t, f: kc.teach_down([t], f), ValueError, "Expected a teacher and at least one student. Received: 1"),
    (lambda t, f: kc.mutual_learning([t], f), ValueError, "Expected at least two models to learn from each other"),
    (lambda t, f: kc.mutual_learning([t, t], f), ValueError, "Expected at least two models to learn from each other"),
    (lambda t, f: kc.two_stages(dense(3, "s"), t, [], f), ValueError, "Expected `hints` for FitNets"),
    (lambda t, f: kc.two_stages(dense(3, "s"), t, ["hidden"], 3), TypeError, r"Expected kc.Training\(...\).on\(x, y\)"),
    (lambda t, f: kc.teach_down([t, t], f), ValueError, "Expected a teacher that is not the student"),
]


@pytest.mark.parametrize(("run", "error", "message"), BAD)
def test_bad_input(run, error, message, teacher, fitting) -> None:
    with pytest.raises(error, match=message):
        run(teacher, fitting)
