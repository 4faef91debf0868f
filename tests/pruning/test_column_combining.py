from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.pruning.columns import group_columns, keep_largest

ONCE = {"class_name": "ConstantSparsity", "config": {"target_sparsity": 0.0, "begin_step": 0, "frequency": 1}}
# Rows are outputs, columns are inputs, as the paper draws it.
FILTERS = np.array(
    [
        [0, 3, 0, 0, 1, 0],
        [5, 0, 0, 0, 0, 0],
        [0, 0, 0, -4, 0, 0],
        [0, -2, 1, 3, 0, 0],
    ],
    np.float32,
)


def wrapped(filters: np.ndarray, **arguments: float) -> kc.Compressed:
    layer = layers.Dense(filters.shape[0], use_bias=False)
    layer.build((None, filters.shape[1]))
    layer.kernel.assign(filters.T)
    return kc.Compressed(layer, {"kernel": [kc.ColumnCombining(ONCE, **arguments)]})


def train_once(wrapper: kc.Compressed) -> tuple[list[int], np.ndarray]:
    """The group of each column, and the pruned filters."""
    wrapper(np.zeros((1, wrapper.layer.kernel.shape[0]), np.float32), training=True)
    return np.array(wrapper.transform_list[0].column_groups).tolist(), np.array(wrapper.weight("kernel")).T


@pytest.mark.parametrize(
    ("alpha", "gamma", "groups", "lost"),
    [
        # Column 1 begins, one of the two with two weights. Of the others only 0 does not collide with it.
        # Column 3 begins the next, and 4 joins: 2 collides.
        (8, 0.0, [0, 0, 2, 1, 1, -1], []),
        # A conflict in four rows: column 3 makes the group densest after column 0, and costs the -2 of row 3.
        (8, 0.25, [0, 0, 1, 0, 1, -1], [(3, 1)]),
        # Three conflicts: all in one group.
        (8, 0.75, [0, 0, 0, 0, 0, -1], [(3, 1), (3, 2), (0, 4)]),
        # At most two or three columns, one.
        (2, 0.75, [0, 0, 2, 1, 1, -1], []),
        (3, 0.75, [0, 0, 1, 0, 1, -1], [(3, 1)]),
        (1, 9.0, [2, 0, 3, 1, 4, -1], []),
    ],
)
def test_grouping_literal(alpha: int, gamma: float, groups: list[int], lost: list[tuple[int, int]]) -> None:
    found, filters = train_once(wrapped(FILTERS, alpha=alpha, gamma=gamma))
    expected = FILTERS.copy()
    for place in lost:
        expected[place] = 0
    np.testing.assert_array_equal(filters, expected)
    assert found == groups


