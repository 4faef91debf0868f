"""LiteRT and TFLite-Micro behind one interface, on two tiny models."""

import struct

import numpy as np
import pytest

from keras_compress.runtime.child import RequestError, RuntimeCrash, RuntimeTimeout
from keras_compress.runtime.litert import LiteRT
from keras_compress.runtime.process_target import check_header
from keras_compress.runtime.target import Latency, cpu_name, machine_name, target, target_names
from keras_compress.runtime.tflm import TFLM
from keras_compress.tflite.encoding.known import DECODE

tflm_only = pytest.mark.skipif(TFLM().available() is not None, reason=str(TFLM().available()))
TARGETS = [
    pytest.param(LiteRT(), id="xnnpack"),
    pytest.param(LiteRT("builtin"), id="builtin"),
    pytest.param(LiteRT("reference"), id="reference"),
    pytest.param(TFLM(), id="tflm", marks=tflm_only),
]
every_target = pytest.mark.parametrize("runtime", TARGETS)


@every_target
def test_float_outputs_equal_keras(runtime, float_model, tiny_keras, images):
    (outputs,) = runtime.run(float_model, [images])
    expected = np.concatenate([np.asarray(tiny_keras(image[None])) for image in images])
    assert outputs.shape == (20, 10)
    assert outputs.dtype == np.float32
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(outputs, expected, atol=2e-6)


@every_target
def test_int8_outputs_are_the_raw_integers(runtime, int8_model, tiny_keras, images):
    signature = runtime.describe(int8_model)
    (entry,), (out,) = signature.inputs, signature.outputs
    samples = np.round(images / entry.scales[0]) + entry.zero_points[0]
    (outputs,) = runtime.run(int8_model, [np.clip(samples, -128, 127).astype(np.int8)])
    assert outputs.dtype == np.int8
    real = (outputs.astype(np.float32) - out.zero_points[0]) * out.scales[0]
    expected = np.concatenate([np.asarray(tiny_keras(image[None])) for image in images])
    assert np.abs(real - expected).max() < 6 * out.scales[0]
    assert len(np.unique(outputs)) > 20


@every_target
def test_a_sample_does_not_depend_on_the_ones_before(runtime, float_model, images):
    (together,) = runtime.run(float_model, [images])
    (backwards,) = runtime.run(float_model, [images[::-1]])
    assert np.array_equal(backwards[::-1], together)


@every_target
def test_describe(runtime, int8_model):
    signature = runtime.describe(int8_model)
    (entry,) = signature.inputs
    assert (entry.shape, entry.sample_shape, entry.dtype) == ((1, 8, 8, 1), (8, 8, 1), "int8")
    assert entry.signature_name == "image"
    assert entry.scales == pytest.approx((1 / 255,), rel=0.01)
    assert entry.zero_points == (-128,)
    assert [out.shape for out in signature.outputs] == [(1, 10)]


@every_target
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], r"Expected 1 input arrays for m.tflite. Received: 0"),
        ([np.zeros((1, 8, 8, 1), np.float32)] * 2, r"Expected 1 input arrays for m.tflite. Received: 2"),
        ([np.zeros((3, 8, 8, 1))], r"as float32 of shape \(samples, 8, 8, 1\). Received: float64 of shape"),
        (
            [np.zeros((3, 8, 8), np.float32)],
            r"input 0 \(image\) of m.tflite .* Received: float32 of shape \(3, 8, 8\)",
        ),
        ([np.zeros((0, 8, 8, 1), np.float32)], r"at least 1. Received: \[0\]"),
        ([np.array(["a"])], r"Expected input 0"),
        ([np.float32(1)], r"Expected input 0"),
    ],
)
def test_wrong_inputs(runtime, float_model, inputs, message):
    with pytest.raises(ValueError, match=message):
        runtime.run(float_model, inputs, label="m.tflite")


@every_target
@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda content: b"", "only 0 bytes"),
        (lambda content: b"hello world, this is text", "no 'TFL3'"),
        (lambda content: content[:4] + b"TFL3", "cut short"),
        (lambda content: content[:100], ""),
        (lambda content: content[: len(content) // 2], ""),
        (lambda content: content[:-40], ""),
    ],
)
def test_a_broken_file_is_a_value_error_with_the_label(runtime, float_model, images, break_it, reason):
    with pytest.raises(ValueError, match=f"Expected a valid .tflite file. Received: x.tflite: .*{reason}"):
        runtime.run(break_it(float_model), [images], label="x.tflite")


