"""Channels masked while a model trains: which, when, how they come back, and that masked equals cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.core.registry import resolve
from keras_compress.graph.model import compressed_layers
from keras_compress.structured.channel_mask import ChannelMask, masks_in
from keras_compress.structured.ranking import Pool, Ranking
from keras_compress.structured.selection import GroupLimits, Selection
from keras_compress.structured.surgery import largest_difference

X = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 8)
# The L1 norms of the four filters of `dense_model`.
NORMS = [3.0, 1.0, 2.0, 4.0]


def dense_model() -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), layers.Dense(4, name="d"), layers.Dense(3, name="e")])
    model.layers[0].kernel.assign(np.array([NORMS, [0.0] * 4]))
    model.layers[0].bias.assign(np.full(4, 0.5))
    return model


def net(scale: bool = True, activation: str = "relu") -> keras.Model:
    """A residual sum, a depthwise convolution, normalizations, a dense layer behind a flattened image."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, padding="same", name="first")(inputs)
    x = layers.Activation(activation)(layers.BatchNormalization(scale=scale)(x))
    y = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", name="second")(x))
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.BatchNormalization(scale=scale)(layers.DepthwiseConv2D(3, name="depthwise")(x))
    x = layers.Dense(8, activation=activation, name="hidden")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def fit(model: keras.Model, steps: int = 1, learning_rate: float = 0.05) -> keras.Model:
    if not model.compiled:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(learning_rate), loss, run_eagerly=True)
    model.fit(X, Y, batch_size=len(X), epochs=steps, shuffle=False, verbose=0)
    return model


def masks_of(model: keras.Model, layer: str) -> dict[tuple[str, str], list[bool]]:
    wrapper = model.get_layer(layer)
    return {(slot, mask.role): np.array(mask.mask).tolist() for slot, mask in masks_in(wrapper)}


def cut_quietly(model: keras.Model) -> keras.Model:
    if any(t.pending() for _, wrapper in compressed_layers(model) for t in wrapper.transform_list):
        with pytest.warns(UserWarning, match="channel masks stopped at step"):
            return kc.cut_masked(model)
    return kc.cut_masked(model)


def test_the_lowest_filters_are_masked_in_all_that_makes_and_reads_them() -> None:
    model = kc.mask_channels(dense_model(), kc.ConstantSparsity(0.5, begin_step=1))
    model(np.ones((1, 2)), training=True)
    assert masks_of(model, "d")["kernel", "out"] == [True] * 4
    model(np.ones((1, 2)), training=True)
    lowest = [True, False, False, True]
    assert masks_of(model, "d") == {("kernel", "out"): lowest, ("bias", "out"): lowest}
    assert masks_of(model, "e") == {("kernel", "in"): lowest}
    cut = kc.cut_masked(model)
    assert np.array(cut.layers[0].kernel).tolist() == [[3.0, 4.0], [0.0, 0.0]]
    assert not list(compressed_layers(cut))


@pytest.mark.parametrize(
    ("regrow", "plain"), [(True, {}), (True, {"scale": False, "activation": "sigmoid"}), (False, {})]
)
def test_masked_equals_cut_at_any_step(regrow: bool, plain: dict[str, Any]) -> None:
    model = kc.mask_channels(net(**plain), kc.PolynomialDecay(0.25, 0.5, 0, 2, frequency=1), regrow=regrow, round_to=1)
    fit(model)
    for _ in range(3):
        cut = cut_quietly(model)
        assert largest_difference(model, cut, X) <= 1e-5
        assert np.abs(np.array(model(X))).max() > 0
        fit(model)
    assert [cut.get_layer(name).kernel.shape[-1] for name in ("first", "second", "hidden", "logits")] == [4, 4, 4, 3]
    assert cut.get_layer("depthwise").kernel.shape == (3, 3, 4, 1)


def test_soft_masks_let_kernels_train_on_from_zero_and_come_back() -> None:
    """He et al. (2018), algorithm 1: filters of low norm become zero, train on, and are chosen anew."""
    model = kc.mask_channels(dense_model(), kc.ConstantSparsity(0.5, begin_step=0, frequency=3))
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    kernel, x, y = model.get_layer("d").layer.kernel, np.ones((4, 2)), np.ones((4, 3))
    model.train_on_batch(x, y)
    # The step that decides computes with zeros, and hands no gradient to them.
    assert np.array(kernel)[:, [1, 2]].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    model.train_on_batch(x, y)
    assert (np.abs(np.array(kernel)[:, [1, 2]]) > 0).all()
    # In inference they are still masked, and so is what would not be zero by itself: the bias.
    hidden = keras.Model(model.inputs[0], model.get_layer("d").output)
    assert np.array(hidden(x))[:, [1, 2]].tolist() == [[0.0, 0.0]] * 4
    assert (np.abs(np.array(hidden(x, training=True))[:, [1, 2]]) > 0).all()
    kernel.assign([[0.5, 9.0, 0.25, 4.0], [0.0] * 4])
    model.train_on_batch(x, y)
    assert masks_of(model, "d")["kernel", "out"] == [False, True, False, True]


