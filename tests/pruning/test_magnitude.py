from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.graph.model import compressed_layers

NOW = kc.ConstantSparsity(0.5, begin_step=0, frequency=1)
X = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)


def pruned_kernel(kernel: np.ndarray, sparsity: float, **kwargs) -> np.ndarray:
    kernel = np.asarray(kernel, np.float32)
    layer = layers.Dense(kernel.shape[1], use_bias=False)
    layer.build((None, kernel.shape[0]))
    layer.kernel.assign(kernel)
    pruner = kc.MagnitudePruner(kc.ConstantSparsity(sparsity, 0), **kwargs)
    wrapper = kc.Compressed(layer, {"kernel": [pruner]})
    wrapper(np.zeros((1, kernel.shape[0]), np.float32), training=True)
    return np.array(wrapper.weight("kernel"))


@pytest.mark.parametrize(("sparsity", "zeros"), [(0.0, 0), (0.25, 3), (0.5, 6), (0.9, 11), (0.95, 11), (0.96, 11)])
def test_exact_counts(sparsity: float, zeros: int) -> None:
    kernel = np.random.default_rng(0).normal(size=(4, 3))
    pruned = pruned_kernel(kernel, sparsity)
    assert (pruned == 0).sum() == zeros
    assert np.abs(pruned[pruned != 0]).min(initial=9) > np.abs(kernel[pruned == 0]).max(initial=0)


def test_ties_keep_the_first() -> None:
    assert pruned_kernel([[1, -1, 1], [1, 1, 1]], 0.5).tolist() == [[1, -1, 1], [0, 0, 0]]


def test_blocks_by_average_with_ragged_edges() -> None:
    kernel = [
        [9, 0, 1, 1, 4],
        [0, 0, 1, 1, 0],
        [2, 2, 5, 5, 3],
    ]
    # Averages of the 2 x 2 blocks, each over its own elements: 2.25 1 2 / 2 5 3. Three of six stay.
    assert pruned_kernel(kernel, 0.5, block_size=(2, 2)).tolist() == [
        [9, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 5, 5, 3],
    ]


def test_blocks_by_maximum() -> None:
    kernel = [[9, 0, 3, 3], [0, 0, 3, 3]]
    assert pruned_kernel(kernel, 0.5, block_size=(2, 2)).tolist() == [[0, 0, 3, 3], [0, 0, 3, 3]]
    assert pruned_kernel(kernel, 0.5, block_size=(2, 2), block_pooling_type="MAX").tolist() == [
        [9, 0, 0, 0],
        [0, 0, 0, 0],
    ]


def test_blocks_of_a_convolution_lie_on_its_matrix() -> None:
    layer = layers.Conv2D(4, 2, use_bias=False)
    layer.build((None, 5, 5, 2))
    layer.kernel.assign(np.random.default_rng(0).normal(size=(2, 2, 2, 4)))
    wrapper = kc.Compressed(layer, {"kernel": [kc.MagnitudePruner(NOW, block_size=(4, 2))]})
    wrapper(np.zeros((1, 5, 5, 2), np.float32), training=True)
    zero = np.array(wrapper.weight("kernel")).reshape(8, 4) == 0
    blocks = zero.reshape(2, 4, 2, 2).transpose(0, 2, 1, 3).reshape(4, 8)
    assert sorted(blocks.sum(1).tolist()) == [0, 0, 8, 8]


def test_block_masks_are_monotone() -> None:
    layer = layers.Dense(2, use_bias=False)
    layer.build((None, 4))
    layer.kernel.assign([[4, 4], [3, 3], [2, 2], [1, 1]])
    wrapper = kc.Compressed(layer, {"kernel": [kc.MagnitudePruner(NOW, block_size=(2, 2))]})
    wrapper(np.zeros((1, 4), np.float32), training=True)
    layer.kernel.assign([[1, 1], [2, 2], [30, 30], [40, 40]])
    wrapper(np.zeros((1, 4), np.float32), training=True)
    assert np.array(wrapper.weight("kernel")).tolist() == [[1, 1], [2, 2], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"block_size": (0, 1)}, "Expected `block_size` as two integers >= 1"),
        ({"block_size": (1, 2, 3)}, "Expected `block_size`"),
        ({"block_size": (1.5, 2)}, "Expected `block_size`"),
        ({"block_pooling_type": "SUM"}, r"out of \('AVG', 'MAX'\)"),
    ],
)
def test_bad_blocks(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.MagnitudePruner(NOW, **kwargs)


def two_layers() -> keras.Model:
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, name="a"), layers.Dense(4, name="b")])
    random = np.random.default_rng(1)
    model.layers[0].kernel.assign(random.normal(size=(6, 5)))
    model.layers[1].kernel.assign(random.normal(size=(5, 4)) * 0.3)
    return model


def masks(model: keras.Model) -> np.ndarray:
    found = [np.array(w.transform_list[0].mask).ravel() for _, w in compressed_layers(model)]
    return np.concatenate(found)


