"""The sub-commands about devices and their flags. Light: loads neither Keras nor TensorFlow."""

from __future__ import annotations

from keras_compress.cli.command import PROGRAM, Command, Definer

# As in `runtime/boards.py`, which a test holds this to: it is not imported here, where help is to come at once.
BOARD_NAMES = (
    *("rp2040", "nucleo_g0b1re", "nrf52840", "nano33ble", "stm32f407", "nucleo_l4r5zi", "stm32f746", "stm32h743"),
    *("esp32s3", "alif_e7"),
)


def _estimate_flags(define: Definer) -> None:
    define.text("model", None, "The .tflite file.")
    targets = "Arm's microNPU, by its compiler Vela; a processor; or joules by published energies of operations."
    define.choice("target", None, ["ethos_u", "cortex_m", "energy"], targets)
    define.text("accelerator", None, "ethos_u: ethos-u55-32 to -256, ethos-u65-256, -512, ethos-u85-128 to -2048.")
    define.text("system_config", None, "ethos_u: a section of the vela.ini that comes with Vela.")
    define.text("memory_mode", None, "ethos_u: the same, such as Sram_Only.")
    define.choice("optimise", None, ["Performance", "Size"], "ethos_u: what Vela compiles for.")
    define.text("save_to", None, "ethos_u: where the file that Vela compiled goes.")
    define.choice("core", None, ["m0+", "m3", "m4", "m7", "m33", "m55"], "cortex_m: by default m4.")
    define.number("clock_mhz", None, 1, "cortex_m: clock that times are given for.")
    define.choice("weights", None, ["dram", "sram", "flash"], "energy: memory that weights are read from; dram.")
    define.choice("activations", None, ["sram", "dram"], "energy: memory of all other tensors; by default sram.")
    define.number("sram_bytes", None, 1, "energy: size of the SRAM, at most 1 MiB, which it is by default.")
    define.real("flash_pj", "energy: picojoules of reading 64 bits of flash, from its datasheet.")


def _limits(define: Definer) -> None:
    define.text("board", None, f"Gives --flash and --arena: {', '.join(BOARD_NAMES)}.")
    define.text("flash", None, "Flash for the file and the code, such as 256kB (256,000 bytes) or 256KiB.")
    define.text("arena", None, "RAM for TFLite-Micro's arena, such as 64kB.")


def _check_flags(define: Definer) -> None:
    define.text("model", None, "The .tflite file.")
    _limits(define)
    define.text("code", None, "What the runtime takes beside the file; by default its core's 16kB.")


DEVICE_COMMANDS: dict[str, Command] = {
    "estimate": Command(
        "Estimate what a .tflite file would need on a device: flash, RAM, cycles, time, energy.",
        "Models of the devices, not measurements: Vela's (the extra ethos-u), published cycles per multiplication of "
        "Cortex-M, or published energies of operations. docs/estimates.md tells how far to trust them.",
        f"{PROGRAM} estimate --model=m.tflite --target=ethos_u --accelerator=ethos-u55-128",
        "keras_compress.cli.commands:estimate",
        _estimate_flags,
        ("model", "target"),
        figures=True,
    ),
    "check": Command(
        "Tell whether a .tflite file fits a microcontroller, and what its peak is.",
        "Flash is the file and the runtime's code, RAM the smallest arena in which TFLite-Micro starts the file here. "
        "Exit code 1 where it does not fit, for CI.",
        f"{PROGRAM} check --model=m.tflite --board=nrf52840",
        "keras_compress.cli.check:run",
        _check_flags,
        ("model",),
        figures=True,
    ),
}
