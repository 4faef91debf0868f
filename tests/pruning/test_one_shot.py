from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.pruning.fixed_mask import FixedMaskPruner

ALWAYS = kc.ConstantSparsity(0.5, begin_step=0, frequency=1)


def net() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(6, 3, padding="same", name="c"),
            layers.DepthwiseConv2D(3, name="dw"),
            layers.Flatten(name="f"),
            layers.Dense(10, "relu", name="a"),
            layers.Dense(3, name="b"),
        ]
    )
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return net()


def zeros(pruned: keras.Model) -> dict[str, np.ndarray]:
    return {w.name: np.array(w.weight("kernel")) == 0 for w in pruned.layers if isinstance(w, kc.Compressed)}


def test_by_magnitude_as_training_would(model) -> None:
    """Masks are those that `prune_low_magnitude` makes in its first step: single weights, blocks and two in four."""
    x = np.zeros((1, 4, 4, 2), np.float32)
    for arguments in (
        {},
        {"scope": "global"},
        {"block_size": (4, 2)},
        {"block_size": (2, 3), "block_pooling_type": "MAX"},
    ):
        trained = kc.prune_low_magnitude(model, ALWAYS, **arguments)
        trained(x, training=True)
        at_once = kc.prune_one_shot(model, 0.5, **arguments)
        for name, expected in zeros(trained).items():
            np.testing.assert_array_equal(zeros(at_once)[name], expected, err_msg=f"{name} {arguments}")
    trained = kc.prune_low_magnitude(model, ALWAYS, sparsity_m_by_n=(2, 4))
    trained(x, training=True)
    at_once = kc.prune_one_shot(model, sparsity_m_by_n=[2, 4])
    for name, expected in zeros(trained).items():
        np.testing.assert_array_equal(zeros(at_once)[name], expected)


@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
def test_a_zero_in_a_block_does_not_kill_the_block(pooling) -> None:
    """Of kernels with zeros before, blocks are those that `prune_low_magnitude` keeps."""
    holed = net()
    for layer in holed.layers:
        for variable in layer.trainable_variables:
            variable.assign(np.array(variable) * (np.random.default_rng(1).random(variable.shape) < 0.6))
    arguments = {"block_size": (2, 3), "block_pooling_type": pooling}
    trained = kc.prune_low_magnitude(holed, ALWAYS, **arguments)
    trained(np.zeros((1, 4, 4, 2), np.float32), training=True)
    at_once = zeros(kc.prune_one_shot(holed, 0.5, **arguments))
    for name, expected in zeros(trained).items():
        np.testing.assert_array_equal(at_once[name], expected, err_msg=name)
    line = keras.Sequential([keras.Input((4,)), layers.Dense(1, use_bias=False, name="l")])
    line.get_layer("l").kernel.assign([[0.0], [100.0], [1.0], [1.0]])
    kept = kc.prune_one_shot(line, 0.5, block_size=(2, 1), block_pooling_type=pooling).get_layer("l").weight("kernel")
    assert np.array(kept).ravel().tolist() == [0.0, 100.0, 0.0, 0.0]


def test_erk_and_global_keep_the_total(model) -> None:
    sizes = {"c": 108, "dw": 54, "a": 240, "b": 30}
    for scope in ("erk", "global"):
        record = kc.one_shot_of(kc.prune_one_shot(model, 0.8, scope=scope))
        assert {each.name: each.size for each in record.weights} == sizes
        assert sum(each.after for each in record.weights) == pytest.approx(0.2 * 432, abs=1)
    by_name = {each.name: each.after for each in kc.one_shot_of(kc.prune_one_shot(model, 0.8, scope="erk")).weights}
    # Sums of the axes: 14, 13, 34, 13: e = 86 / 74 = 1.162.
    assert by_name == {"c": 16, "dw": 15, "a": 40, "b": 15}


def test_it_is_ready_to_train_and_says_what_was_done(model) -> None:
    pruned = kc.prune_one_shot(model, 0.75, rules=[{"layers": "b", "sparsity": 0.2}, {"layers": "dw", "skip": True}])
    assert [type(t) for w in pruned.layers if isinstance(w, kc.Compressed) for t in w.transform_list] == [
        FixedMaskPruner
    ] * 3
    assert kc.one_shot_of(pruned).lines() == [
        "Pruned at once: 70.6% of 378 weights by MagnitudeSaliency, scope 'layer'",
        "Pruned at once: c: 108 -> 27 weights, 75.0% zeros",
        "Pruned at once: a: 240 -> 60 weights, 75.0% zeros",
        "Pruned at once: b: 30 -> 24 weights, 20.0% zeros",
    ]
    assert "240 -> 60 weights" in str(kc.summary(pruned, print_fn=None))
    before = zeros(pruned)
    pruned.compile(keras.optimizers.Adam(0.1), "mse")
    pruned.fit(np.ones((4, 4, 4, 2)), np.ones((4, 3)), epochs=2, verbose=0)
    for name, mask in zeros(pruned).items():
        np.testing.assert_array_equal(mask, before[name])
    plain = kc.strip(pruned)
    assert np.mean(np.array(plain.get_layer("a").kernel) == 0) == 0.75


