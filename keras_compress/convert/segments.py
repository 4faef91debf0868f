"""Stand-alone pieces of a `.tflite` file: what one operator, or a few, do with given integers."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from keras_compress.convert.flatbuffer import Graph, read_model, write_model


def extract_segment(content: bytes, input_tensors: list[str], output_tensors: list[str]) -> bytes:
    """A `.tflite` file that computes some tensors of `content` from others.

    Args:
        content: A `.tflite` file.
        input_tensors: Names of the tensors to feed, in the order of the new file's inputs.
        output_tensors: Names of the tensors to give, in the order of the new file's outputs.

    Raises:
        ValueError: A name is unknown, an output is an input, or the inputs do not decide the outputs.
    """
    graph = Graph(read_model(content))
    numbers = _numbers(graph)
    inputs = [_number(numbers, name) for name in input_tensors]
    outputs = [_number(numbers, name) for name in output_tensors]
    both = [name for name in output_tensors if name in input_tensors]
    if both or not outputs:
        raise ValueError(f"Expected outputs that are computed from the inputs. Received: {both or 'no outputs'}")
    needed, open_tensors = _walk_back(graph, outputs, set(inputs))
    open_names = sorted(graph.name(t) for t in open_tensors - set(inputs))
    if open_names:
        raise ValueError(f"Expected inputs that decide the outputs. Received: nothing for {open_names}")
    unused = [graph.name(t) for t in inputs if t not in open_tensors]
    if unused:
        raise ValueError(f"Expected inputs that the outputs depend on. Received: {unused}")
    graph.operators = [op for op in graph.operators if id(op) in needed]
    model = graph.model
    model.signatureDefs = []
    model.subgraphs[0].inputs, model.subgraphs[0].outputs = inputs, outputs
    return write_model(model)


def segment_inputs(content: bytes, output_tensor: str, stop_at: Set[str]) -> list[str]:
    """Nearest tensors of `stop_at` that `output_tensor` is computed from, in the order of the file.

    A graph input stops the walk too. The output itself never does.

    Raises:
        ValueError: `output_tensor` is not in the file.
    """
    graph = Graph(read_model(content))
    numbers = _numbers(graph)
    stops = {numbers[name] for name in stop_at if name in numbers}
    output = _number(numbers, output_tensor)
    _, open_tensors = _walk_back(graph, [output], stops - {output})
    return [graph.name(t) for t in sorted(open_tensors)]


def _numbers(graph: Graph) -> dict[str, int]:
    return {graph.name(i): i for i in range(len(graph.tensors))}


def _number(numbers: dict[str, int], name: str) -> int:
    if name not in numbers:
        raise ValueError(f"Expected the name of a tensor in the file. Received: {name!r}")
    return numbers[name]


def _walk_back(graph: Graph, outputs: Sequence[int], stops: Set[int]) -> tuple[set[int], set[int]]:
    """Ids of the operators between stops and outputs, and the computed tensors where the walk ended."""
    producers: dict[int, Any] = graph.producers()
    needed: set[int] = set()
    ends: set[int] = set()
    waiting = list(outputs)
    while waiting:
        tensor = waiting.pop()
        if tensor in stops or tensor not in producers:
            ends.add(tensor)
        elif id(producers[tensor]) not in needed:
            needed.add(id(producers[tensor]))
            waiting += [t for t in producers[tensor].inputs if t >= 0 and not graph.is_constant(t)]
    return needed, ends