def test_after_the_schedule_soft_masks_are_for_good() -> None:
    model = kc.mask_channels(dense_model(), kc.PolynomialDecay(0.25, 0.5, 0, 1, frequency=1))
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    kernel = model.get_layer("d").layer.kernel
    for step in range(4):
        model.train_on_batch(np.ones((4, 2)), np.ones((4, 3)))
        assert masks_of(model, "d")["kernel", "out"].count(False) == (1 if step == 0 else 2)
    masked = ~np.array(masks_of(model, "d")["kernel", "out"])
    assert (np.array(kernel)[:, masked] == 0).all()
    assert np.array(kernel)[1, ~masked].all()


def test_without_regrow_nothing_comes_back_or_moves() -> None:
    model = kc.mask_channels(dense_model(), kc.ConstantSparsity(0.5, begin_step=0, frequency=1), regrow=False)
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    kernel = model.get_layer("d").layer.kernel
    for _ in range(2):
        model.train_on_batch(np.ones((4, 2)), np.ones((4, 3)))
        assert np.array(kernel)[:, [1, 2]].tolist() == [[1.0, 2.0], [0.0, 0.0]]
        assert masks_of(model, "d")["kernel", "out"] == [True, False, False, True]
        kernel.assign([[0.5, 1.0, 2.0, 0.5], [0.0] * 4])


def test_saved_in_the_middle_it_goes_on_bit_equal(tmp_path: Path) -> None:
    model = kc.mask_channels(
        net(), kc.PolynomialDecay(0.1, 0.8, 0, 3, power=1, frequency=1), scope="global", criterion="fpgm"
    )
    fit(model, 2).save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(np.array(model(X)), np.array(again(X)))
    before = [masks_of(model, name) for name in ("first", "hidden")]
    for one, other in zip(fit(model, 2).variables, fit(again, 2).variables, strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(other))
    assert [masks_of(model, name) for name in ("first", "hidden")] != before


def test_compiled_training_masks_the_same() -> None:
    """XLA, and the same masks as step by step."""
    eager, compiled = (kc.mask_channels(net(), kc.ConstantSparsity(0.5, 0), round_to=1) for _ in range(2))
    compiled.compile(keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(True), jit_compile=True)
    assert masks_of(fit(eager), "first") == masks_of(fit(compiled), "first")
    np.testing.assert_allclose(np.array(eager(X)), np.array(compiled(X)), rtol=1e-3, atol=1e-4)


def test_frozen_layers_keep_their_channels() -> None:
    plain = net()
    plain.get_layer("hidden").trainable = False
    model = kc.mask_channels(plain, kc.ConstantSparsity(0.5, 0), round_to=1)
    fit(model)
    assert all(masks_of(model, "hidden")["kernel", "out"])
    assert masks_of(model, "first")["kernel", "out"].count(False) == 4


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize(("round_to", "max_ratio"), [(1, 0.9), (4, 0.55)])
def test_a_training_step_chooses_what_prune_channels_would(scope: str, round_to: int, max_ratio: float) -> None:
    graph = kc.channel_graph(many_groups())
    scores = np.random.default_rng(3).random(graph.unit_count).astype(np.float32)
    limits = {group.name: GroupLimits(len(group), None, max_ratio) for group in graph.prunable}
    selection = Selection(graph, scores, limits, round_to)
    units = np.concatenate([group.units for group in graph.prunable])
    ranking = Ranking([Pool(0, len(group), max_ratio) for group in graph.prunable], round_to)
    for ratio in (0.1, 0.45, 0.8):
        removed = selection.together(ratio) if scope == "global" else selection.local(ratio)
        kept = ranking.kept(scores[units], tf.constant(ratio), together=scope == "global", comparable=False, live=None)
        np.testing.assert_array_equal(np.array(kept), ~removed[units])
        assert removed.any()


def many_groups() -> keras.Model:
    widths = (40, 10, 16, 24)
    return keras.Sequential([keras.Input((4,)), *(layers.Dense(n) for n in widths), layers.Dense(2)])


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm"])
def test_criteria_give_the_same_scores_in_a_training_step(name: str) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    criterion = resolve("channel_criterion", name)
    scores = np.array(criterion.tensor_scores(tf.constant(rows)))
    np.testing.assert_allclose(scores, criterion.channel_scores(rows), rtol=1e-5)


