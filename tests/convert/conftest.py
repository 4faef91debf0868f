"""A bench for lowering: small nets with hand-made plans, run on the real kernels and simulated in Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import pytest

from keras_compress.convert.expand.lookups import Rows
from keras_compress.convert.export import export
from keras_compress.convert.lower import Lowered, lower
from keras_compress.ir.emit import emit
from keras_compress.ir.graph import Graph
from keras_compress.quantizers.activation import FixedGrid, QuantizeActivation
from keras_compress.tflite.grids import ConstantGrid
from keras_compress.tflite.plan import LoweringPlan

RUNTIMES = ("xnnpack", "reference", "tflm")
# Keras kernel -> TFLite layout, output channels along the given axis.
LAYOUTS: dict[type, tuple[Callable[[Any], Any], Callable[[Any, tuple[int, ...]], Any], int]] = {
    keras.layers.Conv1D: (
        lambda k: k.transpose(2, 0, 1)[:, None],
        lambda t, shape: t[:, 0].transpose(1, 2, 0),
        0,
    ),
    keras.layers.Conv2D: (
        lambda k: k.transpose(3, 0, 1, 2),
        lambda t, shape: t.transpose(1, 2, 3, 0),
        0,
    ),
    keras.layers.DepthwiseConv2D: (
        lambda k: k.reshape(1, *k.shape[:2], -1),
        lambda t, shape: t.reshape(shape),
        3,
    ),
    keras.layers.Conv2DTranspose: (
        lambda k: k.transpose(2, 0, 1, 3),
        lambda t, shape: t.transpose(1, 2, 0, 3),
        0,
    ),
    keras.layers.Dense: (lambda k: k.T, lambda t, shape: t.T, 0),
    Rows: (lambda k: k, lambda t, shape: t, 0),
}


@dataclass(frozen=True)
class Point:
    """A place with integers, as a net asks for it."""

    name: str
    scale: float
    zero_point: int
    bits: int = 8


class FakeQuantize(keras.layers.Layer):
    """What a point does to real values: the simulation beside the device."""

    def __init__(self, point: Point, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.point = point

    def call(self, inputs: Any) -> Any:
        lowest, highest = (-128, 127) if self.point.bits == 8 else (-32768, 32767)
        integers = keras.ops.round(inputs / self.point.scale) + self.point.zero_point
        return (keras.ops.clip(integers, lowest, highest) - self.point.zero_point) * self.point.scale


@dataclass
class Bench:
    """One net: with points for the reader, simulated in Keras, and the integers of its kernels."""

    marked: keras.Model
    simulated: keras.Model
    weights: dict[str, ConstantGrid]
    points: dict[str, Point]
    mode: str
    io: str

    def simulate(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Outputs of the simulation in Keras's order; `inputs` by name of `Input` layer."""
        fed = [inputs[t.name] for t in self.simulated.inputs]
        outputs = self.simulated(keras.tree.pack_sequence_as(self.simulated.input, fed))
        return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(outputs)]

    def graph(self, weights: Mapping[str, ConstantGrid] | None = None) -> Graph:
        """The net's operators, with integers for the kernels that are in `weights`, all of them by default."""
        made = export(self.marked).graph
        for name, grid in (self.weights if weights is None else weights).items():
            made.tensors[name] = replace(made.tensors[name], values=grid)
        return made

    def lower(
        self, mode: str | None = None, io: str | None = None, weights: Mapping[str, ConstantGrid] | None = None
    ) -> Lowered:
        return lower(emit(self.graph(weights)), LoweringPlan(mode or self.mode, io or self.io))


def weight_grid(layer: Any, bits: int = 8, per_channel: bool = True) -> ConstantGrid:
    """Symmetric integers of a layer's kernel; the layer's own kernel becomes exactly `ints * scale`."""
    to_tflite, to_keras, axis = next(LAYOUTS[c] for c in type(layer).__mro__ if c in LAYOUTS)
    kernel = layer.kernel.numpy()
    stored = to_tflite(kernel)
    others = tuple(i for i in range(stored.ndim) if i != axis) if per_channel else None
    top = 2 ** (bits - 1) - 1
    scale = np.atleast_1d(np.abs(stored).max(axis=others) / top).astype(np.float32)
    along = scale.reshape([-1 if i == axis else 1 for i in range(stored.ndim)]) if scale.size > 1 else scale[0]
    grid = ConstantGrid(f"{layer.name}/kernel", np.rint(stored / along).astype(np.int8), scale, axis, bits)
    layer.kernel.assign(to_keras(grid.floats(), kernel.shape))
    return grid


Net = Callable[[Callable[..., Any]], keras.Model]


