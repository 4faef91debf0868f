"""`convert`: from a Keras model to a `.tflite` file that is proved to hold its integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras

from keras_compress.convert.artifact import Artifact, runtime_of
from keras_compress.convert.batch_size import AUTO, BatchSize, batch_of, check_batch_size, is_free, notes_of_fixed
from keras_compress.convert.compressed import CompressedFile, bit_file, check_arena, compress_content
from keras_compress.convert.costs import notes_of_cost
from keras_compress.convert.distance import Distance, distance, notes_of_distance
from keras_compress.convert.export import export
from keras_compress.convert.flatten import as_graph
from keras_compress.convert.float_file import float_tables
from keras_compress.convert.freeze import freeze, is_frozen, points_in
from keras_compress.convert.lost import notes_of_lost
from keras_compress.convert.lower import Lowered, lower
from keras_compress.convert.lstm.form import RECURRENT
from keras_compress.convert.read_back import check_integers
from keras_compress.convert.refusals import check_layers, check_static_shapes
from keras_compress.convert.sparse_file import check_sparsity, sparse_file
from keras_compress.core import progress
from keras_compress.core.context import float32_policy
from keras_compress.core.garbage import older_objects_apart
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.suggest import did_you_mean
from keras_compress.data.samples import Peekable, first_of, peekable
from keras_compress.graph import graph
from keras_compress.graph.finite import check_finite
from keras_compress.graph.input_points import input_points_apart
from keras_compress.graph.model import check_model, check_phases_ended, warn_of_pending
from keras_compress.ir.emit import emit
from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.metadata import Metadata, as_metadata, with_metadata
from keras_compress.tflite.plan import IO_TYPES, MODES, LoweringPlan
from keras_compress.tflite.sparse_kernels import SPARSITIES
from keras_compress.tflite.storage import BITS, ENCODINGS, STORAGES, Storage, as_notes, current_storage, default_storage

TARGETS = ("litert", "tflm", "ethos_u")
# What else they are called.
_OTHER_NAMES = {
    **dict.fromkeys(("tflite", "tensorflow_lite", "lite_rt", "phone", "android"), "litert"),
    **dict.fromkeys(("tflite_micro", "tensorflow_lite_micro", "micro", "microcontroller", "cortex_m"), "tflm"),
    **dict.fromkeys(("ethos", "vela", "npu"), "ethos_u"),
}
_INTEGER_MODES = ("int8", "16x8")
# TFLite-Micro has no kernels for float activations with integer weights, and none for float16 constants.
_MODES_OF = {"litert": MODES, "tflm": ("float32", *_INTEGER_MODES), "ethos_u": _INTEGER_MODES}


@progress.shown("converting")
@older_objects_apart()
@global_state_kept()
@float32_policy()
def convert(
    model: keras.Model,
    target: str = "litert",
    *,
    mode: str | None = None,
    representative_dataset: Any = None,
    io: str = "float32",
    weights_storage: str | None = None,
    max_arena_bytes: int | None = None,
    recurrent: str = "auto",
    batch_size: BatchSize = AUTO,
    sparsity: str = "auto",
    strict: bool = False,
    metadata: Metadata | Mapping[str, Any] | None = None,
) -> Artifact:
    """Convert a model to `.tflite`.

    Args:
        model: Built model, a subclassed one too: plain, made by this library, or frozen.
        target: `"litert"` (phones), `"tflm"` (microcontrollers), or `"ethos_u"`: the file that Arm's Vela takes.
        mode: `"int8"`, `"16x8"` (int16 activations, int8 weights), `"dynamic"` (int8 weights, float activations),
            `"float16"` or `"float32"`. By default int8, or 16x8 for a model trained with 16-bit activations alone. In
            int8, points of 16 bits beside those of 8 keep them: what reads or makes them is computed as in 16x8.
        representative_dataset: Data to calibrate activation ranges that training did not set: arrays, a
            `tf.data.Dataset`, or a function that yields batches, as for the TFLite converter. Also wanted with trained
            ranges where one layer becomes several (separable, recurrent, attention, normalizations).
        io: Type of inputs and outputs: `"float32"`, `"int8"`, `"uint8"`, or `"int16"` for 16x8.
        weights_storage: For int8: `"int8"`; `"int4"` (-7 to 7) or `"int2"` (-1 to 1) packs each weight whose integers
            fit and whose operator takes it on the target, and notes the others with the reason. On TFLite-Micro
            `"lut"`, `"bitmap"` and `"huffman"` (16x8 too) store weights so where it makes the file smaller; the runtime
            decodes each right before it is used. `"auto"`: there the smallest of the three for each tensor; on LiteRT
            INT4 where that costs neither time nor memory. `"bits"`: a bit or two for each weight of layers whose
            weights have few values and whose inputs have two bits or less (binary and ternary nets), in operators of
            kc_binary (docs/native.md); no stock runtime takes the file, `kc.expand` gives the stock one. Default:
            `"auto"` on LiteRT, `"int8"` on TFLite-Micro.
        max_arena_bytes: For `"tflm"`: largest arena, in bytes, as the host measures it; layers are split to fit it.
        recurrent: For int8: `"fused"` makes an LSTM one operator over all steps, `"unrolled"` one small graph for each
            step (what has no operator is). `"auto"` fuses LSTMs on TFLite-Micro, on LiteRT those over more than 64
            steps, and `notes` say so. The operator keeps its states: reset them before each sequence.
        batch_size: Samples that the file takes at a time. A number; `None` for LiteRT: any, after
            `resize_tensor_input`, where an operator that fixes their number is an error. `"auto"`: that of the model's
            `Input(batch_size=)`, or any on LiteRT (`notes` say what fixes it), and 1 on TFLite-Micro.
        sparsity: For LiteRT in float32 and int8: how weights with zeros are stored. `"auto"`: those of dense layers
            without their blocks of zeros, where that is faster (float32: 4 inputs of an output; int8: 16), the others
            with all zeros. `"block"`: wherever a kernel takes it, 1x1 convolutions in float32 too, whose zeros are
            skipped on Arm and in LiteRT.js; operators that would be computed wrong there are an error. `"none"`.
        strict: Raise where an operator would stay in float32, a weight unpacked, a layer unrolled, or with
            `sparsity="block"` pruned weights dense, unasked for.
        metadata: For `"litert"`: what apps may read of the model in its file, `kc.Metadata(name=...)` or a mapping.

    Returns:
        The file's bytes and its report, with the distance from the model to it. Nothing is written.

    Raises:
        ValueError: For arguments out of range, unknown ranges, a layer that cannot be lowered (by name), or integers
            in the file that are not the frozen model's.
        RuntimeError: For `max_arena_bytes` where TFLite-Micro is not available.
        ConversionError: Where the TFLite converter fails, with the lines of its log that name the cause.
    """
    _check_model(model, target)
    described = _metadata(metadata, target)
    representative_dataset = peekable(representative_dataset)
    examples = _seen_again(representative_dataset)
    mode = _chosen_mode(model, mode, representative_dataset)
    weights_storage = current_storage(weights_storage or default_storage(target))
    check_arguments(target, mode, io, weights_storage, max_arena_bytes, recurrent, sparsity)
    check_batch_size(batch_size, target)
    warn_of_pending(model)
    if mode in ("float32", "float16"):
        plain = _float_file(model, target, mode, io, representative_dataset, batch_size)
        return _described(_without_zeros(plain, sparsity, strict), described)
    storage = _storage(target, mode, weights_storage)
    frozen, unpacked, lowered, written = _lowered(
        model, target, storage, mode, io, representative_dataset, recurrent, batch_size, strict
    )
    any_batch = is_free(frozen, batch_size, target) and not lowered.fixed_by
    final = _small(lowered.content, mode, storage, max_arena_bytes, any_batch, written)
    distances = _distance(model, frozen, examples)
    notes = (*unpacked, *_recurrent_notes(frozen), *notes_of_lost(model, frozen), *lowered.notes, *final.notes)
    costs = _cost_notes(model, frozen, final, target) if mode in _INTEGER_MODES else []
    artifact = Artifact(
        final.content,
        target,
        mode,
        io,
        frozen,
        lowered.point_tensors,
        tuple(lowered.float_ops),
        (*notes_of_distance(distances), *notes, *costs, *notes_of_fixed(lowered.fixed_by, batch_size)),
        storage,
        None if final.content == lowered.content else lowered.content,
        distances,
    )
    return _described(_as_bits(_without_zeros(artifact, sparsity, strict), strict), described)


def _as_bits(artifact: Artifact, strict: bool) -> Artifact:
    """The artifact with weights of few values as bits, if that was asked for; `lowered` is then the stock file."""
    if artifact.storage.wanted != BITS:
        return artifact
    found = bit_file(artifact.content, strict)
    lowered = artifact.lowered if found.content is artifact.content else artifact.plain
    return replace(artifact, content=found.content, lowered=lowered, notes=(*artifact.notes, *found.notes))


def _without_zeros(artifact: Artifact, sparsity: str, strict: bool) -> Artifact:
    """The artifact with sparse weights where its runtime skips their zeros; `lowered` is then the dense file."""
    if artifact.target != "litert":
        return artifact
    found = sparse_file(artifact.content, sparsity, artifact.mode, strict)
    lowered = artifact.lowered if found.content is artifact.content or artifact.mode == "float32" else artifact.plain
    return replace(artifact, content=found.content, lowered=lowered, notes=(*artifact.notes, *found.notes))


def _metadata(given: Metadata | Mapping[str, Any] | None, target: str) -> Metadata | None:
    if given is not None and target != "litert":
        raise ValueError(f"Expected no `metadata` for target {target!r}: nothing there reads it. Received: {given!r}")
    return as_metadata(given)


def _described(artifact: Artifact, metadata: Metadata | None) -> Artifact:
    """The artifact with metadata in its file; the plain file, if there is another, stays without."""
    return artifact if metadata is None else replace(artifact, content=with_metadata(artifact.content, metadata))


def _small(
    content: bytes, mode: str, storage: Storage, max_arena_bytes: int | None, any_batch: bool, graph: Graph
) -> CompressedFile:
    """An integer file without what is of no use, stored as it is wanted; another one as it is."""
    if mode not in _INTEGER_MODES:
        return CompressedFile(content, ())
    progress.step("compressing")
    return compress_content(
        content,
        storage.wanted,
        encode=storage.encodes,
        max_arena_bytes=max_arena_bytes,
        any_batch=any_batch,
        graph=graph,
    )


def _cost_notes(model: keras.Model, frozen: keras.Model, final: CompressedFile, target: str) -> list[str]:
    """Where the file is likely larger or slower than float32 would be; of speed only LiteRT's kernels are known."""
    return notes_of_cost(model, frozen, final.content, final.graph if target == "litert" else None)


