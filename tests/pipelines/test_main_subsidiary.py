"""Main/subsidiary: selectors by literal numbers, cuts that equal the masked network, and a run that was killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.pipelines.main_subsidiary import staying
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.filter_selector import selected, with_selector, without_channels

RNG = np.random.default_rng(8)
X = RNG.normal(size=(64, 6, 6, 2)).astype(np.float32)


def binary(pool: bool = False) -> keras.Model:
    keras.utils.set_random_seed(4)
    net = [
        keras.Input((6, 6, 2)),
        layers.Conv2D(8, 3, padding="same", use_bias=False, name="first"),
        layers.BatchNormalization(momentum=0.5),
        layers.ReLU(),
        *([layers.MaxPooling2D(2)] if pool else []),
        layers.Conv2D(8, 3, padding="same", use_bias=False, name="middle"),
        layers.BatchNormalization(momentum=0.5),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(3, name="last"),
    ]
    ends = [{"layers": ["first", "last"], "weights": "int8"}]
    model = kc.quantize_model(keras.Sequential(net), "bwn", "approx_sign", rules=ends)
    model(X, training=True)
    return model


def test_a_selector_is_that_of_the_paper() -> None:
    numbers = tf.Variable([0.3, -0.2, 0.0, -1.5, 2.0])
    with tf.GradientTape() as tape:
        mask = selected(tf.identity(numbers))
        loss = tf.reduce_sum(mask * [1.0, 2.0, 3.0, 4.0, 5.0])
    np.testing.assert_array_equal(mask, [1, 0, 1, 0, 1])
    # (sign + 1) / 2 has half the gradient of a sign: that of the identity from -1 to 1.
    np.testing.assert_allclose(tape.gradient(loss, numbers), [0.5, 1.0, 1.5, 0.0, 0.0])
    layer = kc.FilterSelector([1, -1, 0, 1], strength=0.25)
    layer.build((None, 4))
    layer.selectors.assign([0.5, -0.5])
    np.testing.assert_array_equal(layer(np.ones((1, 4), np.float32), training=True), [[0, 1, 1, 0]])
    assert float(layer.losses[0]) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="Expected `strength` >= 0. Received: strength=-1"):
        kc.FilterSelector([0], strength=-1)


def test_who_stays() -> None:
    numbers = np.array([-0.1, 0.2, -0.3, 0.4, -0.5, -0.6, -0.7, -0.8])
    assert np.flatnonzero(staying(numbers, 0.9, 1)).tolist() == [1, 3]
    # At least half of them, the highest of those below 0; a multiple of 2 in the next.
    assert np.flatnonzero(staying(numbers, 0.5, 1)).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(staying(np.array([0.1, 0.2, 0.3, -1, -2, -3, -4, -5]), 0.9, 8)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("pool", [True, False])
def test_cut_channels_are_those_that_the_selector_drops(pool: bool) -> None:
    model = binary(pool)
    graph = channel_graph(model)
    assert [group.name for group in graph.prunable] == ["first", "middle"]
    for group in graph.prunable:
        masked, selector = with_selector(graph, group, 0.1)
        assert [v.path.split("/")[-1] for v in masked.trainable_variables] == ["selectors"]
        np.testing.assert_array_equal(masked(X), model(X))
        dropped = np.zeros(8, bool)
        dropped[[1, 4, 5]] = True
        selector.selectors.assign(np.where(dropped, -0.5, 0.5))
        assert np.abs(masked(X) - model(X)).max() > 1e-3
        smaller = without_channels(model, {group.name: dropped})
        # Fewer weights are quantized alike: of BWN only the scale of a layer that reads them is another.
        plain, wanted = kc.strip(smaller), kc.strip(masked)
        assert plain.get_layer(group.name).kernel.shape[-1] == 5
        np.testing.assert_array_equal(
            np.asarray(plain.get_layer(group.name).kernel),
            np.asarray(wanted.get_layer(group.name).kernel)[..., ~dropped],
        )
        if group.name == "middle":
            np.testing.assert_allclose(smaller(X), masked(X), atol=0.05)


@pytest.fixture
def eager() -> Iterator[None]:
    """Compiling a program for each of these few steps would take much longer."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def learnable() -> np.ndarray:
    return (X.mean((1, 2)) @ np.array([[4.0, -4.0, 0.0], [0.0, 4.0, -4.0]])).argmax(-1)


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:.*does not apply to tf.data functions:UserWarning")
def test_filters_that_nothing_reads_go_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    model, y = binary(), learnable()
    # Six of the eight channels of the middle layer are not read at all: they only cost.
    kernel = model.get_layer("last").layer.kernel
    kept = np.tile(np.arange(8) < 2, 36)
    kernel.assign(np.where(kept[:, None], 5.0 * np.asarray(kernel), 0.0))
    steps: list[str] = []

    def fit(trained: keras.Model, stage: Any) -> None:
        steps.append(f"{stage.name} {stage.method}")
        if len(steps) == 2:
            raise KeyboardInterrupt
        rate = 1e-2 if stage.method == "subsidiary" else 1e-6
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        trained.compile(keras.optimizers.Adam(rate), loss)
        trained.fit(X, y, batch_size=16, epochs=3, verbose=0)

    how = {"filters": "middle", "validation_data": (X, y), "round_to": 1, "folder": tmp_path, "strength": 1e-4}
    with pytest.raises(KeyboardInterrupt):
        kc.select_filters(model, fit, **how)
    found = kc.select_filters(model, fit, **how)
    assert steps == ["subsidiary_0 subsidiary", "main_0 main", "main_0 main"]
    (row,) = found.layers
    assert (row.layer, row.before) == ("middle", 8)
    assert row.after <= 2
    assert row.metric is not None
    assert found.model.get_layer("middle").layer.filters == row.after
    assert [type(t).__name__ for t in found.model.get_layer("middle").transform_list] == ["BWN"]
    assert "first: left out by the rules" in found.skipped
    assert repr(found).startswith(f"FewerFilters: {row.after} of 8 channels are left\n")
    artifact = kc.convert(found.model, representative_dataset=X[:16])
    assert len(artifact.content) < len(kc.convert(model, representative_dataset=X[:16]).content)


def test_channels_with_thresholds_of_their_own_stay() -> None:
    net = [keras.Input((6, 6, 2)), layers.Conv2D(8, 3, name="conv"), layers.ReLU(), layers.Flatten(), layers.Dense(3)]
    graph = channel_graph(kc.quantize_model(keras.Sequential(net), "bwn", "rsign"))
    assert not graph.prunable
    assert "has numbers for each channel" in graph.frozen[0].reason


def test_what_cannot_be_cut_is_an_error() -> None:
    fit = kc.Training("mse").on(X, X[:, 0, 0])
    with pytest.raises(ValueError, match="Expected `strength` >= 0, `max_ratio`"):
        kc.select_filters(binary(), fit, -1.0)
    with pytest.raises(ValueError, match="matches none of"):
        kc.select_filters(binary(), fit, filters="nothing")
    with pytest.raises(ValueError, match="Expected a model with"):
        kc.select_filters(keras.Sequential([keras.Input((3,)), layers.Dense(2)]), fit)