def test_again_prunes_further_and_lets_nothing_back(model) -> None:
    once = kc.prune_one_shot(model, 0.5)
    twice = kc.prune_one_shot(once, 0.8, "random")
    for name, mask in zeros(twice).items():
        assert mask[zeros(once)[name]].all()
        assert mask.mean() == pytest.approx(0.8, abs=0.02)
    less = kc.prune_one_shot(kc.strip(once), 0.2)
    for name, mask in zeros(less).items():
        np.testing.assert_array_equal(mask, zeros(once)[name])


def test_sparsities_of_a_sensitivity(model) -> None:
    x, y = np.random.default_rng(0).normal(size=(32, 4, 4, 2)).astype(np.float32), np.arange(32) % 3
    found = kc.sensitivity(model, of="weights", data=(x, y), ratios=(0.5, 0.9)).sparsities(0.7)
    record = kc.one_shot_of(kc.prune_one_shot(model, found))
    assert {each.name for each in record.weights} == {"c", "dw", "a", "b"}
    assert record.sparsity == pytest.approx(0.7, abs=0.01)
    record = kc.one_shot_of(kc.prune_one_shot(model, {"a": 0.9}))
    assert [(each.name, each.after) for each in record.weights] == [("a", 24)]


def test_what_a_pattern_does_not_fit_is_said(model) -> None:
    with pytest.warns(
        UserWarning, match=r"Weights left as they are: dw: its 9 inputs are fewer than the 16 of a group"
    ):
        pruned = kc.prune_one_shot(model, sparsity_m_by_n=(8, 16))
    assert not zeros(pruned)["dw"].any()
    assert zeros(pruned)["a"].mean() == pytest.approx(8 / 24)  # 16 of its 24 inputs are whole groups
    assert any("dw: left as it is" in line for line in kc.one_shot_of(pruned).lines())
    with pytest.raises(ValueError, match="strict=True"):
        kc.prune_one_shot(model, block_size=(64, 64), strict=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"Expected `sparsity` as a number in \[0, 1\)"),
        ({"sparsity": {"c": 1.5}}, r"Expected `c` as a number in \[0, 1\)"),
        ({"sparsity": {"cc": 0.5}}, r"Expected paths of layers .*Received: \['cc'\].*[Dd]id you mean"),
        ({"sparsity": {"c": 0.5}, "scope": "erk"}, "Expected one sparsity for scope='erk'"),
        ({"sparsity": {"c": 0.5}, "filters": "c"}, "Expected either `filters` or a sparsity for each layer"),
        ({"criterion": "magnitud"}, "Expected a weight_criterion out of .*[Dd]id you mean"),
        ({"criterion": kc.Taylor()}, "Expected a criterion of weights"),
        ({"criterion": {"class_name": "obd", "config": {"sample": 3}}}, "Expected the arguments of obd"),
        ({"scope": "globl"}, "Expected `scope` out of .*[Dd]id you mean"),
        ({"scope": "global", "criterion": "wanda", "data": np.zeros((2, 4, 4, 2))}, "compares weights of one output"),
        (
            {"block_size": (2, 2), "criterion": "wanda", "data": np.zeros((2, 4, 4, 2))},
            "Expected single weights or `sparsity_m_by_n` for a criterion that compares",
        ),
        ({"sparsity_m_by_n": (2, 4), "sparsity": 0.9}, "Expected no sparsity but the 0.5 of 2 zeros in every 4 inputs"),
        ({"sparsity_m_by_n": (4, 4)}, r"Expected `sparsity_m_by_n` as \(m, n\)"),
        ({"sparsity_m_by_n": (2, 4), "block_size": (2, 2)}, "without `block_size`"),
        ({"block_size": (0, 1)}, "Expected `block_size` as two integers"),
        ({"block_pooling_type": "SUM"}, "Expected `block_pooling_type` out of"),
        ({"criterion": "snip"}, r"Expected `data=\(x, y\)`, which criterion SNIP needs"),
        (
            {"criterion": "snip", "data": (np.zeros((2, 4, 4, 2)), np.zeros((2, 3)))},
            "Expected a loss, which criterion SNIP",
        ),
        (
            {"criterion": "sparse_gpt", "data": np.zeros((2, 4, 4, 2)), "block_size": (2, 2)},
            "Expected a sparsity for each",
        ),
        ({"rules": [{"layers": "x", "skip": True}]}, "Expected a rule that matches"),
    ],
)
def test_bad_arguments(model, arguments, message) -> None:
    with pytest.raises(ValueError, match=f"(?s)(?=.*Received: ).*{message}"):
        kc.prune_one_shot(model, **arguments)


