"""int8 files of a float model by this library and by its peers, from the same samples."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray
from tensorflow_int8 import tensorflow_int8

import keras_compress as kc
from keras_compress.convert.native_log import quiet_native_logs

Array = NDArray[Any]
BATCH_SIZE = 500


def converted(model: keras.Model, samples: Array) -> bytes:
    """What `convert` makes of a plain model."""
    return kc.convert(model, representative_dataset=samples).content


def level_2(model: keras.Model, samples: Array) -> bytes:
    """Post-training quantization with data, then the file, in which attention is several layers with ranges between."""
    inside = any(isinstance(layer, keras.layers.MultiHeadAttention) for layer in model.layers)
    made = kc.quantize_post_training(model, samples, report=False)
    return kc.convert(made, representative_dataset=samples if inside else None).content


def litert_quantizer_int8(model: keras.Model, samples: Array) -> bytes:
    """The float file of TensorFlow's converter, quantized by litert-quantizer.

    It averages the extremes of what it is given one after the other: all samples at once are best for it.
    """
    from litert_quantizer import Quantizer, recipe

    with quiet_native_logs():
        content = bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
        quantizer = Quantizer(content, recipe.static_wi8_ai8())
        signature = Interpreter(model_content=content).get_signature_list()
        (key, each), *_ = signature.items()
        ranges = quantizer.calibrate({key: [{each["inputs"][0]: samples}]}, num_threads=2)
        made = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(made.quantized_model)


# Name -> how it makes a file. A peer that is not installed is left out, which is said.
MAKERS: dict[str, Callable[[keras.Model, Array], bytes]] = {
    "convert": converted,
    "level 2": level_2,
    "tensorflow": tensorflow_int8,
    "litert-quantizer": litert_quantizer_int8,
}
OURS, PEERS = ("convert", "level 2"), ("tensorflow", "litert-quantizer")


def makers() -> list[str]:
    """Those that are here."""
    try:
        import litert_quantizer  # noqa: F401
    except ImportError:
        print("litert-quantizer is left out: pip install litert-quantizer==0.11.0", file=sys.stderr)
        return [name for name in MAKERS if name != "litert-quantizer"]
    return list(MAKERS)


@contextmanager
def cpu_seconds() -> Iterator[list[float]]:
    """Appends the CPU seconds of the block, of all threads and child processes that ended in it."""
    found: list[float] = []
    before = _spent()
    yield found
    found.append(_spent() - before)


def _spent() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, kinds))


def outputs_of(content: bytes, x: Array) -> Array:
    """Outputs of a file on LiteRT's default kernels."""
    interpreter = Interpreter(model_content=content, num_threads=2)
    (feed,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for start in range(0, len(x), BATCH_SIZE):
        values = _stored(x[start : start + BATCH_SIZE], feed)
        interpreter.resize_tensor_input(feed["index"], values.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(feed["index"], values)
        interpreter.invoke()
        found.append(_real(interpreter.get_tensor(result["index"]), result))
    return np.concatenate(found)


def _stored(values: Array, detail: dict[str, Any]) -> Array:
    """What an input takes: of an integer one the nearest integers."""
    scale, zero_point = detail["quantization"]
    if not scale:
        return values
    ends = np.iinfo(detail["dtype"])
    return np.clip(np.rint(values / scale) + zero_point, ends.min, ends.max).astype(detail["dtype"])


def _real(values: Array, detail: dict[str, Any]) -> Array:
    scale, zero_point = detail["quantization"]
    return (values.astype(np.float32) - zero_point) * scale if scale else values.copy()


def tensors_of(content: bytes, x: Array) -> list[Array]:
    """Real values of every computed tensor, on LiteRT's reference kernels; the last is the output."""
    interpreter = Interpreter(
        model_content=content,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
    )
    (feed,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    values = _stored(x, feed)
    interpreter.resize_tensor_input(feed["index"], values.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(feed["index"], values)
    interpreter.invoke()
    made = {tensor for op in interpreter._get_ops_details() for tensor in op["outputs"]}
    details = [each for each in interpreter.get_tensor_details() if each["index"] in made]
    return [_real(interpreter.get_tensor(each["index"]), each) for each in (*details, result)]
