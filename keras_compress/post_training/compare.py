"""Two models beside each other, layer by layer: how far weights and outputs of the one are from the other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops, tree
from numpy.typing import NDArray

from keras_compress.core.shown import Shown
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.core.slots import Slot
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.model import inner, slots_in
from keras_compress.post_training.effect import LayerEffect
from keras_compress.quantizers.activation import QuantizeActivation

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerError:
    """How far a layer of a model is from the layer of the same path in another one.

    Attributes:
        weight_sqnr_db: Signal to noise of the layer's weights beside the reference's; 120 where they are equal.
        output_sqnr_db: Signal to noise of its outputs; `None` where there was no data, or no such layer there.
    """

    weight_sqnr_db: float
    output_sqnr_db: float | None


@dataclass(frozen=True)
class Stage:
    """A model on its way, beside the float model that it stands for.

    Attributes:
        name: What was done last.
        layers: Path -> errors, in the order of the model.
        output_sqnr_db: Signal to noise of the model's outputs, the lowest of them; `None` without data.
    """

    name: str
    layers: Mapping[str, LayerError]
    output_sqnr_db: float | None


@dataclass(frozen=True, repr=False)
class PassReport(Shown):
    """What passes changed, stage by stage. Activations are not quantized in it, but in the last stage.

    Attributes:
        name: The model's name.
        stages: In the order in which passes were run; the first is the model as it was.
        effects: What passes with data say of each layer, with the layers before it corrected already;
            `keras_compress.post_training.effect.table` prints it.
    """

    name: str
    stages: tuple[Stage, ...]
    effects: tuple[LayerEffect, ...] = ()

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines; `rows()` has all."""
        return f"PassReport of {self.name}: signal to noise of outputs in dB, weights quantized", [
            (stage.name, "" if stage.output_sqnr_db is None else f"{stage.output_sqnr_db:.1f} dB")
            for stage in self.stages
        ]

    def rows(self) -> list[list[str]]:
        """A table: each layer's weights and outputs, in dB, at each stage; its last row is the model's outputs."""
        paths = list(dict.fromkeys(path for stage in self.stages for path in stage.layers))
        head = ["layer", *(stage.name for stage in self.stages)]
        body = [[path, *(_cell(stage.layers.get(path)) for stage in self.stages)] for path in paths]
        whole = ["the outputs", *(_figure(stage.output_sqnr_db) for stage in self.stages)]
        return [head, *body, whole]


def _cell(error: LayerError | None) -> str:
    return "" if error is None else f"{error.weight_sqnr_db:.1f}, {_figure(error.output_sqnr_db)}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def compare_layers(
    reference: keras.Model, model: keras.Model, data: Sequence[Array] | None = None, name: str = ""
) -> Stage:
    """How far the layers of a model are from those of the same path in a reference.

    Args:
        reference: Float model.
        model: The same function with quantized weights; points without a range let values pass.
        data: Inputs, one array for each; without any, weights alone are compared.
        name: Of the stage.
    """
    wrappers = {path: layer for path, layer in keras_graph.walk(model) if isinstance(layer, Compressed)}
    outputs: dict[str, float] = {}
    whole = None
    graphs = keras_graph.is_graph(reference) and keras_graph.is_graph(model)
    if data is not None and graphs:
        expected, exact = _run(reference, data)
        received, rounded = _run(model, data)
        outputs = {path: sqnr_db(expected[path], received[path]) for path in expected.keys() & received.keys()}
        whole = min(sqnr_db(e, r) for e, r in zip(exact, rounded, strict=True))
    others = dict(keras_graph.walk(reference))
    layers = {
        path: LayerError(weight_error(wrapper, others.get(path)), outputs.get(path))
        for path, wrapper in wrappers.items()
    }
    return Stage(name, layers, whole)


def weight_error(wrapper: Compressed, other: keras.layers.Layer | None = None) -> float:
    """Signal to noise of all the transformed weights of a layer, in dB.

    Args:
        wrapper: The layer.
        other: The layer that has the weights which they stand for. A method that chooses how to round changes the
            latent ones, which are taken where no such layer has weights of these shapes.
    """
    aimed, seen = [], []
    for slot, _ in wrapper.items():
        found = _array(wrapper.weight(slot.name))
        exact = _weight(other, slot)
        aimed.append(_array(wrapper.latent(slot.name)) if exact is None or exact.shape != found.shape else exact)
        seen.append(found)
    if not seen:
        return sqnr_db(np.ones(1), np.ones(1))
    first, second = (np.concatenate([each.reshape(-1) for each in listed]) for listed in (aimed, seen))
    return sqnr_db(first, second)


def _weight(layer: keras.layers.Layer | None, slot: Slot) -> Array | None:
    """A weight as a layer uses it, or `None` where it has none of that name."""
    if layer is None or slot.name not in {each.name for each in slots_in(layer)}:
        return None
    if isinstance(layer, Compressed) and slot.name in layer.transforms:
        return _array(layer.weight(slot.name))
    return _array(slot.variable(inner(layer)))


def _array(value: Any) -> Array:
    return np.asarray(ops.convert_to_numpy(value), np.float64)


def _run(model: keras.Model, data: Sequence[Array]) -> tuple[dict[str, Array], list[Array]]:
    """Outputs of layers with weights, by path, of the last call of each, and those of the model."""
    found: dict[str, Array] = {}

    def visit(call: keras_graph.Call) -> Any:
        operation = call.operation
        if isinstance(operation, QuantizeActivation) and not operation.quantizer.trained():
            return call.args[0]
        made = call.values()
        if isinstance(operation, keras.layers.Layer) and slots_in(inner(operation)):
            first = tree.flatten(made)[0]
            found[call.path] = np.asarray(ops.convert_to_numpy(first))
        return made

    tensors = [ops.convert_to_tensor(np.asarray(each)) for each in data]
    outputs = keras_graph.Rebuild(visit, flat=True).run(model, tensors, "", 0)
    return found, [np.asarray(ops.convert_to_numpy(each)) for each in tree.flatten(outputs)]
