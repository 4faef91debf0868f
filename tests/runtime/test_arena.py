"""The arena of TFLite-Micro: measured without dying of it, kept within a limit, relieved by other memory."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from tests_integer_nets import IntegerNet

import keras_compress as kc
from keras_compress.runtime import arena_probe
from keras_compress.runtime.arena_probe import tflm_arena
from keras_compress.runtime.child import WORKER
from keras_compress.runtime.target import target
from keras_compress.runtime.tflm import TFLM
from keras_compress.tflite.arena import fit_arena
from keras_compress.tflite.arena_plan import ArenaPlan, alternate_memory_bytes, largest_decoded
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.passes.encode_weights import encode_weights
from keras_compress.tflite.passes.tile_outputs import tile_outputs


def encode(content):
    graph = Graph(read_model(content))
    encode_weights(graph, "bitmap")
    return write_model(graph.model)


def dense_net(*widths):
    """Dense layers with many zeros among their weights."""
    rng, built = np.random.default_rng(0), IntegerNet(1, widths[0])
    y = built.input
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        values = rng.integers(-9, 10, (outputs, inputs)) * (rng.random((outputs, inputs)) < 0.3)
        scales = rng.uniform(0.01, 0.02, outputs)
        y = built.dense(y, values, rng.integers(-900, 900, outputs), scales=scales, out=(0.3, 3))
    return built.file(y)


@pytest.fixture(scope="module")
def plain():
    """Weights of 48,000, 18,000 and 1,200 bytes."""
    return dense_net(240, 200, 90, 13)


@pytest.fixture(scope="module")
def outputs(plain):
    """Of a file for random inputs; not all equal."""
    inputs = np.random.default_rng(1).integers(-128, 128, (10, 240)).astype(np.int8)

    def run(content, **options):
        found = target("tflm", **options).run(content, [inputs])[0]
        assert found.std() > 5
        return found

    return run


@pytest.mark.parametrize(("limit", "pieces"), [(35_000, [2]), (20_000, [4, 2])])
def test_the_fewest_pieces_that_fit(plain, outputs, limit, pieces):
    content, notes = fit_arena(plain, encode, limit)
    assert [note.rsplit("split into ", 1)[1] for note in notes] == [f"{n} along its outputs" for n in pieces]
    assert tflm_arena(content) <= limit
    np.testing.assert_array_equal(outputs(content), outputs(plain))
    plan = ArenaPlan(plain, encode(plain))
    step = next(s for s, parts in enumerate(plan.steps) if [n for n in parts.values() if n > 1] == pieces)
    graph = Graph(read_model(plain))
    tile_outputs(graph, plan.steps[step - 1])  # the next fewer
    assert tflm_arena(encode(write_model(graph.model))) > limit


def test_what_fits_is_left_whole(plain):
    assert fit_arena(plain, encode, 60_000) == (encode(plain), [])


def test_the_last_file_that_was_encoded_is_the_one_returned(plain):
    made = []
    content, _ = fit_arena(plain, lambda plain: made.append(encode(plain)) or made[-1], 30_000)
    assert content == made[-1]


def test_a_limit_that_cannot_be_met_says_the_least_that_can(plain):
    with pytest.raises(
        ValueError, match=r"Expected max_arena_bytes >= \d+, what the model needs with \d+ pieces"
    ) as error:
        fit_arena(plain, encode, 5000)
    least = int(str(error.value).split()[3].rstrip(","))
    assert f"Received: max_arena_bytes=5000, {least - 5000} bytes too few" in str(error.value)
    assert 5000 < least < 18_000
    # Of the layer that needs most: what it reads and writes, and its decoded piece.
    told = re.search(
        r": ([\d,]+) bytes of it are activations at (\w+) '.*', and ([\d,]+) its decoded", str(error.value)
    )
    activations, weights = (int(told[group].replace(",", "")) for group in (1, 3))
    assert told[2] in ("FULLY_CONNECTED", "CONV_2D", "CONCATENATION")
    assert 0 < activations < activations + weights < least
    assert tflm_arena(fit_arena(plain, encode, least)[0]) <= least
    with pytest.raises(ValueError, match="with its layers whole, which splitting does not help"):
        fit_arena(plain, lambda content: content, 500)
    with pytest.raises(ValueError, match="Expected max_arena_bytes as an integer > 0. Received: max_arena_bytes=0"):
        fit_arena(plain, encode, 0)


def test_the_plan_splits_the_layer_with_the_peak_and_stops_where_it_gains_nothing():
    rng, built = np.random.default_rng(0), IntegerNet(1, 16, 16, 4)
    weights = rng.integers(-9, 10, (64, 1, 1, 4)) * (rng.random((64, 1, 1, 4)) < 0.3)
    wide = built.conv(built.input, weights, np.zeros(64), scales=np.full(64, 0.01))  # 16,384 bytes of output
    weights = rng.integers(-9, 10, (8, 16, 16, 64)) * (rng.random((8, 16, 16, 64)) < 0.3)
    plain = built.file(built.conv(wide, weights, np.zeros(8)))  # 131,072 bytes of weights
    plan = ArenaPlan(plain, encode(plain))
    assert [list(parts.values())[-1] for parts in plan.steps] == [1, 2, 3, 4, 8]
    # Input and output of the layer, 16 KiB + 16 bytes; its weights, in pieces of 8, 4, 3, 2 and 1 outputs.
    assert plan.heads == [16_384 + 16 + 16_384 * rows for rows in (8, 4, 3, 2, 1)]
    measured = target("tflm").memory(encode(plain))
    assert measured["arena_head_bytes"] == plan.heads[0]


def test_without_tflite_micro_the_reason_is_given(plain, monkeypatch):
    monkeypatch.setattr(arena_probe.TFLM, "available", lambda self: "tflite-micro is not available on this platform")
    with pytest.raises(RuntimeError, match="arena .* cannot be measured here: tflite-micro is not available"):
        fit_arena(plain, encode, 30_000)


def test_decoded_weights_in_memory_of_their_own(plain, outputs):
    encoded = encode(plain)
    assert largest_decoded(encoded) == ("w", 48_000)
    assert largest_decoded(plain) is None
    needed = alternate_memory_bytes(encoded)
    assert needed == 48_000
    usual = target("tflm").memory(encoded)
    relieved = target("tflm", alt_decompression_memory_bytes=needed).memory(encoded)
    assert usual["arena_minimum_bytes"] - relieved["arena_minimum_bytes"] > 40_000
    assert relieved["alt_decompression_bytes"] == 48_000
    assert "alt_decompression_bytes" not in usual
    np.testing.assert_array_equal(outputs(encoded, alt_decompression_memory_bytes=needed), outputs(plain))
    # Less is used by the runtime in part, without a word.
    with pytest.raises(ValueError, match="Expected alt_decompression_memory_bytes >= 48000, .*_bytes=47999"):
        target("tflm", alt_decompression_memory_bytes=47_999).memory(encoded)


def test_constants_that_would_be_overwritten_are_refused(plain, outputs):
    graph = Graph(read_model(encode(plain)))
    first, dense, second, *rest = graph.operators
    graph.operators = [first, second, dense, *rest]
    content = write_model(graph.model)
    np.testing.assert_array_equal(outputs(content), outputs(plain))
    with pytest.raises(ValueError, match="decodes other constants before 'w' was read for the last time"):
        outputs(content, alt_decompression_memory_bytes=100_000)


def test_measuring_with_other_memory(plain):
    found = kc.measure(encode(plain), target="tflm", alt_decompression_memory_bytes=50_000)
    assert found.memory["alt_decompression_bytes"] == 48_000
    # A baseline without encoded weights needs none of it.
    assert TFLM(alt_decompression_memory_bytes=50_000).memory(plain)["alt_decompression_bytes"] == 0
    with pytest.raises(ValueError, match="Expected alt_decompression_memory_bytes=0 for target 'litert'.*=50000"):
        kc.measure(plain, alt_decompression_memory_bytes=50_000)
    with pytest.raises(ValueError, match="Expected alt_decompression_memory_bytes as an integer >= 0.*=-1"):
        kc.measure(plain, target="tflm", alt_decompression_memory_bytes=-1)


def pixel_net(inputs, channels):
    built = IntegerNet(1, 1, 1, inputs)
    values = np.random.default_rng(0).integers(-9, 10, (channels, 1, 1, inputs))
    return built.file(built.conv(built.input, values, np.zeros(channels), scales=np.full(channels, 0.01)))


@pytest.mark.parametrize(("inputs", "channels"), [(8, 16), (16, 64), (64, 64)])
def test_arenas_that_kill_the_runtime_do_not_end_the_measurement(inputs, channels):
    """Of a convolution of a 1x1 image, TFLite-Micro dies in arenas between the one in use and the smallest."""
    content = pixel_net(inputs, channels)
    found = target("tflm").memory(content)
    assert 1000 < found["arena_bytes"] < found["arena_minimum_bytes"] < 4000
    assert found == target("tflm").memory(content)


def test_a_first_arena_that_kills_the_runtime_is_followed_by_a_larger_one(tmp_path):
    """In a process of its own, as the runtime's is, whose noise goes to a file."""
    (tmp_path / "model.tflite").write_bytes(pixel_net(16, 64))
    code = (
        "import sys, types; sys.modules['child'] = types.ModuleType('child')\n"
        "sys.modules['child'].__path__ = [sys.argv[2]]  # without the package above it, which imports Keras\n"
        "from child.engine_tflm import TFLMEngine as E\n"
        "content, died = open(sys.argv[1], 'rb').read(), 0\n"
        "for E.FIRST_ARENA_BYTES in range(1024, 3072, 64):\n"
        "    engine = E(content, {})\n"
        "    died += engine._attempt(E.FIRST_ARENA_BYTES) < 0\n"
        "print('deaths', died)\n"
    )
    with open(tmp_path / "noise", "w+b") as noise:
        command = [sys.executable, "-c", code, str(tmp_path / "model.tflite"), str(WORKER.parent)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=noise, text=True, check=True)
    assert int(done.stdout.removeprefix("deaths ")) > 0