def make_bench(net: Net, mode: str = "int8", io: str = "float32", per_channel: bool = True) -> Bench:
    """Build `net(q)` twice; `q(x, scale, zero_point, name)` is a point, then a fake quantization.

    In mode `"16x8"` the same ranges are symmetric and 128 times finer.
    """
    keras.utils.set_random_seed(7)
    points: dict[str, Point] = {}

    def mark(x: Any, scale: float, zero_point: int, name: str) -> Any:
        point = Point(name, float(np.float32(scale)), zero_point)
        if mode == "16x8":
            point = Point(name, float(np.float32(point.scale / 128)), 0, 16)
        points[name] = point
        grid = FixedGrid(point.scale, point.zero_point, point.bits, lowest=-(2 ** (point.bits - 1)))
        maker = x._keras_history.operation
        stands_for = getattr(maker, "stands_for", None) or maker.name
        return QuantizeActivation(grid, stands_for=stands_for, name=name)(x)

    def simulate(x: Any, scale: float, zero_point: int, name: str) -> Any:
        return FakeQuantize(points[name])(x)

    marked = net(mark)
    grids = [weight_grid(layer, per_channel=per_channel) for layer in marked.layers if hasattr(layer, "kernel")]
    simulated = net(simulate)
    simulated.set_weights(marked.get_weights())
    return Bench(marked, simulated, {grid.name: grid for grid in grids}, points, mode, io)


def run_litert(content: bytes, inputs: Mapping[str, Any], reference: bool) -> dict[str, Any]:
    """One sample at a time through the `serving_default` signature."""
    from ai_edge_litert import interpreter as litert

    kinds = litert.OpResolverType
    resolver = kinds.BUILTIN_REF if reference else kinds.AUTO
    model = litert.Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    runner = model.get_signature_runner("serving_default")
    samples = len(next(iter(inputs.values())))
    rows = [runner(**{name: x[i : i + 1] for name, x in inputs.items()}) for i in range(samples)]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def run_tflm(content: bytes, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The same on TFLite-Micro, which knows inputs and outputs by number only."""
    runtime = pytest.importorskip("tflite_micro").runtime
    from ai_edge_litert import interpreter as litert

    names = litert.Interpreter(model_content=content).get_signature_list()["serving_default"]
    order = signature_order(content)
    model = runtime.Interpreter.from_bytes(content, arena_size=1 << 20)
    rows: dict[str, list[Any]] = {name: [] for name in names["outputs"]}
    for i in range(len(next(iter(inputs.values())))):
        for number, name in enumerate(order[0]):
            model.set_input(inputs[name][i : i + 1], number)
        model.invoke()
        for number, name in enumerate(order[1]):
            rows[name].append(np.array(model.get_output(number)))
    return {name: np.concatenate(values) for name, values in rows.items()}


def signature_order(content: bytes) -> tuple[list[str], list[str]]:
    """Names of inputs and outputs in the file's order of tensors."""
    from keras_compress.tflite.flatbuffer import read_model

    model = read_model(content)
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    inputs = {entry.tensorIndex: entry.name.decode() for entry in signature.inputs}
    outputs = {entry.tensorIndex: entry.name.decode() for entry in signature.outputs}
    return [inputs[i] for i in graph.inputs], [outputs[i] for i in graph.outputs]


class Lab:
    """What the tests of this folder share."""

    runtimes = RUNTIMES
    bench = staticmethod(make_bench)
    weight_grid = staticmethod(weight_grid)
    signature_order = staticmethod(signature_order)

    @staticmethod
    def run(content: bytes, inputs: Mapping[str, Any], runtime: str) -> dict[str, Any]:
        if runtime == "tflm":
            return run_tflm(content, inputs)
        return run_litert(content, inputs, reference=runtime == "reference")

    @staticmethod
    def samples(model: keras.Model, count: int = 16, seed: int = 3) -> dict[str, Any]:
        """Normal values for each input, by name of its `Input` layer."""
        rng = np.random.default_rng(seed)
        return {t.name: rng.normal(size=(count, *t.shape[1:])).astype(np.float32) for t in model.inputs}

    @staticmethod
    def operators(content: bytes) -> list[str]:
        """Kinds of the operators in order."""
        from keras_compress.tflite.flatbuffer import Graph, read_model

        graph = Graph(read_model(content))
        return [graph.kind(op) for op in graph.operators]

    @staticmethod
    def output_steps(content: bytes) -> list[float]:
        """Scale of the integers behind each float32 output."""
        from keras_compress.tflite.flatbuffer import Graph, read_model

        graph = Graph(read_model(content))
        producers = graph.producers()
        return [float(graph.quantization(producers[t].inputs[0])[0][0]) for t in graph.outputs]

    @staticmethod
    def tensor(content: bytes, name: str) -> tuple[Any, Any, int, str]:
        """Constant values (or None), scales, zero point and type of a tensor."""
        from keras_compress.tflite.flatbuffer import Graph, read_model

        graph = Graph(read_model(content))
        number = next(i for i in range(len(graph.tensors)) if graph.name(i) == name)
        scale, zero_point = graph.quantization(number) or (None, 0)
        return graph.constant(number), scale, zero_point, graph.dtype(number)


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab()
