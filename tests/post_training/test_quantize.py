from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from tests_post_training import images, outputs, residual_net, settled

import keras_compress as kc
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.post_training import passes
from keras_compress.post_training.equalize import equalize
from keras_compress.post_training.record import NotApplicable
from keras_compress.quantizers.activation import QuantizeActivation

METHOD = "bias_from_data"
RANGES = ("fold_batch_norms", "ranges_from_statistics", "synthetic_data")
# Enough to fill in ranges with.
FEW = {"synthetic_data": {"steps": 10, "samples": 8}}
# Of PReLU, which has nothing to be quantized.
pytestmark = pytest.mark.filterwarnings("ignore:Layers left as they are")


@cache
def spoilt_net() -> keras.Model:
    """Depthwise and pointwise convolutions whose channels have scales 2^u apart, outputs those of the plain net."""
    image = keras.Input((12, 12, 3), name="image")
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.0, name="norm_a")(layers.Conv2D(12, 3, name="a")(image)))
    x = layers.DepthwiseConv2D(3, name="b")(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.0, name="norm_b")(x))
    x = layers.BatchNormalization(momentum=0.0, name="norm_c")(layers.Conv2D(8, 1, name="c")(x))
    x = layers.Flatten()(layers.AveragePooling2D(4)(layers.ReLU()(x)))
    model = settled(keras.Model(image, layers.Dense(5, name="logits")(x), name="spoilt_net"))
    random = np.random.default_rng(3)
    for norm, reader, axis in (("norm_a", "b", 2), ("norm_b", "c", 2)):
        factors = 2.0 ** random.uniform(-4, 4, 12)
        for variable in (model.get_layer(norm).gamma, model.get_layer(norm).beta):
            variable.assign(variable * factors)
        kernel = model.get_layer(reader).kernel
        kernel.assign(kernel / factors.reshape([-1 if n == axis else 1 for n in range(4)]))
    return model


def dense() -> keras.Model:
    image = keras.Input((6,))
    return keras.Model(image, layers.Dense(3)(layers.Dense(5, "relu")(image)))


def quality(model: keras.Model, made: keras.Model) -> float:
    return sqnr_db(outputs(model, images()), outputs(made, images()))


@pytest.mark.parametrize("per_channel", [True, False])
def test_level_1_cures_channels_of_different_ranges_without_data(per_channel: bool) -> None:
    model = spoilt_net()
    plain = kc.quantize_post_training(model, passes=RANGES, per_channel=per_channel, options=FEW, report=False)
    cured = kc.quantize_post_training(model, per_channel=per_channel, options=FEW, report=False)
    assert quality(model, plain) < 18.0
    assert quality(model, cured) > quality(model, plain) + 8.0
    artifact = kc.convert(cured)
    assert artifact.mode == "int8"
    assert kc.verify(artifact, cured, images()[:8]).ok


def test_the_result_is_saved_loaded_and_trained_on(tmp_path: Path) -> None:
    model = spoilt_net()
    made = kc.quantize_post_training(model, options=FEW, report=False)
    made.save(tmp_path / "made.keras")
    loaded = keras.models.load_model(tmp_path / "made.keras")
    np.testing.assert_array_equal(outputs(loaded, images()), outputs(made, images()))
    made.compile("adam", "mse", run_eagerly=True)
    made.fit(images(), outputs(model, images()), epochs=1, verbose=0)
    assert all(layer.quantizer.trained() for layer in made.layers if isinstance(layer, QuantizeActivation))


def test_the_report_and_the_summary_tell_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    made = kc.quantize_post_training(spoilt_net(), per_channel=False, options=FEW)
    found = kc.summary(made)
    names = [stage.name for stage in found.passes.stages]
    assert names == [
        *("as it was", "fold_batch_norms", "equalize", "absorb_bias"),
        *("ranges_from_statistics", "synthetic_data", "bias_from_statistics"),
    ]
    stages = dict(zip(names, found.passes.stages, strict=True))
    assert stages["equalize"].output_sqnr_db > stages["fold_batch_norms"].output_sqnr_db + 10
    assert set(stages["equalize"].layers) == {"a", "b", "c", "logits"}
    assert stages["equalize"].layers["b"].output_sqnr_db > stages["as it was"].layers["b"].output_sqnr_db + 10
    shown = capsys.readouterr().out
    assert "Post-training: Equalized: 32 channels scaled" in shown
    assert "the outputs" in shown


