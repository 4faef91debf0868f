"""What every criterion of weights must do. A new one is covered by being registered."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.core import registry
from keras_compress.data.examples import Examples
from keras_compress.graph.model import compressed_layers
from keras_compress.pruning.scored import scored_model
from keras_compress.testing.saliencies import CHECKS
from keras_compress.testing.sample import Sample

CRITERIA = registry.entries("weight_criterion")
# Fewer rounds, steps and vectors than by default: what they do is in `test_formulas.py`.
QUICK = {"SynFlow": {"rounds": 2}, "OBD": {"samples": 2}, "IntegratedGradients": {"steps": 1}, "OBS": {"gradients": 2}}
# Losses that are no crossentropies have no temperature.
QUICK["GraSP"] = {"temperature": 1.0}
BY_INPUTS = ("Wanda", "SparseGPT")


def quick(name: str) -> kc.Saliency:
    return CRITERIA[name](**QUICK.get(name, {}))


@pytest.fixture
def eagerly():
    """Nothing to compile for a few steps."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("name", CRITERIA)
def test_criterion(name: str, eagerly) -> None:
    for check in CHECKS:
        check(Sample(CRITERIA[name], QUICK.get(name)))


def test_names() -> None:
    for name, cls in {
        "magnitude": kc.MagnitudeSaliency,
        "random": kc.RandomSaliency,
        "taylor": kc.TaylorSaliency,
        "snip": kc.SNIP,
        "grasp": kc.GraSP,
        "synflow": kc.SynFlow,
        "syn_flow": kc.SynFlow,
        "sparse_gpt": kc.SparseGPT,
        "obd": kc.OBD,
        "obs": kc.OBS,
        "wanda": kc.Wanda,
        "integrated_gradients": kc.IntegratedGradients,
        "TaylorSaliency": kc.TaylorSaliency,
    }.items():
        assert registry.lookup("weight_criterion", name) is cls


@pytest.mark.parametrize("name", [name for name, cls in CRITERIA.items() if cls.needs])
def test_data_that_are_missing_or_no_numbers(name: str, eagerly) -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="d"), layers.Dense(2, name="e")])
    x, y = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
    x[1, 1] = np.nan
    for data in ((x, y), None, *([x[2:]] if "targets" in CRITERIA[name].needs else [])):
        with pytest.raises(ValueError, match=r"(?s)Expected .*(finite|`data=).*Received: "):
            kc.prune_one_shot(model, 0.5, quick(name), data, loss="mse")


@pytest.fixture(scope="module")
def odd() -> tuple[keras.Model, tuple]:
    """Two inputs, a nested model that is used twice, a frozen layer, an embedding, an LSTM, attention, two outputs."""
    keras.utils.set_random_seed(0)
    shared = keras.Sequential([keras.Input((2, 3)), layers.Dense(3, "relu", name="in"), layers.Dense(3)], name="twice")
    values, words = keras.Input((2, 3), name="values"), keras.Input((2,), dtype="int32", name="words")
    table = layers.Embedding(7, 3, name="table")(words)
    joined = layers.Add(name="add")([shared(values), shared(table)])
    attended = layers.MultiHeadAttention(1, 2, name="attention")(joined, joined)
    x = layers.LSTM(3, unroll=True, name="lstm")(layers.LayerNormalization(name="norm")(attended))
    spatial = layers.TimeDistributed(layers.Dense(2, name="each"), name="timed")(joined)
    frozen = layers.Dense(4, name="frozen", trainable=False)
    heads = {"one": layers.Dense(1, name="one")(frozen(x)), "two": layers.Flatten(name="two")(spatial)}
    model = keras.Model({"values": values, "words": words}, heads)
    model.compile("sgd", {"one": "mse", "two": "log_cosh"})
    rng = np.random.default_rng(0)
    inputs = {"values": rng.normal(size=(4, 2, 3)).astype(np.float32), "words": rng.integers(0, 7, (4, 2))}
    targets = {"one": rng.normal(size=(4, 1)), "two": rng.normal(size=(4, 4))}
    return model, (inputs, targets)


# Random numbers need no graph; which weights there are, magnitude shows.
@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "RandomSaliency"])
def test_any_graph(name: str, odd, eagerly) -> None:
    model, data = odd
    if name in BY_INPUTS:
        with pytest.warns(UserWarning, match="no product of its inputs with one matrix; taken by magnitude"):
            pruned = kc.prune_one_shot(model, 0.5, quick(name), data)
        assert any("table" in line and "by magnitude" in line for line in kc.one_shot_of(pruned).lines())
    else:
        pruned = kc.prune_one_shot(model, 0.5, quick(name), data)
    record = kc.one_shot_of(pruned)
    assert {"twice/in", "table", "frozen", "attention._query_dense.kernel", "lstm.cell.recurrent_kernel"} <= {
        each.name for each in record.weights
    }
    assert all(each.after == pytest.approx(each.size / 2, abs=each.size / 4) for each in record.weights), record.lines()
    if name == "SynFlow":
        scores = quick(name).scores(scored_model(model, [path for path, _ in compressed_layers(pruned)]), Examples())
        assert all((each > 0).all() and each.max() > 1e-3 for each in scores), [each.max() for each in scores]
    outputs = pruned(data[0])
    assert all(np.isfinite(np.array(each)).all() and np.abs(np.array(each)).max() > 0 for each in outputs.values())


@keras.saving.register_keras_serializable(package="saliency_tests")
class Own(keras.Model):
    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.blocks = [layers.Dense(6, "relu", name="a"), layers.Dense(6, "relu", name="b")]
        self.head = layers.Dense(3, "softmax", name="head")

    def call(self, inputs, training=False):
        x = self.blocks[0](inputs)
        return self.head(x + self.blocks[1](x))

    def get_config(self):
        return {"name": self.name}


@pytest.mark.parametrize(
    ("name", "policy"), [("SNIP", "float32"), *((n, "mixed_float16") for n in ("SNIP", "SynFlow", "SparseGPT"))]
)
def test_subclassed_and_in_float16(name: str, policy: str, eagerly) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 5)).astype(np.float32), rng.integers(0, 3, 8)
    keras.mixed_precision.set_global_policy(policy)
    try:
        keras.utils.set_random_seed(1)
        model = Own()
        model(x)
        model.compile("sgd", "sparse_categorical_crossentropy")
        pruned = kc.prune_one_shot(model, 0.5, quick(name), (x, y))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert [path for path, _ in compressed_layers(pruned)] == ["blocks/0", "blocks/1", "head"]
    assert kc.one_shot_of(pruned).sparsity == pytest.approx(0.5, abs=0.1)
    assert pruned.head.layer.dtype_policy.name == policy
    assert np.isfinite(np.array(pruned(x), np.float32)).all()


def test_float16_scores_are_those_of_float32(eagerly) -> None:
    """Gradients of 1e-7 and less, which float16 does not hold."""
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    y = np.zeros((4, 2), np.float32)
    found = []
    for policy in ("float32", "mixed_float16"):
        model = keras.Sequential([keras.Input((5,)), layers.Dense(2, name="d", dtype=policy)])
        model.layers[0].kernel.assign(np.random.default_rng(1).normal(size=(5, 2)) * 1e-4)
        pruned = kc.prune_one_shot(
            model, 0.6, "snip", (x, y), loss=lambda t, p: 1e-5 * keras.losses.mean_squared_error(t, p)
        )
        found.append(np.array(pruned.layers[0].weight("kernel")))
    np.testing.assert_array_equal(*found)