@pytest.mark.parametrize("runtime", TARGETS[::3])
def test_mutated_files_never_reach_the_caller(runtime, int8_model, images):
    quick = type(runtime)(time_limit_s=5.0, memory_limit_bytes=1 << 31)
    generator = np.random.default_rng(3)
    samples = np.zeros((2, 8, 8, 1), np.int8)
    refused = 0
    for _ in range(25):
        content = bytearray(int8_model)
        for place in generator.integers(8, len(content), 8):
            content[place] = generator.integers(256)
        try:
            quick.run(bytes(content), [samples])
        except (ValueError, RuntimeCrash, RuntimeTimeout):
            refused += 1
    assert refused > 3
    good = runtime.run(int8_model, [samples])[0]
    assert good.shape == (2, 10)


def test_header_check_accepts_a_real_file_only(float_model):
    check_header(float_model)
    with pytest.raises(ValueError, match="a model of 12 bytes: it is cut short"):
        check_header(struct.pack("<I", 400) + b"TFL3" + bytes(4))


@every_target
def test_latency_takes_turns_and_says_where_it_was_measured(runtime, float_model, int8_model):
    figures = runtime.latency({"float": float_model, "int8": int8_model}, runs=60, warmup=3)
    assert list(figures) == ["float", "int8"]
    for figure in figures.values():
        assert isinstance(figure, Latency)
        assert 0 < figure.p10_ms <= figure.median_ms <= figure.p90_ms < 50
        assert (figure.runs, figure.threads) == (60, 1)
        assert (figure.cpu, figure.architecture) == (cpu_name(), machine_name())
    delegates = {
        "xnnpack": "XNNPACK",
        "builtin": "none (built-in kernels)",
        "reference": "none (reference kernels)",
    }
    kernels = getattr(runtime, "kernels", "")
    assert figures["float"].delegate == delegates.get(kernels, "TFLM reference kernels, host")


def test_latency_is_interleaved_in_rotating_order(float_model, int8_model):
    contents = {"a": float_model, "b": int8_model, "c": float_model}
    times, _ = LiteRT()._time_runs(contents, 6, 1)
    order = np.argsort(times[..., 0].T.reshape(-1), kind="stable").reshape(6, 3)
    # In turn t, model m has index 3 t + m; turn 0 comes after one warm-up turn.
    expected = [[3 * t + (t + k) % 3 for k in range(3)] for t in range(6)]
    assert order.tolist() == expected
    assert (times[..., 1] > times[..., 0]).all()


@pytest.mark.parametrize("arguments", [{"runs": 0}, {"warmup": -1}])
def test_latency_refuses_silly_counts(float_model, arguments):
    with pytest.raises(ValueError, match=r"runs >= 1 and warmup >= 0"):
        LiteRT().latency({"float": float_model}, **arguments)


def test_peak_memory_is_of_the_model_not_of_python(float_model):
    figures = LiteRT().memory(float_model)
    assert list(figures) == ["peak_memory_bytes"]
    assert 100_000 < figures["peak_memory_bytes"] < 40_000_000


@tflm_only
def test_arena_and_flash_are_exact_and_stable(float_model, int8_model):
    first, again = TFLM().memory(int8_model), TFLM().memory(int8_model)
    assert first == again
    assert first["flash_bytes"] == len(int8_model)
    assert first["arena_bytes"] == first["arena_head_bytes"] + first["arena_tail_bytes"]
    # At least the two activations that live at once: 6 x 6 x 4 of the convolution and 8 x 8 of the image.
    assert first["arena_head_bytes"] >= 6 * 6 * 4 + 8 * 8
    assert 1_000 < first["arena_bytes"] <= first["arena_minimum_bytes"] < 4_000
    assert TFLM().memory(float_model)["arena_head_bytes"] > 2 * first["arena_head_bytes"]


@tflm_only
def test_the_smallest_arena_works_and_16_bytes_less_does_not(int8_model):
    from tflite_micro.python.tflite_micro import runtime

    smallest = TFLM().memory(int8_model)["arena_minimum_bytes"]
    runtime.Interpreter.from_bytes(int8_model, arena_size=smallest).invoke()
    with pytest.raises(RuntimeError):
        runtime.Interpreter.from_bytes(int8_model, arena_size=smallest - 16)


