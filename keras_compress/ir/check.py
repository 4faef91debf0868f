"""Refuses a graph that is not one: what emission and passes may rely on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from keras_compress.ir.graph import Graph, Node, Tensor
from keras_compress.ir.operators import ISLAND, OPERATORS
from keras_compress.tflite.grids import ConstantGrid


def check(graph: Graph) -> None:
    """Check tensors, then nodes in their order, then what the caller sees.

    Raises:
        ValueError: Naming the node, or the tensor: an operator, attribute or number of inputs that is not known; a
            tensor read before it is written, or written twice; a shape that the operator does not give; integers
            outside their range; a constant that is not finite.
    """
    for name, tensor in graph.tensors.items():
        problem = f"tensor named {tensor.name!r} under {name!r}" if name != tensor.name else _problem(tensor)
        if problem is not None:
            raise ValueError(f"Expected sound tensors in graph {graph.name!r}. Received: {problem} at {name!r}")
    written = [tensor for _, tensor in graph.inputs]
    known = {name for name, tensor in graph.tensors.items() if tensor.is_constant} | set(written)
    for number, node in enumerate(graph.nodes):
        for problem in _node_problems(graph, node, known):
            place = f" of layer {node.path!r}" if node.path else ""
            raise ValueError(f"Expected sound nodes in graph {graph.name!r}. Received: {problem}, in node {number} "
                             f"{node.operator} that makes {list(node.outputs)}{place}")  # fmt: skip
        known.update(node.outputs)
    _check_interface(graph, known)


def _problem(tensor: Tensor) -> str | None:
    if any(size < 1 for size in tensor.shape):
        return f"shape {tensor.shape}"
    if tensor.grid is not None and (wrong := tensor.grid.problem()) is not None:
        return wrong
    if tensor.values is None:
        return None
    if isinstance(tensor.values, ConstantGrid):
        return _grid_problem(tensor.values, tensor.shape)
    if tensor.values.shape != tensor.shape or tensor.values.dtype.name != tensor.dtype:
        return f"values of shape {tensor.values.shape}, {tensor.values.dtype}, for {tensor.shape}, {tensor.dtype}"
    return None if np.isfinite(tensor.values).all() else "values that are not finite"


def _grid_problem(constant: ConstantGrid, shape: tuple[int, ...]) -> str | None:
    values, scale = constant.values, constant.scale
    channels = values.shape[constant.quantized_dimension] if values.ndim else 1
    if values.shape != shape:
        return f"integers of shape {values.shape} for {shape}"
    if scale.size not in (1, channels):
        return f"{scale.size} scales for {channels} channels"
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        return "scales that are not positive"
    top = 2 ** (constant.storage_bits - 1)
    if values.size and not (-top <= int(values.min()) and int(values.max()) < top):
        return f"integers from {values.min()} to {values.max()}, for {constant.storage_bits} bits"
    return None


def _node_problems(graph: Graph, node: Node, known: set[str]) -> Iterator[str]:
    operator = OPERATORS.get(node.operator)
    if operator is None:
        yield f"unknown operator {node.operator!r}"
        return
    for name in filter(None, node.inputs):
        if name not in graph.tensors:
            yield f"unknown input {name!r}"
        elif name not in known:
            yield f"input {name!r} before it is written"
    for name in node.outputs:
        if name not in graph.tensors:
            yield f"unknown output {name!r}"
        elif name in known:
            yield f"output {name!r}, which is written already"
    least, most = operator.inputs
    if not least <= len(node.inputs) <= most:
        yield f"{len(node.inputs)} inputs, for {least} to {most}"
    try:
        settings = operator.complete(node.attributes)
    except ValueError as error:
        yield str(error)
        return
    if node.operator != ISLAND:
        yield from _shape_problems(graph, node, settings)


def _shape_problems(graph: Graph, node: Node, settings: dict[str, object]) -> Iterator[str]:
    read = [None if name is None else graph.tensors[name] for name in node.inputs]
    try:
        made = OPERATORS[node.operator].shapes_of(read, settings)
    except (ValueError, TypeError, IndexError) as error:
        yield f"operands that do not fit ({error})"
        return
    stated = [graph.tensors[name].shape for name in node.outputs]
    if stated != made:
        yield f"outputs of shapes {stated}, for {made}"


def _check_interface(graph: Graph, known: set[str]) -> None:
    for name, tensor in graph.outputs:
        if tensor not in known:
            raise ValueError(f"Expected outputs that a node makes. Received: {tensor!r} for output {name!r}")
    for kind, names in (
        ("input", [name for name, _ in graph.inputs]),
        ("output", [name for name, _ in graph.outputs]),
        ("activation point", [point.name for point in graph.points]),
    ):
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        if repeated:
            raise ValueError(f"Expected one name per {kind}. Received: {repeated} more than once")
    lost = [point.name for point in graph.points if point.tensor not in known]
    if lost:
        raise ValueError(f"Expected every activation point in the graph. Received: none for {lost}")
