"""A graph as JSON text, and back: nothing is lost, and equal graphs give equal text."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.ir.graph import Graph, Node, Point, Tensor, Values
from keras_compress.tflite.grids import ConstantGrid, Grid


def to_json(graph: Graph) -> str:
    """The graph as text."""
    content = {
        "name": graph.name,
        "tensors": [_tensor(t) for t in graph.tensors.values()],
        "nodes": [_node(n) for n in graph.nodes],
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "points": [[p.name, p.tensor, p.lowest] for p in graph.points],
    }
    return json.dumps(content)


def from_json(text: str) -> Graph:
    """The graph that `to_json` wrote.

    Raises:
        ValueError: The text is not that of a graph.
    """
    try:
        content = json.loads(text)
        tensors = [_tensor_of(entry) for entry in content["tensors"]]
        return Graph(
            content["name"],
            {t.name: t for t in tensors},
            [_node_of(entry) for entry in content["nodes"]],
            [(name, tensor) for name, tensor in content["inputs"]],
            [(name, tensor) for name, tensor in content["outputs"]],
            [Point(*entry) for entry in content["points"]],
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"Expected the JSON of a graph. Received: {type(error).__name__}: {error}") from error


def _tensor(tensor: Tensor) -> dict[str, Any]:
    grid = tensor.grid
    return {
        "name": tensor.name,
        "shape": tensor.shape,
        "dtype": tensor.dtype,
        "path": tensor.path,
        "grid": None if grid is None else [grid.scale, grid.zero_point, grid.bits],
        "values": None if tensor.values is None else _values(tensor.values),
    }


def _tensor_of(entry: dict[str, Any]) -> Tensor:
    grid = None if entry["grid"] is None else Grid(*entry["grid"])
    values = None if entry["values"] is None else _values_of(entry["values"])
    return Tensor(entry["name"], tuple(entry["shape"]), entry["dtype"], grid, values, entry["path"])


def _values(values: Values) -> dict[str, Any]:
    if not isinstance(values, ConstantGrid):
        return {"array": _array(values)}
    return {
        "integers": _array(values.values),
        "scale": _array(values.scale),
        "name": values.name,
        "quantized_dimension": values.quantized_dimension,
        "bits": values.bits,
        "storage_bits": values.storage_bits,
    }


def _values_of(entry: dict[str, Any]) -> Values:
    if "array" in entry:
        return _array_of(entry["array"])
    numbers = (entry["quantized_dimension"], entry["bits"], entry["storage_bits"])
    return ConstantGrid(entry["name"], _array_of(entry["integers"]), _array_of(entry["scale"]), *numbers)


def _array(values: NDArray[Any]) -> list[Any]:
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return [values.dtype.name, values.shape, base64.b64encode(little.tobytes()).decode()]


def _array_of(entry: list[Any]) -> NDArray[Any]:
    dtype = np.dtype(entry[0])
    read = np.frombuffer(base64.b64decode(entry[2]), dtype.newbyteorder("<"))
    made: NDArray[Any] = read.astype(dtype).reshape(entry[1])
    return made


def _node(node: Node) -> dict[str, Any]:
    return {
        "operator": node.operator,
        "inputs": node.inputs,
        "outputs": node.outputs,
        "attributes": {k: _setting(v) for k, v in node.attributes.items()},
        "path": node.path,
    }


def _node_of(entry: dict[str, Any]) -> Node:
    attributes = {k: _setting_of(v) for k, v in entry["attributes"].items()}
    return Node(entry["operator"], tuple(entry["inputs"]), tuple(entry["outputs"]), attributes, entry["path"])


def _setting(value: Any) -> Any:
    return {"bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _setting_of(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["bytes"])
    return tuple(value) if isinstance(value, list) else value
