"""`verify` against the trained model: faults that the frozen model and the file share are caught and named."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.convert import fold, freezer, widths
from keras_compress.convert.distance import between, distance
from keras_compress.convert.explained import unexplained
from keras_compress.convert.side_by_side import Frozen, Trained
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.quantizers.activation import FixedGrid

L = keras.layers


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).normal(size=(40, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def plain():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="image")
    x = L.ReLU(name="relu")(L.BatchNormalization(name="norm")(L.Conv2D(4, 3, name="conv", use_bias=False)(inputs)))
    x = L.BatchNormalization(name="norm2")(L.Conv2D(4, 3, name="conv2")(x))
    model = keras.Model(inputs, L.Dense(5, name="logits")(L.GlobalAveragePooling2D(name="pool")(x)))
    rng = np.random.default_rng(1)
    for layer in (model.get_layer("norm"), model.get_layer("norm2")):
        layer.gamma.assign(rng.uniform(0.5, 2.0, 4))
        layer.beta.assign(rng.normal(size=4))
        layer.moving_variance.assign(rng.uniform(0.2, 3.0, 4))
    return model


@pytest.fixture(scope="module")
def trained(plain, data):
    model = kc.quantize_model(plain)
    model(data, training=True)
    return model


def judged(model, data, **settings):
    frozen = kc.freeze(model, data, **settings)
    before = Trained(model)
    after = Frozen(frozen, before)
    in_trained = before.run([data], after.calls)
    found = between(before, after, [data], in_trained)
    return found, unexplained(before, after, [data], found, in_trained)


def roll_norm(norm):
    found = kept["affine_of"](norm)
    return fold.Affine(np.roll(found.factor, 1), found.offset)


def permute_weights(layer, slot):
    found = kept["integer_weight"](layer, slot)
    return found if layer.name != "conv2" else type(found)(found.integers[..., ::-1], found.scale, found.bits)


def fold_into_inputs(weight, bias, norm, channel_axes):
    if weight.integers.shape[-2] != norm.factor.size:
        return kept["fold"](weight, bias, norm, channel_axes)
    integers = (weight.integers * (norm.factor / norm.factor.max())[:, None]).astype(weight.integers.dtype)
    scale = (weight.scale * norm.factor.max()).astype(np.float32)
    return type(weight)(integers, scale, weight.bits), bias * norm.factor + norm.offset


def forget_bias(layer):
    return np.zeros_like(kept["bias"](layer)) + 1.0 if layer.name == "logits" else kept["bias"](layer)


kept = {
    "affine_of": fold.affine_of,
    "integer_weight": freezer.integer_weight,
    "fold": fold.fold,
    "bias": freezer.bias_of,
    "final_grid": widths.final_grid,
}
FAULTS = {
    "factors of other channels": (fold, "affine_of", roll_norm, "relu"),
    "weights of other channels": (freezer, "integer_weight", permute_weights, "conv2|norm2"),
    "factors on the inputs": (fold, "fold", fold_into_inputs, "norm2"),
    "another bias": (freezer, "bias_of", forget_bias, "logits"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["plain", "trained"])
def test_another_function_is_caught_and_its_first_layer_named(kind, fault, data, monkeypatch, request):
    where, name, planted, layer = FAULTS[fault]
    monkeypatch.setattr(where, name, planted)
    found, why = judged(request.getfixturevalue(kind), data)
    assert why is not None
    assert why.startswith("another function")
    assert any(f"first at '{each}" in why for each in layer.split("|"))
    assert min(each.sqnr_db for each in found.outputs) < 25
    assert found.opens_at is not None


def ranges(change):
    """A wrong grid at the second convolution."""

    def final_grid(quantizer, bits):
        grid = kept["final_grid"](quantizer, bits)
        low, high = (float(end) for end in quantizer.range())
        return change(grid) if low < -1.5 and grid.zero_point > -120 and high < 12 else grid

    return final_grid


@pytest.mark.parametrize(("kind", "factor"), [("plain", 1 / 64), ("plain", 512.0), ("trained", 1 / 4)])
def test_a_wrong_range_on_both_sides_is_caught_and_named(kind, factor, data, monkeypatch, request):
    def narrow(grid):
        return FixedGrid(grid.scale * factor, grid.zero_point)

    monkeypatch.setattr(widths, "final_grid", ranges(narrow))
    _, why = judged(request.getfixturevalue(kind), data)
    assert why is not None
    assert "range" in why
    assert "image" in why or "norm2" in why


def test_a_16_bit_range_that_forgets_its_negative_end_is_named(plain, data, monkeypatch):
    def final_grid(quantizer, bits):
        _, high = (float(end) for end in quantizer.range())
        return FixedGrid(max(high, 1e-9) / 32767 * 0.02, 0, bits=16)

    monkeypatch.setattr(widths, "final_grid", final_grid)
    _, why = judged(plain, data, activation_bits=16)
    assert why is not None
    assert "the range" in why


@pytest.mark.parametrize("kind", ["plain", "trained"])
def test_what_is_right_passes_and_is_near(kind, data, request):
    found, why = judged(request.getfixturevalue(kind), data)
    assert why is None
    assert found.opens_at is None
    assert found.outputs[0].sqnr_db > 30
    assert found.outputs[0].beyond_one_step < 0.2


def test_two_bits_are_far_and_no_failure(plain, data):
    """Freezing with few bits is what was asked for; that it is far is said, and where."""
    coarse = kc.quantize_model(plain, weights="int2", activations=None)
    before = Trained(plain)
    after = Frozen(kc.freeze(coarse, data), before)
    in_trained = before.run([data], after.calls)
    found = between(before, after, [data], in_trained)
    assert found.outputs[0].sqnr_db < 25
    assert found.opens_at == "relu"
    assert 30 < found.outputs[0].activations_only_db < 60
    assert unexplained(before, after, [data], found, in_trained) is None


def test_verify_raises_and_convert_reports(plain, data, monkeypatch):
    monkeypatch.setattr(fold, "affine_of", roll_norm)
    artifact = kc.convert(plain, representative_dataset=data)
    report = artifact.report()["trained_to_frozen"]
    assert report["samples"] == 32
    assert report["opens_at"] == "relu"
    assert report["outputs"][0]["sqnr_db"] < 20
    with pytest.raises(kc.VerificationError, match="trained one but for rounding. Received: another function.*'relu'"):
        kc.verify(artifact, plain, data, kernels=["xnnpack"])
    result = kc.verify(artifact, plain, data, kernels=["xnnpack"], strict=False)
    assert not result.ok
    assert result.first_failure is None  # the file is the frozen model
    assert "'relu'" in result.unexplained
    assert any("trained and frozen model agree" in note for note in result.notes)
    alone = kc.verify(artifact, None, data, kernels=["xnnpack"])
    assert alone.ok
    assert alone.distance is None
    assert "no trained model was given" in alone.notes[0]


def test_a_right_file_has_no_notes(plain, data):
    artifact = kc.convert(plain, representative_dataset=data)
    result = kc.verify(artifact, plain, data, kernels=["xnnpack"])
    assert result.ok
    assert result.notes == ()
    assert result.distance.samples == 32
    expected = sqnr_db(plain.predict(data[:32], verbose=0), artifact.frozen.predict(data[:32], verbose=0))
    assert result.distance.outputs[0].sqnr_db == pytest.approx(expected, abs=0.1)
    assert artifact.distance.outputs[0].sqnr_db == pytest.approx(expected, abs=0.1)


def test_two_inputs_nested_models_and_two_outputs(data):
    keras.utils.set_random_seed(0)
    inside = keras.Sequential([keras.Input((4,)), L.Dense(3, activation="relu", name="hidden")], name="inside")
    one, two = keras.Input((4,), name="one"), keras.Input((3,), name="two")
    joined = L.Add(name="sum")([inside(one), two])
    model = keras.Model([one, two], {"a": L.Dense(2, name="a")(joined), "b": L.Dense(1, name="b")(inside(one))})
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(16, n)).astype(np.float32) for n in (4, 3)]
    found = distance(model, kc.freeze(model, x), x)
    assert [each.argmax_agreement is None for each in found.outputs] == [False, True]
    assert all(each.sqnr_db > 30 for each in found.outputs)


@pytest.fixture(scope="module")
def separable():
    """A stem and two depthwise-separable blocks, without channels that are 0 throughout."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = inputs = keras.Input((12, 10, 1), name="image")
    for layer in (
        L.Conv2D(16, (5, 4), strides=2, padding="same", name="stem"),
        L.DepthwiseConv2D(3, padding="same", name="dw0"),
        L.Conv2D(16, 1, name="pw0"),
        L.DepthwiseConv2D(3, padding="same", name="dw1"),
        L.Conv2D(16, 1, name="pw1"),
    ):
        x = L.BatchNormalization(momentum=0.0, name=f"{layer.name}_norm")(layer(x))
        x = L.ReLU(name=f"{layer.name}_relu")(x)
    model = keras.Model(inputs, L.Dense(6, name="logits")(L.GlobalAveragePooling2D(name="mean")(x)))
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.gamma.assign(rng.uniform(0.5, 1.5, 16))
            layer.beta.assign(rng.uniform(0.5, 1.5, 16))
    images = rng.normal(size=(32, 12, 10, 1)).astype(np.float32)
    model(images, training=True)
    return model, images