def test_gammas_choose() -> None:
    plain = net()
    plain.layers[2].gamma.assign([1.0, -0.1, 0.2, 1.0, 1.0, -1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"BNGamma can score. Received: \['hidden'\]"):
        kc.mask_channels(plain, criterion="bn_gamma")
    rules = [{"layers": "hidden", "skip": True}]
    model = kc.mask_channels(plain, kc.ConstantSparsity(0.25, 0), criterion="bn_gamma", rules=rules, round_to=1)
    assert masks_of(fit(model), "second")["kernel", "out"] == [True, False, False, True, True, True, True, True]


def test_strip_gives_the_masked_model_as_wide_as_before() -> None:
    model = fit(kc.mask_channels(net(), kc.ConstantSparsity(0.5, 0), round_to=1))
    plain = kc.strip(model)
    assert [v.shape for v in plain.weights] == [v.shape for v in net().weights]
    np.testing.assert_array_equal(np.array(plain(X)), np.array(model(X)))
    assert (np.abs(np.array(plain.get_layer("first").kernel)).sum(axis=(0, 1, 2)) == 0).sum() == 4


def test_some_layers_only() -> None:
    model = kc.mask_channels(net(), kc.ConstantSparsity(0.5, 0), filters="hidden", round_to=1)
    assert {path for path, _ in compressed_layers(model)} == {"hidden", "logits"}
    rules = [{"layers": "first", "max_ratio": 0.25}]
    model = fit(kc.mask_channels(net(), kc.ConstantSparsity(0.5, 0), rules=rules, round_to=1))
    cut = kc.cut_masked(model, filters=["first", "second"])
    assert [cut.get_layer(name).kernel.shape[-1] for name in ("first", "second", "hidden")] == [6, 6, 8]
    assert largest_difference(model, cut, X) <= 1e-5


def test_summary_lists_kernels_and_what_is_pending(capsys: pytest.CaptureFixture[str]) -> None:
    model = kc.mask_channels(net(), kc.PolynomialDecay(0.2, 0.5, 0, 9))
    found = kc.summary(model)
    assert [(row.path, row.slot) for row in found.rows] == [
        (name, "kernel") for name in ("first", "second", "depthwise", "hidden", "logits")
    ]
    assert found.macs == kc.summary(net()).macs
    assert {message for _, message in found.pending} == {
        "no channel is masked yet: no training step was made, or all layers are frozen (trainable=False)"
    }
    capsys.readouterr()


AFTER = r"after `kc.cut_masked\(model\)` \(or `kc.strip\(model\)`, as wide as it is\)"


def test_what_would_lose_the_masks_names_the_cure() -> None:
    model = kc.mask_channels(net(), kc.ConstantSparsity(0.5, 0))
    for refuses in (
        lambda: kc.convert(model, mode="float32"),
        lambda: kc.freeze(model, X),
        lambda: kc.quantize_model(model),
        lambda: kc.quantize_model(model, weights=None),
        lambda: kc.prune_channels(model),
        lambda: kc.mask_channels(model),
        lambda: kc.cut_channels(model, {"first": [0]}),
    ):
        with pytest.raises(ValueError, match=AFTER):
            refuses()
    for refuses in (kc.prune_low_magnitude, kc.cluster_weights):
        with pytest.raises(ValueError, match=r"'channels' it would break. Call `kc.cut_masked\(model\)` first"):
            refuses(model)


def test_a_model_without_masked_channels_is_a_copy_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="No channel of 'sequential.*' is masked"):
        made = kc.cut_masked(dense_model())
    assert made.get_layer("d").kernel.shape == (2, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"criterion": "taylor"}, r"weights alone decide on: 'l1', .*Received: Taylor; .*`kc.prune_channels\(model"),
        ({"criterion": "l7"}, "Expected a channel_criterion out of"),
        ({"pruning_schedule": 0.5}, "Expected a Schedule, such as PolynomialDecay.*pruning_schedule=0.5"),
        ({"max_ratio": 0.4}, "ends with `max_ratio` or less. Received: 0.5, max_ratio=0.4"),
        ({"max_ratio": 1.0}, r"Expected `max_ratio` in \(0, 1\)"),
        ({"round_to": 0}, "Expected `round_to` as an integer >= 1"),
        ({"scope": "all"}, "Expected `scope` as 'local' or 'global'"),
        ({"rules": [{"layers": "d", "ratio": 0.5}]}, r"any of \['max_ratio', 'optional', 'skip'\]"),
        ({"rules": [{"layers": "d", "max_ratio": 1.5}]}, r"Expected `max_ratio` in \(0, 1\).*max_ratio=1.5"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.mask_channels(dense_model(), **settings)


def test_models_with_other_transforms_are_refused() -> None:
    pruned = kc.prune_low_magnitude(dense_model())
    with pytest.raises(ValueError, match=r"cut channels first, then prune.*layer 'd' with \['MagnitudePruner'\]"):
        kc.mask_channels(pruned)
    with pytest.raises(ValueError, match="cut channels first, then prune"):
        kc.cut_masked(pruned)


def test_a_mask_by_itself_cannot_let_channels_come_back() -> None:
    with pytest.raises(ValueError, match="Expected a `group` where channels may come back"):
        ChannelMask(kc.ConstantSparsity(0.5, 0), regrow=True)


def test_pools_as_lists_are_those_of_files_of_the_first_release() -> None:
    mask = ChannelMask(kc.ConstantSparsity(0.5, 0), units=[0, 1, 2, 3], pools=[[0, 4, 0.5]])
    assert mask.pools == [Pool(0, 4, 0.5)]
    assert mask.get_config()["pools"] == [{"start": 0, "width": 4, "max_ratio": 0.5}]
    with pytest.raises(ValueError, match="Expected a pool as"):
        ChannelMask(kc.ConstantSparsity(0.5, 0), pools=[{"first": 0, "width": 4}])
