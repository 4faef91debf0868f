"""TFLite-Micro's operators that read bits: on this computer and on a Cortex-M, beside its own kernels."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import keras_compress as kc
import keras_compress.native.library as library
from keras_compress.convert.compressed import bit_file
from keras_compress.runtime.target import target
from keras_compress.testing.binary_layers import BinaryLayer
from keras_compress.tflite.bit_format import CONV, DENSE
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model

Array = NDArray[Any]
HERE = Path(__file__).parent
MICRO = Path(library.__file__).parent / "micro"
FLAGS = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{HERE / 'tflm_stub'}", f"-I{MICRO}", f"-I{MICRO.parent}"]
SOURCES = [str(MICRO / "kc_binary_tflm.cc"), str(HERE / "micro_driver.cc")]
DRAWN = 80


def last_layer(content: bytes) -> bytes:
    """The file of the last operator alone, whose inputs are given."""
    graph = Graph(read_model(content))
    last = graph.operators[-1]
    graph.set_interface([last.inputs[0]], graph.outputs)
    graph.operators = [last]
    graph.model.signatureDefs = None
    return write_model(graph.model)


def record(content: bytes, values: Array, *, fails: bool = False) -> bytes:
    """A layer as the driver reads it."""
    graph = Graph(read_model(content))
    (op,) = graph.operators
    rows = graph.constant(op.inputs[1])
    bias = graph.constant(op.inputs[2]) if len(op.inputs) > 2 and op.inputs[2] >= 0 else None
    grids = [graph.quantization(tensor) for tensor in (op.inputs[0], op.outputs[0], op.inputs[1])]
    assert rows is not None
    known = [grid for grid in grids if grid is not None]
    ends, scales = known[:2], known[2][0]
    dense = graph.custom_name(op) == DENSE
    shapes = [graph.shape(tensor) for tensor in (op.inputs[0], op.outputs[0])]
    sizes = [size for shape in shapes for size in ((shape[0], 1, 1, shape[1]) if len(shape) == 2 else shape)]
    options = bytes(bytearray(op.customOptions))
    added = b"" if bias is None else bias.astype("<i4").tobytes()
    head = [
        int(dense), *sizes, ends[0][1], ends[1][1], len(options), rows.nbytes, len(added), len(rows), scales.size,
        int(fails),
    ]  # fmt: skip
    floats = np.concatenate([ends[0][0], ends[1][0], scales]).astype("<f4").tobytes()
    return struct.pack("<17i", *head) + floats + options + rows.tobytes() + added + values.tobytes()


@pytest.fixture(scope="module")
def vectors() -> tuple[bytes, bytes]:
    """Layers for the driver, and what TFLite-Micro's kernels make of the stock files."""
    runner = target("tflm")
    if runner.available() is not None:
        pytest.skip("no tflite-micro here")
    draw, records, wanted, kinds = np.random.default_rng(0), [], [], set()
    for seed in range(DRAWN):
        layer = BinaryLayer.drawn(seed)
        made = bit_file(layer.content()).content
        # Kernels of one scale only take dense layers of one; groups and padded rows of 4 bits are LiteRT's.
        if made == layer.content() or layer.weight_bits == 4 or (layer.kind == "dense" and layer.per_channel):
            continue
        if Graph(read_model(made)).custom_name(Graph(read_model(made)).operators[-1]) not in (CONV, DENSE):
            continue
        stock, bits = last_layer(layer.content()), last_layer(made)
        quantization = Graph(read_model(stock)).quantization(Graph(read_model(stock)).inputs[0])
        assert quantization is not None
        levels = [-1, 1] if layer.levels == 0 else list(range(quantization[1], quantization[1] + 2**layer.levels))
        shape = Graph(read_model(stock)).shape(Graph(read_model(stock)).inputs[0])
        any_values = draw.integers(-128, 128, shape).astype(np.int8)
        for values in (draw.choice(np.array(levels, np.int8), shape), any_values):
            (expected,) = runner.run(stock, [values if shape[0] == 1 else values[None]])
            records.append(record(bits, values))
            wanted.append(np.ascontiguousarray(expected).tobytes())
        kinds.add((layer.kind, layer.weights, layer.levels, layer.same))
    assert len(kinds) > 12
    return b"".join(records), b"".join(wanted)


