"""The commands for a user's own models."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
from absl import flags

from keras_compress.cli import report as cli_report
from keras_compress.cli.command import command_line
from keras_compress.cli.data import Array, Data, Task, as_input, content_check, load_model, on_training_data, task_of
from keras_compress.cli.epochs import epochs_given
from keras_compress.cli.progress import CommandLine
from keras_compress.convert.artifact import Artifact
from keras_compress.convert.compressed import expand_content
from keras_compress.convert.convert import convert as convert_model
from keras_compress.convert.files import make_folder, save_keras_atomic, write_atomic
from keras_compress.convert.freeze import has_points
from keras_compress.core.global_state import set_seeds
from keras_compress.core.history import history_of
from keras_compress.core.outputs import check_not_read, check_output
from keras_compress.data.training import Training
from keras_compress.recipes.recipe import Recipe, Stage
from keras_compress.recipes.recipe import compress as apply_recipe
from keras_compress.report.causes import causes
from keras_compress.report.page.memory import memory_over_time
from keras_compress.report.page.report import page_figures
from keras_compress.report.stages import Deployed, latency_entry, stage_rows
from keras_compress.report.summary import summary
from keras_compress.report.tables import (
    MOST_OPERATORS,
    file_line,
    measurement_table,
    memory_table,
    storage_table,
    tensor_table,
)
from keras_compress.runtime.adb import measure_on_device
from keras_compress.runtime.c_export import export_c
from keras_compress.runtime.estimate import estimate as estimate_model
from keras_compress.runtime.kernels import KERNELS
from keras_compress.runtime.measure import Measurement, measure_all
from keras_compress.runtime.shipped import shipped
from keras_compress.runtime.target import target
from keras_compress.runtime.verify import verify as verify_model
from keras_compress.tflite.arithmetic import arithmetic
from keras_compress.tflite.inspection import inspect_tflite
from keras_compress.tflite.storage import ENCODINGS

# Samples that ranges are calibrated with.
CALIBRATION_SAMPLES = 500
# What `compress` writes beside its report.
_TRAINED, _CONVERTED = "model_compressed.keras", "model_compressed.tflite"
# Stages of recipes behind which activations are on integers.
_QUANTIZING = ("quantize_model", "quantize_post_training")


def compress(values: flags.FlagValues) -> int:
    """`keras-compress compress`; 1 where more than --max_drop was lost."""
    read = {f"--{key}": getattr(values, key) for key in ("model", "data", "recipe", "teacher")}
    written = (_TRAINED, _CONVERTED, cli_report.FILE_NAME, cli_report.FIGURES_NAME, cli_report.PAGE_NAME)
    for name in written:
        check_not_read(Path(values.out) / name, read, "what is written to --out")
    recipe = Recipe.load(values.recipe)
    epochs = epochs_given(values.epochs, recipe.trainings)
    recipe = recipe if epochs is None else recipe.trained_for(epochs)
    data = Data.load(values.data)
    model = load_model(values.model)
    teacher = load_model(values.teacher) if values.teacher else None
    _check_storage(values, model, recipe)
    folder = make_folder(values.out)
    x, y = data.part("train", "")
    split = "x_train" if "x_train" in data.arrays and "y_train" in data.arrays else "x"
    x_test, y_test = data.part("test", "train", "")
    seen_before = on_training_data(x_test, x)
    x, x_test = as_input(x, model, data.path), as_input(x_test, model, data.path)
    task = task_of(model, y)
    if not values.json:
        cli_report.say(f"Task: {task.name}. Loss: {task.reason}.")
    started = time.monotonic()
    with cli_report.collected_warnings() as notes:
        # Before the training: what cannot be converted at all is refused at once.
        original = convert_model(model, mode="float32")
        compressed = _train(model, recipe, x, y, task, values, teacher)
        told = [f"{line}." for line in history_of(compressed)]
        _save_trained(compressed, folder / _TRAINED)
        artifact = _deployable(compressed, x, values)
        artifact.save(folder / _CONVERTED)
        stages = {
            "original": _deployed(original, model, x_test, y_test, task),
            _other_than("original", recipe.name): _deployed(artifact, compressed, x_test, y_test, task),
        }
        rows, said = stage_rows(stages, x_test, y_test, task.metric)
    missed = _dropped(rows, task, values.max_drop)
    said = [*missed, *said]
    said += seen_before
    report = {
        "title": f"{Path(values.model).name} by recipe {recipe.name}, {len(y_test):,} samples",
        **cli_report.header(time.monotonic() - started),
        "seed": values.seed,
        "task": task.name,
        "loss": task.reason,
        "max_drop": values.max_drop,
        "stages": _named_metric(rows, task),
        "notes": [*said, *told, *_calibrated(artifact, split), *artifact.notes, *notes],
    }
    cli_report.save(report, folder)
    figures = page_figures(rows, artifact.content, artifact=artifact, model=compressed, original=model, x=x_test)
    page = cli_report.save_page(report, {**figures, "command": command_line("compress", values)}, folder)
    where = f"{_TRAINED}, {_CONVERTED} and {cli_report.FILE_NAME} are in {folder}."
    cli_report.show(values, report, where, *page)
    return int(bool(missed))


def _dropped(rows: list[dict[str, Any]], task: Task, most: float | None) -> list[str]:
    """What is to be said where the file lost more than is tolerated."""
    before, after = (row["accuracy"] for row in rows)
    drop = after - before if task.name == "regression" else before - after
    # 0.97 - 0.96 is a little more than 0.01.
    if most is None or drop <= most + 1e-9:
        return []
    what = "mean absolute error" if task.name == "regression" else "accuracy"
    return [f"MISSED --max_drop={most:g}: the {what} went from {before:.4g} to {after:.4g}, {drop:.4g} worse."]


def _check_storage(values: flags.FlagValues, model: keras.Model, recipe: Recipe) -> None:
    """Before the training: what the file could not have."""
    storage = values.weights_storage
    if storage in ENCODINGS and values.target != "tflm":
        raise ValueError(f"Expected --target=tflm for --weights_storage={storage}. Received: --target={values.target}")
    if values.max_arena_bytes is not None and values.target != "tflm":
        raise ValueError(f"Expected --target=tflm for --max_arena_bytes. Received: --target={values.target}")
    if values.target == "ethos_u" and storage not in (None, "int8"):
        raise ValueError(
            "Expected no --weights_storage for --target=ethos_u: Vela compresses weights itself. "
            f"Received: --weights_storage={storage}"
        )
    integers = has_points(model) or any(stage.method in _QUANTIZING for stage in recipe.stages)
    if not integers and (values.target == "ethos_u" or storage not in (None, "int8")):
        wanted = f"--weights_storage={storage}" if storage else "--target=ethos_u"
        raise ValueError(
            f"Expected a recipe with a stage `quantize_model` for {wanted}. "
            f"Received: {recipe.name}, whose file is float32"
        )


def _other_than(taken: str, name: str) -> str:
    return name if name != taken else f"{name} recipe"


def _train(
    model: keras.Model, recipe: Recipe, x: Array, y: Array, task: Task, values: flags.FlagValues, teacher: Any
) -> keras.Model:
    training = Training(decay=False, batch_size=values.batch_size, seed=None, jit_compile="auto")
    steps_per_epoch = training.on(x, y).steps_per_epoch
    set_seeds(values.seed, model)
    with CommandLine(sum(stage.epochs for stage in recipe.stages) * steps_per_epoch) as line:

        def fit(stage_model: keras.Model, stage: Stage) -> None:
            what = f"training stage {stage.name}"
            line.begin(what)
            shown = replace(training, loss=task.new_loss(), callbacks=[line.callback(what, stage.epochs)])
            shown.on(x, y)(stage_model, stage)

        few = x[:CALIBRATION_SAMPLES] if any(_takes_inputs(stage) for stage in recipe.stages) else None
        return apply_recipe(model, recipe, steps_per_epoch=steps_per_epoch, fit=fit, data=few, teacher=teacher)


def _takes_inputs(stage: Stage) -> bool:
    """Whether a stage quantizes by inputs, which a recipe cannot hold."""
    return stage.method == "quantize_post_training" and stage.config.get("level") in (2, 3)


def _save_trained(model: keras.Model, path: Path) -> None:
    """Saves the model; where that fails, elsewhere: a disk that is full must not cost the training."""
    try:
        save_keras_atomic(model, path)
    except OSError as error:
        elsewhere = Path(tempfile.mkdtemp(prefix="keras_compress-")) / path.name
        try:
            save_keras_atomic(model, elsewhere)
        except OSError:
            raise error from None
        raise OSError(error.errno, f"{error.strerror}. The trained model was saved as {elsewhere}") from error


def _deployable(model: keras.Model, x: Array, values: flags.FlagValues) -> Artifact:
    if not has_points(model):
        return convert_model(model, values.target, mode="float32")
    return convert_model(
        model,
        values.target,
        representative_dataset=x[:CALIBRATION_SAMPLES],
        weights_storage=values.weights_storage,
        max_arena_bytes=values.max_arena_bytes,
    )


def _deployed(artifact: Artifact, model: keras.Model, x: Array, y: Array, task: Task) -> Deployed:
    outputs = (artifact.frozen or model).predict(x, batch_size=256, verbose=0)
    return Deployed(artifact.content, task.metric([outputs], y), artifact.runtime)


def _named_metric(rows: list[dict[str, Any]], task: Task) -> list[dict[str, Any]]:
    """Rows in which an accuracy is one; the error of a regression has its own name."""
    if task.name != "regression":
        return rows
    names = {"accuracy": "mean_absolute_error", "simulated_accuracy": "simulated_mean_absolute_error"}
    return [{names.get(key, key): value for key, value in row.items()} for row in rows]


def convert(values: flags.FlagValues) -> None:
    """`keras-compress convert`."""
    batch_size = _batch_size(values.batch_size)
    metadata = _metadata(values.metadata)
    path = _file_to_write(values.out, model=values.model, data=values.data)
    model = load_model(values.model)
    if values.mode is None and not values.data and not has_points(model):
        raise ValueError(
            "Expected --data= to find the ranges for int8, or --mode=float32, float16 or dynamic, for a plain model. "
            f"Received: neither, for {values.model}"
        )
    make_folder(path.parent)
    examples, split = None, ""
    if values.data:
        data = Data.load(values.data)
        split = data.samples_key("train", "", "test")
        examples = as_input(data.arrays[split], model, data.path)[:CALIBRATION_SAMPLES]
    with cli_report.collected_warnings() as notes:
        artifact = convert_model(
            model,
            values.target,
            mode=values.mode,
            representative_dataset=examples,
            io=values.io,
            weights_storage=values.weights_storage,
            max_arena_bytes=values.max_arena_bytes,
            recurrent=values.recurrent,
            batch_size=batch_size,
            sparsity=values.sparsity,
            metadata=metadata,
        )
    artifact.save(path)
    lines = [f"{path}: mode {artifact.mode}, {file_line(artifact.stats)}"]
    lines += [f"Left in float32: {op.op} at {op.tensor}: {op.reason}" for op in artifact.float_ops]
    lines += [*_calibrated(artifact, split), *artifact.notes, *notes]
    cli_report.answer(values, {"file": str(path), "mode": artifact.mode, **artifact.stats.to_dict()}, [], lines)


def _metadata(path: str | None) -> Any:
    """What a .json file says of the model."""
    if path is None:
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected a .json file for --metadata. Received: {path} ({error})") from error


def _batch_size(text: str) -> int | str | None:
    if not text.isdecimal() and text not in ("any", "auto"):
        raise ValueError(f"Expected a number, any or auto for --batch_size. Received: --batch_size={text}")
    return int(text) if text.isdecimal() else None if text == "any" else text


def _calibrated(artifact: Artifact, split: str) -> list[str]:
    """What set the ranges of activations that training did not set."""
    count = artifact.calibration_samples
    return [f"Calibrated with the first {count:,} samples of {split}."] if count else []


def _file_to_write(out: str, **read: str | None) -> Path:
    return check_output(out, ".tflite", {f"--{key}": name for key, name in read.items()}, "--out")


def expand(values: flags.FlagValues) -> None:
    """`keras-compress expand`."""
    path = _file_to_write(values.out, model=values.model)
    content = Path(values.model).read_bytes()
    make_folder(path.parent)
    try:
        plain = expand_content(content)
    except ValueError as error:
        raise ValueError(f"{values.model}: {error}") from error
    write_atomic(path, plain)
    same = ": no weights were encoded" if plain == content else ""
    cli_report.say(f"{path}: {len(plain):,} B from {len(content):,} B{same}")


def measure(values: flags.FlagValues) -> None:
    """`keras-compress measure`."""
    if values.device:
        _measure_on_device(values)
        return
    if values.benchmark_model or values.serial:
        raise ValueError("Expected --device=adb for --benchmark_model and --serial. Received: no --device")
    files = {Path(values.model).name: values.model}
    if values.baseline:
        name = Path(values.baseline).name
        files = {f"{name} (baseline)" if name in files else name: values.baseline, **files}
    x = y = None
    notes = []
    if values.data:
        data = Data.load(values.data)
        if any(key.startswith("y") for key in data.arrays):
            x, y = data.part("test", "", "train")
            notes += on_training_data(x, data.arrays.get("x_train"))
        else:
            x = data.samples("test", "", "train")
            notes.append(f"No accuracy: {values.data} has no labels (y_test, y or y_train).")
    keys = ("target", "runs", "threads", "delegate", "alt_decompression_memory_bytes")
    options = {key: getattr(values, key) for key in keys}
    found = measure_all(files, x, y, **options)
    rows = [_row(files[label], entry) for label, entry in found.items()]
    lines = [*(_conditions(label, entry) for label, entry in found.items()), *notes]
    if values.target == "litert":
        lines += causes(rows)
    figures = {"measured": {label: entry.to_dict() for label, entry in found.items()}}
    cli_report.answer(values, figures, [measurement_table(rows)], lines)


def _measure_on_device(values: flags.FlagValues) -> None:
    """Each file on the device that is plugged in."""
    if values.target != "litert" or values.data:
        raise ValueError("Expected --target=litert and no --data for --device=adb, where inputs are random numbers")
    options = {key: getattr(values, key) for key in ("benchmark_model", "serial", "threads", "runs")}
    found = [measure_on_device(file, **options) for file in filter(None, (values.baseline, values.model))]
    figures = {"measured": {each.label: each.to_dict() for each in found}}
    cli_report.answer(values, figures, [], [repr(each) for each in found])


def _row(path: str, found: Measurement) -> dict[str, Any]:
    kind = arithmetic(expand_content(Path(path).read_bytes()))
    row: dict[str, Any] = {"name": found.label, "arithmetic": kind, "accuracy": found.accuracy}
    if found.accuracy is None:
        del row["accuracy"]
    row.update({key: getattr(found, key) for key in ("raw_bytes", "gzip_bytes", "weight_payload_bytes", "sparsity")})
    row["distinct_values"] = max(found.distinct_values.values(), default=0)
    if found.target != "tflm":
        row["litert_latency_ms"] = latency_entry(found)
    else:
        row["tflm_arena_bytes"] = found.memory["arena_bytes"]
    return row


def _conditions(label: str, found: Measurement) -> str:
    latency = found.latency
    memory = ", ".join(f"{key} {value:,}" for key, value in found.memory.items())
    host = " (this computer's, not a microcontroller's)" if found.target == "tflm" else ""
    spread = f"p10 {latency.p10_ms:.4f}, p90 {latency.p90_ms:.4f}"
    where = f"{latency.threads} thread, {latency.delegate}, {latency.cpu}, {latency.architecture}"
    return f"{label}: {latency.median_ms:.4f} ms{host}, {spread}, {latency.runs} runs, {where}; {memory}"


def inspect(values: flags.FlagValues) -> None:
    """`keras-compress inspect`."""
    path = Path(values.model)
    content_check(path)
    if path.suffix == ".keras":
        found = summary(load_model(path), print_fn=print if not values.json else lambda text: None)
        if values.json:
            cli_report.answer(values, {"rows": [asdict(row) for row in found.rows]}, [], found.notes())
        return
    stats = inspect_tflite(path, alternatives=True)
    content = path.read_bytes()
    steps = memory_over_time(content)
    tables: list[Any] = [tensor_table(stats, path.name)]
    if stats.weights:
        tables.append(storage_table(stats))
    tables.append(memory_table(steps, f"Working memory: the {min(len(steps), MOST_OPERATORS)} hungriest operators"))
    kind = arithmetic(expand_content(content))
    lines = [f"{file_line(stats)}", f"Multiplies as {kind}."]
    lines.append("RAM counts the tensors in use; kernels' own buffers are not in the file.")
    cli_report.answer(values, {"arithmetic": kind, **stats.to_dict(), "memory": steps}, tables, lines)


def _kernels(values: flags.FlagValues) -> tuple[str, ...]:
    """What a file is verified on: the target's kernels, and a delegate."""
    if not values.delegate:
        return KERNELS[values.target]
    if values.target != "litert":
        raise ValueError(f"Expected --target=litert for --delegate. Received: --target={values.target}")
    return (*KERNELS["litert"], values.delegate)


