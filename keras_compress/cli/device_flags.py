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


def _fit_flags(define: Definer) -> None:
    define.text("model", None, "Trained Keras model, a .keras file.")
    define.data("Data to train with; x_val, y_val (or a tenth of it) for choices; x_test, y_test for the end.")
    define.text("out", "fit", "Folder for files and trials: the same command goes on there.")
    define.choice("target", "tflm", ["tflm", "litert"], "Runtime: of microcontrollers, or of phones.")
    _limits(define)
    define.text("code", None, "tflm: what of --flash the runtime takes; by default its core's 16kB.")
    define.text("bytes", None, "Largest file, such as 48kB; beside --flash or --board the smaller limit counts.")
    define.real("latency_ms", "litert: longest time of an inference, measured here.")
    define.real("energy_uj", "Most microjoules of an inference, by published energies of operations.")
    define.text("max_drop", "1%", "Tolerated loss of the metric, such as 1% or 0.01.")
    methods = "What may be done, such as channels,training: channels, low_rank, sparsity, clusters, bits, training."
    define.numbers("methods", f"{methods} By default all that help on the target.")
    define.number("trials", 20, 1, "Settings that are tried, by all processes together.")
    define.choice("sampler", "tpe", ["tpe", "nsga2", "random"], "How settings are drawn.")
    shared = "Where trials are kept: a journal file, an .db file of SQLite, or a database's URL. Every process that is"
    define.text("study", None, f"{shared} given the same command works on one search; by default a journal in --out.")
    define.numbers("epochs", "Of the steps channels (low rank too), prune, cluster, quantize; 4,3,3,2; one for all.")
    define.real("learning_rate", "Of the first batch of each step; by default 0.001, cluster 0.0005, quantize 0.0002.")
    define.number("batch_size", 64, 1, "Samples in a training batch.")
    define.number("seed", 0, 0, "Seed of the search and of shuffling.")


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
    "fit": Command(
        "Make a .keras model fit a budget: flash and arena of a microcontroller, or a phone's latency.",
        "Searches what to cut, prune, cluster, quantize and train, by Optuna (the extra search); sizes are known "
        "before anything is trained. Writes best.tflite, best.keras and report.html. Start the same command several "
        "times, on one computer or more with a shared --out: they share the trials, and one that is killed loses none. "
        "Exit code 1 where nothing is within the budget: what comes nearest is named.",
        f"{PROGRAM} fit --model=m.keras --data=data.npz --flash=256kB --arena=64kB --max_drop=1% --out=fit",
        "keras_compress.cli.fit:run",
        _fit_flags,
        ("model", "data"),
        figures=True,
    ),
}
