"""Cutting: refusals, what is kept beside the channels, and what is said of inexact cuts."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import Input, layers, ops
from tests_structured import half, headed, shake

import keras_compress as kc
from keras_compress.structured import surgery
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.prune import removed_channels


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = Input((4, 4, 2), name="image")
    y = layers.ReLU()(layers.BatchNormalization(name="n")(layers.Conv2D(4, 3, name="a")(x)))
    return headed(x, layers.Conv2D(6, 1, name="b")(y))


def normed() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = Input((6,))
    return headed(x, layers.LayerNormalization(name="n")(layers.Dense(4, name="a")(x)))


class TestRefusals:
    def test_a_frozen_channel(self) -> None:
        with pytest.raises(ValueError, match=r"can be removed. Received: channels of 'head', of which an output"):
            kc.cut_channels(net(), {"head": [0]})
        with pytest.raises(
            ValueError, match=r"Received: channels of 'a', of which n normalizes over it; allow_inexact"
        ):
            kc.cut_channels(normed(), {"a": [0]})

    def test_all_of_a_group(self) -> None:
        with pytest.raises(ValueError, match=r"at least one channel .* Received: all 4 of 'a'"):
            kc.cut_channels(net(), {"a": [0, 1, 2, 3]})

    def test_all_of_a_part_that_is_read_apart(self) -> None:
        x = Input((4,))
        first, second = ops.split(layers.Dense(6, name="a")(x), [2], axis=-1)
        read = layers.Dense(2, name="b")(first) + layers.Dense(2, name="c")(second)
        with pytest.raises(ValueError, match=r"Received: all 2 of 'a'"):
            kc.cut_channels(keras.Model(x, read), {"a": [0, 1]})

    def test_paths_and_indices(self) -> None:
        with pytest.raises(ValueError, match=r"\['a', 'b', 'head'\]. Received: 'z'"):
            kc.cut_channels(net(), {"z": [0]})
        with pytest.raises(ValueError, match=r"indices in \[0, 4\) for 'a'. Received: \[4\]"):
            kc.cut_channels(net(), {"a": [1, 4]})

    def test_units_of_no_group(self) -> None:
        graph = channel_graph(net())
        graph.groups.clear()
        removed = graph.none_removed()
        removed[0] = True
        with pytest.raises(ValueError, match=r"Received: units \[0\] of none"):
            surgery.cut(graph, removed)

    def test_a_model_in_training_with_the_cure(self) -> None:
        wrapped = kc.prune_low_magnitude(net(), pruning_schedule=kc.ConstantSparsity(0.5, begin_step=0))
        with pytest.raises(ValueError, match=r"take `kc.strip\(model\)`. Received: layer 'a' with"):
            kc.cut_channels(wrapped, {"a": [0]})

    def test_roles_of_a_mask(self) -> None:
        graph = channel_graph(net())
        with pytest.raises(ValueError, match=r"Received: \('make',\)"):
            surgery.mask(graph, graph.none_removed(), ("make",))


def test_what_is_left_keeps_its_values_and_settings() -> None:
    model = net()
    shake(model)
    model.get_layer("a").trainable = False
    cut = kc.cut_channels(model, {"a": [1], "b": [0, 5]})
    kernel = np.asarray(model.get_layer("a").kernel)
    np.testing.assert_array_equal(cut.get_layer("a").kernel, kernel[..., [0, 2, 3]])
    np.testing.assert_array_equal(
        cut.get_layer("n").moving_mean, np.asarray(model.get_layer("n").moving_mean)[[0, 2, 3]]
    )
    head = np.asarray(model.get_layer("head").kernel).reshape(4, 6, 3)
    np.testing.assert_array_equal(cut.get_layer("head").kernel, head[:, 1:5].reshape(16, 3))
    assert not cut.get_layer("a").trainable
    assert cut.inputs[0].name == "image"
    assert model.get_layer("a").filters == 4  # the model given stays as it is


def test_nothing_removed_is_the_same_model() -> None:
    graph = channel_graph(net())
    cut = surgery.cut(graph, graph.none_removed())
    assert surgery.largest_difference(graph.model, cut, surgery.random_inputs(cut, 2, 0)) == 0.0


def test_masks_by_role() -> None:
    model = net()
    shake(model)
    graph = channel_graph(model)
    removed = removed_channels(graph, {"a": [1]})
    masked = surgery.mask(graph, removed, ("in",))
    assert np.all(np.asarray(masked.get_layer("b").kernel)[:, :, 1] == 0)
    np.testing.assert_array_equal(masked.get_layer("a").kernel, model.get_layer("a").kernel)
    masked = surgery.mask(graph, removed, ("through",))
    assert np.asarray(masked.get_layer("n").gamma)[1] == 0
    assert np.asarray(masked.get_layer("n").moving_mean)[1] != 0


def test_it_trains_saves_and_loads(tmp_path: Path) -> None:
    graph = channel_graph(net())
    cut = surgery.cut(graph, half(graph))
    x = surgery.random_inputs(cut, 8, 0)
    before = np.array(cut.get_layer("a").kernel.numpy())
    cut.compile("sgd", "mse", run_eagerly=True)
    cut.fit(x, np.ones((8, 3)), verbose=0)
    assert np.any(cut.get_layer("a").kernel.numpy() != before)
    cut.save(tmp_path / "cut.keras")
    assert surgery.largest_difference(cut, keras.models.load_model(tmp_path / "cut.keras"), x) == 0.0


def test_the_error_of_an_inexact_cut_is_said() -> None:
    model = normed()
    shake(model)
    graph = channel_graph(model, allow_inexact=True)
    removed = removed_channels(graph, {"a": [0, 2]})
    assert surgery.cut_error(graph, removed) > 0.1
    exact = channel_graph(net())
    assert surgery.cut_error(exact, half(exact)) < 1e-5
    with pytest.warns(
        UserWarning, match=r"allow_inexact=True: on random inputs, the outputs are up to 0\.\d+ of the largest"
    ):
        kc.prune_channels(model, 0.5, allow_inexact=True, round_to=1)


def test_random_inputs_fit_the_model() -> None:
    x = {"ids": Input((None,), dtype="int32", name="ids"), "image": Input((None, 4, 1), name="image")}
    read = [layers.Embedding(2, 3)(x["ids"]), layers.Conv2D(1, 1)(x["image"])]
    made = surgery.random_inputs(keras.Model(x, read), 2, 0)
    assert {name: (value.shape, str(value.dtype)) for name, value in made.items()} == {
        "ids": ((2, 32), "int32"),
        "image": ((2, 32, 4, 1), "float32"),
    }
    assert set(np.unique(made["ids"])) == {0, 1}
