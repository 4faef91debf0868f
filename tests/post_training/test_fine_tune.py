from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.post_training.fine_tune import fine_tune
from keras_compress.post_training.record import NotApplicable, record_of
from keras_compress.post_training.start import with_ranges
from keras_compress.quantizers.activation import QuantizeActivation

Tiny = tuple[keras.Model, np.ndarray]
# In place of learned rounding, which takes longer than all of this.
QUICK = ["fold_batch_norms", "with_ranges", "clip_weights", "gptq"]


def distance(model: keras.Model, values: np.ndarray, found: keras.Model) -> float:
    return sqnr_db(np.asarray(model(values)), np.asarray(found(values)))


@pytest.fixture(scope="module")
def nearest(tiny: Tiny) -> keras.Model:
    model, values = tiny
    return with_ranges(kc.quantize_model(model, weights="int3", activations="int8"), values[:128])


@pytest.fixture(scope="module")
def trained(tiny: Tiny, nearest: keras.Model) -> keras.Model:
    return fine_tune(nearest, tiny[1][:128], steps=100)


def test_it_is_better_on_samples_that_were_not_seen(tiny: Tiny, nearest: keras.Model, trained: keras.Model) -> None:
    model, values = tiny
    before = distance(model, values[128:], nearest)
    assert distance(model, values[128:], trained) > before + 3.0
    (note,) = [each for each in record_of(trained).notes if each.startswith("Trained on")]
    pattern = r"Trained on 102 samples with a teacher: (.*) to (.*) dB on 26 that were held out"
    figures = [float(each) for each in re.fullmatch(pattern, note).groups()]
    assert figures[1] > figures[0]
    (effect,) = record_of(trained).effects
    assert (round(effect.before_db, 1), round(effect.after_db, 1)) == tuple(figures)


def test_what_inference_has_stays(tiny: Tiny, nearest: keras.Model, trained: keras.Model, tmp_path: Path) -> None:
    """Statistics of normalizations and ranges of activations; the model is converted and saved like any other."""
    for name in ("moving_mean", "moving_variance"):
        pair = [getattr(each.get_layer("stem_norm"), name) for each in (nearest, trained)]
        np.testing.assert_array_equal(*pair)
    points = [[p.quantizer.range() for p in m.layers if isinstance(p, QuantizeActivation)] for m in (nearest, trained)]
    np.testing.assert_array_equal(*points)
    kernels = [np.asarray(each.get_layer("logits").latent("kernel")) for each in (nearest, trained)]
    assert not np.array_equal(*kernels)
    artifact = kc.convert(trained)
    assert kc.verify(artifact, trained, tiny[1][:16]).ok
    trained.save(tmp_path / "made.keras")
    again = keras.models.load_model(tmp_path / "made.keras")
    np.testing.assert_array_equal(again(tiny[1][:8]), trained(tiny[1][:8]))


def test_a_rate_does_the_same_for_a_net_on_another_scale(tiny: Tiny, nearest: keras.Model) -> None:
    """Weights of two layers times 64 and over 64: the same function, and the same training, to the last bits."""
    model, values = tiny
    found = []
    for factor in (1.0, 64.0):
        scaled = keras.models.clone_model(model)
        scaled.set_weights(model.get_weights())
        for name, share in (("depthwise", factor), ("pointwise", 1.0 / factor)):
            scaled.get_layer(name).kernel.assign(scaled.get_layer(name).kernel * share)
        scaled.get_layer("depthwise").bias.assign(scaled.get_layer("depthwise").bias * factor)
        made = with_ranges(kc.quantize_model(scaled, weights="int3", activations="int8"), values[:64])
        found.append(np.asarray(fine_tune(made, values[:64], steps=15)(values)))
    np.testing.assert_allclose(found[1], found[0], atol=0.02 * np.abs(found[0]).max())


def test_level_3_takes_back_a_training_that_makes_it_worse(tiny: Tiny) -> None:
    model, values = tiny
    settings = {"weights": "int4", "report": False}
    second = kc.quantize_post_training(model, values[:64], level=2, passes=QUICK, **settings)
    options = {"fine_tune": {"learning_rate": 30.0, "steps": 10}}
    third = kc.quantize_post_training(
        model, values[:64], level=3, passes=[*QUICK, "fine_tune"], options=options, **settings
    )
    np.testing.assert_array_equal(np.asarray(third(values)), np.asarray(second(values)))
    said = kc.summary(third, print_fn=str).history
    pattern = r"Training taken back: on 51 samples it made the model worse, \S+ to -?\S+ dB on 13 that were held out"
    assert re.fullmatch(f"Post-training: {pattern}", said[-1]), said
    effect = record_of(third).effects[-1]
    assert effect.before_db == effect.after_db


