"""What a file's tensors need in TFLite-Micro's arena, computed from the order of its operators."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_compress.tflite.encoding.known import DECODE
from keras_compress.tflite.flatbuffer import PACKED_BITS, Graph, read_model
from keras_compress.tflite.passes.tile_outputs import JOINED_AT_ONCE, TILED, most_parts, tiling_refusal

# TFLite-Micro starts each tensor at a multiple of this.
_ALIGNMENT_BYTES = 16
# Less than what a piece more takes of the arena for its operators and tensors, on any host.
_PIECE_BYTES = 256

Parts = dict[int, int]


def aligned(size: float) -> int:
    """A number of bytes, as the arena's planner counts them."""
    return math.ceil(size / _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def tensor_bytes(graph: Graph, tensor: int) -> int:
    """Bytes of a tensor's values; 0 for types that have none."""
    dtype = graph.dtype(tensor)
    try:
        bits = PACKED_BITS[dtype] if dtype in PACKED_BITS else 8 * np.dtype(dtype).itemsize
    except TypeError:  # strings, resources
        return 0
    return math.ceil(math.prod(graph.shape(tensor)) * bits / 8)


def decoded_of(graph: Graph) -> list[int]:
    """Constants that operators decode, in order."""
    return [tensor for op in graph.operators if graph.custom_name(op) == DECODE for tensor in op.outputs]


def largest_decoded(content: bytes) -> tuple[str, int] | None:
    """Name and bytes of the largest constant that the runtime decodes; `None` for a file without any."""
    graph = Graph(read_model(content))
    sizes = [(graph.name(t), tensor_bytes(graph, t)) for t in decoded_of(graph)]
    return max(sizes, key=lambda entry: entry[1], default=None)


def alternate_memory_bytes(content: bytes) -> int:
    """The least alternate decompression memory that holds all decoded constants; 0 for a file without any.

    The runtime fills this memory from its start with each operator that decodes; what does not fit goes to the arena.

    Raises:
        ValueError: Where a decoded constant is read after the next operator that decodes has overwritten it; the
            runtime would not notice.
    """
    graph = Graph(read_model(content))
    groups = [(time, op.outputs) for time, op in enumerate(graph.operators) if graph.custom_name(op) == DECODE]
    last = _last_reads(graph)
    for (_, group), (overwritten, _) in itertools.pairwise(groups):
        for tensor in group:
            if last.get(tensor, -1) > overwritten:
                raise ValueError(
                    "Expected alt_decompression_memory_bytes=0 for a file that decodes other constants before "
                    f"{graph.name(tensor)!r} was read for the last time. Received: such a file"
                )
    return max((sum(aligned(tensor_bytes(graph, t)) for t in group) for _, group in groups), default=0)


def peak_of(content: bytes) -> str:
    """How many bytes are activations, how many decoded weights, and at which operator, where both are most."""
    graph = Graph(read_model(content))
    decoded = set(decoded_of(graph))
    everything, weights = bytes_alive(graph), bytes_alive(graph, decoded)
    time = int(np.argmax(everything))
    op = graph.operators[time]
    name = graph.name(op.outputs[0]) if len(op.outputs) else ""
    said = f"{everything[time] - weights[time]:,} bytes of it are activations at {graph.kind(op)} {name!r}"
    return f"{said}, and {weights[time]:,} its decoded weights" if weights[time] else said


def _last_reads(graph: Graph) -> dict[int, int]:
    """Tensor -> position of the last operator that reads it; past the end for what the model gives out."""
    last = {tensor: time for time, op in enumerate(graph.operators) for tensor in op.inputs}
    return last | dict.fromkeys(graph.outputs, len(graph.operators))


@dataclass(frozen=True)
class Layer:
    """An operator whose decoded weight can be split.

    Attributes:
        weight: Its weight, a tensor of the plain file.
        outputs: Output channels.
        most: How many pieces it can be split into.
        weight_bytes: Of the decoded weight.
        output_bytes: Of its output.
        others: Bytes of everything else that is alive while it runs, its output included.
        freed: Bytes of its inputs that nothing reads later, without the weight.
    """

    weight: int
    outputs: int
    most: int
    weight_bytes: int
    output_bytes: int
    others: int
    freed: int

    def peak(self, parts: int) -> int:
        """Bytes alive at once while its pieces run and are joined."""
        if parts == 1:
            return self.others + self.weight_bytes
        rows = -(-self.outputs // parts)
        running = self.others + aligned(self.weight_bytes * rows / self.outputs)
        joining = self.others - self.freed + self.output_bytes
        group = JOINED_AT_ONCE ** math.floor(math.log(parts - 1, JOINED_AT_ONCE)) if parts > JOINED_AT_ONCE else 0
        return max(running, joining, self.others + aligned(self.output_bytes * group / parts))

    def more_parts(self, parts: int) -> int | None:
        """The next number of pieces that needs less at once; `None` where there is none."""
        rows = -(-self.outputs // parts)
        following = -(-self.outputs // (rows - 1)) if rows > 1 else self.most + 1
        return following if following <= self.most and self.peak(following) < self.peak(parts) else None


class ArenaPlan:
    """Numbers of pieces to try, each a little less memory than the one before.

    Args:
        plain: The file before encoding.
        encoded: The same operators with those between them that decode constants.

    Attributes:
        steps: Weight of the plain file -> number of pieces, from 1 each on; the layer with the peak is split further
            at each step. Ends where that gains nothing.
        heads: Bytes of activations and decoded constants alive at once, for each step.
    """

    def __init__(self, plain: bytes, encoded: bytes) -> None:
        graph, decoding = Graph(read_model(plain)), Graph(read_model(encoded))
        alive = bytes_alive(decoding)
        decoded = set(decoded_of(decoding))
        computing = [(t, op) for t, op in enumerate(decoding.operators) if decoding.custom_name(op) != DECODE]
        self._layers: list[Layer] = []
        self._floor = 0
        for op, (time, same) in zip(graph.operators, computing, strict=True):
            if graph.kind(op) in TILED and same.inputs[1] in decoded and not tiling_refusal(graph, op.inputs[1]):
                self._layers.append(_layer(graph, op, decoding, same, time, alive))
            else:
                self._floor = max(self._floor, alive[time])
        self.steps, self.heads = self._planned()

    def pieces(self, step: int) -> int:
        """Pieces of the layers that are split, in all."""
        return sum(count for count in self.steps[step].values() if count > 1)

    def _planned(self) -> tuple[list[Parts], list[int]]:
        parts = {layer.weight: 1 for layer in self._layers}
        steps, heads = [dict(parts)], [self._head(parts)]
        while (layer := self._highest(parts)) is not None:
            following = layer.more_parts(parts[layer.weight])
            if following is None or layer.peak(parts[layer.weight]) <= self._floor:
                break
            parts[layer.weight] = following
            steps.append(dict(parts))
            heads.append(self._head(parts))
        worth = [head + _PIECE_BYTES * sum(step.values()) for step, head in zip(steps, heads, strict=True)]
        end = 1 + int(np.argmin(worth))
        return steps[:end], heads[:end]

    def _highest(self, parts: Mapping[int, int]) -> Layer | None:
        return max(self._layers, key=lambda layer: layer.peak(parts[layer.weight]), default=None)

    def _head(self, parts: Mapping[int, int]) -> int:
        return max([self._floor, *(layer.peak(parts[layer.weight]) for layer in self._layers)])


def _layer(graph: Graph, op: Any, decoding: Graph, same: Any, time: int, alive: Sequence[int]) -> Layer:
    last = _last_reads(decoding)
    weight_bytes = aligned(tensor_bytes(decoding, same.inputs[1]))
    dying = [t for t in dict.fromkeys(same.inputs) if t >= 0 and last[t] == time and not decoding.is_constant(t)]
    return Layer(
        op.inputs[1],
        graph.shape(op.inputs[1])[0],
        most_parts(graph, op.inputs[1]),
        weight_bytes,
        aligned(tensor_bytes(graph, op.outputs[0])),
        alive[time] - weight_bytes,
        sum(aligned(tensor_bytes(decoding, t)) for t in dying) - weight_bytes,
    )


def bytes_alive(graph: Graph, among: Set[int] | None = None) -> list[int]:
    """Bytes of computed tensors, or of some, alive at each operator: from who writes them to who reads them last."""
    change = np.zeros(len(graph.operators) + 2, np.int64)
    written = {t: time for time, op in enumerate(graph.operators) for t in op.outputs}
    last = _last_reads(graph)
    for tensor in dict.fromkeys([*graph.inputs, *written]):
        if tensor >= 0 and not graph.tensors[tensor].isVariable and (among is None or tensor in among):
            size, start = aligned(tensor_bytes(graph, tensor)), written.get(tensor, 0)
            change[start] += size
            change[max(last.get(tensor, start), start) + 1] -= size
    return [int(size) for size in np.cumsum(change)[: len(graph.operators)]]