def driver(compiler: str, folder: Path, *flags: str) -> str:
    made = folder / "driver"
    done = subprocess.run(
        [compiler, *FLAGS, *flags, *SOURCES, "-o", str(made)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[:3000]
    return str(made)


def outputs(command: list[str], given: bytes, folder: Path) -> bytes:
    (folder / "given").write_bytes(given)
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr[:2000])
    return (folder / "made").read_bytes()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    sanitizers = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    return driver(compiler, tmp_path_factory.mktemp("host"), *sanitizers)


def test_they_give_the_integers_of_stock_kernels(host: str, vectors: tuple[bytes, bytes], tmp_path: Path) -> None:
    given, wanted = vectors
    got = np.frombuffer(outputs([host], given, tmp_path), np.int8)
    expected = np.frombuffer(wanted, np.int8)
    assert len(np.unique(expected)) > 100
    np.testing.assert_array_equal(got, expected)


def test_on_a_cortex_m(vectors: tuple[bytes, bytes], tmp_path: Path) -> None:
    compiler, emulator = shutil.which("arm-none-eabi-g++"), shutil.which("qemu-system-arm")
    if compiler is None or emulator is None:
        pytest.skip(
            "needs arm-none-eabi-g++ and qemu-system-arm: apt install gcc-arm-none-eabi "
            "libstdc++-arm-none-eabi-newlib qemu-system-arm"
        )
    cortex = ("-mcpu=cortex-m4", "-mthumb", "-O2", "-fno-exceptions", "-fno-rtti")
    program = driver(compiler, tmp_path, *cortex, "--specs=rdimon.specs", "-Wl,--section-start=.vectors=0")
    given, wanted = vectors
    board = ("-M", "mps2-an386", "-nographic", "-monitor", "none", "-serial", "none")
    files = ("-semihosting-config", "enable=on,target=native")
    assert outputs([emulator, *board, *files, "-kernel", program], given, tmp_path) == wanted


def test_what_does_not_fit_is_an_error(host: str, tmp_path: Path) -> None:
    layer = BinaryLayer(inputs=40)
    made = last_layer(bit_file(BinaryLayer(inputs=40, signs="taken").content()).content)
    values = layer.values()

    def damaged(place: int, value: int) -> bytes:
        graph = Graph(read_model(made))
        (op,) = graph.operators
        op.customOptions = np.array(op.customOptions, np.uint8)
        op.customOptions[place] = value
        return write_model(graph.model)

    for place, value in ((0, 0), (3, 2), (4, 7), (8, 9), (20, 7), (12, 3)):
        assert outputs([host], record(damaged(place, value), values, fails=True), tmp_path) == b""


def test_export_c_writes_what_the_file_needs(tmp_path: Path) -> None:
    content = bit_file(BinaryLayer(inputs=40, signs="taken").content()).content
    written = kc.export_c(content, tmp_path, name="net", arena_bytes=5000)
    names = ["kc_binary_tflm.cc", "kc_binary_tflm.h", "kc_bits.h", "kc_bits_kernel.h"]
    assert sorted(path.name for path in written) == [*names, "net_data.cc", "net_data.h", "net_ops.h"]
    text = (tmp_path / "net_ops.h").read_text()
    assert f'resolver.AddCustom("{CONV}", ::keras_compress::Register_{CONV}());' in text
    assert '#include "kc_binary_tflm.h"' in text
    assert "kOpCount = 2;" in text
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    stub = f"-I{HERE / 'tflm_stub'}"
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", stub, "-fsyntax-only", "kc_binary_tflm.cc"]
    subprocess.run(command, cwd=tmp_path, check=True)
    if target("tflm").available() is None:
        # The stock file's, and what the operators take beside it.
        least = target("tflm").memory(kc.expand(content))["arena_minimum_bytes"]
        kc.export_c(content, tmp_path, name="net")
        arena = int((tmp_path / "net_data.h").read_text().split("NET_ARENA_BYTES ")[1].split()[0])
        assert least + 1024 + 2 * 4 * 12 <= arena < least + 2048
    assert not any("kc_" in path.name for path in kc.export_c(kc.expand(content), tmp_path / "stock", arena_bytes=5000))