def test_scales_are_taken_back_where_they_do_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    def harmful(model: keras.Model, situation: object) -> keras.Model:
        made = equalize(model)
        made.get_layer("c").kernel.assign(np.asarray(made.get_layer("c").kernel) + 1.0)
        return made

    model = spoilt_net()
    settings = {"options": FEW, "report": False}
    good = kc.quantize_post_training(model, **settings)
    listed = tuple(replace(each, run=harmful) if each.name == "equalize" else each for each in passes.PASSES)
    monkeypatch.setattr(passes, "PASSES", listed)
    made = kc.quantize_post_training(model, **settings)
    assert not [line for line in kc.summary(good, print_fn=str).history if "Left out" in line]
    (line,) = [line for line in kc.summary(made, print_fn=str).history if "Left out" in line]
    assert line.startswith("Post-training: Left out: equalize and absorb_bias: outputs on 16 samples have")
    plain = kc.quantize_post_training(model, passes=(*RANGES, "bias_from_statistics"), **settings)
    np.testing.assert_array_equal(outputs(made, images()), outputs(plain, images()))


@pytest.mark.filterwarnings("ignore:Expected data, or BatchNormalizations")
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (1, ["fold_batch_norms", "equalize", "absorb_bias"]),
        # Without the scaling that is tried, and with it: either way `spiq` has the last word.
        (2, ["fold_batch_norms", "spiq", "equalize", "absorb_bias", "spiq"]),
    ],
)
def test_the_order_of_passes_that_scale(level: int, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def noted(name: str) -> passes.Run:
        return lambda model, situation, **options: seen.append(name) or model

    listed = [each if each.quantized else replace(each, run=noted(each.name)) for each in passes.PASSES]
    monkeypatch.setattr(passes, "PASSES", tuple(listed))
    monkeypatch.setattr("keras_compress.post_training.quantize.ENOUGH", np.inf)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, "relu"), layers.Dense(2)])
    data = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    kc.quantize_post_training(model, data, level=level, options=FEW, report=False, input_range=(-3.0, 3.0))
    assert seen == expected


def test_level_2_takes_ranges_and_biases_from_data(capsys: pytest.CaptureFixture[str]) -> None:
    model = spoilt_net()
    made = kc.quantize_post_training(model, images()[:32])
    assert quality(model, made) > 25.0
    found = kc.summary(made)
    names = [stage.name for stage in found.passes.stages]
    assert names == ["as it was", "fold_batch_norms", "spiq", "with_ranges", METHOD]
    effects = {method: [e.layer for e in found.passes.effects if e.method == method] for method in ("spiq", METHOD)}
    assert effects == {"spiq": ["b", "c", "logits"], METHOD: ["a", "b", "c", "logits"]}
    assert "Post-training: Bias corrected on 32 samples: 4 layers." in capsys.readouterr().out
    same = kc.quantize_post_training(model, iter([images()[:16], images()[16:32]]), level=2, report=False)
    np.testing.assert_array_equal(outputs(made, images()), outputs(same, images()))


def test_few_bits_have_their_rounding_learned() -> None:
    """Each layer's weights are beside those of the float model: rounded up or down, not to the nearest."""
    model, data = spoilt_net(), images()
    plain = kc.quantize_post_training(model, data, weights="int4", passes=["with_ranges"], report=False)
    options = {"brecq": {"steps": 80}}
    made = kc.quantize_post_training(model, data, weights="int4", options=options)
    found = kc.summary(made, print_fn=str)
    assert [stage.name for stage in found.passes.stages][-3:] == ["with_ranges", "clip_weights", "brecq"]
    before, after = (stage.layers["c"].weight_sqnr_db for stage in found.passes.stages[-2:])
    assert after < before < 40.0
    assert quality(model, made) > quality(model, plain) + 3.0
    assert kc.verify(kc.convert(made), made, data[:8]).ok


def test_a_pass_with_data_aims_at_the_weights_before_all_passes() -> None:
    """Behind GPTQ the latent weights are whole steps: biases would have nothing to be corrected for."""
    data = np.abs(np.random.default_rng(0).normal(size=(64, 6))).astype(np.float32)
    model = dense()
    settings = {"weights": "int3", "activations": None, "other_activations": None, "report": False}
    made = kc.quantize_post_training(model, data, passes=["gptq", "bias_from_data"], **settings)
    means = [np.asarray(m(data)).mean(axis=0) for m in (model, made)]
    np.testing.assert_allclose(means[1], means[0], atol=1e-5)


