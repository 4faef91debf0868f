from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.graph import graph
from keras_compress.post_training.effect import table
from keras_compress.post_training.gptq import gptq
from keras_compress.post_training.opened import opened
from keras_compress.post_training.reconstruction import adaround, brecq
from keras_compress.post_training.record import record_of
from keras_compress.post_training.start import with_ranges
from keras_compress.post_training.steps import stepped_weights
from keras_compress.post_training.units import block_units, layer_units

Tiny = tuple[keras.Model, np.ndarray]


def distance(model: keras.Model, values: np.ndarray, found: keras.Model) -> float:
    return sqnr_db(np.asarray(model(values)), np.asarray(found(values)))


def test_learned_rounding_is_better_than_gptq_and_that_than_the_nearest(tiny: Tiny) -> None:
    model, values = tiny
    nearest = with_ranges(kc.quantize_model(model, weights="int4", activations="int8"), values[:128])
    made = {
        "nearest": nearest,
        "gptq": gptq(nearest, values[:128]),
        "adaround": adaround(nearest, values[:128], steps=400),
        "brecq": brecq(nearest, values[:128], steps=400),
    }
    # On samples that were not learned on.
    found = {name: distance(model, values[128:], each) for name, each in made.items()}
    assert found["gptq"] > found["nearest"] + 1, found
    assert found["adaround"] > found["nearest"] + 3, found
    assert found["brecq"] > found["nearest"] + 3, found
    assert max(found["adaround"], found["brecq"]) > found["gptq"], found


@pytest.mark.parametrize("method", [adaround, gptq])
def test_integers_of_the_file_are_those_that_were_chosen(tiny: Tiny, method: Callable, tmp_path: Path) -> None:
    model, values = tiny
    settings = {"steps": 30} if method is adaround else {}
    quantized = kc.quantize_model(model, weights="int4", activations="int8")
    made = method(quantized, values[:64], **settings)
    weights = stepped_weights(made)
    chosen = {each.path: np.rint(each.weight / each.step) for each in weights}
    for each in weights:
        np.testing.assert_allclose(each.weight, chosen[each.path] * each.step, rtol=1e-6)
        assert chosen[each.path].min() >= -8
        assert chosen[each.path].max() <= 7
        stored = each.wrapper.transforms["kernel"][-1].integer_weight(each.wrapper.weight("kernel"))
        np.testing.assert_array_equal(stored.integers, chosen[each.path])
    nearest = {each.path: each.nearest() for each in stepped_weights(method(quantized, values[:64], **settings))}
    assert all((nearest[path] == chosen[path]).all() for path in chosen)  # the same each time
    artifact = kc.convert(made)
    assert kc.verify(artifact, made, values[:16]).ok
    made.save(tmp_path / "made.keras")
    again = keras.models.load_model(tmp_path / "made.keras")
    np.testing.assert_array_equal(again(values[:8]), made(values[:8]))
    assert kc.convert(again).content == artifact.content


def test_training_goes_on_from_there(tiny: Tiny) -> None:
    model, values = tiny
    made = gptq(kc.quantize_model(model, weights="int4", activations="int8"), values[:64])
    made.compile(keras.optimizers.Adam(1e-2), "mse")
    history = made.fit(values, 2 * np.asarray(model(values)), epochs=5, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]


def test_pruned_weights_stay_zero(tiny: Tiny) -> None:
    model, values = tiny
    pruned = kc.prune_low_magnitude(model, kc.ConstantSparsity(0.5, begin_step=0))
    pruned.compile("sgd", "mse", run_eagerly=True)
    pruned.fit(values[:64], np.asarray(model(values[:64])), verbose=0)
    quantized = kc.quantize_model(pruned, weights="int4", activations="int8")
    masks = [np.asarray(layer.weight("kernel")) == 0 for layer in quantized.layers if isinstance(layer, kc.Compressed)]
    made = adaround(quantized, values[:64], steps=30)
    after = [np.asarray(layer.weight("kernel")) == 0 for layer in made.layers if isinstance(layer, kc.Compressed)]
    pairs = list(zip(masks, after, strict=True))
    assert all((now | ~before).all() for before, now in pairs)
    assert sum(int(before.sum()) for before, _ in pairs) > 100


