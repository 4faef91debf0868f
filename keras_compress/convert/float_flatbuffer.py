"""A Keras model as a float32 `.tflite` file with Keras's own order and names, the same bytes every time."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from keras_compress.convert.flatbuffer import Graph, read_model, write_model
from keras_compress.core.graph import output_names as graph_output_names
from keras_compress.core.quiet import quiet_tensorflow

SIGNATURE = "serving_default"
_CAUSE = re.compile(r"\berror\b|neither a custom op|failed to legalize|unsupported", re.IGNORECASE)
_CAUSE_LINES, _LINE_LENGTH = 8, 240


class ConversionError(RuntimeError):
    """The TFLite converter refused the model; the message holds the lines of its log that name the cause."""


class NativeLog:
    """What native code wrote to stdout and stderr (file descriptors 1 and 2) while it was captured."""

    text: str = ""

    def cause(self) -> str:
        """The lines that name an error (at most eight), or the last ones when none does."""
        lines = [line.strip()[:_LINE_LENGTH] for line in self.text.splitlines() if line.strip()]
        named = list(dict.fromkeys(line for line in lines if _CAUSE.search(line)))
        return "\n".join((named or lines[-_CAUSE_LINES:])[:_CAUSE_LINES])


@contextlib.contextmanager
def quiet_native_logs() -> Iterator[NativeLog]:
    """Capture file descriptors 1 and 2 and TensorFlow's Python loggers; both are restored whatever happens.

    Yields:
        A `NativeLog` whose `text` is filled when the block ends.
    """
    log = NativeLog()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with tempfile.TemporaryFile() as sink, contextlib.ExitStack() as stack:
        for descriptor in (1, 2):
            saved = os.dup(descriptor)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, descriptor)
            os.dup2(sink.fileno(), descriptor)
        stack.enter_context(quiet_tensorflow())
        try:
            yield log
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            sink.seek(0)
            log.text = sink.read().decode("utf-8", "replace")


def float_flatbuffer(model: keras.Model) -> bytes:
    """Convert a Functional or Sequential model to a float32 `.tflite` file, batch 1, without optimizations.

    The `serving_default` signature has one entry per input and output, in Keras's order: inputs named by
    dict key or by their `Input` layer, outputs by dict key or by the layer that computes them (markers are
    looked through). Tensors are named after layer and operator, nothing depends on the process.

    Args:
        model: Built model with static shapes except for the batch.

    Raises:
        ValueError: A dimension other than the batch is not static.
        ConversionError: The converter refused the model.
    """
    specs = _input_specs(model)
    with quiet_native_logs() as log:
        try:
            content, failure = _convert(model, specs), None
        except Exception as error:  # noqa: BLE001 (the converter raises many kinds; all end as ConversionError)
            content, failure = b"", error
    if failure is not None:
        cause = "\n".join(filter(None, (log.cause(), _first_lines(str(failure)))))
        raise ConversionError(f"The TFLite converter refused model {model.name!r}:\n{cause}") from failure
    flatbuffer = read_model(content)
    layers = {layer.name for layer in model.layers}
    _restore_interface(Graph(flatbuffer), flatbuffer, input_names(model), output_names(model))
    _name_tensors(Graph(flatbuffer), layers)
    flatbuffer.metadata, flatbuffer.metadataBuffer = [], None
    flatbuffer.description = b"keras_compress"
    return write_model(flatbuffer)


def input_names(model: keras.Model) -> list[str]:
    """Name of each input in the order of `model.inputs`."""
    structure = _structure(model)[0]
    if isinstance(structure, dict) and len(structure) == len(model.inputs):
        return _unique(sorted(structure))
    return _unique([tensor.name for tensor in model.inputs])


def output_names(model: keras.Model) -> list[str]:
    """Name of each output in the order of `model.outputs`."""
    structure = _structure(model)[1]
    if isinstance(structure, dict) and len(structure) == len(model.outputs):
        return _unique(sorted(structure))
    return _unique(graph_output_names(model))


def _structure(model: keras.Model) -> tuple[Any, Any]:
    """Inputs and outputs as the user nests them (a Sequential model never called has no `input`)."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def _unique(names: Sequence[str]) -> list[str]:
    taken: list[str] = []
    for name in names:
        number, free = 0, name
        while free in taken:
            number += 1
            free = f"{name}_{number}"
        taken.append(free)
    return taken