def verify(values: flags.FlagValues) -> int:
    """`keras-compress verify`; 1 where an operator is beyond its bound."""
    model = load_model(values.model)
    data = Data.load(values.data)
    x = as_input(data.samples("test", "", "train"), model, data.path)
    reason = target(values.target).available()
    if reason is not None:
        raise RuntimeError(f"Target {values.target!r} cannot be run here: {reason}")
    kernels = _kernels(values)
    if values.file and values.weights_storage:
        raise ValueError("Expected --file or --weights_storage: the file has one already. Received: both")
    with cli_report.collected_warnings() as notes:
        artifact = _to_verify(values, model, x, data)
        found = verify_model(artifact, model, x, kernels=kernels, strict=False)
    entry = cli_report.verification_entry(found)
    # The ranges of a file are its own, whatever set them.
    calibrated = [] if values.file else _calibrated(artifact, data.samples_key("train", "", "test"))
    lines = [*entry.pop("lines"), *calibrated]
    if artifact.lowered is not None:
        lines.append(f"The compressed file gave the plain one's outputs, bit for bit, on {len(x):,} samples.")
    figures = {**entry, "operators": [asdict(row) for row in found.rows]}
    cli_report.answer(values, figures, [cli_report.verification_table(found)], [*lines, *notes])
    return 0 if found.ok else 1


