"""`measure`: what a runtime shows of a file."""

import keras
import numpy as np
import pytest
from tests_zoo import build, data

import keras_compress as kc
from keras_compress.runtime.engine_litert import LiteRTEngine
from keras_compress.runtime.measure import accuracy


@pytest.fixture(scope="module")
def artifacts():
    model = build("conv_bn_relu")
    x = data(model, 100)
    labels = model.predict(x, verbose=0).argmax(-1)
    return kc.convert(model, mode="float32"), kc.convert(model, representative_dataset=x), x, labels


def test_model_and_baseline_in_one_run(artifacts):
    plain, integer, x, labels = artifacts
    found = kc.measure(integer, x, labels, baseline=plain)
    assert found["baseline"].accuracy == 1.0
    assert 0.9 < found["model"].accuracy <= 1.0
    for row in found.values():
        assert row.latency.runs >= 50
        assert 0 < row.latency.p10_ms <= row.latency.median_ms <= row.latency.p90_ms
        assert row.latency.threads == 1
        assert row.latency.delegate == "XNNPACK"
        assert row.latency.architecture
        assert row.memory["peak_memory_bytes"] > 100_000
    assert found["model"].raw_bytes == len(integer.content)
    assert found["model"].weight_payload_bytes == 3 * 3 * 3 * 8 + 3 * 3 * 8 + 8 * 4
    assert found["baseline"].weight_payload_bytes == 4 * found["model"].weight_payload_bytes


def test_tflm_gives_arena_and_flash(artifacts):
    _, integer, x, labels = artifacts
    found = kc.measure(integer, x, labels, target="tflm")
    assert found.memory["flash_bytes"] == len(integer.content)
    assert 1_000 < found.memory["arena_bytes"] < 20_000
    assert "host" in found.latency.delegate
    assert found.accuracy > 0.9


def test_a_path_and_a_truncated_file(artifacts, tmp_path):
    _, integer, _, _ = artifacts
    path = tmp_path / "model.tflite"
    integer.save(path)
    assert kc.measure(path).raw_bytes == len(integer.content)
    for length in (0, 7, 100, len(integer.content) // 2):
        path.write_bytes(integer.content[:length])
        with pytest.raises((ValueError, RuntimeError), match="model.tflite"):
            kc.measure(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runs": 10}, "Expected `runs` >= 50"),
        ({"y": [0, 1]}, "Expected `x` for the labels `y`. Received: x=None"),
        ({"x": np.zeros((2, 9, 9, 3), np.float32)}, "Expected"),
        ({"x": np.zeros((2, 9, 9, 3), np.float32), "y": [0, 1]}, "Expected"),
        ({"x": [np.zeros((2, 8, 8, 3), np.float32)] * 2, "y": [0, 1]}, "Expected 1 inputs"),
        ({"target": "toaster"}, "Expected a target"),
    ],
)
def test_bad_arguments(artifacts, arguments, message):
    with pytest.raises(ValueError, match=message):
        kc.measure(artifacts[0], **arguments)


def test_data_without_labels_give_the_latency(artifacts):
    found = kc.measure(artifacts[0], np.zeros((2, 8, 8, 3), np.float32))
    assert found.accuracy is None
    assert found.latency.median_ms > 0


def test_several_outputs_ask_for_a_metric():
    inputs = keras.Input((4,))
    net = keras.Model(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(3)(inputs)])
    artifact = kc.convert(net, mode="float32")
    x, y = np.zeros((2, 4), np.float32), [0, 1]
    with pytest.raises(ValueError, match="Expected a `metric`.*for a model with several outputs.*with 2 outputs"):
        kc.measure(artifact, x, y)
    with pytest.raises(ValueError, match="Expected a `metric`"):
        accuracy([np.zeros((2, 2)), np.zeros((2, 3))], y)
    assert kc.measure(artifact, x, y, metric=lambda outputs, y: float(len(outputs))).accuracy == 2.0


def test_not_a_model():
    with pytest.raises(TypeError, match="Expected an Artifact, the bytes"):
        kc.measure(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))


@pytest.mark.parametrize(
    ("outputs", "labels", "expected"),
    [
        ([[0.1, 0.9], [0.8, 0.2]], [1, 1], 0.5),
        ([[0.1, 0.9], [0.8, 0.2]], [[0, 1], [1, 0]], 1.0),
        ([[0.7], [0.2], [0.6]], [[1], [0], [0]], 2 / 3),
    ],
)
def test_accuracy(outputs, labels, expected):
    assert accuracy([np.array(outputs)], labels) == pytest.approx(expected)


def test_accuracy_of_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="Expected outputs of shape"):
        accuracy([np.zeros((2, 3, 4))], [0, 1])


@pytest.mark.parametrize("outputs", [[], [np.zeros((3, 0))], [np.zeros(3)]])
def test_accuracy_needs_scores(outputs):
    with pytest.raises(ValueError, match="Expected .* Received"):
        accuracy(outputs, np.zeros(3))


def test_threads_reach_the_runtime(artifacts, monkeypatch):
    assert kc.measure(artifacts[1], threads=2).latency.threads == 2

    class Made(Exception):
        pass

    def interpreter(**arguments):
        raise Made(arguments["num_threads"], arguments["experimental_preserve_all_tensors"])

    monkeypatch.setattr("ai_edge_litert.interpreter.Interpreter", interpreter)
    with pytest.raises(Made, match=r"\(2, True\)"):
        LiteRTEngine(artifacts[1].content, {"kernels": "xnnpack", "threads": 2}, preserve=True)
