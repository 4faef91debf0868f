"""What every distillation loss must do."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.testing.sample import Sample, constructor_arguments, serialized_again

# Six samples of a map of 2x2 with four channels, and of logits of four classes; two of each.
_RNG = np.random.default_rng(0)
_VALUES = {
    "features": [_RNG.normal(size=(6, 2, 2, 4)).astype(np.float32) for _ in range(4)],
    "outputs": [_RNG.normal(size=(6, 4)).astype(np.float32) for _ in range(4)],
}


def config_gives_back_the_arguments(sample: Sample) -> None:
    """`get_config` has the constructor's arguments, and Keras makes the same loss of it."""
    made = sample.make()
    config = made.get_config()
    assert set(config) == constructor_arguments(sample.cls), f"{sample}: get_config() gives {sorted(config)}"
    again = serialized_again(made)
    assert type(again) is sample.cls
    assert again.get_config() == config


def _loss(made: Any, teacher: list[Any], student: list[Any], layers: list[Any]) -> Any:
    return made.compute_loss(teacher, student, layers=layers, labels=None, kinds=["softmax"] * len(student))


def _tried(sample: Sample) -> tuple[Any, list[Any], list[Any], list[Any]]:
    made = sample.make()
    values = [tf.constant(each) for each in _VALUES[made.reads]]
    shapes = [(None, *each.shape[1:]) for each in values]
    return made, values[:2], values[2:], made.make_layers(shapes[:2], shapes[2:])


def is_a_finite_scalar_in_float32(sample: Sample) -> None:
    """Of half-precision values too, compiled and not."""
    made, teacher, student, layers = _tried(sample)
    value = _loss(made, teacher, student, layers)
    assert (value.shape, value.dtype) == ((), "float32"), f"{sample}: {value.dtype} of shape {value.shape}"
    assert np.isfinite(float(value))
    assert float(value) > 0.0, f"{sample}: {float(value)} for values that differ"
    halves = ([tf.cast(each, "float16") for each in values] for values in (teacher, student))
    assert _loss(made, next(halves), next(halves), layers).dtype == "float32", f"{sample}: of float16 values"
    compiled = tf.function(lambda t, s: _loss(made, t, s, layers))
    np.testing.assert_allclose(float(compiled(teacher, student)), float(value), rtol=1e-4, err_msg=f"{sample}")


def gradients_flow_into_the_student_only(sample: Sample) -> None:
    """Each of its values gets one, finite; the teacher's get none."""
    made, teacher, student, layers = _tried(sample)
    with tf.GradientTape() as tape:
        tape.watch([*teacher, *student])
        value = _loss(made, teacher, student, layers)
    gradients = tape.gradient(value, [*teacher, *student])
    assert all(each is None for each in gradients[:2]), f"{sample}: a gradient into the teacher"
    for each in gradients[2:]:
        assert each is not None, f"{sample}: no gradient"
        assert np.isfinite(np.array(each)).all(), f"{sample}: no finite gradient"
        assert np.abs(np.array(each)).max() > 0.0, f"{sample}: a gradient of zeros"


def a_student_that_is_the_teacher_has_the_least_loss(sample: Sample) -> None:
    """Without layers in between: not more than one a step away, in any direction tried, and finite gradients."""
    made, teacher, _, layers = _tried(sample)
    if layers:
        return
    student = [tf.identity(each) for each in teacher]
    with tf.GradientTape() as tape:
        tape.watch(student)
        least = _loss(made, teacher, student, [])
    assert all(np.isfinite(np.array(each)).all() for each in tape.gradient(least, student)), f"{sample}"
    rng = np.random.default_rng(1)
    for _ in range(4):
        moved = [each + 0.1 * rng.normal(size=each.shape).astype(np.float32) for each in student]
        assert float(_loss(made, teacher, moved, [])) > float(least), f"{sample}: less than that of equal values"


CHECKS = (
    config_gives_back_the_arguments,
    is_a_finite_scalar_in_float32,
    gradients_flow_into_the_student_only,
    a_student_that_is_the_teacher_has_the_least_loss,
)