def _check_model(model: keras.Model, target: str) -> None:
    """Refuses models that no file can hold."""
    check_model(model)
    _check_target(target)
    check_phases_ended(model)
    check_finite(model)
    check_layers(model)
    if graph.is_graph(model):
        check_static_shapes(model)


def _float_file(
    model: keras.Model, target: str, mode: str, io: str, representative_dataset: Any, batch_size: BatchSize
) -> Artifact:
    progress.step("writing the operators")
    if is_frozen(model):
        raise ValueError("Expected a training or plain model for a float mode. Received: a frozen model")
    plain = input_points_apart(as_graph(model, first_of(representative_dataset)))
    emitted, made_by = float_tables(plain, model, batch_of(plain, batch_size) or 1, target)
    lowered = lower(emitted, LoweringPlan(mode, io, runtime_of(target), is_free(plain, batch_size, target)))
    notes = (*made_by, *lowered.notes, *notes_of_fixed(lowered.fixed_by, batch_size))
    return Artifact(lowered.content, target, mode, io, None, lowered.point_tensors, (), notes)


def _recurrent_notes(frozen: keras.Model) -> tuple[str, ...]:
    return getattr(frozen, "recurrent_notes", ())  # a frozen model that was loaded has none


def _seen_again(representative_dataset: Any) -> Any:
    """The data, or the first item of what can be gone through once, which is gone when the ranges are known."""
    return first_of(representative_dataset) if isinstance(representative_dataset, Peekable) else representative_dataset