def magnitudes(model: keras.Model) -> np.ndarray:
    return np.concatenate([np.abs(np.array(w.latent("kernel"))).ravel() for _, w in compressed_layers(model)])


def test_global_threshold_is_one_threshold_over_all_weights() -> None:
    model = kc.prune_low_magnitude(two_layers(), NOW, scope="global")
    model(X, training=True)
    scores = magnitudes(model)
    np.testing.assert_array_equal(masks(model), scores >= np.sort(scores)[25])
    shares = [w.transform_list[0].sparsity() for _, w in compressed_layers(model)]
    assert shares[0] < 0.4
    assert shares[1] > 0.6  # three times smaller weights: per layer both would be 0.5
    assert [int(w.transform_list[0].step) for _, w in compressed_layers(model)] == [1, 1]


def test_global_blocks_are_ranked_together() -> None:
    model = kc.prune_low_magnitude(two_layers(), NOW, scope="global", block_size=(1, 5))
    model(X, training=True)
    kernels = [np.array(w.latent("kernel")) for _, w in compressed_layers(model)]
    scores = np.concatenate([np.abs(k).mean(axis=1) for k in kernels])
    kept = scores >= np.sort(scores)[5]  # 5.5 of 11 blocks, to even 6
    found = np.concatenate([np.array(w.transform_list[0].mask).all(axis=1) for _, w in compressed_layers(model)])
    assert kept.sum() == 6
    np.testing.assert_array_equal(found, kept)


@pytest.mark.parametrize("nested", [False, True])
def test_global_group_after_save_and_load_and_in_nested_models(nested: bool, tmp_path) -> None:
    model = two_layers()
    if nested:
        inputs = keras.Input((6,))
        model = keras.Model(inputs, layers.Dense(3, name="head")(model(inputs)))
    schedule = kc.PolynomialDecay(0.2, 0.6, 0, 4, frequency=1)
    model = kc.prune_low_magnitude(model, schedule, scope="global")
    model.compile("sgd", "mse", jit_compile=False)
    y = np.zeros((8, 3 if nested else 4))
    model.fit(X, y, batch_size=4, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    again.fit(X, y, batch_size=4, epochs=2, verbose=0)
    kept = masks(again)
    assert kept.sum() == round(0.4 * kept.size)
    shares = {round(w.transform_list[0].sparsity(), 2) for _, w in compressed_layers(again)}
    assert len(shares) > 1
    assert {int(w.transform_list[0].step) for _, w in compressed_layers(again)} == {6}


def test_two_global_groups_in_one_model_have_thresholds_of_their_own() -> None:
    model = kc.prune_low_magnitude(two_layers(), kc.ConstantSparsity(0.5, 0), scope="global", filters="a")
    model = kc.prune_low_magnitude(model, kc.ConstantSparsity(0.25, 0), scope="global", filters="b")
    model(X, training=True)
    assert [w.transform_list[0].sparsity() for _, w in compressed_layers(model)] == [0.5, 0.25]


def test_a_member_of_a_group_cannot_be_trained_alone() -> None:
    model = kc.prune_low_magnitude(two_layers(), NOW, scope="global")
    with pytest.raises(ValueError, match="members of the pruning group 'global-.*' to be trained inside their model"):
        model.layers[0](X, training=True)


def test_rules_and_filters() -> None:
    other = kc.ConstantSparsity(0.9, 0)
    model = kc.prune_low_magnitude(two_layers(), NOW, rules=[{"layers": "last", "pruning_schedule": other}])
    model(X, training=True)
    assert [w.transform_list[0].sparsity() for _, w in compressed_layers(model)] == [0.5, 0.9]
    model = kc.prune_low_magnitude(two_layers(), NOW, filters="class:Dense", rules=[{"layers": "a", "skip": True}])
    assert [path for path, _ in compressed_layers(model)] == ["b"]
    assert type(model.layers[0]) is layers.Dense


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"scope": "model"}, "Expected `scope` as 'layer' or 'global'"),
        ({"sparsity_m_by_n": (2, 4), "block_size": (2, 2)}, "without `block_size`"),
        ({"sparsity_m_by_n": (2, 4), "scope": "global"}, "scope='layer'"),
        ({"scope": "global", "rules": [{"layers": "a", "pruning_schedule": NOW}]}, "one schedule for a global"),
        ({"filters": "nothing"}, "Received: 'nothing', which matches none of"),
        ({"rules": [{"layers": "re:^conv", "skip": True}]}, "matches none of"),
        ({"rules": [{"layers": "a", "sparsity": 0.5}]}, "Expected a rule with `layers`"),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.prune_low_magnitude(two_layers(), NOW, **kwargs)


def test_default_schedule_is_half() -> None:
    model = kc.prune_low_magnitude(two_layers())
    model(X, training=True)
    assert [w.transform_list[0].sparsity() for _, w in compressed_layers(model)] == [0.5, 0.5]
