"""What every criterion must do; those that a user registers are covered by the same lines."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.core import registry
from keras_compress.data.examples import Examples
from keras_compress.testing.criteria import CHECKS
from keras_compress.testing.sample import Sample

NAMES = sorted(registry.entries("channel_criterion"))
# The control does not look at the model.
LOOKING = [name for name in NAMES if name != "Random"]
AS_TYPED = ("l1", "l2", "fpgm", "bn_gamma", "taylor", "singe", "apoz", "pca", "random", "legr")
X = np.random.default_rng(0).normal(size=(12, 4, 4, 2)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 12)
EXAMPLES = Examples((X, Y), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
ORDER = [3, 0, 5, 1, 4, 2]
PACKAGED = ("APoZ", "BNGamma", "FPGM", "L1", "L2", "LeGR", "PCA", "Random", "SInGE", "Taylor")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Two groups of 6 and 5 channels, the first behind a residual sum, the second in a nested model."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 2))
    first = _norm(layers.Conv2D(6, 3, padding="same", name="a")(inputs))
    second = _norm(layers.Conv2D(6, 1, name="b")(inputs))
    x = layers.ReLU()(layers.Add()([first, second]))
    inner = keras.Input((4, 4, 6))
    nested = keras.Model(inner, layers.ReLU()(_norm(layers.Conv2D(5, 1, name="c")(inner))), name="nested")
    x = layers.GlobalAveragePooling2D()(nested(x))
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    rng = np.random.default_rng(2)
    for variable in model.weights:
        if variable.name in ("gamma", "beta", "moving_mean"):
            variable.assign(rng.normal(size=variable.shape))
    return model


def _norm(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.BatchNormalization()(x)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_criterion(name: str, check) -> None:
    check(Sample(registry.lookup("channel_criterion", name)))


def _scores(name: str, model: keras.Model) -> np.ndarray:
    return registry.resolve("channel_criterion", name).scores(kc.channel_graph(model), EXAMPLES)


@pytest.fixture(scope="module", params=NAMES)
def scored(request, model: keras.Model) -> tuple[str, np.ndarray]:
    return request.param, _scores(request.param, model)


def test_config_makes_it_again() -> None:
    assert {registry.lookup("channel_criterion", name).__name__ for name in AS_TYPED} <= set(NAMES)
    for name in NAMES:
        made = registry.resolve("channel_criterion", name)
        config = made.get_config()
        assert set(config) == set(inspect.signature(type(made)).parameters)
        again = registry.resolve("channel_criterion", {"class_name": name, "config": config})
        assert type(again) is type(made)
        assert again.get_config() == config
        loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
        assert loaded.get_config() == config


def test_scores(scored, model: keras.Model) -> None:
    name, scores = scored
    graph = kc.channel_graph(model)
    assert scores.shape == (graph.unit_count,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    assert [len(group) for group in graph.prunable] == [6, 5]
    for group in graph.prunable:
        assert len(np.unique(scores[group.units])) > 1
    np.testing.assert_array_equal(_scores(name, model), scores)


@pytest.mark.parametrize("name", LOOKING)
def test_filters_in_another_order_have_their_scores_in_that_order(name: str, model: keras.Model) -> None:
    graph = kc.channel_graph(model)
    group = graph.prunable[0]
    assert set(group.layers) == {"a", "b"}
    before = [np.array(v) for v in model.weights]
    old = _scores(name, model)
    try:
        for each in graph.weights:
            if set(graph.units[each.ids]) == set(group.units):
                each.variable.assign(np.take(each.variable, ORDER, each.axis))
        new = _scores(name, model)
    finally:
        for variable, value in zip(model.weights, before):
            variable.assign(value)
    expected = old.copy()
    expected[group.units] = old[group.units][ORDER]
    np.testing.assert_allclose(new, expected, rtol=2e-4, atol=1e-6 * old.max())


@pytest.mark.parametrize("name", NAMES)
def test_data_that_is_missing_is_an_error(name: str, model: keras.Model) -> None:
    needs = registry.lookup("channel_criterion", name).needs
    if "inputs" in needs:
        with pytest.raises(ValueError, match=f"Expected `data=.*criterion {name} needs"):
            kc.prune_channels(model, 0.5, criterion=name)
    if "targets" in needs:
        with pytest.raises(ValueError, match="Expected a loss"):
            kc.prune_channels(model, 0.5, criterion=name, data=(X, Y))
        with pytest.raises(ValueError, match="Received: inputs only"):
            kc.prune_channels(model, 0.5, criterion=name, data=X, loss="mse")
    assert needs <= {"inputs", "targets"}


def test_channels_with_the_lowest_scores_are_removed(scored, model: keras.Model) -> None:
    name, scores = scored
    pruned = kc.prune_channels(
        model, 0.5, criterion=name, data=(X, Y), loss=EXAMPLES.loss, round_to=1, filters=["a", "b"]
    )
    group = kc.channel_graph(model).prunable[0]
    kept = np.sort(np.argsort(scores[group.units], kind="stable")[3:])
    np.testing.assert_array_equal(pruned.get_layer("a").kernel, np.array(model.get_layer("a").kernel)[..., kept])


def test_which_scores_of_different_groups_can_be_compared() -> None:
    """Losses, shares, and factors of one scale; norms and energies are of each layer's own scale."""
    comparable = {name for name in NAMES if registry.lookup("channel_criterion", name).comparable}
    assert comparable & set(PACKAGED) == {"APoZ", "BNGamma", "LeGR", "Random", "SInGE", "Taylor"}
