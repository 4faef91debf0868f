"""Models with LSTMs as one operator: converted, verified, and beside the float model."""

from __future__ import annotations

import re
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.convert.export import export
from keras_compress.convert.lstm.form import RecurrentForm
from keras_compress.convert.lstm.layers import FusedLSTM
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.demo import datasets
from keras_compress.ir.json import from_json, to_json
from keras_compress.runtime.litert import LiteRT
from keras_compress.runtime.operators import VerificationError
from keras_compress.runtime.tflm import TFLM
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.lstm.integers import LstmIntegers
from keras_compress.tflite.lstm.operator import KIND

SEQUENCE = (6, 5)
TARGETS = {"litert": LiteRT(), "tflm": TFLM()}


def data(samples: int = 48) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(samples, *SEQUENCE)).astype(np.float32)


def model_of(build) -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SEQUENCE, name="x")
    return keras.Model(inputs, build(inputs), name="net")


def kinds(content: bytes) -> list[str]:
    graph = Graph(read_model(content))
    return [graph.kind(op) for op in graph.operators]


def last_of_a_stack(x):
    x = layers.LSTM(9, return_sequences=True, use_bias=False, name="first")(x)
    return layers.Dense(4, name="dense")(layers.LSTM(7, go_backwards=True, name="second")(x))


def both_ways(x):
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="both")(x)
    return layers.Dense(3, name="dense")(x)


def read_twice(x):
    steps = layers.LSTM(9, return_sequences=True, name="lstm")(x)
    return [steps, layers.Dense(2, name="dense")(steps[:, -1])]


OPERATORS = {
    last_of_a_stack: [KIND, "REVERSE_V2", KIND, "STRIDED_SLICE", "FULLY_CONNECTED"],
    both_ways: ["REVERSE_V2", KIND, "REVERSE_V2", KIND, "CONCATENATION", "FULLY_CONNECTED"],
    read_twice: [KIND, "STRIDED_SLICE", "FULLY_CONNECTED"],
}


@pytest.mark.parametrize("target", ["litert", "tflm"])
@pytest.mark.parametrize("build", OPERATORS)
def test_converted_and_verified(build, target):
    model, x = model_of(build), data()
    made = kc.convert(model, target, representative_dataset=x, recurrent="fused", io="int8")
    assert sorted(kind for kind in kinds(made.content) if kind != "RESHAPE") == sorted(OPERATORS[build])
    found = kc.verify(made, model, x[:16])
    assert found, str(found)
    for real, frozen in zip(*(keras.tree.flatten(each(x)) for each in (model, made.frozen)), strict=True):
        assert sqnr_db(np.asarray(real), np.asarray(frozen)) > 33


def test_cells_of_a_stack_are_operators():
    def build(x):
        return layers.RNN(layers.StackedRNNCells([layers.LSTMCell(5), layers.LSTMCell(3)]), name="stack")(x)

    frozen = kc.freeze(model_of(build), data(), recurrent="fused")
    assert [layer.name for layer in frozen.layers if isinstance(layer, FusedLSTM)] == ["stack.cell0", "stack.cell1"]
    # 424 weights and biases, 3,000 bytes for each operator; 144 for each of 8 units, 1,250 for each of 2 * 6 steps.
    assert frozen.recurrent_notes == (
        "stack: one operator, about 6,424 bytes; 6 unrolled steps would take about 16,576 bytes, and a twentieth "
        "of the time or less",
    )


def test_a_frozen_model_is_saved(tmp_path):
    frozen = kc.freeze(model_of(last_of_a_stack), data(), recurrent="fused")
    frozen.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    np.testing.assert_array_equal(loaded(data()), frozen(data()))
    assert KIND in kinds(kc.convert(loaded, recurrent="fused", strict=True).content)


def test_a_node_of_the_graph_holds_the_integers():
    frozen = kc.freeze(model_of(last_of_a_stack), data(), recurrent="fused")
    graph = from_json(to_json(export(frozen).graph))
    (first, second) = [node for node in graph.nodes if node.operator == KIND]
    assert LstmIntegers.unpacked(first.attributes["integers"]).units == 9
    assert [graph.tensors[node.outputs[0]].shape for node in (first, second)] == [(1, 6, 9), (1, 6, 7)]


def test_an_lstm_is_a_frozen_model_of_its_own():
    model = model_of(lambda x: layers.LSTM(4, name="lstm")(x))
    frozen = kc.freeze(model, data(), recurrent="fused")
    made = kc.convert(frozen, "litert", mode="int8")
    assert kinds(made.content).count(KIND) == 1
    assert kc.verify(made, frozen, data(8))


