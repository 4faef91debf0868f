"""Mixed precision: what was chosen is in the file, within the budget, with the bytes that were counted."""

from dataclasses import replace

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.pipelines import bit_plan
from keras_compress.pipelines.bit_choice import InfeasibleError
from keras_compress.pipelines.file_costs import spread
from keras_compress.runtime.arena_probe import tflm_arena

X = np.random.default_rng(0).normal(size=(64, 10, 10, 2)).astype(np.float32)


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = x = keras.Input((10, 10, 2), name="image")
    x = keras.layers.Conv2D(16, 3, use_bias=False, name="first")(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.DepthwiseConv2D(3, activation="relu", name="depthwise")(x)
    x = keras.layers.Conv2D(32, 3, activation="relu", name="second")(x)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    x = keras.layers.Dense(33, activation="relu", name="hidden")(x)
    return keras.Model(image, keras.layers.Dense(10, name="logits")(x))


@pytest.fixture(scope="module")
def measured() -> kc.BitSensitivity:
    return kc.sensitivity(net(), of="bits", data=X, bits=(2, 4, 8))


def test_the_file_has_the_bytes_that_were_counted_and_the_bits_that_were_chosen(measured) -> None:
    model = net()
    eight = len(kc.convert(kc.quantize_model(model), representative_dataset=X).content)
    found = kc.mixed_precision(model, X, kc.Budget(bytes=eight - 2000), sensitivity=measured)
    artifact = kc.convert(found.model, **found.convert_options)
    assert len(artifact.content) == found.costs["bytes"] <= eight - 2000
    assert found.predicted["bytes"] == pytest.approx(len(artifact.content), rel=0.01)
    bits = {each.name: each.bits for each in found.choices if each.kind == "weights"}
    assert len(set(bits.values())) > 1
    stored = {weight.name.split("/")[0]: weight.dtype for weight in kc.inspect_tflite(artifact.content).weights}
    assert stored == {name: "INT8" if width == 8 else "INT4" for name, width in bits.items()}
    assert kc.verify(artifact, model, X[:8]).ok


def test_each_limit_is_kept_by_the_model_itself(measured) -> None:
    model = net()
    budget = kc.Budget(average_bits=4.5, bops=0.03)
    found = kc.mixed_precision(model, X, budget, activations=(4, 8), sensitivity=measured)
    assert found.costs["average_bits"] == pytest.approx(kc.AverageBits().of(found.model)) != 8
    assert found.costs["average_bits"] <= 4.5
    assert found.costs["bops"] == kc.Bops().of(found.model) <= 0.03 * kc.Bops().of(model)
    bits = {(each.kind, each.name): each.bits for each in found.choices}
    assert 4 in bits.values()
    # Means keep 8 bits, in the model too.
    assert bits["activations", "mean"] == 8
    assert found.model.get_layer("mean_quantized").quantizer.bits == 8
    again = kc.quantize_model(model, "int8", None, rules=found.rules)
    assert kc.AverageBits().of(again) == found.costs["average_bits"]


def test_the_program_loses_no_more_than_the_baselines(measured) -> None:
    losses = {}
    for solver in ("milp", "greedy", "uniform"):
        found = kc.mixed_precision(net(), X, {"average_bits": 5.0}, sensitivity=measured, solver=solver)
        losses[solver] = sum(each.loss for each in found.choices)
    assert losses["milp"] <= losses["greedy"] <= losses["uniform"]
    assert losses["milp"] < losses["uniform"]


def test_predicted_noise_is_about_that_of_the_model(measured) -> None:
    model = net()
    found = kc.mixed_precision(model, X, {"average_bits": 5.0}, sensitivity=measured)
    real, made = np.array(model(X)), np.array(found.model(X))
    ratio = ((made - real) ** 2).sum() / (real**2).sum()
    assert ratio == pytest.approx(sum(each.loss for each in found.choices), rel=0.6)


def test_a_budget_that_nothing_keeps_names_the_nearest(measured, monkeypatch) -> None:
    # One model: names that Keras numbers take bytes, too.
    model, options = net(), {"sensitivity": measured, "weights": (4, 8)}
    with pytest.raises(InfeasibleError, match=r"average_bits <= 3; the nearest that is feasible: average_bits 4$"):
        kc.mixed_precision(model, X, {"average_bits": 3.0}, **options)
    with pytest.raises(InfeasibleError, match=r"Received: bytes <= 2,000; the nearest that is feasible: bytes \d") as e:
        kc.mixed_precision(model, X, {"bytes": 2000}, **options)
    named = int(str(e.value).rsplit(" ", 1)[1].replace(",", ""))
    # To the byte: all weights of 4 bits, what they are stored in, and nothing on top for gaps that are not there.
    narrow = kc.quantize_model(model, weights="int4")
    assert named == len(kc.convert(narrow, representative_dataset=X, weights_storage="int4").content)
    # Where more is counted than the file takes, the file decides.
    counted = bit_plan.stored_bytes

    def too_high(*args):
        found = counted(*args)
        return replace(found, others=found.others + 16)

    monkeypatch.setattr(bit_plan, "stored_bytes", too_high)
    found = kc.mixed_precision(model, X, {"bytes": named}, **options)
    assert found.costs["bytes"] == named < found.predicted["bytes"]


def packed_in(content: bytes) -> list[str]:
    return [w.name.split("/")[0] for w in kc.inspect_tflite(content).weights if w.dtype == "INT4"]


def test_a_latency_is_that_of_the_file_and_chosen_anew_where_it_is_larger(measured, monkeypatch) -> None:
    """A made-up runtime: 10 ms, and 1, 8 and 2 for packed weights of three layers, but 3 more for two of them."""
    added = {"first": 1.0, "depthwise": 0.0, "second": 8.0, "hidden": 2.0, "logits": 0.0}

    def medians(self, contents):
        def of(content):
            packed = packed_in(content)
            return 10.0 + sum(map(added.get, packed)) + (3.0 if {"first", "hidden"} <= set(packed) else 0.0)

        return {label: 20.0 if content == b"float" else of(content) for label, content in contents.items()}

    monkeypatch.setattr(kc.Latency, "medians", medians)
    monkeypatch.setattr(kc.Latency, "whole", lambda self, model: b"float")
    budget = kc.Budget(latency=0.6, average_bits=7.9)
    found = kc.mixed_precision(net(), X, budget, sensitivity=measured, weights=(4, 8))
    content = kc.convert(found.model, **found.convert_options).content
    assert found.limits["latency"] == 12.0
    assert packed_in(content)
    assert found.costs["latency"] == medians(None, {"it": content})["it"] <= 12.0
    with pytest.raises(InfeasibleError, match="latency <= 5; the nearest that is feasible: latency 10$"):
        kc.mixed_precision(net(), X, kc.Budget(latency_ms=5), sensitivity=measured, weights=(4, 8))


def test_what_few_bits_add_is_given_to_packed_layers_by_size() -> None:
    model = net()
    files = {
        bits: kc.convert(
            kc.quantize_model(model, f"int{bits}"), representative_dataset=X, weights_storage="int4"
        ).content
        for bits in (4, 8)
    }
    sizes = {"first": 1, "second": 3, "absent": 7}
    found = spread({4: 18.0, 8: 10.0}, files, sizes)
    assert found.constant == 10.0
    assert found.terms == {"first": {4: 2.0, 8: 0.0}, "second": {4: 6.0, 8: 0.0}, "absent": {4: 0.0, 8: 0.0}}


def test_an_arena_is_that_of_the_file(measured) -> None:
    model, budget = net(), kc.Budget(arena=30_000, bytes=14_000)
    found = kc.mixed_precision(model, X, budget, sensitivity=measured, target="tflm")
    content = kc.convert(found.model, **found.convert_options).content
    assert found.costs == {"arena": tflm_arena(content), "bytes": len(content)}
    assert found.costs["arena"] <= 30_000
    with pytest.raises(InfeasibleError, match=r"arena <= 500; the nearest that is feasible: arena \d"):
        kc.mixed_precision(model, X, {"arena": 500}, sensitivity=measured, target="tflm")


def test_losses_measured_where_the_others_are_rounded_are_differences_of_the_whole() -> None:
    model, budget = net(), {"average_bits": 4.5}
    found = kc.mixed_precision(model, X, budget, weights=(2, 4, 8), refine=2)
    # The least is that of the model returned.
    real, made = np.array(model(X)), np.array(found.model(X))
    assert min(found.joint) == pytest.approx(((made - real) ** 2).sum() / (real**2).sum(), rel=1e-3)
    plain = kc.mixed_precision(model, X, budget, weights=(2, 4, 8), sensitivity=found.sensitivity)
    first = ((np.array(plain.model(X)) - real) ** 2).sum() / (real**2).sum()
    assert min(plain.joint) == pytest.approx(first, rel=1e-3)
    assert found.joint[: len(plain.joint)] == pytest.approx(plain.joint, rel=1e-3)
    assert min(found.joint) <= found.joint[0]
    assert found.costs["average_bits"] <= 4.5


def test_one_width_for_all_is_taken_where_the_choice_is_further_off(measured) -> None:
    """By losses that are said to be of one small layer alone, it gets 8 bits, and most weights 2."""
    wrong = replace(
        measured,
        groups=tuple(
            replace(each, values=(0.0, 0.1, 60.0) if each.name == "hidden" else (50.0, 50.1, 60.0))
            for each in measured.groups
        ),
    )
    found = kc.mixed_precision(net(), X, {"average_bits": 4.0}, sensitivity=wrong)
    assert {each.bits for each in found.choices if each.kind == "weights"} == {4}
    assert found.joint[1] < found.joint[0]
    # Measured anew around that, the losses are true ones, and the choice by them is closer than both.
    anew = kc.mixed_precision(net(), X, {"average_bits": 4.5}, sensitivity=wrong, refine=1)
    assert anew.joint[:2] == pytest.approx(found.joint, rel=1e-6)
    assert len(anew.joint) == 3
    real, made = (np.array(each(X)) for each in (net(), anew.model))
    assert ((made - real) ** 2).sum() / (real**2).sum() == pytest.approx(anew.joint[2], rel=1e-3)
    assert anew.joint[2] < 0.7 * anew.joint[1]


def test_16_bits_beside_8_where_they_pay() -> None:
    model = net()
    found = kc.mixed_precision(model, X, {"bops": 0.09}, weights=(8,), activations=(8, 16))
    bits = {each.name: each.bits for each in found.choices if each.kind == "activations"}
    assert set(bits.values()) == {8, 16}
    artifact = kc.convert(found.model, **found.convert_options)
    assert (artifact.mode, artifact.float_ops) == ("int8", ())
    assert kc.verify(artifact, found.model, X[:8]).ok
    assert found.costs["bops"] == kc.Bops().of(found.model)


def test_softmax_separable_and_layers_left_out() -> None:
    keras.utils.set_random_seed(0)
    image = keras.Input((10, 10, 2), name="image")
    x = keras.layers.SeparableConv2D(8, 3, activation="gelu", name="separable")(image)
    x = keras.layers.Flatten()(x)
    model = keras.Model(image, keras.layers.Dense(4, activation="softmax", name="dense")(x))
    found = kc.mixed_precision(model, X, {"bytes": 10_000, "bops": 0.2}, filters="dense")
    assert {each.name: each.bits for each in found.choices if each.kind == "weights"} == {"dense": 8}
    assert found.costs["bops"] == kc.Bops().of(found.model)
    artifact = kc.convert(found.model, representative_dataset=X, **found.convert_options)
    assert len(artifact.content) == found.costs["bytes"]


def test_shown(measured) -> None:
    found = kc.mixed_precision(net(), X, {"average_bits": 4.0}, sensitivity=measured)
    assert set(found.baselines) == {"milp", "greedy", "uniform"}
    assert found.baselines["milp"] == pytest.approx(sum(each.loss for each in found.choices))
    assert found.baselines["milp"] <= found.baselines["greedy"] <= found.baselines["uniform"]
    assert f"uniform {found.baselines['uniform']:.3g}" in repr(found)
    assert "all, by uniform" in str(found)
    assert "average_bits" in str(found)
    assert "of at most 4" in repr(found)


def test_a_sensitivity_brings_its_method() -> None:
    """Losses that were measured alone and those of the whole model are in one unit."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(3)])
    y = model.predict(x, verbose=0).argmax(-1)
    budget = {"average_bits": 4}
    by_accuracy = kc.sensitivity(model, of="bits", data=(x, y), bits=(2, 4, 8))
    found = kc.mixed_precision(model, (x, y), budget, sensitivity=by_accuracy)
    right = (found.model.predict(x, verbose=0).argmax(-1) == y).mean()
    assert min(found.joint) == pytest.approx(1.0 - right, abs=0.02) != 0.0
    with pytest.raises(ValueError, match=r"Expected `data=\(x, y\)` to take the accuracy on"):
        kc.mixed_precision(model, x, budget, sensitivity=by_accuracy)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    bends = kc.sensitivity(model, of="bits", data=(x, y), bits=(2, 4, 8), method="hessian", loss=loss)
    assert kc.mixed_precision(model, x, budget, sensitivity=bends).joint == ()
    with pytest.raises(ValueError, match="Expected refine=0 for method='hessian'"):
        kc.mixed_precision(model, x, budget, sensitivity=bends, refine=1)
    for method in ("sqnr", "sqnrr"):
        with pytest.raises(ValueError, match=f"the sensitivity's, 'accuracy', or none. Received: method='{method}'"):
            kc.mixed_precision(model, (x, y), budget, sensitivity=by_accuracy, method=method)
    with pytest.raises(TypeError, match=r"Expected `sensitivity` as kc.sensitivity\(model, of='bits'\) gives it"):
        kc.mixed_precision(model, x, budget, sensitivity={"criterion": "sqnr"})


def test_bad_input(measured) -> None:
    model = net()
    with pytest.raises(ValueError, match="Expected a budget of bytes, latency, arena, bops, average_bits, each once"):
        kc.mixed_precision(model, X, {"macs": 0.5})
    with pytest.raises(ValueError, match="on the target of the file. Received: target='litert', arena on 'tflm'"):
        kc.mixed_precision(model, X, {"arena": 20_000}, sensitivity=measured)
    data = X, np.zeros(64, int)
    with pytest.raises(ValueError, match="Expected refine=0 for method='hessian'"):
        kc.mixed_precision(model, data, {"bops": 0.5}, method="hessian", loss="mse", refine=1)
    with pytest.raises(ValueError, match="Expected `weights` of 2 to 8 bits"):
        kc.mixed_precision(model, X, {"bops": 0.5}, weights=(8, 16))
    with pytest.raises(ValueError, match="Expected `solver` out of"):
        kc.mixed_precision(model, X, {"bops": 0.5}, solver="random")
    with pytest.raises(ValueError, match=r"Received: none of the weights of 'first' at \[3\]"):
        kc.mixed_precision(model, X, {"bops": 0.5}, weights=(3, 8), sensitivity=measured)
    with pytest.raises(ValueError, match="Expected a model that is not quantized yet"):
        kc.mixed_precision(kc.quantize_model(model), X, {"bops": 0.5})