def _distance(model: keras.Model, frozen: keras.Model, examples: Any) -> Distance | None:
    if examples is None or is_frozen(model):
        return None
    progress.step("comparing with the trained model")
    return distance(model, frozen, examples)


def _lowered(
    model: keras.Model,
    target: str,
    storage: Storage,
    mode: str,
    io: str,
    representative_dataset: Any,
    recurrent: str,
    batch_size: BatchSize,
    strict: bool,
) -> tuple[keras.Model, tuple[str, ...], Lowered, Graph]:
    """The frozen model, notes of weights that are not packed, the file with the frozen model's integers, it as read."""
    progress.step("freezing")
    frozen = freeze(
        model,
        representative_dataset,
        activation_bits=16 if mode == "16x8" else 8,
        activations=mode in _INTEGER_MODES,
        storage=storage,
        recurrent=recurrent,
        batch_size=batch_size,
    )
    without = getattr(frozen, "without_operator", ())  # a frozen model that was loaded does not tell
    if strict and recurrent == "fused" and without:
        listed = "; ".join(without)
        raise ValueError(f"Expected LSTMs with an operator of their own (strict=True). Received: {listed}")
    progress.step("writing the operators")
    exported = export(frozen, storage, model)
    unpacked = as_notes(exported.unpacked, storage)
    if strict and storage.asked and unpacked:
        raise ValueError(f"Expected packed weights only (strict=True). Received: {'; '.join(unpacked)}")
    progress.step("lowering to integers")
    emitted = emit(exported.graph)
    lowered = lower(emitted, LoweringPlan(mode, io, storage.target, is_free(frozen, batch_size, target)))
    if strict and lowered.float_ops and mode in _INTEGER_MODES:
        listed = "; ".join(f"{op.op} at {op.tensor}: {op.reason}" for op in lowered.float_ops)
        raise ValueError(f"Expected integer operators only (strict=True). Received: {listed}")
    progress.step("reading back")
    return frozen, unpacked, lowered, check_integers(lowered.content, mode, emitted.weights.values(), frozen)