@pytest.mark.parametrize("operand", [1, 8, 13])  # an input's matrix, a state's, a bias
def test_a_file_one_step_off_is_found(operand):
    model, x = model_of(last_of_a_stack), data()
    made = kc.convert(model, "tflm", representative_dataset=x, recurrent="fused")
    graph = Graph(read_model(made.content))
    op = next(op for op in graph.operators if graph.kind(op) == KIND)
    values = graph.constant(op.inputs[operand]).copy()
    values.reshape(-1)[:3] += np.array(1 if operand < 12 else 40, values.dtype)
    graph.set_constant(op.inputs[operand], values)
    with pytest.raises(VerificationError, match="0.00% of the values to differ .* first at 'first"):
        kc.verify(replace(made, content=write_model(graph.model)), model, x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: layers.LSTM(3, activation="relu", name="odd")(x), "odd: unrolled .* with the activations relu and"),
        (lambda x: layers.GRU(3, name="gru")(x), "gru: unrolled .* whose cell is GRUCell"),
        (lambda x: layers.LSTM(3, return_state=True, name="s")(x)[1], "s: unrolled .* whose states are given out"),
        (lambda x: layers.LSTM(3)(x, initial_state=[x[:, 0, :3]] * 2), "unrolled .* whose first states are given"),
        (lambda x: layers.Bidirectional(layers.GRU(3), name="b")(x), "b.backward: unrolled .* whose cell is GRUCell"),
    ],
)
def test_what_has_no_operator_is_unrolled_and_noted(build, message):
    frozen = kc.freeze(model_of(build), data(), recurrent="fused")
    assert not any(isinstance(layer, FusedLSTM) for layer in frozen.layers)
    assert re.search(message, frozen.recurrent_notes[-1])


def test_strict_wants_the_operator():
    model = model_of(lambda x: layers.GRU(3, name="gru")(x))
    with pytest.raises(ValueError, match="with an operator of their own .strict=True.. Received: gru: unrolled"):
        kc.convert(model, representative_dataset=data(), recurrent="fused", strict=True)


def test_scales_of_training_stay():
    model = kc.quantize_model(model_of(lambda x: layers.LSTM(3, name="lstm")(x)))
    notes = kc.freeze(model, data(), recurrent="fused").recurrent_notes
    assert re.search("lstm: unrolled over 6 steps: .* trained with scales of its own for its weights", notes[0])


def test_a_file_alone_is_verified_with_the_ranges_of_its_cells():
    model, x = model_of(last_of_a_stack), data()
    model.get_layer("first").set_weights([3 * weight for weight in model.get_layer("first").get_weights()])
    content = kc.convert(model, "tflm", representative_dataset=x, recurrent="fused").content
    # Of other data cells would have other ranges.
    assert kc.verify(content, model, x[:8] * 0.25, kernels=["tflm"])


def test_zeros_of_pruning_stay():
    model = kc.prune_low_magnitude(model_of(last_of_a_stack), kc.ConstantSparsity(0.5, begin_step=0))
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(data(), np.zeros((48, 4)), verbose=0)
    frozen = kc.freeze(model, data(), recurrent="fused")
    lstm = frozen.get_layer("first").integers()
    assert [(weight == 0).mean() for weight in (lstm.kernel, lstm.recurrent_kernel)] == pytest.approx(
        [0.5, 0.5], abs=0.01
    )


def test_auto_is_fused_on_tflm_and_on_litert_where_steps_are_many():
    assert [RecurrentForm("auto", "tflm").fuses(1), RecurrentForm("auto", "litert").fuses(64)] == [True, False]
    assert RecurrentForm("auto", "litert").fuses(65)
    assert not RecurrentForm("unrolled", "tflm").fuses(1000)


def test_only_int8_has_the_operator():
    with pytest.raises(ValueError, match="Expected mode='int8' for recurrent='fused'"):
        kc.convert(model_of(last_of_a_stack), mode="16x8", representative_dataset=data(), recurrent="fused")
    frozen = kc.freeze(model_of(lambda x: layers.LSTM(3)(x)), data(), activation_bits=16, recurrent="auto")
    assert not any(isinstance(layer, FusedLSTM) for layer in frozen.layers)


def test_the_sources_say_when_states_are_reset(tmp_path):
    made = kc.convert(model_of(last_of_a_stack), "tflm", representative_dataset=data(), recurrent="fused")
    kc.export_c(made, tmp_path, arena_bytes=8192)
    text = (tmp_path / "model_ops.h").read_text()
    assert "interpreter.Reset();  // before each sequence" in text
    assert "resolver.AddUnidirectionalSequenceLSTM()" in text


def test_a_trained_network_keeps_its_accuracy():
    digits = datasets.load("digits")
    rows, labels = digits.x_train[..., 0], digits.y_train
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8)), layers.LSTM(24, name="lstm"), layers.Dense(10, name="dense")])
    model.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(rows, labels, epochs=8, batch_size=64, verbose=0)
    tested = digits.x_test[..., 0]
    accuracy = {"float": (model.predict(tested, verbose=0).argmax(-1) == digits.y_test).mean()}
    for target in ("litert", "tflm"):
        made = kc.convert(model, target, representative_dataset=rows[:200], recurrent="fused")
        (outputs,) = TARGETS[target].run(made.content, [tested])
        accuracy[target] = (outputs.argmax(-1) == digits.y_test).mean()
        np.testing.assert_allclose(outputs, made.frozen.predict(tested, verbose=0), atol=1e-5)
    assert accuracy["float"] > 0.9
    assert min(accuracy.values()) > accuracy["float"] - 0.01
