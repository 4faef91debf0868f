"""Ethos-U by Vela: its figures on a depthwise net, and every way in which it can fail."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests_int8_nets import Int8Net, depthwise_net, with_decode

from keras_compress.runtime import ethos_u
from keras_compress.runtime.child import RuntimeCrash, RuntimeTimeout
from keras_compress.runtime.estimate import Estimate
from keras_compress.runtime.ethos_u import ACCELERATORS, estimate_ethos_u

needs_vela = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None, reason="Vela is not installed: pip install keras-compress[ethos-u]"
)
CLUSTERED = {"sparsity": 0.8, "levels": tuple(range(-112, 113, 16))}


@pytest.fixture(scope="module")
def found() -> dict[str, Estimate]:
    return {
        "dense, 256": estimate_ethos_u(depthwise_net(), accelerator="ethos-u55-256"),
        "dense, 32": estimate_ethos_u(depthwise_net(), accelerator="ethos-u55-32"),
        "clustered, 256": estimate_ethos_u(depthwise_net(**CLUSTERED), accelerator="ethos-u55-256"),
    }


@needs_vela
def test_more_units_take_fewer_cycles(found: dict[str, Estimate]) -> None:
    assert found["dense, 256"].cycles < 0.6 * found["dense, 32"].cycles
    # 256 units do no more than 256 multiplications in a cycle.
    assert found["dense, 256"].cycles > 1_264_256 / 256


@needs_vela
def test_zeros_and_few_levels_take_less_flash(found: dict[str, Estimate]) -> None:
    dense, clustered = found["dense, 256"], found["clustered, 256"]
    # 72 + 256 + 18,432 + 640 weights; random ones do not compress.
    assert dense.figures["file_weight_bytes"] == clustered.figures["file_weight_bytes"] == 19_400
    # Vela's own count: the mean has some.
    assert dense.figures["original_weight_bytes"] == pytest.approx(19_400, rel=1e-3)
    assert 0.9 < dense.figures["weight_compression"] < 1.0
    assert clustered.figures["weight_compression"] > 4
    assert clustered.flash_bytes < dense.flash_bytes / 3
    assert dense.flash_bytes > dense.figures["encoded_weight_bytes"] > 19_400


@needs_vela
def test_what_is_reported(found: dict[str, Estimate]) -> None:
    entry = found["dense, 256"]
    assert entry.kind.startswith("Vela ")
    assert entry.kind.endswith("performance model, not a measurement")
    assert entry.options["system_config"] == "Ethos_U55_High_End_Embedded"
    assert entry.figures["constants_in"] == "Off-chip Flash"
    assert entry.clock_mhz == 500
    assert entry.time_ms == pytest.approx(entry.cycles / 500e3)
    assert entry.ram_bytes is not None
    assert entry.ram_bytes > 8192
    assert entry.cpu_operators == ()
    # The mean of 8 x 8 x 64 values counts too.
    assert entry.macs == 1_264_256 + 4096
    assert sum(row["macs"] for row in entry.layers) == entry.macs
    assert {row["runs_on"] for row in entry.layers} == {"NPU"}
    assert 0 < entry.figures["npu_cycles"] <= entry.cycles
    assert entry.figures["off_chip_flash_access_cycles"] > 0


@needs_vela
def test_operators_on_the_cpu_are_named(tmp_path: Path) -> None:
    net = Int8Net((1, 8, 8, 4)).convolution(4, 3)
    real = net.graph.add_tensor("real", (1, 8, 8, 4), "float32")
    net.graph.operators.append(net.graph.make_operator("DEQUANTIZE", [net.last], [real]))
    net.graph.set_interface(net.graph.inputs, [real])
    path = tmp_path / "compiled.tflite"
    found = estimate_ethos_u(net.content(), save_to=path)
    assert found.cpu_operators == ("DEQUANTIZE real",)
    assert any("1 operators and their constants are left to the CPU" in note for note in found.notes)
    assert path.stat().st_size == found.figures["compiled_file_bytes"]
    with pytest.raises(ValueError, match="Vela has compiled already"):
        estimate_ethos_u(path.read_bytes())


@needs_vela
def test_refusals() -> None:
    with pytest.raises(ValueError, match="all of whose operators Vela leaves to the CPU: DEPTHWISE_CONV_2D"):
        estimate_ethos_u(Int8Net((1, 8, 8, 4), activations="float32").depthwise(3).content())
    with pytest.raises(ValueError, match=r"kc.expand.*toy, with 1 TFLM_DECODE"):
        estimate_ethos_u(with_decode(depthwise_net()), "toy")
    with pytest.raises(ValueError, match="toy: Expected a valid .tflite file"):
        estimate_ethos_u(depthwise_net()[:5000], "toy")
    for options, message in (
        ({"accelerator": "ethos-u55-512"}, "accelerator out of ethos-u55-32, .*Received: 'ethos-u55-512'"),
        ({"system_config": "Ethos_U85_SYS_Flash_High"}, "system_config for ethos-u55-128 out of Ethos_U55_Deep"),
        ({"memory_mode": "Shared"}, "memory_mode for .*Received: 'Shared'"),
        ({"optimise": "Speed"}, "optimise out of Performance, Size"),
        ({"time_limit_s": 0}, "time_limit_s=0"),
        # Vela itself refuses it.
        ({"memory_mode": "Dedicated_Sram"}, "Expected a file and options that Vela takes. .*arena_mem_area"),
    ):
        with pytest.raises(ValueError, match=message):
            estimate_ethos_u(depthwise_net(), **options)


@needs_vela
def test_time_limit() -> None:
    with pytest.raises(RuntimeTimeout, match="0.001 s on toy"):
        estimate_ethos_u(depthwise_net(), "toy", time_limit_s=0.001)


@needs_vela
def test_a_crash_is_one_line_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []

    def crash(command: list[str], *, cwd: Path, stdout: Any, **_: Any) -> subprocess.CompletedProcess[bytes]:
        folders.append(cwd)
        stdout.write(b"first\nlast \x1b[31mwords\n\n")
        return subprocess.CompletedProcess(command, -11)

    monkeypatch.setattr(ethos_u.subprocess, "run", crash)
    with pytest.raises(RuntimeCrash) as caught:
        estimate_ethos_u(depthwise_net(), "toy")
    assert str(caught.value) == "Vela crashed (signal 11) on toy: last \\x1b[31mwords"
    assert not folders[0].exists()


def test_missing_vela_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"pip install keras-compress\[ethos-u\]"):
        estimate_ethos_u(depthwise_net())


def test_accelerators() -> None:
    assert len(ACCELERATORS) == len(set(ACCELERATORS)) == 11
    sizes = [int(name.rsplit("-", 1)[1]) for name in ACCELERATORS]
    assert np.log2(sizes).tolist() == [5, 6, 7, 8, 8, 9, 7, 8, 9, 10, 11]
