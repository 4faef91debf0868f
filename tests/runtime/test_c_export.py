"""`export_c`: C++ sources for TFLite-Micro, compiled and run."""

import os
import re
import shutil
import subprocess
import time

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import keras_compress as kc
from keras_compress.cli import main as cli
from keras_compress.runtime import c_export, c_source, target
from keras_compress.runtime.tflm import TFLM
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.lowering import support

# Methods of MicroMutableOpResolver in tensorflow/lite/micro/micro_mutable_op_resolver.h (2025), those of signal
# processing left out.
REAL = """
    Abs Add AddN ArgMax ArgMin AssignVariable AveragePool2D BatchMatMul BatchToSpaceNd BroadcastArgs BroadcastTo
    CallOnce Cast Ceil CircularBuffer Concatenation Conv2D Cos CumSum Decode DepthToSpace DepthwiseConv2D Dequantize
    DetectionPostprocess Div DynamicUpdateSlice EmbeddingLookup Elu Equal EthosU Exp ExpandDims Fill Floor FloorDiv
    FloorMod FullyConnected Gather GatherNd Greater GreaterEqual HardSwish If L2Normalization L2Pool2D LeakyRelu Less
    LessEqual Log LogicalAnd LogicalNot LogicalOr Logistic LogSoftmax Maximum MaxPool2D MirrorPad Mean Minimum Mul Neg
    NotEqual Pack Pad PadV2 Prelu Quantize ReadVariable ReduceAll ReduceMax ReduceMin Relu Relu6 Reshape ResizeBilinear
    ResizeNearestNeighbor ReverseV2 Round Rsqrt SelectV2 Shape Sin Slice Softmax SpaceToBatchNd SpaceToDepth Split
    SplitV Squeeze Sqrt Square SquaredDifference StridedSlice Sub Sum Svdf Tanh TransposeConv Transpose Unpack
    UnidirectionalSequenceLSTM VarHandle While ZerosLike
    """.split()  # noqa: SIM905
STRICT = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic"]
MAIN = """
#include <cstdint>
#include <cstdio>
#include "net_data.h"
#include "net_ops.h"
alignas(16) static uint8_t arena[NET_ARENA_BYTES];
int main() {
  unsigned long sum = 0;
  for (unsigned char byte : g_net_data) sum += byte;
  net_ops::OpResolver resolver;
  int status = net_ops::AddOps(resolver);
  std::printf("%d %u %zu %lu %d %d %.9g\\n", int(reinterpret_cast<uintptr_t>(g_net_data) % 16), g_net_data_size,
              sizeof(arena), sum, status, NET_INPUT_0_ZERO_POINT, NET_OUTPUT_0_SCALE);
}
"""


def compiler(program, package):
    reason = f"needs {program}: apt install {package}"
    return pytest.mark.skipif(shutil.which(program) is None, reason=reason)


def run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_stub(folder, namespaces):
    """TFLite-Micro's resolver with its real method names, which prints what is added and refuses too much."""
    path = folder / "tensorflow/lite/micro/micro_mutable_op_resolver.h"
    path.parent.mkdir(parents=True)
    methods = "\n".join(f'TfLiteStatus Add{name}() {{ return Note("Add{name}"); }}' for name in REAL)
    opened = " ".join(f"namespace {name} {{" for name in namespaces)
    path.write_text(f"""#pragma once
#include <cstdio>
{opened}
typedef enum TfLiteStatus {{ kTfLiteOk = 0, kTfLiteError = 1 }} TfLiteStatus;
template <unsigned int tOpCount> class MicroMutableOpResolver {{
 public:
{methods}
 private:
  TfLiteStatus Note(const char* name) {{ std::puts(name); return count_++ < tOpCount ? kTfLiteOk : kTfLiteError; }}
  unsigned int count_ = 0;
}};
{"}" * len(namespaces)}
""")


def array_of(text):
    body = text.split("= {")[1].split("};")[0]
    return bytes(int(byte, 16) for byte in body.replace("\n", "").rstrip(",").split(","))


def methods_of(text):
    return re.findall(r"resolver\.(\w+)\(", text)


def constants_of(text):
    return dict(re.findall(r"#define (\w+) \(?([^\s)]+)\)?$", text, re.MULTILINE))