@pytest.mark.parametrize("which", [-1, 0.5], ids=["largest", "median"])
@pytest.mark.parametrize("name", ["stem", "dw0", "pw0", "dw1", "pw1", "logits"])
def test_one_weight_of_another_sign_is_caught_at_its_layer(name, which, separable, monkeypatch):
    model, images = separable

    def flipped(layer, slot):
        found = kept["integer_weight"](layer, slot)
        if layer.name != name:
            return found
        integers = found.integers.copy()
        order = np.argsort(np.abs(integers), axis=None)
        integers.reshape(-1)[order[-1 if which == -1 else integers.size // 2]] *= -1
        return type(found)(integers, found.scale, found.bits)

    monkeypatch.setattr(freezer, "integer_weight", flipped)
    _, why = judged(model, images)
    assert why is not None
    assert why.endswith((f"first at '{name}'", f"first at '{name}_relu'"))


def test_weights_up_to_a_step_off_are_rounding(separable, monkeypatch):
    """And so is what freezing does."""
    model, images = separable
    rng = np.random.default_rng(0)

    def off(layer, slot):
        found = kept["integer_weight"](layer, slot)
        return type(found)(found.integers + rng.integers(-1, 2, found.integers.shape), found.scale, found.bits)

    assert judged(model, images)[1] is None
    assert judged(model, images, activation_bits=16)[1] is None
    monkeypatch.setattr(freezer, "integer_weight", off)
    assert judged(model, images)[1] is None


def test_a_range_that_its_kernel_fixes_is_no_fault():
    """A thousandth is nothing to steps of a 256th; no other range is to be had."""
    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(1000, activation="softmax", name="shares")(inputs))
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    found, why = judged(model, x)
    assert found.outputs[0].sqnr_db < 10
    assert why is None


@pytest.mark.parametrize(("activation", "named"), [(None, True), ("softmax", False)])
def test_the_finest_steps_into_a_softmax_are_too_coarse_anywhere_else(activation, named, monkeypatch):
    """Values of 1e-8 on steps of 2.4e-8."""
    inputs = keras.Input((6,))
    dense = L.Dense(5, name="dense")
    outputs = dense(inputs)
    model = keras.Model(inputs, L.Activation(activation)(outputs) if activation else outputs)
    dense.kernel.assign(np.array(dense.kernel) * 1e-8)
    found = widths.final_grid

    def coarse(quantizer, bits):
        grid = found(quantizer, bits)
        return FixedGrid(2.4e-8, 0) if grid.scale < 1e-7 else grid

    monkeypatch.setattr(widths, "final_grid", coarse)
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    why = judged(model, x)[1]
    assert ("the range" in (why or "")) is named
