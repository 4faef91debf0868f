from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from keras_compress.clustering.centroids import cluster_weights
from keras_compress.convert.freeze import freeze
from keras_compress.core.schedule import ConstantSparsity, PolynomialDecay
from keras_compress.pruning.magnitude import prune_low_magnitude
from keras_compress.quantizers.model import quantize_model
from keras_compress.report.summary import ModelSummary, summary


def small_net() -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6, 6, 1), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(3, name="dense")(x), name="small")


def data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    return generator.normal(size=(16, 6, 6, 1)).astype(np.float32), generator.integers(0, 3, 16)


def train(model: keras.Model, steps: int) -> keras.Model:
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    for _ in range(steps):
        model.train_on_batch(*data())
    return model


def quiet(model: keras.Model) -> ModelSummary:
    return summary(model, print_fn=lambda text: None)


def test_a_plain_model() -> None:
    found = quiet(small_net())
    conv, dense = found.rows
    assert dataclasses.astuple(conv) == (
        "conv", "kernel", "Conv2D", (3, 3, 1, 4), (), 32, 32, 0.0, None, None, 36, 36, 36 * 36, True,
    )  # fmt: skip
    assert (dense.path, dense.elements, dense.macs) == ("dense", 432, 432)
    assert (found.elements, found.float32_bytes, found.packed_bytes, found.int8_bytes) == (468, 1872, 1872, 468)
    assert found.macs == 36 * 36 + 432
    assert (found.skipped, found.pending) == ((), ())


def test_figures_come_from_the_transformed_weights() -> None:
    model = quantize_model(
        cluster_weights(prune_low_magnitude(small_net(), ConstantSparsity(0.5, begin_step=0, frequency=1)), 4),
        weights="int4",
    )
    train(model, 2)
    conv, dense = quiet(model).rows
    for row, layer in ((conv, model.get_layer("conv")), (dense, model.get_layer("dense"))):
        weight = keras.ops.convert_to_numpy(layer.weight("kernel"))
        assert row.transforms == ("MagnitudePruner", "CentroidClusterer", "UniformQuantizer")
        assert row.sparsity == np.mean(weight == 0) >= 0.5
        assert row.distinct_values == len(np.unique(weight)) <= 4
        assert (row.weight_bits, row.activation_bits, row.final_sparsity) == (4, 8, 0.5)
        assert np.mean(keras.ops.convert_to_numpy(layer.latent("kernel")) == 0) < 0.5
    assert (dense.float32_bytes, dense.packed_bytes, dense.int8_bytes) == (1728, 216, 432)


def test_sparsity_now_and_at_the_end_and_what_is_pending() -> None:
    schedule = PolynomialDecay(0.25, 0.75, begin_step=0, end_step=10, frequency=1)
    model = train(prune_low_magnitude(small_net(), schedule, filters="dense"), 1)
    found = quiet(model)
    conv, dense = found.rows
    assert (conv.sparsity, conv.final_sparsity) == (0.0, None)
    assert (dense.sparsity, dense.final_sparsity) == (0.25, 0.75)
    assert found.sparsity == pytest.approx(0.25 * 432 / 468)
    assert found.final_sparsity == pytest.approx(0.75 * 432 / 468)
    assert found.pending == (("dense", "pruning stopped at step 1, before its end_step 10"),)
    assert quiet(train(model, 12)).pending == ()


def test_groups_and_n_m_patterns_say_what_they_end_with() -> None:
    grouped = quiet(prune_low_magnitude(small_net(), ConstantSparsity(0.9, begin_step=0), scope="global"))
    assert [(row.final_sparsity, row.group) for row in grouped.rows] == [(pytest.approx(0.9), "global")] * 2
    pattern = prune_low_magnitude(small_net(), sparsity_m_by_n=(3, 4), filters="dense")
    assert quiet(pattern).rows[1].final_sparsity == 0.75


def test_groups_of_two_calls_are_numbered() -> None:
    first = prune_low_magnitude(small_net(), ConstantSparsity(0.5, begin_step=0), scope="global", filters="dense")
    both = prune_low_magnitude(first, ConstantSparsity(0.9, begin_step=0), scope="global", filters="conv")
    assert sorted(row.group for row in quiet(both).rows) == ["global", "global_1"]


