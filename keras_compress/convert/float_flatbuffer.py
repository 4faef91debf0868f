"""A Keras model as a float32 `.tflite` file with Keras's own order and names, the same bytes every time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from keras_compress.convert.native_log import LayerNames, cause_of, quiet_native_logs
from keras_compress.convert.refusals import check_static_shapes
from keras_compress.core import keras_private
from keras_compress.core.interrupts import temporary_folder
from keras_compress.core.printable import scope_name
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.graph import output_names as graph_output_names
from keras_compress.ir.emit import SIGNATURE
from keras_compress.tflite.flatbuffer import Graph, read_model, tidy, write_model


class ConversionError(RuntimeError):
    """The TFLite converter refused the model; the message names causes and Keras layers."""


def float_flatbuffer(model: keras.Model) -> bytes:
    """Convert a Functional or Sequential model to a float32 `.tflite` file, without optimizations.

    The `serving_default` signature has one entry per input and output, in Keras's order: inputs named by
    dict key or by their `Input` layer, outputs by dict key or by the layer that computes them (points are
    looked through). Tensors are named after layer and operator, nothing depends on the process.

    Args:
        model: Built model with static shapes except for the batch, which is 1 in the file unless the model fixes it.

    Raises:
        ValueError: A dimension other than the batch is not static.
        ConversionError: The converter refused the model.
    """
    return write_model(float_model(model))


def float_model(model: keras.Model, origin: keras.Model | None = None) -> Any:
    """The same as a mutable schema object (`ModelT`), as `lower` takes it: large models are not written twice.

    Args:
        model: As for `float_flatbuffer`.
        origin: The user's model, whose layers an error names.
    """
    specs = _input_specs(model)
    with quiet_native_logs() as log:
        try:
            content, failure = _convert(model, specs), None
        except Exception as error:  # noqa: BLE001 (the converter raises many kinds; all end as ConversionError)
            content, failure = b"", error
    if failure is not None:
        cause = cause_of(log, failure, LayerNames(origin or model))
        raise ConversionError(f"The TFLite converter refused model {model.name!r}:\n{cause}") from failure
    flatbuffer = read_model(content)
    layers = {layer.name for layer in model.layers}
    _restore_interface(Graph(flatbuffer), flatbuffer, input_names(model), output_names(model))
    _name_tensors(Graph(flatbuffer), layers)
    flatbuffer.metadata, flatbuffer.metadataBuffer = [], None
    flatbuffer.description = b"keras_compress"
    tidy(flatbuffer)
    return flatbuffer


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
    check_static_shapes(model)
    return [
        tf.TensorSpec((tensor.shape[0] or 1, *tensor.shape[1:]), tensor.dtype, name=_input_key(number))
        for number, tensor in enumerate(model.inputs)
    ]


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
        outputs = _run(model, structure, tensors)
        # The identity keeps entries apart that are one tensor, or an input, in the model.
        return {_output_key(i): tf.identity(t) for i, t in enumerate(keras.tree.flatten(outputs))}

    traced = tf.function(serve, input_signature=list(specs), autograph=False).get_concrete_function()
    module = tf.Module()  # without `traced` as an attribute, which would be traced, saved and loaded twice
    module.variables_to_freeze = [variable.value for variable in model.variables]
    with temporary_folder() as folder:
        tf.saved_model.save(module, folder, signatures={SIGNATURE: traced})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return bytes(converter.convert())


def _run(model: keras.Model, structure: Any, tensors: Sequence[tf.Tensor]) -> Any:
    """The model's outputs. In a flat model operations, like layers, enter a scope of their name, for error messages."""
    if any(keras_graph.is_graph(layer) for layer in model.layers):
        return model.call(keras.tree.pack_sequence_as(structure, list(tensors)), training=False)

    def visit(call: keras_graph.Call) -> Any:
        operation = call.operation
        if not isinstance(operation, keras.layers.Layer):
            with tf.name_scope(scope_name(operation.name)):
                return call.run()
        if keras_private.takes_training(operation):
            return operation(*call.args, **{**call.kwargs, "training": False})
        return call.run()

    return keras_graph.Rebuild(visit).run(model, list(tensors), "", 0)


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
