"""Files with unrolled recurrent layers: what they hold, how near they are to the float model, and streams."""

from __future__ import annotations

from collections import Counter

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers
from tflite_micro import runtime

import keras_compress as kc
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.runtime.litert import LiteRT
from keras_compress.runtime.tflm import TFLM
from keras_compress.tflite.flatbuffer import Graph, read_model

STEPS, INPUTS, UNITS = 12, 4, 8
TARGETS = {"litert": LiteRT(), "tflm": TFLM()}


def data(samples: int = 64) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(samples, STEPS, INPUTS)).astype(np.float32)


@pytest.mark.parametrize(("layer", "steps"), [("LSTM", 6), ("GRU", 6), ("SimpleRNN", 6)])
def test_one_product_for_all_inputs_and_one_weight_for_all_steps(layer, steps):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((steps, INPUTS), name="x")
    model = keras.Model(inputs, getattr(layers, layer)(UNITS, name="layer")(inputs))
    made = kc.convert(model, representative_dataset=data()[:, :steps], recurrent="unrolled")
    graph = Graph(read_model(made.content))
    found = Counter(graph.kind(op) for op in graph.operators)
    assert (found["UNPACK"], found["FULLY_CONNECTED"]) == (1, steps)
    products = [op for op in graph.operators if graph.kind(op) == "FULLY_CONNECTED"]
    assert len({op.inputs[1] for op in products}) == 2
    assert len({op.inputs[2] for op in products if len(op.inputs) > 2 and op.inputs[2] >= 0}) <= 2


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layer", ["LSTM", "GRU", "SimpleRNN"])
def test_sixteen_bits(layer, target):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, INPUTS), name="x")
    model = keras.Model(inputs, layers.Dense(3, name="d")(getattr(layers, layer)(UNITS, name="layer")(inputs)))
    x = data()[:, :4]
    made = kc.convert(model, target, mode="16x8", representative_dataset=x)
    (outputs,) = TARGETS[target].run(made.content, [x])
    assert sqnr_db(model.predict(x, verbose=0), outputs) > 40
    found = kc.verify(made, model, x[:16])
    assert found, str(found)


def counting() -> tuple[keras.Model, np.ndarray]:
    """An LSTM of which some cells grow by up to 1 at each of 40 steps, and others forget."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((40, INPUTS), name="x")
    lstm = layers.LSTM(UNITS, name="lstm")
    model = keras.Model(inputs, layers.Dense(3, name="dense")(lstm(inputs)))
    bias = np.zeros(4 * UNITS, np.float32)
    bias[UNITS : UNITS + 3], bias[2 * UNITS : 2 * UNITS + 3] = 5.0, 1.0
    lstm.cell.bias.assign(bias)
    return model, np.random.default_rng(0).normal(size=(64, 40, INPUTS)).astype(np.float32)


def test_cells_that_grow_do_not_cost_the_others_their_bits():
    model, x = counting()
    made = kc.convert(model, representative_dataset=x, recurrent="unrolled")
    (outputs,) = TARGETS["litert"].run(made.content, [x])
    assert sqnr_db(model.predict(x, verbose=0), outputs) > 25
    assert kc.verify(made, model, x[:16])


def step_of(layer: str) -> tuple[keras.Model, keras.Model]:
    """A model of whole sequences, and one of a step with its states as inputs and outputs; the same weights."""
    keras.utils.set_random_seed(3)
    make = getattr(layers, layer)
    sequence, one = keras.Input((STEPS, INPUTS), name="x"), keras.Input((1, INPUTS), name="x")
    states = [keras.Input((UNITS,), name=name) for name in ("h", "c")[: 2 if layer == "LSTM" else 1]]
    whole = keras.Model(sequence, layers.Dense(3, name="d")(make(UNITS, return_sequences=True, name="r")(sequence)))
    output, *after = make(UNITS, return_state=True, name="r")(one, initial_state=states)
    step = keras.Model([one, *states], [layers.Dense(3, name="d")(output), *after])
    step.set_weights(whole.get_weights())
    return whole, step


def streamed(run, x: np.ndarray, count: int) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """Outputs of all steps, and what was fed at each."""
    states, outputs, fed = [np.zeros((len(x), UNITS), np.float32)] * count, [], []
    for number in range(x.shape[1]):
        fed.append([x[:, number : number + 1], *states])
        output, *states = (np.asarray(each) for each in run(fed[-1]))
        outputs.append(output)
    return np.stack(outputs, 1), fed


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layer", ["LSTM", "GRU"])
def test_a_stream_step_by_step(layer, target):
    whole, step = step_of(layer)
    x, count = data(), len(step.inputs) - 1
    real, fed = streamed(step, x, count)
    np.testing.assert_allclose(real, whole(x), atol=1e-5)
    seen = [np.concatenate(arrays) for arrays in zip(*fed, strict=True)]
    made = kc.convert(step, target, representative_dataset=seen)
    outputs, _ = streamed(lambda arrays: TARGETS[target].run(made.content, arrays), x, count)
    assert sqnr_db(np.asarray(whole(x)), outputs) > 25
    assert kc.verify(made, step, seen)


def runs_without_reset(content: bytes, chunks: list[np.ndarray], target: str) -> np.ndarray:
    """What a file gives for one part of a sequence after the other."""
    if target == "tflm":
        micro = runtime.Interpreter.from_bytes(content, arena_size=100_000)
        outputs = []
        for chunk in chunks:
            micro.set_input(chunk, 0)
            micro.invoke()
            outputs.append(np.array(micro.get_output(0)))
        return np.concatenate(outputs, 1)
    runner = Interpreter(model_content=content)
    runner.allocate_tensors()
    (given,), (made,) = runner.get_input_details(), runner.get_output_details()
    outputs = []
    for chunk in chunks:
        runner.set_tensor(given["index"], chunk)
        runner.invoke()
        outputs.append(runner.get_tensor(made["index"]))
    return np.concatenate(outputs, 1)


@pytest.mark.parametrize("target", TARGETS)
def test_the_operator_goes_on_as_a_stateful_layer_does(target):
    keras.utils.set_random_seed(0)
    inputs, batch = keras.Input((4, INPUTS)), keras.Input(batch_shape=(1, 4, INPUTS))
    model = keras.Model(inputs, layers.Dense(3)(layers.LSTM(UNITS, return_sequences=True)(inputs)))
    stateful = keras.Model(batch, layers.Dense(3)(layers.LSTM(UNITS, return_sequences=True, stateful=True)(batch)))
    stateful.set_weights(model.get_weights())
    x = data()
    chunks = [x[:1, start : start + 4] for start in range(0, STEPS, 4)]
    real = np.concatenate([np.asarray(stateful(chunk)) for chunk in chunks], 1)
    fresh = np.concatenate([np.asarray(model(chunk)) for chunk in chunks], 1)
    assert sqnr_db(real, fresh) < 20, "the test needs states that matter"
    parts = x.reshape(-1, 4, INPUTS)
    content = kc.convert(model, target, representative_dataset=parts, recurrent="fused").content
    assert sqnr_db(real, runs_without_reset(content, chunks, target)) > 28