def test_of_equal_weights_the_first_stays() -> None:
    scores = tf.constant([[2.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    assert keep_largest(scores, tf.constant([0, 0, 0])).numpy().tolist() == [[True, False], [False] * 2, [False] * 2]


def test_limits_hold_on_a_large_matrix() -> None:
    rng = np.random.default_rng(0)
    scores = np.where(rng.random((200, 40)) < 0.15, rng.random((200, 40)), 0).astype(np.float32)
    groups = group_columns(tf.constant(scores), 6, 0.5).numpy()
    assert (np.bincount(groups[groups >= 0]) <= 6).all()
    conflicts = [(np.maximum((scores[groups == g] > 0).sum(0) - 1, 0)).sum() for g in range(groups.max() + 1)]
    assert max(conflicts) <= 0.5 * 40
    assert max(conflicts) > 0
    mask = keep_largest(tf.constant(scores), groups).numpy()
    for group in range(groups.max() + 1):
        np.testing.assert_array_equal((scores * mask)[groups == group].sum(0), scores[groups == group].max(0))


def test_the_packed_matrix_has_the_density_that_is_reported_and_unpacks_exactly() -> None:
    wrapper = wrapped(FILTERS, alpha=8, gamma=0.25)
    train_once(wrapper)
    combining = wrapper.transform_list[0]
    packed = combining.packed(wrapper.latent("kernel"))
    assert packed.values.tolist() == [[3, 1], [5, 0], [-4, 0], [3, 1]]
    assert packed.columns.tolist() == [[1, 4], [0, -1], [3, -1], [3, 2]]
    assert combining.packing_density() == packed.density == combining.summary_values()["packing_density"] == 6 / 8
    np.testing.assert_array_equal(packed.unpack(), np.array(wrapper.weight("kernel")))


@pytest.mark.parametrize("layer", [layers.Conv2D(6, 3, name="c"), layers.Conv2DTranspose(6, 3, name="c")])
def test_convolutions_pack_and_unpack(layer: layers.Layer) -> None:
    keras.utils.set_random_seed(0)
    model = kc.combine_columns(keras.Sequential([keras.Input((8, 8, 4)), layer]), gamma=1.0)
    model(np.zeros((1, 8, 8, 4), np.float32), training=True)
    wrapper = model.layers[0]
    packed = wrapper.transform_list[0].packed(wrapper.latent("kernel"))
    assert packed.values.shape[0] == 6
    assert packed.density > 1.3 * 0.5
    np.testing.assert_array_equal(packed.unpack(), np.array(wrapper.weight("kernel")))


def test_packed_weights_are_not_packed_again_unless_the_schedule_asks_for_more() -> None:
    wrapper = wrapped(FILTERS, alpha=2, gamma=0.25)
    groups, filters = train_once(wrapper)
    assert (groups, filters.tolist()) == (train_once(wrapper)[0], train_once(wrapper)[1].tolist())
    again = wrapped(FILTERS, alpha=2, gamma=0.25)
    again.transform_list[0].schedule = kc.PolynomialDecay(0.0, 22 / 24, begin_step=0, end_step=1, frequency=1)
    train_once(again)
    groups, filters = train_once(again)
    assert np.abs(filters).sum(1).tolist() == [0, 5, 4, 0]
    assert groups == [0, -1, -1, 0, -1, -1]


def test_trains_in_fit_to_its_schedule_and_keeps_the_groups() -> None:
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 20)).astype(np.float32), rng.normal(size=(64, 3)).astype(np.float32)
    plain = keras.Sequential([keras.Input((20,)), layers.Dense(16, activation="relu"), layers.Dense(3)])
    schedule = kc.PolynomialDecay(0.2, 0.8, begin_step=0, end_step=12, frequency=4)
    model = kc.combine_columns(plain, schedule, alpha=4, rules=[{"layers": "last", "skip": True}])
    model.compile("adam", "mse")
    model.fit(x, y, batch_size=16, epochs=4, verbose=0)
    combining = model.layers[0].transform_list[0]
    assert combining.sparsity() >= 0.8
    assert combining.packing_density() > 1.5 * (1 - combining.sparsity())
    packed = combining.packed(model.layers[0].latent("kernel"))
    np.testing.assert_array_equal(packed.unpack(), np.array(kc.strip(model).layers[0].kernel))


def test_what_is_no_matrix_is_left_and_said() -> None:
    model = keras.Sequential([keras.Input((4, 4, 4)), layers.DepthwiseConv2D(3, name="d"), layers.Conv2D(2, 1)])
    with pytest.warns(UserWarning, match="Layers left as they are: d: each group of its channels"):
        made = kc.combine_columns(model)
    assert [type(layer).__name__ for layer in made.layers] == ["DepthwiseConv2D", "Compressed"]
    with pytest.raises(ValueError, match="Expected layers with one matrix only"):
        kc.combine_columns(model, strict=True)


@pytest.mark.parametrize("arguments", [{"alpha": 0}, {"alpha": 2.0}, {"gamma": -0.1}, {"gamma": float("nan")}])
def test_bad_settings(arguments: dict) -> None:
    with pytest.raises(ValueError, match=f"Expected `{next(iter(arguments))}`"):
        kc.ColumnCombining(ONCE, **arguments)
