"""What every channel criterion must do."""

from __future__ import annotations

import json

import keras
import numpy as np
from keras import layers

from keras_compress.data.examples import Examples
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.prune import prune_channels
from keras_compress.testing.sample import Sample, constructor_arguments, serialized_again

_X = np.random.default_rng(0).normal(size=(12, 4, 4, 2)).astype(np.float32)
_Y = np.random.default_rng(1).integers(0, 3, 12)
_CHANNELS = 6


def _model() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(_CHANNELS, 3, padding="same", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(3, name="logits"),
        ]
    )
    rng = np.random.default_rng(2)
    for variable in model.weights:
        if variable.name != "moving_variance":
            variable.assign(rng.normal(size=variable.shape))
    return model


def _examples() -> Examples:
    return Examples((_X, _Y), keras.losses.SparseCategoricalCrossentropy(from_logits=True))


def config_gives_back_the_arguments(sample: Sample) -> None:
    """`get_config` has the constructor's arguments, in a form that JSON holds."""
    config = sample.make().get_config()
    assert set(config) == constructor_arguments(sample.cls), f"{sample}: get_config() gives {sorted(config)}"
    assert json.loads(json.dumps(config)) == json.loads(json.dumps(serialized_again(sample.make()).get_config()))


def scores_are_finite_and_the_same_twice(sample: Sample) -> None:
    """A finite float64 score >= 0 for each unit; not all of a layer's channels are equal."""
    graph = channel_graph(_model())
    scores = sample.make().scores(graph, _examples())
    assert (scores.shape, scores.dtype) == ((graph.unit_count,), np.float64), f"{sample}: {scores.dtype} {scores.shape}"
    assert np.isfinite(scores).all(), f"{sample}: scores that are not finite"
    assert (scores >= 0).all(), f"{sample}: scores below 0"
    (group,) = graph.prunable
    assert len(np.unique(scores[group.units])) > 1, f"{sample}: all channels have one score"
    np.testing.assert_array_equal(sample.make().scores(graph, _examples()), scores, err_msg=f"{sample}")


def the_lowest_are_removed(sample: Sample) -> None:
    """`kc.prune_channels` removes the channels with the lowest scores."""
    model, made = _model(), sample.make()
    graph = channel_graph(model)
    (group,) = graph.prunable
    scores = made.scores(graph, _examples())[group.units]
    pruned = prune_channels(model, 0.5, criterion=made, data=(_X, _Y), loss=_examples().loss, round_to=1)
    kept = np.sort(np.argsort(scores, kind="stable")[_CHANNELS // 2 :])
    expected = np.array(model.get_layer("conv").kernel)[..., kept]
    np.testing.assert_array_equal(np.array(pruned.get_layer("conv").kernel), expected, err_msg=f"{sample}")


CHECKS = (config_gives_back_the_arguments, scores_are_finite_and_the_same_twice, the_lowest_are_removed)