def _chosen_mode(model: keras.Model, mode: str | None, representative_dataset: Any) -> str:
    if mode is not None:
        return mode
    points = points_in(model)
    # Rows of a table have 8 bits there, too.
    if points and all(point.quantizer.bits == 16 or point.name.endswith(".rows") for point in points):
        return "16x8"
    if points or representative_dataset is not None:
        return "int8"
    raise ValueError(
        "Expected a `representative_dataset` for int8, or a `mode` out of "
        f"{MODES}. Received: neither, for the model {model.name!r} without activation ranges"
    )


def _storage(target: str, mode: str, wanted: str) -> Storage:
    """What is stored how: only int8 activations have kernels for packed weights."""
    storage = Storage(wanted, runtime_of(target))
    return storage if mode == "int8" or (mode == "16x8" and storage.encodes) else Storage("int8", runtime_of(target))


def check_arguments(
    target: str,
    mode: str,
    io: str,
    weights_storage: str,
    max_arena_bytes: int | None = None,
    recurrent: str = "auto",
    sparsity: str = "auto",
) -> None:
    """Refuses what `convert` cannot do, before the work that leads there.

    Raises:
        ValueError: For an argument out of range, or two that do not go together.
    """
    _check_target(target)
    for name, value, allowed in (
        ("mode", mode, MODES),
        ("io", io, IO_TYPES),
        ("weights_storage", weights_storage, STORAGES),
        ("recurrent", recurrent, RECURRENT),
        ("sparsity", sparsity, SPARSITIES),
    ):
        if value not in allowed:
            raise ValueError(f"Expected `{name}` out of {allowed}. Received: {name}={value!r}")
    if recurrent == "fused" and mode != "int8":
        raise ValueError(f"Expected mode='int8' for recurrent='fused'. Received: mode={mode!r}")
    if mode not in _MODES_OF[target]:
        raise ValueError(f"Expected a mode that target {target!r} runs: {_MODES_OF[target]}. Received: mode={mode!r}")
    check_sparsity(sparsity, target, mode)
    if weights_storage == BITS and sparsity == "block":
        raise ValueError("Expected weights_storage='bits' or sparsity='block'. Received: both")
    if mode != "int8" and weights_storage in ("int4", "int2", BITS):
        raise ValueError(f"Expected mode='int8' for weights_storage={weights_storage!r}. Received: mode={mode!r}")
    if target == "ethos_u" and weights_storage != "int8":
        raise ValueError(
            "Expected weights_storage='int8' for target='ethos_u': Vela compresses weights itself. "
            f"Received: weights_storage={weights_storage!r}"
        )
    if weights_storage in ENCODINGS and (target != "tflm" or mode not in _INTEGER_MODES):
        raise ValueError(
            f"Expected target='tflm' and mode 'int8' or '16x8' for weights_storage={weights_storage!r}. "
            f"Received: target={target!r}, mode={mode!r}"
        )
    if max_arena_bytes is not None and (target != "tflm" or mode not in _INTEGER_MODES or max_arena_bytes < 1):
        raise ValueError(
            "Expected `max_arena_bytes` >= 1, with target='tflm' and mode 'int8' or '16x8'. "
            f"Received: max_arena_bytes={max_arena_bytes}, target={target!r}, mode={mode!r}"
        )
    check_arena(max_arena_bytes, weights_storage)
    fitting = {"int8": ("float32", "int8", "uint8"), "16x8": ("float32", "int16")}.get(mode, ("float32",))
    if io not in fitting:
        raise ValueError(f"Expected `io` out of {fitting} for mode={mode!r}. Received: io={io!r}")


def _check_target(target: str) -> None:
    """First of all: what else an argument may be depends on it."""
    if target not in TARGETS:
        meant = did_you_mean(target, TARGETS, _OTHER_NAMES)
        raise ValueError(f"Expected `target` out of {TARGETS}. Received: target={target!r}{meant}")