def test_level_3_by_default_ends_with_the_training(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    model, values = tiny
    made = kc.quantize_post_training(model, values[:64], level=3, options={"fine_tune": {"steps": 10}})
    found = kc.summary(made)
    assert [stage.name for stage in found.passes.stages][-3:] == ["with_ranges", "bias_from_data", "fine_tune"]
    shown = capsys.readouterr().out
    effect = record_of(made).effects[-1]
    assert effect.after_db > effect.before_db + 0.5
    figures = f"{effect.before_db:.1f} to {effect.after_db:.1f} dB on 13 that were held out"
    assert f"Post-training: Trained on 51 samples with a teacher: {figures}" in shown
    assert "taken back" not in shown
    second = kc.quantize_post_training(model, values[:64], options={}, report=False)
    assert "bias_from_data" in {each.method for each in record_of(second).effects}
    assert "fine_tune" not in {each.method for each in record_of(second).effects}


def test_another_teacher_is_learned_from(tiny: Tiny, nearest: keras.Model) -> None:
    model, values = tiny
    teacher = keras.models.clone_model(model)
    teacher.set_weights(model.get_weights())
    teacher.get_layer("logits").bias.assign(np.full(5, 0.5))
    made = fine_tune(nearest, values[:128], teacher=teacher, steps=60)
    assert distance(teacher, values[128:], made) > distance(teacher, values[128:], nearest) + 1.0


def test_labels_have_a_part_where_there_are_some(tiny: Tiny, nearest: keras.Model) -> None:
    model, values = tiny
    labels = (np.arange(128) % 5).astype(np.int64)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made = fine_tune(nearest, values[:128], labels=labels, loss=loss, steps=60, learning_rate=0.05, held_out=0.1)
    plain = fine_tune(nearest, values[:128], steps=60, learning_rate=0.05, held_out=0.1)
    found = [float(loss(labels, each(values[:128]))) for each in (nearest, plain, made)]
    assert found[2] < min(found[:2])
    compiled = keras.models.clone_model(model)
    compiled.compile("sgd", loss)
    assert fine_tune(nearest, values[:32], teacher=compiled, labels=labels, steps=1) is not nearest
    with pytest.raises(ValueError, match="Expected `labels` of 128 samples. Received: 64"):
        fine_tune(nearest, values[:128], labels=labels[:64], loss=loss)
    with pytest.raises(ValueError, match="Expected `loss` for the labels"):
        fine_tune(nearest, values[:128], labels=labels)


def test_a_loss_is_taken_as_compile_takes_it(tiny: Tiny, nearest: keras.Model) -> None:
    _, values = tiny
    one_hot = np.eye(5, dtype=np.float32)[np.arange(128) % 5]
    by_name = fine_tune(nearest, values[:128], labels=one_hot, loss="mse", steps=20, seed=3)
    by_class = fine_tune(nearest, values[:128], labels=one_hot, loss=keras.losses.MeanSquaredError(), steps=20, seed=3)
    summed = keras.losses.MeanSquaredError(reduction="sum")
    by_sum = fine_tune(nearest, values[:128], labels=one_hot, loss=summed, steps=20, seed=3)
    for each in (by_class, by_sum):
        np.testing.assert_allclose(each(values), by_name(values), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "Expected `steps` of 1 or more"),
        ({"batch_size": 1.5}, "Expected `batch_size` of 1 or more"),
        ({"learning_rate": 0.0}, "Expected `learning_rate` > 0"),
        ({"held_out": 1.0}, r"Expected `held_out` in \(0, 1\)"),
        ({"samples": 15}, "Expected 16 samples or more to train on and to hold out"),
        ({"teacher": keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten()])}, "Expected a `teacher` with out"),
    ],
)
def test_what_is_refused(tiny: Tiny, nearest: keras.Model, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fine_tune(nearest, tiny[1][:32], **arguments)


def test_what_has_no_quantized_weights_is_refused(tiny: Tiny) -> None:
    with pytest.raises(NotApplicable, match="Expected a model with quantized weights"):
        fine_tune(tiny[0], tiny[1][:32])


def test_a_teacher_belongs_to_level_3(tiny: Tiny) -> None:
    model, values = tiny
    with pytest.raises(ValueError, match="Expected `teacher` for level 3 alone"):
        kc.quantize_post_training(model, values, teacher=model)
    with pytest.raises(TypeError, match="Expected a keras.Model for `teacher`"):
        kc.quantize_post_training(model, values, level=3, teacher=3)