def test_breakpoints_are_fitted_where_weights_have_some() -> None:
    data = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    made = kc.quantize_post_training(dense(), data, weights="pwlq4", report=False)
    said = kc.summary(made, print_fn=str).history
    assert [line for line in said if "Left out" not in line][-3:] == [
        "Post-training: Ranges from data: 3 points",
        "Post-training: Breakpoints fitted: 2 weights",
        "Post-training: Bias corrected on 64 samples: 2 layers",
    ]


def test_a_model_without_statistics_goes_on_with_what_is_left() -> None:
    model = dense()
    with pytest.warns(UserWarning, match="neither for 3, the first .*give `convert` a representative_dataset"):
        made = kc.quantize_post_training(model, per_channel=False)
    said = kc.summary(made, print_fn=str).history
    assert said[0].startswith("Post-training: Equalized: 5 channels")
    assert [line.split(":")[2].strip() for line in said[1:]] == [
        *("absorb_bias", "ranges_from_statistics", "synthetic_data", "bias_from_statistics")
    ]
    data = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    assert kc.convert(made, representative_dataset=data).mode == "int8"
    with pytest.raises(NotApplicable, match="Expected a model with BatchNormalizations"):
        kc.quantize_post_training(model, passes=["absorb_bias"])


def test_inputs_have_the_range_that_is_said() -> None:
    made = kc.quantize_post_training(spoilt_net(), input_range=(-2.0, 2.0), options=FEW, report=False)
    point = next(layer for layer in made.layers if isinstance(layer, QuantizeActivation))
    assert [float(end) for end in point.quantizer.range()] == [-2.0, 2.0]


def test_options_reach_their_pass() -> None:
    model = residual_net(6.0)
    options = {**FEW, "equalize": {"relu6": "replace"}}
    made = kc.quantize_post_training(model, passes=(*RANGES, "equalize"), options=options, report=False)
    said = kc.summary(made, print_fn=str).history
    assert any("replaced by ReLU where it may clip, as asked: re_lu" in line for line in said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 3}, "Expected `data` for level 3"),
        ({"level": 4}, "Expected `level` out of"),
        ({"level": "2"}, "Expected `level` out of"),
        ({"level": 2}, "Expected `data` for level 2"),
        ({"passes": ["gptq"]}, r"Expected `passes` of level 1 out of .* Received: \['gptq'\]"),
        ({"options": {"fold": {}}}, "Expected `options` for passes out of"),
        ({"input_range": (1.0, 0.0)}, "Expected `input_range` of two numbers"),
        ({"weights": "int9"}, "bits=9"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.quantize_post_training(dense(), **arguments)


def test_a_quantized_model_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected a plain model"):
        kc.quantize_post_training(kc.quantize_model(dense()))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"options": {"equalize": 3}}, "arguments by name for each pass"),
        ({"input_range": 5}, "Expected `input_range` of two numbers"),
        ({"input_range": "0,1"}, "Expected `input_range` of two numbers"),
        ({"passes": "gptq"}, "Received: ['gptq']"),
    ],
)
def test_arguments_of_another_kind_are_refused_by_name(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kc.quantize_post_training(residual_net(), **given)


def test_a_budget_of_a_model_of_two_inputs() -> None:
    """A list of two arrays is the two inputs, neither two batches nor inputs and targets."""
    keras.utils.set_random_seed(0)
    first, second = keras.Input((6,), name="second"), keras.Input((4,), name="first")
    x = layers.Concatenate()([layers.Dense(8, "relu", name="a")(first), layers.Dense(8, "relu", name="b")(second)])
    model = keras.Model([first, second], layers.Dense(3, name="logits")(x))
    random = np.random.default_rng(0)
    data = [random.normal(size=(48, n)).astype(np.float32) for n in (6, 4)]
    settings = {"budget": {"average_bits": 5}, "report": False, "passes": ["with_ranges"]}
    made = kc.quantize_post_training(model, data, **settings)
    assert kc.AverageBits().of(made) <= 5.0
    named = kc.quantize_post_training(model, {"second": data[0], "first": data[1]}, **settings)
    np.testing.assert_array_equal(np.array(made(data)), np.array(named(data)))
    assert sqnr_db(np.array(model(data)), np.array(made(data))) > 10.0
