"""Microcontrollers: the flash and the RAM that a model may take, core and clock, with where each figure comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keras_compress.core.suggest import did_you_mean

_KIB = 1024


@dataclass(frozen=True)
class Board:
    """A microcontroller.

    Attributes:
        title: As its maker calls it.
        flash_bytes: Flash for code and model together.
        ram_bytes: The largest stretch of RAM with one address after the other, in which an arena may lie. Stack, heap
            and the rest of the program need some of it.
        core: As in `kc.estimate(..., "cortex_m", core=)`; another name where that has no figures of it.
        clock_mhz: The highest clock.
        source: Data sheet and what was read in it.
    """

    title: str
    flash_bytes: int
    ram_bytes: int
    core: str
    clock_mhz: float
    source: str


BOARDS: Mapping[str, Board] = {
    "rp2040": Board(
        "Raspberry Pi Pico, RP2040, Cortex-M0+",
        2048 * _KIB,
        264 * _KIB,
        "m0+",
        133.0,
        "Raspberry Pi Pico datasheet (2 MB of external flash); RP2040 datasheet, section 2.6 (264 kB of SRAM)",
    ),
    "nucleo_g0b1re": Board(
        "NUCLEO-G0B1RE, STM32G0B1RE, Cortex-M0+",
        512 * _KIB,
        144 * _KIB,
        "m0+",
        64.0,
        "STM32G0B1xB/xC/xE datasheet, DS13560 (144 kB of SRAM, without its parity check)",
    ),
    "nrf52840": Board(
        "nRF52840, Cortex-M4",
        1024 * _KIB,
        256 * _KIB,
        "m4",
        64.0,
        "nRF52840 Product Specification, section Memory",
    ),
    "nano33ble": Board(
        "Arduino Nano 33 BLE, nRF52840, Cortex-M4",
        983_040,
        256 * _KIB,
        "m4",
        64.0,
        "nRF52840 Product Specification; Arduino's core for mbed boards, boards.txt (upload.maximum_size: its "
        "bootloader takes the rest)",
    ),
    "stm32f407": Board(
        "STM32F407xG, Cortex-M4",
        1024 * _KIB,
        128 * _KIB,
        "m4",
        168.0,
        "STM32F405xx/407xx datasheet, DS8626 (SRAM1 and SRAM2; 64 kB of CCM lie elsewhere)",
    ),
    "nucleo_l4r5zi": Board(
        "NUCLEO-L4R5ZI, STM32L4R5ZI, Cortex-M4",
        2048 * _KIB,
        640 * _KIB,
        "m4",
        120.0,
        "STM32L4R5xx datasheet, DS12023 (SRAM1 to SRAM3, one behind the other)",
    ),
    "stm32f746": Board(
        "STM32F746xG, Cortex-M7",
        1024 * _KIB,
        320 * _KIB,
        "m7",
        216.0,
        "STM32F745xx/746xx datasheet, DS10916 (DTCM, SRAM1 and SRAM2, one behind the other)",
    ),
    "stm32h743": Board(
        "STM32H743xI, Cortex-M7",
        2048 * _KIB,
        512 * _KIB,
        "m7",
        480.0,
        "STM32H742xI/743xI datasheet, DS12110 (AXI SRAM; half of the chip's RAM lies elsewhere)",
    ),
    "esp32s3": Board(
        "ESP32-S3-WROOM-1-N8, Xtensa LX7",
        8192 * _KIB,
        416 * _KIB,
        "lx7",
        240.0,
        "ESP32-S3-WROOM-1 datasheet (8 MB of flash); ESP32-S3 Technical Reference Manual, internal SRAM1",
    ),
    "alif_e7": Board(
        "Alif Ensemble E7, Cortex-M55 with Ethos-U55-256",
        5632 * _KIB,
        4096 * _KIB,
        "m55",
        400.0,
        "Alif Ensemble E7 datasheet (5.5 MB of MRAM); Alif's white paper on RAM regions (SRAM0)",
    ),
}


def board(name: str) -> Board:
    """A board by its name.

    Raises:
        ValueError: For an unknown one.

    >>> board("nano33ble").core
    'm4'
    """
    if name not in BOARDS:
        raise ValueError(f"Expected a board out of {', '.join(BOARDS)}. Received: {name!r}{did_you_mean(name, BOARDS)}")
    return BOARDS[name]