def test_synflow_cuts_no_layer_through() -> None:
    """At 99.5 % zeros SNIP and SynFlow in one ranking: SynFlow leaves something in each layer beside the one kept."""
    keras.utils.set_random_seed(0)
    sizes = (100, 100, 100, 10)
    deep = keras.Sequential([keras.Input((64,)), *(layers.Dense(n, "relu", name=f"d{i}") for i, n in enumerate(sizes))])
    pruned = kc.prune_one_shot(deep, 0.995, kc.SynFlow(rounds=20), scope="global")
    assert all(each.after >= 5 for each in kc.one_shot_of(pruned).weights), kc.one_shot_of(pruned).lines()
    assert np.array(pruned(np.ones((1, 64)))).shape == (1, 10)


def test_sparse_gpt_keeps_the_outputs_better_than_magnitude() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 16)) @ rng.normal(size=(16, 16))).astype(np.float32)
    keras.utils.set_random_seed(0)
    dense = keras.Sequential([keras.Input((16,)), layers.Dense(32, "relu", name="a"), layers.Dense(8, name="b")])
    aim = np.array(dense(x))
    errors = {
        name: np.mean((np.array(kc.prune_one_shot(dense, 0.5, name, x)(x)) - aim) ** 2)
        for name in ("sparse_gpt", "wanda", "magnitude")
    }
    assert errors["sparse_gpt"] < 0.7 * errors["magnitude"], errors


def test_a_kernel_that_begins_at_zero_is_left_to_be_trained() -> None:
    net = [keras.Input((4,)), layers.Dense(4, kernel_initializer="zeros", name="z"), layers.Dense(2, name="o")]
    model = keras.Sequential(net)
    with pytest.warns(UserWarning, match="Weights left as they are: z: it is all zeros"):
        pruned = kc.prune_one_shot(model, 0.5)
    assert [(each.name, each.after) for each in kc.one_shot_of(pruned).weights] == [("o", 4)]
    assert kc.one_shot_of(pruned).left == (("z", "it is all zeros"),)
    pruned.compile("sgd", "mse")
    pruned.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    assert np.array(pruned.get_layer("z").weight("kernel")).any()
    with pytest.raises(ValueError, match=r"strict=True.*z: it is all zeros"):
        kc.prune_one_shot(model, 0.5, strict=True)
    nothing = pytest.raises(ValueError, match="Expected weights that can be pruned so. Received: z: it is all zeros")
    with nothing, pytest.warns(UserWarning, match="Weights left as they are"):
        kc.prune_one_shot(model, {"z": 0.5})


class Saturated(kc.Saliency):
    def scores(self, scored, examples):
        return [np.zeros(each.shape) for each in scored.weights]


def test_equal_scores_are_said_and_taken_by_magnitude(model) -> None:
    with pytest.warns(
        UserWarning, match=r"(?s)Not scored by Saturated: .*all its scores are equal, taken by magnitude"
    ):
        pruned = kc.prune_one_shot(model, 0.5, Saturated())
    for name, mask in zeros(kc.prune_one_shot(model, 0.5)).items():
        np.testing.assert_array_equal(zeros(pruned)[name], mask)
    with pytest.warns(UserWarning, match="all its scores are equal, which says nothing of which stay"):
        kc.prune_one_shot(model, 0.5, Saturated(), scope="global")
    assert not kc.MagnitudeSaliency().notes


def test_sparsities_are_of_paths_and_not_of_names() -> None:
    """A layer of the same name in a nested model, and layers named as selectors are."""
    block = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense"), layers.Dense(4, name="a.c")], name="b")
    nested = keras.Sequential([keras.Input((4,)), block, layers.Dense(4, name="abc"), layers.Dense(3, name="dense")])
    for paths in (["dense"], ["b/dense"], ["b/a.c", "abc"]):
        record = kc.one_shot_of(kc.prune_one_shot(nested, dict.fromkeys(paths, 0.5)))
        assert [each.name for each in record.weights] == paths
    line = keras.Sequential([keras.Input((4,)), *(layers.Dense(4, name=name) for name in ("last", "x", "first", "o"))])
    record = kc.one_shot_of(kc.prune_one_shot(line, {"last": 0.5, "first": 0.25}))
    assert [(each.name, each.after) for each in record.weights] == [("last", 8), ("first", 12)]


@pytest.mark.parametrize("m_by_n", [(True, 2), (2.0, 4), (4, 4), (0, 4), (1, 2, 3), 4, "24"])
def test_one_check_of_patterns(model, m_by_n) -> None:
    for call in (
        lambda: kc.prune_one_shot(model, sparsity_m_by_n=m_by_n),
        lambda: kc.NMPruner(m_by_n, ALWAYS),
        lambda: kc.permute_channels(model, m_by_n),
    ):
        with pytest.raises(ValueError, match=r"Expected `sparsity_m_by_n` as \(m, n\), 1 <= m < n\. Received: "):
            call()
    for call in (
        lambda: kc.prune_one_shot(model, block_size=(True, 2)),
        lambda: kc.MagnitudePruner(ALWAYS, block_size=(True, 2)),
    ):
        with pytest.raises(ValueError, match="Expected `block_size` as two integers >= 1"):
            call()
    assert kc.NMPruner(np.array([2, 4]), ALWAYS).get_config()["sparsity_m_by_n"] == [2, 4]
