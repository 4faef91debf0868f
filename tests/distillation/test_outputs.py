"""A teacher's outputs, computed once: resumable, from files too, and as good as the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tests_distillation import dense

import keras_compress as kc
from keras_compress.distillation import teacher_outputs as module
from keras_compress.distillation.heads import Head


def softmax(values: Any) -> np.ndarray:
    return np.array(keras.ops.softmax(values))


def test_they_are_the_teachers_logits(teacher, x, tmp_path) -> None:
    outputs = kc.teacher_outputs(teacher, x, tmp_path / "kept", batch_size=10)
    (logits,) = outputs.logits
    assert isinstance(logits, np.memmap)
    np.testing.assert_allclose(logits, np.array(teacher(x)), rtol=1e-5, atol=1e-6)
    assert len(outputs) == 32
    assert "softmax" in repr(outputs)


def test_a_run_that_was_stopped_goes_on(teacher, x, tmp_path, monkeypatch) -> None:
    whole = kc.teacher_outputs(teacher, x, tmp_path / "whole", batch_size=8).logits[0]
    write, calls = module.Writing.write, []

    def stops(self: Any, logits: Any) -> None:
        calls.append(len(logits[0]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(self, logits)

    monkeypatch.setattr(module.Writing, "write", stops)
    with pytest.raises(KeyboardInterrupt):
        kc.teacher_outputs(teacher, x, tmp_path / "kept", batch_size=8)
    again = kc.teacher_outputs(teacher, x, tmp_path / "kept", batch_size=8)
    # Two batches were done; the third is done again, and the last.
    assert calls == [8] * 5
    np.testing.assert_array_equal(again.logits[0], whole)
    kc.teacher_outputs(teacher, x, tmp_path / "kept", batch_size=8)
    assert calls == [8] * 5


def test_what_may_be_labels_or_numbers_is_said() -> None:
    """Of values alone: shares are classes, logits follow the student, and the rest between 0 and 1 is asked for."""
    assert module._head(np.array([[0.25, 0.75]]), None) == Head("softmax", probabilities=True)
    assert module._head(np.array([[2.0, -1.0]]), None) == Head("softmax", guessed=True)
    with pytest.warns(UserWarning, match="Expected `heads` for outputs between 0 and 1 that are no shares"):
        assert module._head(np.array([[0.9, 0.8]]), None) == Head("softmax", guessed=True)
    assert module._head(np.array([[0.9, 0.8]]), "sigmoid") == Head("sigmoid", probabilities=True)


def test_others_are_refused(teacher, x, tmp_path) -> None:
    kc.teacher_outputs(teacher, x, tmp_path)
    for other, data in ((teacher, x + 1), (dense(16, "teacher", norm=True), x), (teacher, x[:9])):
        with pytest.raises(ValueError, match="Expected a folder for this teacher and these samples"):
            kc.teacher_outputs(other, data, tmp_path)


@pytest.mark.parametrize("kind", ["tflite", "int8", "saved_model", "keras", "ensemble"])
def test_teachers_in_files(kind: str, x, tmp_path: Path) -> None:
    teacher = dense(16, "teacher", activation="softmax")
    path, tolerance = tmp_path / "model", 1e-4
    if kind in ("tflite", "int8"):
        path = path.with_suffix(".tflite")
        float_ = {"mode": "float32"}
        kc.convert(teacher, **(float_ if kind == "tflite" else {"representative_dataset": x})).save(path)
        tolerance = 1e-4 if kind == "tflite" else 0.1
    elif kind == "saved_model":
        teacher.export(path, verbose=False)
    elif kind == "keras":
        path = path.with_suffix(".keras")
        teacher.save(path)
    given = [teacher, teacher] if kind == "ensemble" else path
    outputs = kc.teacher_outputs(given, x, tmp_path / "kept")
    assert outputs.heads[0].kind == "softmax"
    np.testing.assert_allclose(softmax(outputs.logits[0]), np.array(teacher(x)), atol=tolerance)


@pytest.mark.skipif(not hasattr(keras, "distillation"), reason="Keras 3.11 has no distiller")
def test_a_student_learns_the_same_from_them(teacher, x, y, tmp_path) -> None:
    outputs = kc.teacher_outputs(teacher, x, tmp_path)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained = []
    for source, targets in ((teacher, y), (outputs, outputs.targets(y))):
        keras.utils.set_random_seed(0)
        student = dense(4, "student")
        distiller = kc.distill(student, source)
        distiller.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"], run_eagerly=True)
        history = distiller.fit(x, targets, batch_size=16, epochs=2, shuffle=False, verbose=0).history
        trained.append(student.get_weights())
    assert 0.0 < history["accuracy"][-1] <= 1.0
    for live, kept in zip(*trained, strict=True):
        np.testing.assert_allclose(kept, live, rtol=1e-4, atol=1e-6)
    batches = outputs.batches(x, y, 10)
    assert [len(batches[n][0]) for n in range(batches.num_batches)] == [10, 10, 10, 2]
    found, targets = batches[0]
    rows = [int(np.where((x == row).all(1))[0][0]) for row in found]
    np.testing.assert_array_equal(targets["labels"], y[rows])
    np.testing.assert_array_equal(targets["teacher"][0], outputs.logits[0][rows])
    distiller.fit(batches, epochs=1, verbose=0)


def test_what_does_not_fit(teacher, student, x, y, tmp_path) -> None:
    outputs = kc.teacher_outputs(teacher, x, tmp_path)
    with pytest.raises(ValueError, match="Expected labels of the 32 samples"):
        outputs.targets(y[:5])
    with pytest.raises(ValueError, match="Expected at least one sample"):
        kc.teacher_outputs(teacher, x[:0], tmp_path)
    with pytest.raises(ValueError, match=r"and as many of each input. Received: \[8, 32\] samples"):
        kc.teacher_outputs(teacher, [x, x[:8]], tmp_path)
    with pytest.raises(TypeError, match="Expected `x` as an array, or several"):
        kc.teacher_outputs(teacher, tf.data.Dataset.from_tensor_slices(x).batch(8), tmp_path)
    with pytest.raises(ValueError, match="Expected `batch_size` >= 1"):
        kc.teacher_outputs(teacher, x, tmp_path, batch_size=0)
    with pytest.raises(ValueError, match="which has been run"):
        kc.teacher_outputs(outputs, x, tmp_path)
    with pytest.raises(ValueError, match="Expected a teacher that runs, for hints"):
        kc.distill(student, outputs, "fit_nets", hints=["hidden"])
    with pytest.raises(ValueError, match="Expected the targets of a teacher whose outputs were kept"):
        kc.distill(student, outputs, alpha=1.0).compute_loss(x, y, student(x))