def _to_verify(values: flags.FlagValues, model: keras.Model, x: Array, data: Data) -> Artifact:
    if values.file:
        return shipped(values.file, model, x, KERNELS[values.target])
    examples = as_input(data.samples("train", "", "test"), model, data.path)[:CALIBRATION_SAMPLES]
    return convert_model(model, values.target, representative_dataset=examples, weights_storage=values.weights_storage)


def export(values: flags.FlagValues) -> None:
    """`keras-compress export`."""
    options = {key: getattr(values, key) for key in ("name", "arena_bytes", "compile_with")}
    paths = export_c(values.model, values.out, **options)
    cli_report.say(*(f"{path}: {path.stat().st_size:,} bytes" for path in paths))


def estimate(values: flags.FlagValues) -> None:
    """`keras-compress estimate`."""
    names = (
        *("accelerator", "system_config", "memory_mode", "optimise", "save_to"),
        *("core", "clock_mhz"),
        *("weights", "activations", "sram_bytes", "flash_pj"),
    )
    options = {name: getattr(values, name) for name in names if getattr(values, name) is not None}
    estimated = estimate_model(values.model, values.target, **options)
    device = ", ".join(f"{key} {value}" for key, value in estimated.options.items() if value is not None)
    ram = "RAM not known" if estimated.ram_bytes is None else f"RAM {estimated.ram_bytes:,} B"
    lines = [
        f"{values.model} on {estimated.target}: {estimated.kind}",
        device,
        f"flash {estimated.flash_bytes:,} B, {ram}, {estimated.macs:,} MACs"
        + ("" if estimated.cycles is None else f", {estimated.cycles:,} cycles"),
    ]
    if estimated.time_ms is not None and estimated.inferences_per_second is not None:
        lines.append(
            f"{estimated.time_ms:.4g} ms at {estimated.clock_mhz:g} MHz, "
            f"{estimated.inferences_per_second:,.1f} inferences a second"
        )
    lines += [f"{key}: {_figure(value)}" for key, value in estimated.figures.items()]
    lines += [*(f"On the CPU: {entry}" for entry in estimated.cpu_operators), *estimated.notes]
    cli_report.answer(values, estimated.to_dict(), [], lines)


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_figure(entry)}" for key, entry in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