def test_clustered_weights_are_left_and_said(tiny: Tiny) -> None:
    model, values = tiny
    quantized = kc.quantize_model(kc.cluster_weights(model, 8), weights="int8", activations="int8")
    with pytest.raises(ValueError, match="CentroidClusterer has set its values"):
        adaround(quantized, values[:64], steps=5)


def test_units_are_layers_with_what_is_fused_or_blocks(tiny: Tiny) -> None:
    flat = opened(kc.quantize_model(tiny[0], weights="int4", activations="int8"))
    names = [node.operation.name for node in graph.nodes(flat)]
    by_layer = [[names[p] for p in unit] for unit in layer_units(flat)]
    assert ["stem", "stem_norm", "stem_relu"] in by_layer
    assert ["depthwise", "depthwise_relu"] in by_layer
    assert sorted(p for unit in layer_units(flat) for p in unit) == list(range(len(names)))
    blocks = [[names[p] for p in unit] for unit in block_units(flat)]
    (block,) = [each for each in blocks if "depthwise" in each]
    assert block[0] == "stem_relu_quantized"
    assert {"depthwise", "pointwise", "add"} <= set(block)
    assert "stem" not in block
    assert "logits" not in block
    assert sorted(p for unit in block_units(flat) for p in unit) == list(range(len(names)))


def test_what_was_done_is_told_by_layer(tiny: Tiny) -> None:
    model, values = tiny
    made = adaround(kc.quantize_model(model, weights="int4"), values[:64], steps=100)
    effects = record_of(made).effects
    assert [each.layer for each in effects] == ["stem", "depthwise", "pointwise", "logits"]
    assert all(each.after_db > each.before_db for each in effects)
    assert table(effects).count("\n") == 4


def test_any_layer_that_training_takes_has_its_rounding_learned() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = keras.layers.LayerNormalization(name="norm")(x)
    x = keras.layers.LSTM(8, name="lstm")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="last")(x))
    values = np.random.default_rng(0).normal(size=(128, 6, 8)).astype(np.float32)
    nearest = with_ranges(kc.quantize_model(model, weights="int4", activations="int8"), values)
    made = adaround(nearest, values, steps=200)
    assert distance(model, values, made) > distance(model, values, nearest) + 2


def test_data_of_all_kinds(tiny: Tiny) -> None:
    model, values = tiny
    quantized = kc.quantize_model(model, weights="int4", activations="int8")
    expected = adaround(quantized, values[:32], steps=3)
    for data in (iter([values[:20], values[20:32]]), {"image": values[:32]}, lambda: iter([[values[:32]]])):
        made = adaround(quantized, data, steps=3)
        np.testing.assert_array_equal(made(values[:4]), expected(values[:4]))


def test_bad_data(tiny: Tiny) -> None:
    model, values = tiny
    quantized = kc.quantize_model(model, weights="int4", activations="int8")
    with pytest.warns(UserWarning, match="16 samples or more for AdaRound"):
        one = adaround(quantized, values[:1], steps=3)
    assert np.isfinite(np.asarray(one(values))).all()
    with pytest.warns(UserWarning, match="all values are equal"):
        constant = adaround(quantized, np.zeros((20, 8, 8, 3), np.float32), steps=3)
    assert np.isfinite(np.asarray(constant(values))).all()
    with pytest.raises(ValueError, match="finite"):
        adaround(quantized, np.full((20, 8, 8, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="shape"):
        adaround(quantized, np.zeros((20, 7), np.float32))
    with pytest.raises(ValueError, match="`steps`"):
        adaround(quantized, values, steps=0)
    with pytest.raises(ValueError, match="same structure"):
        adaround(quantized, values[:32], reference=model)
    with pytest.raises(ValueError, match="evenly spaced"):
        adaround(model, values[:32])