@pytest.mark.parametrize("runtime", TARGETS[1:])
def test_intermediate_tensors(runtime, float_model, tiny_keras, images):
    import keras

    conv = keras.Model(tiny_keras.input, tiny_keras.get_layer("conv").output)
    expected = np.concatenate([np.asarray(conv(image[None])) for image in images])
    name = next(n for n, s in _tensors_of(float_model).items() if s == (1, 6, 6, 4))
    values = runtime.tensors(float_model, [images], [name])
    assert list(values) == [name]
    np.testing.assert_allclose(values[name], expected, atol=1e-6)
    assert np.array_equal(runtime.run(float_model, [images])[0], runtime.run(float_model, [images])[0])
    with pytest.raises(ValueError, match="Expected names of tensors in the model. Received: 'nope'"):
        runtime.tensors(float_model, [images], ["nope"])


def _tensors_of(content):
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(model_content=content).get_tensor_details()
    return {d["name"]: tuple(d["shape"]) for d in details}


def test_a_delegate_hides_intermediate_tensors(float_model, images):
    with pytest.raises(ValueError, match="Received: kernels='xnnpack'"):
        LiteRT().tensors(float_model, [images], ["x"])


def test_large_sets_go_in_pieces(float_model, images, monkeypatch):
    from keras_compress.runtime import process_target

    (expected,) = LiteRT().run(float_model, [images])
    monkeypatch.setattr(process_target, "_PIECE_BYTES", 3 * images[0].nbytes)
    assert np.array_equal(LiteRT().run(float_model, [images])[0], expected)


def test_ten_thousand_samples_cost_little(float_model):
    import time

    samples = np.zeros((10_000, 8, 8, 1), np.float32)
    LiteRT().run(float_model, [samples[:1]])
    start = time.perf_counter()
    assert LiteRT().run(float_model, [samples])[0].shape == (10_000, 10)
    assert time.perf_counter() - start < 5.0


def test_memory_limit(int8_model):
    small = LiteRT(memory_limit_bytes=50_000_000)
    with pytest.raises((ValueError, RuntimeCrash)):
        small.memory(int8_model)
    assert LiteRT().describe(int8_model).inputs


def test_time_limit(float_model):
    samples = np.zeros((200_000, 8, 8, 1), np.float32)
    with pytest.raises(RuntimeTimeout, match="(sign of life for 1e-06 s|not done in time) on f.tflite"):
        LiteRT(time_limit_s=1e-6).run(float_model, [samples], label="f.tflite")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernels": "fast"}, "Received: kernels='fast'"),
        ({"threads": 0}, "Received: threads=0"),
        ({"threads": True}, "Received: threads=True"),
        ({"time_limit_s": 0}, "Received: time_limit_s=0"),
    ],
)
def test_wrong_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        LiteRT(**arguments)


def test_target_by_name():
    assert {"litert", "tflm"} <= set(target_names())
    assert target("litert", kernels="builtin").kernels == "builtin"
    assert isinstance(target("tflm"), TFLM)
    with pytest.raises(ValueError, match="Expected a target out of .*litert.*tflm .*. Received: target='phone'"):
        target("phone")


def test_a_missing_runtime_is_said(monkeypatch, float_model):
    monkeypatch.setattr(TFLM, "package", "no_such_package")
    assert TFLM().available() == "tflite-micro is not available on this platform"
    with pytest.raises(RuntimeError, match="tflite-micro is not available on this platform"):
        TFLM().describe(float_model)


def test_of_an_encoded_file_litert_says_what_to_do():
    encoded = b"..." + DECODE.encode() + b"..."
    refusal = r"Expected a file that LiteRT can run. Received: m.tflite, .*kc\.expand"
    with pytest.raises(ValueError, match=refusal):
        LiteRT()._refuse(RequestError("model", "a tensor is strange"), "m.tflite", [b"plain", encoded])
    for kind, content in (("model", b"plain"), ("memory", encoded)):
        with pytest.raises((ValueError, RuntimeError)) as caught:
            LiteRT()._refuse(RequestError(kind, "a tensor is strange"), "m.tflite", [content])
        assert "kc.expand" not in str(caught.value)
        assert "m.tflite" in str(caught.value)
