"""What outputs are, where the models are not the usual ones."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.distillation.heads import Head, heads_of

X = np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype(np.float32)


def net(end) -> keras.Model:
    inputs = keras.Input((6, 6, 3))
    return keras.Model(inputs, end(layers.Conv2D(4, 3, padding="same", name="scores")(inputs)))


MOVED = {
    "channels first": lambda x: layers.Permute((3, 1, 2), name="end")(layers.Softmax(name="s")(x)),
    "axis 1": lambda x: layers.Softmax(axis=1, name="s")(layers.Permute((3, 1, 2))(x)),
    "reshaped": lambda x: layers.Reshape((6, 6, 2, 2))(layers.Softmax(name="s")(x)),
    "flat": lambda x: layers.Flatten()(layers.Softmax(name="s")(x)),
    "two axes": lambda x: layers.Softmax(axis=(1, 2), name="s")(x),
}
LAST = {
    "plain": lambda x: layers.Softmax()(x),
    "positions in a row": lambda x: layers.Reshape((-1, 4))(layers.Softmax()(x)),
    "there and back": lambda x: layers.Permute((2, 3, 1))(layers.Softmax(axis=1)(layers.Permute((3, 1, 2))(x))),
    "one position": lambda x: layers.Flatten()(layers.Softmax()(layers.GlobalAveragePooling2D(keepdims=True)(x))),
    "scores": lambda x: layers.Permute((3, 1, 2))(x),
}


@pytest.mark.parametrize("kind", MOVED)
def test_classes_that_are_not_on_the_last_axis_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="Expected the classes of output .* on its last axis.*layer 's' elsewhere"):
        kc.distill(net(MOVED[kind]), net(MOVED[kind]), "soft_targets", alpha=1.0)
    kc.distill(net(MOVED[kind]), net(MOVED[kind]), "logit_matching", alpha=1.0, heads="linear")


@pytest.mark.parametrize("kind", LAST)
def test_classes_on_the_last_axis_are_found(kind: str) -> None:
    found = heads_of(net(LAST[kind]), [None])
    assert found == [Head("softmax", True) if kind != "scores" else Head("softmax", guessed=True)]


def test_a_loss_along_another_axis_is_refused() -> None:
    distiller = kc.distill(net(LAST["scores"]), net(LAST["scores"]), "soft_targets")
    with pytest.raises(ValueError, match="last axis.*Received: classes by its loss on axis 1"):
        distiller.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True, axis=1))


def two_heads(ends) -> keras.Model:
    inputs = keras.Input((8,))
    hidden = layers.Dense(4)(inputs)
    return keras.Model(inputs, ends(layers.Dense(3, name="sex")(hidden), layers.Dense(3, name="age")(hidden)))


def test_a_dict_beside_a_list_in_another_order_is_refused() -> None:
    teacher = two_heads(lambda sex, age: {"sex": sex, "age": age})
    with pytest.raises(ValueError, match=r"in this order: \['sex', 'age'\].*Received: \['age', 'sex'\]"):
        kc.distill(two_heads(lambda sex, age: [sex, age]), teacher, "logit_matching", alpha=1.0)
    student = two_heads(lambda sex, age: [age, sex])
    values = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    wanted, found = teacher(values), student(values)
    expected = sum(0.5 * np.square(found[n] - wanted[k]).sum(-1).mean() for n, k in enumerate(("age", "sex")))
    distiller = kc.distill(student, teacher, "logit_matching", alpha=1.0)
    distiller.compile("sgd")
    np.testing.assert_allclose(distiller.train_on_batch(values)[0], expected, rtol=1e-5)


def test_outputs_of_a_teacher_of_one_batch_size_are_kept(tmp_path: Path) -> None:
    inputs = keras.Input((8,), batch_size=4)
    teacher = keras.Model(inputs, layers.Dense(3)(inputs))
    values = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    kept = kc.teacher_outputs(teacher, values, tmp_path / "kept")
    kernel, bias = teacher.layers[-1].get_weights()
    np.testing.assert_allclose(kept.logits[0], values @ kernel + bias, rtol=1e-5, atol=1e-6)