@pytest.fixture(scope="module")
def decode_model(int8_model):
    """The int8 model with the kernel of the dense layer stored as a bitmap and the values that are not zero."""
    graph = Graph(read_model(int8_model))
    op = next(op for op in graph.operators if graph.kind(op) == "FULLY_CONNECTED")
    weight = op.inputs[1]
    values = np.array(graph.constant(weight))
    kept = values[values != 0].view(np.uint8)
    header = np.array([2, 1, 0, 0, 1] + 11 * [0], np.uint8)
    bitmap = graph.add_constant("bitmap", np.packbits(values != 0))
    ancillary = graph.add_constant("ancillary", np.concatenate([header, kept]))
    graph.tensors[weight].buffer = 0
    decode = graph.make_operator("CUSTOM", [bitmap, ancillary], [weight])
    graph.model.operatorCodes[decode.opcodeIndex].customCode = b"TFLM_DECODE"
    graph.operators.insert(graph.operators.index(op), decode)
    return write_model(graph.model)


def test_the_array_is_the_file_and_the_constants_are_the_runtimes(int8_model, tmp_path):
    paths = kc.export_c(int8_model, tmp_path / "new" / "src", name="net")
    assert [path.name for path in paths] == ["net_data.cc", "net_data.h", "net_ops.h"]
    assert sorted(os.listdir(tmp_path / "new" / "src")) == ["net_data.cc", "net_data.h", "net_ops.h"]
    source, header, ops = (path.read_text() for path in paths)
    assert array_of(source) == int8_model
    assert f"g_net_data_size = {len(int8_model)};" in source
    assert methods_of(ops) == ["AddConv2D", "AddFullyConnected", "AddReshape"]
    tflm = target.target("tflm")
    least = tflm.memory(int8_model)["arena_minimum_bytes"]
    found, signature = constants_of(header), tflm.describe(int8_model)
    assert int(found["NET_ARENA_BYTES"]) == -(-(least + 1024) // 16) * 16
    assert f"{least} bytes, measured on a 64-bit host" in header
    for kind, (spec,), elements in (("INPUT", signature.inputs, "64"), ("OUTPUT", signature.outputs, "10")):
        assert found[f"NET_{kind}_COUNT"] == "1"
        assert found[f"NET_{kind}_0_ELEMENTS"] == elements
        assert np.float32(found[f"NET_{kind}_0_SCALE"].rstrip("f")) == np.float32(spec.scales[0]) != 1
        assert int(found[f"NET_{kind}_0_ZERO_POINT"]) == spec.zero_points[0] != 0
    assert '/* NET_INPUT_0: "image", int8 [1, 8, 8, 1] */' in header


def test_the_operators_are_those_of_the_file(decode_model, float_model, tmp_path):
    names = {0: "Add", 3: "AddConv2D", 9: "AddFullyConnected", 22: "AddReshape", 32: "AddDecode"}
    for content, expected in (
        (decode_model, ["AddConv2D", "AddDecode", "AddFullyConnected", "AddReshape"]),
        (float_model, ["AddConv2D", "AddFullyConnected", "AddReshape"]),
    ):
        ops = kc.export_c(content, tmp_path)[2].read_text()
        model = schema.Model.GetRootAs(content, 0)
        codes = {model.OperatorCodes(i).BuiltinCode() for i in range(model.OperatorCodesLength())}
        used = {model.Subgraphs(0).Operators(i).OpcodeIndex() for i in range(model.Subgraphs(0).OperatorsLength())}
        assert len(used) == len(codes)
        assert methods_of(ops) == sorted(names[code] for code in codes) == expected
        assert f"kOpCount = {len(expected)};" in ops


def test_every_operator_has_a_method_that_exists():
    found = [c_source.resolver_method(kind) for kind in support._TFLM if kind != "CUSTOM"]
    found += [c_source.resolver_method("CUSTOM", custom) for custom in c_source._CUSTOM_METHODS]
    assert set(found) == {f"Add{name}" for name in REAL}
    assert len(found) == len(REAL)


@compiler("g++", "g++")
@pytest.mark.parametrize("namespaces", [("tflite",), ("tflite", "micro")])
def test_a_program_with_the_sources_runs(namespaces, decode_model, tmp_path):
    write_stub(tmp_path, namespaces)
    kc.export_c(decode_model, tmp_path, name="net", arena_bytes=5001)
    (tmp_path / "main.cc").write_text(MAIN)
    run("g++", *STRICT, "-I.", "main.cc", "net_data.cc", "-o", "program", cwd=tmp_path)
    *added, last = run("./program", cwd=tmp_path).splitlines()
    assert added == ["AddConv2D", "AddDecode", "AddFullyConnected", "AddReshape"]
    misaligned, size, arena, total, status, zero_point, scale = last.split()
    assert (misaligned, size, arena, status) == ("0", str(len(decode_model)), "5008", "0")
    assert int(total) == sum(decode_model)
    signature = target.target("tflm").describe(decode_model)
    assert int(zero_point) == signature.inputs[0].zero_points[0]
    assert np.float32(scale) == np.float32(signature.outputs[0].scales[0])
    (tmp_path / "plain.c").write_text('#include "net_data.h"\nint main(void) { return g_net_data[NET_INPUT_COUNT]; }\n')
    run("gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-c", "plain.c", cwd=tmp_path)
    (tmp_path / "net_ops.h").write_bytes(c_source.ops_header("net", ["AddConv2d"]))
    wrong = subprocess.run(
        ["g++", *STRICT, "-I.", "-fsyntax-only", "main.cc"],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert b"has no member named 'AddConv2d'" in wrong.stderr


@compiler("arm-none-eabi-g++", "gcc-arm-none-eabi")
def test_it_compiles_for_a_cortex_m4(int8_model, tmp_path):
    command = "arm-none-eabi-g++ -mcpu=cortex-m4 -mthumb"
    kc.export_c(int8_model, tmp_path, arena_bytes=4096, compile_with=command)
    assert len(list(tmp_path.iterdir())) == 3
    run(*command.split(), *STRICT, "-c", "model_data.cc", "-o", "model.o", cwd=tmp_path)
    symbols = {
        line.split()[-1]: line.split() for line in run("arm-none-eabi-nm", "-S", "model.o", cwd=tmp_path).splitlines()
    }
    assert int(symbols["g_model_data"][1], 16) == len(int8_model)
    assert symbols["g_model_data"][2] == "R"
    assert symbols["g_model_data_size"][2] == "R"
    sections = run("arm-none-eabi-objdump", "-h", "model.o", cwd=tmp_path).splitlines()
    assert [line.split()[-1] for line in sections if ".rodata" in line] == ["2**4"]


def test_hex_lines_of_every_length():
    assert c_source.hex_lines(b"\x00\xff\x1c") == b"  0x00,0xff,0x1c,\n"
    content = bytes(range(256))
    for length in (1, 19, 20, 21, 256):
        lines = c_source.hex_lines(content[:length])
        assert array_of(f"= {{\n{lines.decode()}}};") == content[:length]
        assert max(map(len, lines.splitlines())) <= 102


def test_four_megabytes_in_less_than_two_seconds():
    content = np.random.default_rng(0).integers(0, 256, 4 << 20, np.uint8).tobytes()
    started = time.process_time()
    text = c_source.data_source("big", content)
    assert time.process_time() - started < 2
    assert len(text) == pytest.approx(5.15 * len(content), rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "2net"}, r"Expected `name` as a C identifier that starts with a letter. Received: name='2net'"),
        ({"name": "net-1"}, "Received: name='net-1'"),
        ({"name": ""}, "Received: name=''"),
        ({"name": "n\u00e9t"}, "Received: name="),
        ({"name": "net\n"}, "Received: name="),
        ({"arena_bytes": 0}, r"Expected `arena_bytes` from 1 to 2\*\*31 - 1. Received: arena_bytes=0"),
        ({"arena_bytes": True}, "Received: arena_bytes=True"),
    ],
)
def test_bad_arguments(int8_model, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        kc.export_c(int8_model, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_bad_models(int8_model, tmp_path):
    path = tmp_path / "net.tflite"
    for length in (0, 7, 100, len(int8_model) // 2):
        path.write_bytes(int8_model[:length])
        with pytest.raises((ValueError, RuntimeError), match=r"net\.tflite"):
            kc.export_c(path, tmp_path / "out")
    with pytest.raises(TypeError, match="Expected an Artifact, the bytes"):
        kc.export_c(3, tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        kc.export_c(tmp_path / "none.tflite", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("builtin", "custom"), [(150, None), (32, b"MyOp")])
def test_an_operator_that_tflm_lacks_is_named(int8_model, tmp_path, builtin, custom):
    model = read_model(int8_model)
    code = model.operatorCodes[model.subgraphs[0].operators[0].opcodeIndex]
    code.builtinCode, code.deprecatedBuiltinCode, code.customCode = builtin, min(builtin, 127), custom
    named = "GELU" if custom is None else "the custom operator 'MyOp'"
    with pytest.raises(ValueError, match=f"Expected operators that TFLite-Micro has. Received: {named}, which"):
        kc.export_c(write_model(model), tmp_path, arena_bytes=4096)
    assert not list(tmp_path.iterdir())


def test_all_files_or_none(int8_model, float_model, tmp_path):
    kc.export_c(float_model, tmp_path, arena_bytes=4096)
    old = (tmp_path / "model_data.cc").read_bytes()
    (tmp_path / "model_data.h").unlink()
    (tmp_path / "model_ops.h").unlink()
    (tmp_path / "model_ops.h").mkdir()
    with pytest.raises(IsADirectoryError, match=r"model_ops\.h"):
        kc.export_c(int8_model, tmp_path, arena_bytes=4096)
    assert sorted(os.listdir(tmp_path)) == ["model_data.cc", "model_ops.h"]
    assert (tmp_path / "model_data.cc").read_bytes() == old


def test_without_tflite_micro_the_arena_must_be_given(int8_model, tmp_path, monkeypatch):
    monkeypatch.setattr(TFLM, "available", lambda self: "tflite-micro is not available on this platform")
    with pytest.raises(RuntimeError, match="or `arena_bytes`. Received: tflite-micro is not available"):
        kc.export_c(int8_model, tmp_path)
    header = kc.export_c(int8_model, tmp_path, arena_bytes=4097)[1].read_text()
    assert constants_of(header)["MODEL_ARENA_BYTES"] == "4112"
    assert "measured" not in header


def test_names_of_tensors_stay_in_their_comment(int8_model, tmp_path):
    model = read_model(int8_model)
    model.signatureDefs = []
    graph = Graph(model)
    graph.rename(graph.inputs[0], "*/ int x; /*\n??/\\\n#error")
    header = kc.export_c(write_model(model), tmp_path, arena_bytes=4096)[1].read_text()
    assert '/* MODEL_INPUT_0: "_/ int x; /____/___error", int8' in header
    assert "#error" not in header


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo unhappy >&2; exit 3", "Expected sources that .*/cc takes. Received: exit code 3: unhappy"),
        ("sleep 30 & wait", "Expected .*/cc to end in 0.3 s. Received: no end"),
    ],
)
def test_a_compiler_that_refuses_or_hangs(int8_model, tmp_path, monkeypatch, script, message):
    monkeypatch.setattr(c_export, "_COMPILE_SECONDS", 0.3)
    (tmp_path / "cc").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "cc").chmod(0o755)
    with pytest.raises(RuntimeError, match=message):
        kc.export_c(int8_model, tmp_path / "out", arena_bytes=4096, compile_with=str(tmp_path / "cc"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["arm-none-such-g++ -mthumb", ""])
def test_a_missing_compiler_names_the_package(int8_model, tmp_path, command):
    with pytest.raises(RuntimeError, match="apt install gcc-arm-none-eabi"):
        kc.export_c(int8_model, tmp_path / "out", arena_bytes=4096, compile_with=command)
    assert not (tmp_path / "out").exists()


def test_the_command_writes_the_same_files(int8_model, tmp_path, capsys):
    (tmp_path / "m.tflite").write_bytes(int8_model)
    arguments = ["keras-compress", "export", f"--model={tmp_path}/m.tflite", f"--out={tmp_path}/src", "--name=net"]
    assert cli.main([*arguments, "--arena_bytes=4096"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        f"{tmp_path}/src/net_{n}" for n in ("data.cc", "data.h", "ops.h")
    ]
    for path in kc.export_c(int8_model, tmp_path / "again", name="net", arena_bytes=4096):
        assert path.read_bytes() == (tmp_path / "src" / path.name).read_bytes()
    assert cli.main([*arguments[:-1], "--name=net.1"]) == 1
    assert capsys.readouterr().err.startswith("Error: Expected `name` as a C identifier")
