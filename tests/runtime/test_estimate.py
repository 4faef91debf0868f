"""`kc.estimate`: one entry for all devices, and what it refuses before any of them sees the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests_int8_nets import depthwise_net

import keras_compress as kc
from keras_compress.cli import main as cli
from keras_compress.core import registry
from keras_compress.runtime import estimate as estimates


@pytest.fixture(scope="module")
def content() -> bytes:
    return depthwise_net()


def test_the_registry_is_what_estimate_takes(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert estimates.estimator_names() == ("cortex_m", "energy", "ethos_u")
    monkeypatch.setitem(registry._ENTRIES, "estimator", registry.entries("estimator"))
    given = kc.Estimate("mine", "a guess", {}, flash_bytes=1, ram_bytes=None, macs=2, cycles=4000, clock_mhz=2.0)
    registry.register("estimator", "mine")(lambda content, label, *, speed=1: given)
    assert kc.estimate(content, "mine", speed=2) is given
    assert (given.time_ms, given.inferences_per_second) == (2.0, 500.0)
    with pytest.raises(ValueError, match="options of mine out of speed. Received: sped"):
        kc.estimate(content, "mine", sped=2)


def test_times_need_a_clock() -> None:
    found = kc.Estimate("mine", "a guess", {}, flash_bytes=1, ram_bytes=None, macs=2, cycles=4000)
    assert found.time_ms is None
    assert found.inferences_per_second is None


def test_as_json(content: bytes) -> None:
    found = kc.estimate(content, "cortex_m", core="m7", clock_mhz=216.0, measure_ram=False).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["options"] == {"core": "m7", "clock_mhz": 216.0}
    assert found["time_ms"] == pytest.approx(found["cycles"] / 216e3)
    assert "not a measurement" in found["kind"]


def test_refusals(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="target out of cortex_m, energy, ethos_u. Received: target='litert'"):
        kc.estimate(content, "litert")
    with pytest.raises(ValueError, match="Expected a valid .tflite file"):
        kc.estimate(b"", "cortex_m")
    (tmp_path / "cut.tflite").write_bytes(content[: len(content) // 3])
    with pytest.raises(ValueError, match="cut.tflite"):
        kc.estimate(tmp_path / "cut.tflite", "cortex_m")
    with pytest.raises(TypeError, match="Received: int"):
        kc.estimate(3, "cortex_m")  # type: ignore[arg-type]


def test_command(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    arguments = ["keras-compress", "estimate", f"--model={path}", "--target=cortex_m"]
    assert cli.main([*arguments, "--core=m33", "--clock_mhz=200"]) == 0
    said = capsys.readouterr().out
    assert "not a measurement" in said
    assert f"flash {len(content):,} B" in said
    assert "1,264,256 MACs" in said
    assert cli.main([*arguments, "--accelerator=ethos-u55-32"]) == 1
    assert "Expected options of cortex_m" in capsys.readouterr().err
