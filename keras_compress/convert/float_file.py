"""Float32 and float16 files: by our own table of operators, or else by TensorFlow's converter."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.convert.export import as_operators
from keras_compress.convert.float_flatbuffer import float_model, input_names, output_names
from keras_compress.convert.refusals import check_static_shapes
from keras_compress.graph import graph
from keras_compress.graph.model import strip_layer
from keras_compress.ir.emit import Emitted, emit
from keras_compress.ir.fold_affine import fold_affine
from keras_compress.ir.read import UnknownOperationError, read
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.tflite.lowering.support import has_kernel


def float_tables(model: keras.Model, origin: keras.Model, batch: int, target: str) -> tuple[Emitted, tuple[str, ...]]:
    """A float model as tables, and a note where TensorFlow's converter made them.

    Args:
        model: A graph, with layers of this library in it or without.
        origin: The user's model, whose layers an error names.
        batch: Samples that the file takes.
        target: See `convert`.

    Raises:
        ValueError: A dimension other than the batch is not static.
        ConversionError: TensorFlow's converter refused what our table does not know.
    """
    plain = _plain(model, batch)
    check_static_shapes(plain)
    try:
        return _own(plain, target), ()
    except UnknownOperationError as error:
        return Emitted(float_model(plain, origin)), (f"TensorFlow's converter made the file: {error}",)


def _own(plain: keras.Model, target: str) -> Emitted:
    for layer in plain.layers:
        if getattr(layer, "compute_dtype", "float32") != "float32":
            raise UnknownOperationError(f"{layer.name!r} computes in {layer.compute_dtype}")
    batch = int(plain.inputs[0].shape[0])
    made = read(plain, input_names(plain), output_names(plain), batch=batch, target=target)
    fold_affine(made)
    as_operators(made)
    lacking = [node for node in made.nodes if target != "litert" and not has_kernel(node.operator)]
    if lacking:
        raise UnknownOperationError(f"TFLite-Micro has no {lacking[0].operator}, for {lacking[0].path!r}")
    return emit(made)


def _plain(model: keras.Model, batch: int) -> keras.Model:
    """The model with its weights as they are seen, no quantization of activations, and a fixed batch."""

    def visit(call: graph.Call) -> Any:
        if isinstance(call.operation, QuantizeActivation):
            if call.operation.quantizer.trained():
                call.operation.quantizer.check_range(call.path)
            return _renamed(call.args[0], call.operation.quantizer.unrounded(call.args[0]), call.path)
        if not isinstance(call.operation, keras.layers.Layer):
            return call.run()
        layer = strip_layer(call.operation)
        layer.name = call.path.replace("/", ".") + (f".call{call.index}" if call.index else "")
        return call.run(layer)

    return graph.Rebuild(visit, flat=True, batch_size=batch).model(model)


def _renamed(start: Any, end: Any, path: str) -> Any:
    return end if end is start else graph.rename_between(start, end, path.replace("/", "."))
