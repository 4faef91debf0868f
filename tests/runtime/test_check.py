"""Whether a file fits: limits by hand, the arena as TFLite-Micro takes it, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests_int8_nets import depthwise_net

import keras_compress as kc
from keras_compress.cli import main as cli
from keras_compress.cli.device_flags import BOARD_NAMES
from keras_compress.runtime.boards import BOARDS
from keras_compress.runtime.cortex_m_costs import CORES
from keras_compress.runtime.target import target

pytestmark = pytest.mark.skipif(target("tflm").available() is not None, reason="TFLite-Micro is not here")


@pytest.fixture(scope="module")
def content() -> bytes:
    return depthwise_net()


def test_the_table_of_boards() -> None:
    assert tuple(BOARDS) == BOARD_NAMES
    for board in BOARDS.values():
        assert board.source
        assert board.ram_bytes < board.flash_bytes
        assert board.core in (*CORES, "lx7")
    # As their makers print them: 264 kB, 1 MB and 256 kB, 512 kB of AXI SRAM.
    assert BOARDS["rp2040"].ram_bytes == 270_336
    assert (BOARDS["nrf52840"].flash_bytes, BOARDS["nrf52840"].ram_bytes) == (1_048_576, 262_144)
    assert BOARDS["stm32h743"].ram_bytes == 524_288


def test_fits_a_board(content: bytes) -> None:
    found = kc.check(content, "nrf52840")
    assert found.fits
    assert found.file_bytes == len(content)
    assert found.arena_bytes == target("tflm").memory(content)["arena_minimum_bytes"]
    # 16 x 16 values of 32 channels come in, 8 x 8 of 64 go out.
    assert found.peak_bytes == 16 * 16 * 32 + 8 * 8 * 64
    assert found.peak_operator == "CONV_2D 'conv_2d_2'"
    cycles = kc.estimate(content, "cortex_m", core="m4", measure_ram=False).cycles
    assert found.time_ms == pytest.approx(cycles / 64e3)
    # The only power of an M4 that was found is another board's.
    assert found.energy_uj == pytest.approx(cycles * 432.7e-6, rel=1e-3)
    assert "a model by the NUCLEO-L4R5ZI at 120 MHz, not measured" in repr(found)
    assert "NUCLEO_L4R5ZI" in found.notes[-1]
    assert kc.check(content, "rp2040").energy_source is None


def test_what_is_too_large_is_said_in_bytes(content: bytes) -> None:
    whole = len(content) + 16_000
    arena = kc.check(content, flash=whole).arena_bytes
    assert kc.check(content, flash=whole, arena=arena).fits
    found = kc.check(content, flash=whole - 1, arena=arena - 24)
    assert not found.fits
    assert found.reasons == (
        f"flash: {whole:,} B are needed, {whole - 1:,} B there are, 1 B too many",
        f"arena: {arena:,} B are needed, {arena - 24:,} B there are, 24 B too many",
    )
    assert "DOES NOT FIT" in repr(found)
    # What is given counts more than the board's, and code of one's own than the documented.
    assert not kc.check(content, "nrf52840", arena="1kB").fits
    assert not kc.check(content, flash=whole, code="17kB").fits


def test_refusals(content: bytes) -> None:
    with pytest.raises(ValueError, match="Expected `board`, `flash` or `arena`"):
        kc.check(content)
    with pytest.raises(ValueError, match="Expected a board out of rp2040.*'nrf52480' .did you mean 'nrf52840'"):
        kc.check(content, "nrf52480")
    for size in ("64 apples", "kB", 0, -1, True, float("nan"), "64GB", None):
        with pytest.raises(ValueError, match="Received: (flash|code)="):
            kc.check(content, flash=size if size is not None else 1, code=size)
    with pytest.raises(ValueError, match=r"Expected a valid .tflite file|flatbuffer"):
        kc.check(b"no file", "rp2040")


def test_command(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    command = ["keras-compress", "check", f"--model={path}"]
    assert cli.main([*command, "--board=stm32f407"]) == 0
    said = capsys.readouterr().out
    assert "fits stm32f407" in said
    assert "kernels and the program come on top" in said
    assert cli.main([*command, "--flash=1MB", "--arena=8kB", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is False
    assert found["reasons"][0].startswith("arena: ")
    assert found["arena_limit"] == 8000
    assert cli.main([*command]) == 1
    assert "Received: none of them" in capsys.readouterr().err
