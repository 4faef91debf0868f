"""Every training of the library takes a teacher."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from tests_distillation import dense

import keras_compress as kc
from keras_compress.core.registry import lookup
from keras_compress.pipelines.training import Trainer

CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture
def training() -> kc.Training:
    return kc.Training(CE, epochs=1, learning_rate=0.01, batch_size=16)


@pytest.fixture
def taught(monkeypatch):
    """Students and their teachers, as trainings ask for them."""
    from keras_compress.core import registry

    made, seen = lookup("teaching", "distill"), []

    def distill(student, teacher):
        how = teacher if isinstance(teacher, kc.Teacher) else kc.Teacher(teacher)
        seen.append((student, how))
        return made(student, teacher)

    monkeypatch.setitem(registry._ENTRIES["teaching"], "distill", distill)
    return seen


def test_a_training_has_a_teacher(student, teacher, training, x, y) -> None:
    """It is what `kc.distill` gives, compiled and fitted alike."""
    other = keras.models.clone_model(student)
    other.set_weights(student.get_weights())
    how = kc.Teacher(teacher, "logit_matching", alpha=0.25)
    kc.Training(CE, epochs=2, learning_rate=0.01, batch_size=16, teacher=how).on(x, y)(student)
    distiller = kc.distill(other, teacher, "logit_matching", alpha=0.25)
    rate = keras.optimizers.schedules.CosineDecay(0.01, 4)
    distiller.compile(keras.optimizers.Adam(rate), CE, jit_compile=False)
    keras.utils.set_random_seed(0)
    distiller.fit(x, y, batch_size=16, epochs=2, verbose=0)
    for ours, theirs in zip(student.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert student.loss is CE
    (line,) = kc.summary(student, print_fn=lambda text: None).history
    assert line.startswith("Taught by teacher by LogitMatching(), alpha 0.25: its loss ")
    assert "Taught by teacher by LogitMatching()" in str(kc.summary(student, print_fn=lambda text: None))
    assert "logit_matching" in repr(how)


def test_outputs_that_were_kept_are_the_targets(student, teacher, x, y, tmp_path) -> None:
    outputs = kc.teacher_outputs(teacher, x, tmp_path)
    before = student.get_weights()
    kc.Training(CE, epochs=1, learning_rate=0.01, teacher=outputs).on(x, y)(student)
    assert not any(np.array_equal(a, b) for a, b in zip(before, student.get_weights(), strict=True))


def test_the_original_teaches_its_compressed_self(teacher, training, taught, x, y) -> None:
    before = teacher.get_weights()
    made = kc.compress(teacher, "qat", fit=training.on(x, y), teacher=teacher)
    assert [(each.name, how.model) for each, how in taught] == [("teacher", teacher)]
    assert kc.convert(made).mode == "int8"
    assert all(np.array_equal(a, b) for a, b in zip(before, teacher.get_weights(), strict=True))


RECIPE = {
    "version": 1,
    "name": "taught",
    "stages": [
        {"name": "prune", "method": "prune_low_magnitude", "config": {"pruning_schedule": 0.5}, "epochs": 1},
        {
            "name": "quantize",
            "method": "quantize_model",
            "epochs": 1,
            "teacher": {"method": ["soft_targets", "fit_nets"], "hints": ["hidden"], "alpha": 0.5, "temperature": 2.0},
        },
    ],
}


def recipe(**teacher) -> dict:
    made = json.loads(json.dumps(RECIPE))
    made["stages"][1]["teacher"] = teacher
    return made


def test_a_recipe_says_how_a_stage_is_taught(teacher, student, training, taught, x, y) -> None:
    made = json.loads(json.dumps(RECIPE))
    made["stages"] = made["stages"][1:]
    kc.compress(student, made, fit=training.on(x, y))
    kc.compress(student, made, fit=training.on(x, y), teacher=teacher)
    assert [how.model for _, how in taught] == [student, teacher]
    for _, how in taught:
        assert (how.method, how.alpha, how.temperature) == (["soft_targets", "fit_nets"], 0.5, 2.0)
    stages, own = [], kc.Teacher(teacher, "logit_matching")
    kc.compress(student, made, fit=lambda model, stage: stages.append(stage), teacher=own)
    assert stages[0].teacher.method == "logit_matching"


BAD = [
    ({"alfa": 1}, r"Expected keys out of \['alpha', .*, at `stages\[1\].teacher` of recipe 'taught'"),
    ({"model": "x"}, "Expected keys out of"),
    ({"alpha": 2}, r"Expected `alpha` in \[0, 1\]. Received: alpha=2, at `stages\[1\].teacher`"),
    ({"method": "hinton"}, "Expected a distillation out of"),
    ({"temperature": -1}, "Expected `temperature` > 0"),
    ({"hints": [3]}, "Expected `hints` as names of layers"),
    ({"weights": [1, 2]}, "Expected 1 `weights` >= 0"),
]


@pytest.mark.parametrize(("teacher", "message"), BAD)
def test_mistakes_in_a_recipe_are_found_before_anything_is_done(teacher, message) -> None:
    with pytest.raises(ValueError, match=message):
        kc.Recipe.load(recipe(**teacher))


def test_a_teacher_has_a_training(student, teacher, x, y) -> None:
    with pytest.raises(ValueError, match="Expected `fit=kc.Training"):
        kc.compress(student, "qat", teacher=teacher)
    untrained = recipe(alpha=0.5)
    untrained["stages"][1]["epochs"] = 0
    with pytest.raises(ValueError, match="Expected no teacher where there are no epochs at `stages"):
        kc.Recipe.load(untrained)
    with pytest.raises(ValueError, match="Expected `teacher` or `fit`"):
        kc.Training(fit=print, teacher=teacher)


def test_pruned_channels_are_taught_between_their_steps(teacher, training, taught, x, y) -> None:
    from dataclasses import replace

    fine_tune = replace(training, teacher=teacher).on(x, y)
    pruned = kc.prune_channels(teacher, ratio=0.5, iterations=2, fine_tune=fine_tune, round_to=1)
    assert len(taught) == 1
    assert pruned.get_layer("hidden").units == 8


def test_a_teacher_decides_what_a_folder_of_deep_compression_holds(student, teacher, training, x, y) -> None:
    from dataclasses import replace

    from keras_compress.pipelines.fingerprints import fingerprint

    plain = Trainer(training, x, y, student).decisive()
    assert "teacher" not in plain
    both = [Trainer(replace(training, teacher=kc.Teacher(teacher, alpha=a)), x, y, student) for a in (0.5, 0.6)]
    found = [fingerprint(each.decisive()["teacher"]) for each in both]
    assert found[0] != found[1]
    assert found[0] == fingerprint(kc.Teacher(teacher, alpha=0.5))


def test_positions_are_trained_by_a_teacher(teacher, training, x, y) -> None:
    """Differentiable quantization: the positions move, the weights behind them stay."""
    student = dense(4, "student")
    quantized = kc.quantize_in_buckets(student, 2, 8, train_positions=True)
    wrapper = quantized.get_layer("hidden")
    latent, positions = np.array(wrapper.latent("kernel")), np.array(wrapper.transform_list[0].positions)
    kc.Training(CE, epochs=1, learning_rate=0.01, teacher=teacher).on(x, y)(quantized)
    np.testing.assert_array_equal(np.array(wrapper.latent("kernel")), latent)
    assert not np.array_equal(np.array(wrapper.transform_list[0].positions), positions)


def test_the_command_line_takes_a_teacher(teacher, x, y, tmp_path) -> None:
    from keras_compress.cli import main as cli

    for name, model in (("model", dense(4, "small", "softmax")), ("teacher", dense(8, "large", "softmax"))):
        model.save(tmp_path / f"{name}.keras")
    np.savez(tmp_path / "data.npz", x=x, y=y)
    paths = [f"--{name}={tmp_path}/{name}.keras" for name in ("model", "teacher")]
    arguments = [*paths, f"--data={tmp_path}/data.npz", "--recipe=qat_taught", f"--out={tmp_path}/out"]
    assert cli.main(["keras-compress", "compress", *arguments]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (taught,) = [note for note in report["notes"] if note.startswith("Taught by ")]
    assert taught.startswith("Taught by large by SoftTargets(temperature=4), alpha 0.7: its loss ")


def test_an_older_keras_is_said_before_anything_is_done(student, training, x, y, monkeypatch) -> None:
    """Recipes are read without its distiller, losses work."""
    monkeypatch.delattr(keras, "distillation")
    before = student.get_weights()
    for run in (
        lambda: kc.distill(student, dense(5, "other")),
        lambda: kc.compress(student, "qat_taught", fit=training.on(x, y)),
        lambda: kc.compress(student, recipe(), fit=training.on(x, y)),
    ):
        with pytest.raises(ImportError, match="Expected Keras 3.12 or later, which has keras.distillation. Received"):
            run()
    assert all(np.array_equal(a, b) for a, b in zip(before, student.get_weights(), strict=True))
    assert float(kc.SoftTargets().compute_loss(x, x)) == 0.0