def _input_specs(model: keras.Model) -> list[tf.TensorSpec]:
    specs = []
    for number, tensor in enumerate(model.inputs):
        if None in tensor.shape[1:]:
            raise ValueError(
                "Expected static shapes except for the batch. "
                f"Received: input {tensor.name!r} of shape {tuple(tensor.shape)}"
            )
        specs.append(tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, name=_input_key(number)))
    return specs


def _input_key(number: int) -> str:
    return f"input{number:05d}"


def _output_key(number: int) -> str:
    return f"output{number:05d}"


def _convert(model: keras.Model, specs: Sequence[tf.TensorSpec]) -> bytes:
    """SavedModel, then TFLite: the SavedModel's signature tells outputs apart, its variables become constants.

    (`from_concrete_functions` would leave them variables; freezing first takes twice as long for 100 MB.)
    """

    structure = _structure(model)[0]

    def serve(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = model.call(keras.tree.pack_sequence_as(structure, list(tensors)), training=False)
        # The identity keeps entries apart that are one tensor, or an input, in the model.
        return {_output_key(i): tf.identity(t) for i, t in enumerate(keras.tree.flatten(outputs))}

    traced = tf.function(serve, input_signature=list(specs), autograph=False).get_concrete_function()
    module = tf.Module()  # without `traced` as an attribute, which would be traced, saved and loaded twice
    module.variables_to_freeze = [variable.value for variable in model.variables]
    with tempfile.TemporaryDirectory(prefix="keras_compress_") as folder:
        tf.saved_model.save(module, folder, signatures={SIGNATURE: traced})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return bytes(converter.convert())


def _first_lines(text: str) -> str:
    """The part of a Python error that a reader needs: MLIR appends hundreds of lines of trace."""
    return "\n".join(line[:_LINE_LENGTH] for line in text.splitlines()[:3])


def _restore_interface(graph: Graph, model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Undo the converter's shuffle of inputs and outputs; its signature still knows which is which."""
    found = model.signatureDefs[0]
    input_tensor = {entry.name.decode(): entry.tensorIndex for entry in found.inputs}
    output_tensor = {entry.name.decode(): entry.tensorIndex for entry in found.outputs}
    # The converter drops an input that nothing reads; Keras's caller still has to feed it.
    missing = [inputs[i] for i in range(len(inputs)) if _input_key(i) not in input_tensor]
    if missing:
        raise ConversionError(f"Expected every input to be used. Received: unused inputs {missing}")
    subgraph = model.subgraphs[0]
    subgraph.name = b"main"
    subgraph.inputs = [input_tensor[_input_key(i)] for i in range(len(inputs))]
    subgraph.outputs = [output_tensor[_output_key(i)] for i in range(len(outputs))]
    signature = schema.SignatureDefT()
    signature.signatureKey = SIGNATURE.encode()
    signature.subgraphIndex = 0
    signature.inputs = _entries(inputs, graph.inputs)
    signature.outputs = _entries(outputs, graph.outputs)
    model.signatureDefs = [signature]


def _entries(names: Sequence[str], tensors: Sequence[int]) -> list[Any]:
    entries = []
    for name, tensor in zip(names, tensors, strict=True):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), tensor
        entries.append(entry)
    return entries


def _name_tensors(graph: Graph, layers: set[str]) -> None:
    """`layer/operator` for what is computed, `layer/operator/operandN` for constants."""
    labels = [graph.name(i) for i in range(len(graph.tensors))]
    for tensor in graph.tensors:
        tensor.name = b""
    named = Graph(graph.model)
    for entry in graph.model.signatureDefs[0].inputs:
        named.rename(entry.tensorIndex, f"{SIGNATURE}_{entry.name.decode()}:0")
    output_of = {entry.tensorIndex: entry.name.decode() for entry in graph.model.signatureDefs[0].outputs}
    for op in graph.operators:
        kind = graph.kind(op).lower()
        found = (_layer_of(labels[t], layers) or output_of.get(t) for t in op.outputs)
        layer = next(filter(None, found), None)
        label = f"{layer}/{kind}" if layer else kind
        for tensor in op.outputs:
            named.rename(tensor, label)
        for operand, tensor in enumerate(op.inputs):
            if tensor >= 0 and not named.name(tensor):
                named.rename(tensor, f"{label}/operand{operand}")


def _layer_of(label: str, layers: set[str]) -> str | None:
    """Keras layer in a converter's tensor name such as `conv1_1/Relu;conv1_1/convolution`.

    Keras enters each layer's name scope twice, so TensorFlow numbers the second one.
    """
    for part in re.split(r"[;/]", label):
        for candidate in (re.sub(r"_\d+$", "", part), part):
            if candidate in layers:
                return candidate
    return None