def test_bits_of_activations_are_those_behind_the_layer() -> None:
    rules = [{"layers": "dense", "activations": None}]
    rows = quiet(quantize_model(small_net(), weights=None, activations="int4", rules=rules)).rows
    assert [(row.weight_bits, row.activation_bits) for row in rows] == [(32, 4), (32, 32)]


def test_bits_behind_a_nested_model() -> None:
    inputs = keras.Input((4,), name="x")
    nested = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="inside")], name="nested")
    model = keras.Model(inputs, layers.ReLU()(nested(inputs)))
    (row,) = quiet(quantize_model(model)).rows
    assert (row.path, row.activation_bits) == ("nested/inside", 8)


def test_untrained_ranges_are_pending() -> None:
    found = quiet(quantize_model(small_net()))
    assert ("dense_quantized", "its range was never trained") in found.pending


def test_a_frozen_model_counts_integers_and_leaves_biases_out() -> None:
    model = train(quantize_model(cluster_weights(small_net(), 4)), 2)
    frozen = freeze(model)
    conv, dense = quiet(frozen).rows
    assert (conv.path, conv.slot, dense.path, dense.slot) == ("conv", "kernel", "dense", "kernel")
    # BatchNormalization gives each channel a scale of its own; the integers stay 4.
    values = keras.ops.convert_to_numpy(frozen.get_layer("conv").weight("kernel"))
    assert len(np.unique(values)) > 4
    assert conv.distinct_values <= 4


class Projection(layers.Layer):
    def build(self, shape: tuple[int, ...]) -> None:
        self.matrix = self.add_weight(name="matrix", shape=(shape[-1], 2))

    def call(self, inputs: object) -> object:
        return inputs @ self.matrix


class Declared(Projection):
    def get_compressible_weights(self) -> dict[str, list[int]]:
        return {"matrix": [-1]}


@pytest.mark.filterwarnings("ignore:Layers left as they are")
def test_skipped_layers_are_listed_and_declared_ones_have_a_row() -> None:
    inputs = keras.Input((4,))
    x = Projection(name="mine")(layers.Dense(4, name="dense")(inputs))
    found = quiet(keras.Model(inputs, Declared(name="declared")(x)))
    assert [(row.path, row.slot, row.macs) for row in found.rows] == [
        ("dense", "kernel", 16),
        ("declared", "matrix", None),
    ]
    assert found.macs is None
    ((path, reason),) = found.skipped
    assert path == "mine"
    assert reason.startswith("Projection is not in the table")
    assert "Left as it is: mine: Projection is not in the table" in str(found)


class Tied(Declared):
    def __init__(self, source: Projection, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.source = source

    def build(self, shape: tuple[int, ...]) -> None:
        self.matrix = self.source.matrix


def test_a_weight_in_two_layers_is_stored_once() -> None:
    inputs = keras.Input((2,))
    first = Declared(name="first")
    found = quiet(keras.Model(inputs, Tied(first, name="second")(first(inputs))))
    assert [(row.path, row.counted) for row in found.rows] == [("first", True), ("second", False)]
    assert (found.elements, found.int8_bytes) == (4, 4)
    assert "(shared)" in str(found)


def test_print_fn_gets_the_text_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    found = summary(small_net(), print_fn=said.append)
    assert capsys.readouterr().out == ""
    assert said == [str(found)]
    words = said[0].split()
    for figure in ("conv", "dense", "32/32", "1,728", "1,296", "1,728"):
        assert figure in words


def test_printed_table_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    model = cluster_weights(prune_low_magnitude(small_net(), scope="global"), 16)
    summary(model)
    out = capsys.readouterr().out
    assert "…" not in out
    assert max(map(len, out.splitlines()[:14])) <= 80
    for figure in ("Magnitude", "Centroid", "(global)", "50.00", "1,728"):
        assert figure in out
    assert "Not finished: pruning has not begun: no training step was made: conv, dense" in out


def test_refusals() -> None:
    with pytest.raises(TypeError, match="Expected a keras.Model"):
        summary("model.keras")
    with pytest.raises(ValueError, match="Expected a built model"):
        summary(keras.Sequential([layers.Dense(2)]))
