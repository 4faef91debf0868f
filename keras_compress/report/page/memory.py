"""How full the working memory is while a file's operators run."""

from __future__ import annotations

from typing import Any

from keras_compress.tflite.arena_plan import bytes_alive
from keras_compress.tflite.flatbuffer import Graph, read_model


def memory_over_time(content: bytes) -> list[dict[str, Any]]:
    """Bytes of tensors alive at each operator, from who writes them to who reads them last.

    Constants are not counted, but for those that TFLite-Micro decodes; kernels' own buffers are not either.

    Args:
        content: The `.tflite` file.

    Returns:
        Mappings with `operator`, `output` (a tensor's name) and `bytes`, in order.
    """
    graph = Graph(read_model(content))
    return [
        {
            "operator": graph.custom_name(op) or graph.kind(op),
            "output": graph.name(op.outputs[0]) if len(op.outputs) else "",
            "bytes": size,
        }
        for op, size in zip(graph.operators, bytes_alive(graph), strict=True)
    ]
