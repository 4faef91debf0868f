"""Stand-alone pieces of a `.tflite` file: what one operator, or a few, do with given integers."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence, Set
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.flatbuffer import Graph, read_model, write_model


class Segments:
    """A file that was read once and can be cut many times.

    Args:
        content: A `.tflite` file.
    """

    def __init__(self, content: bytes) -> None:
        self._graph = Graph(read_model(content))
        self._numbers = {self._graph.name(i): i for i in range(len(self._graph.tensors))}
        self._producers: dict[int, Any] = self._graph.producers()
        self._places = {id(op): place for place, op in enumerate(self._graph.operators)}

    def extract(self, input_tensors: Sequence[str], output_tensors: Sequence[str]) -> tuple[bytes, Graph]:
        """A `.tflite` file that computes some tensors from others, and its graph.

        Args:
            input_tensors: Names of the tensors to feed, in the order of the new file's inputs.
            output_tensors: Names of the tensors to give, in the order of the new file's outputs.

        Raises:
            ValueError: A name is unknown, an output is an input, or the inputs do not decide the outputs.
        """
        inputs = [self._number(name) for name in input_tensors]
        outputs = [self._number(name) for name in output_tensors]
        both = [name for name in output_tensors if name in input_tensors]
        if both or not outputs:
            raise ValueError(f"Expected outputs that are computed from the inputs. Received: {both or 'no outputs'}")
        needed, ends = self._walk_back(outputs, set(inputs))
        open_names = sorted(self._graph.name(t) for t in ends - set(inputs))
        if open_names:
            raise ValueError(f"Expected inputs that decide the outputs. Received: nothing for {open_names}")
        unused = [self._graph.name(t) for t in inputs if t not in ends]
        if unused:
            raise ValueError(f"Expected inputs that the outputs depend on. Received: {unused}")
        piece = self._piece(needed, inputs, outputs)
        return write_model(piece), Graph(piece)

    def inputs_of(self, output_tensor: str, stop_at: Set[str]) -> list[str]:
        """Nearest tensors of `stop_at` that `output_tensor` is computed from, in the order of the file.

        A graph input stops the walk too. The output itself never does.

        Raises:
            ValueError: `output_tensor` is not in the file.
        """
        output = self._number(output_tensor)
        stops = {self._numbers[name] for name in stop_at if name in self._numbers}
        _, ends = self._walk_back([output], stops - {output})
        return [self._graph.name(t) for t in sorted(ends)]

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            raise ValueError(f"Expected the name of a tensor in the file. Received: {name!r}")
        return self._numbers[name]

    def _walk_back(self, outputs: Sequence[int], stops: Set[int]) -> tuple[list[Any], set[int]]:
        """The operators between stops and outputs, and the computed tensors where the walk ended."""
        needed: dict[int, Any] = {}
        ends: set[int] = set()
        waiting = list(outputs)
        while waiting:
            tensor = waiting.pop()
            op = self._producers.get(tensor)
            if tensor in stops or op is None:
                ends.add(tensor)
            elif id(op) not in needed:
                needed[id(op)] = op
                waiting += [t for t in op.inputs if t >= 0 and not self._graph.is_known(t)]
        return sorted(needed.values(), key=lambda op: self._places[id(op)]), ends

    def _piece(self, operators: Collection[Any], inputs: list[int], outputs: list[int]) -> Any:
        """A model of these operators. What writing changes is copied; constants are shared with the whole."""
        whole, used = self._graph.model, {*inputs, *outputs}
        for op in operators:
            used.update(t for t in (*op.inputs, *op.outputs, *_intermediates(op)) if t >= 0)
        numbers = {old: new for new, old in enumerate(sorted(used))} | {-1: -1}
        piece, subgraph = copy.copy(whole), copy.copy(whole.subgraphs[0])
        subgraph.tensors = [copy.copy(self._graph.tensors[t]) for t in sorted(used)]
        subgraph.operators = [_renumbered(op, numbers) for op in operators]
        subgraph.inputs, subgraph.outputs = [numbers[t] for t in inputs], [numbers[t] for t in outputs]
        piece.subgraphs, piece.signatureDefs = [subgraph], []
        piece.metadata, piece.metadataBuffer = [], None
        piece.buffers = [schema.BufferT()]
        for tensor in subgraph.tensors:
            piece.buffers.append(whole.buffers[tensor.buffer])
            tensor.buffer = len(piece.buffers) - 1
        return piece


def _intermediates(op: Any) -> Sequence[int]:
    return () if op.intermediates is None else op.intermediates


def _renumbered(op: Any, numbers: dict[int, int]) -> Any:
    op = copy.copy(op)
    op.inputs, op.outputs = [numbers[t] for t in op.inputs], [numbers[t] for t in op.outputs]
    if op.intermediates is not None:
        op.intermediates = [numbers[t] for t in op.intermediates]
    return op


def extract_segment(content: bytes, input_tensors: list[str], output_tensors: list[str]) -> bytes:
    """One cut out of a file; see `Segments.extract`."""
    return Segments(content).extract(input_tensors, output_tensors)[0]


def segment_inputs(content: bytes, output_tensor: str, stop_at: Set[str]) -> list[str]:
    """The tensors to cut at; see `Segments.inputs_of`."""
    return Segments(content).inputs_of(output_tensor, stop_at)
