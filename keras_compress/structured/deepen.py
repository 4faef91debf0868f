"""`deepen`: layers that give what they read, put behind others; the same function, deeper."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_compress.core.batch_norm import over_last_axis
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.selection import Selector, select
from keras_compress.data.batches import first_samples
from keras_compress.data.samples import cut
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.batch_norms import graphs_in
from keras_compress.graph.configuration import configuration
from keras_compress.graph.model import LayerCopies, by_message, check_model, copied
from keras_compress.graph.watch import Watch
from keras_compress.structured.opened import opened
from keras_compress.structured.rules.axes import AlongAxisRule
from keras_compress.structured.rules.elementwise import ActivationRule, ElementwiseRule, PReLURule, RPReLURule
from keras_compress.structured.rules.rule import rule_of
from keras_compress.structured.rules.shapes import SpatialRule
from keras_compress.structured.unit_places import all_nodes
from keras_compress.structured.widen import refuse_transforms

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
# Samples that statistics are taken from.
SAMPLES = 1024
BATCH = 128
# Values that an activation is tried on: of each of these sizes, on both sides of 0.
SIZES = (0.01, 1.0, 10.0, 100.0)
_ACTIVATIONS = (ElementwiseRule, ActivationRule, PReLURule, RPReLURule)
Function = Callable[[Any], Any]


@global_state_kept()
def deepen(model: keras.Model, layers: Selector, *, data: Any = None) -> keras.Model:
    """A new, plain model with another layer behind each of some dense layers and convolutions, computing the same.

    Net2DeeperNet: a layer `f(W x)` becomes two, `f(U f(W x))`, where U is the identity: a dense layer of the identity
    matrix, or a convolution whose kernels of the same size are 1 for their own channel in the middle and 0 elsewhere.
    It stands behind the activation, though dropout, noise, pooling or padding lies between, and so does a
    BatchNormalization where there is one in front of it, with a gamma and a beta that undo what it does:

        gamma = sqrt(variance + epsilon),    beta = mean

    That is the same function for activations with f(f(x)) = f(x), such as ReLU or ReLU6.

    Args:
        model: Built plain model; a subclassed one becomes a Functional model of what its `call` runs.
        layers: Which ones: name, `"re:..."`, `"class:..."`, class, callable, or a list of these; of `Dense`, `Conv1D`,
            `Conv2D` and `Conv3D`.
        data: Inputs without labels, of which the first 1,024 give the statistics of new BatchNormalizations. Without
            them mean and variance begin with 0 and 1: the same in inference, but not in training, where the
            statistics are those of the batch.

    Returns:
        A new model, not compiled, whose new layers are called `conv_deeper`, `norm_deeper` and so on. The one given
        stays as it is.

    Raises:
        ValueError: Naming the layer, for one that is none of these or that another layer calls, for an activation that
            changes what it gave, or a model with transforms in training.

    **Reference**: Chen, Goodfellow and Shlens, "Net2Net: Accelerating learning via knowledge transfer" (2016), section
    2.3.
    """
    check_model(model)
    refuse_transforms(model)
    model = opened(model)
    listed = list(keras_graph.walk(model))
    chosen = select(layers, listed)
    others = [(path, f"is a {type(layer).__name__}") for path, layer in listed if path in chosen and not _fits(layer)]
    if others:
        raise ValueError(
            "Expected Dense, Conv1D, Conv2D or Conv3D layers to put others behind. "
            f"Received: {'; '.join(by_message(others))}"
        )
    called = {id(node.operation) for node in all_nodes(model)}
    inside = [
        (path, f"is a {type(layer).__name__}") for path, layer in listed if path in chosen and id(layer) not in called
    ]
    if inside:
        raise ValueError(
            "Expected layers that the model calls by itself, as nothing can be put into the `call` of another layer. "
            f"Received: {'; '.join(by_message(inside))}, inside another layer"
        )
    names = _Names({layer.name for _, layer in listed})
    blocks = _blocks(model, {id(layer): path for path, layer in listed if path in chosen}, names)

    def visit(call: keras_graph.Call) -> Any:
        made = copies(call)
        block = blocks.get(id(call.node.outputs[0])) if call.node.outputs else None
        return made if block is None else block(made)

    copies = LayerCopies(visit=visit, inside=False)
    made: keras.Model = copied(model, copies)
    if data is not None:
        _take_statistics(made, dict.fromkeys(blocks.values()), data)
    return made


def _fits(layer: Any) -> bool:
    return type(layer) is keras.layers.Dense or type(layer) in CONVOLUTIONS


class _Names:
    """Names that no other layer has."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken

    def of(self, name: str) -> str:
        base = f"{name}_deeper"
        candidates = [base, *(f"{base}_{number}" for number in range(2, len(self._taken) + 3))]
        name = next(each for each in candidates if each not in self._taken)
        self._taken.add(name)
        return name


@dataclass(frozen=True)
class _Chain:
    """What stands behind a layer: up to its activation.

    Attributes:
        path: Path of the layer.
        layer: The layer.
        norm: BatchNormalization, if there is one.
        activation: Layer or Keras operation, if there is one.
        end: The tensor behind the last of them.
    """

    path: str
    layer: Any
    norm: Any
    activation: Any
    end: Any

    def check(self) -> None:
        """Refuse an activation that changes what it gave.

        Raises:
            ValueError: Naming the layer.
        """
        for function in (self.layer.activation, self.activation):
            if function is not None and not gives_the_same_again(function):
                own = getattr(function, "activation", function)
                raise ValueError(
                    "Expected an activation f with f(f(x)) = f(x), such as ReLU, in front of a layer that gives what "
                    f"it reads. Received: layer {self.path!r} with {getattr(own, '__name__', type(own).__name__)!r}"
                )


def gives_the_same_again(function: Any) -> bool:
    """Whether f(f(x)) = f(x): tried on numbers, as code tells nothing.

    >>> [gives_the_same_again(keras.activations.get(name)) for name in ("relu", "relu6", "linear", "tanh", "softmax")]
    [True, True, True, False, False]
    """
    return _tried(function, lambda values, call: (call(values), call(call(values))))


def _gives_what_it_reads(function: Any) -> bool:
    """Whether f(x) = x in inference, as of dropout and noise."""
    return _tried(function, lambda values, call: (values, call(values)))


def _tried(function: Any, both: Callable[[Any, Function], tuple[Any, Any]]) -> bool:
    """Whether two things computed of numbers are equal."""
    if getattr(function, "weights", None):
        return False
    steps = np.linspace(-1.0, 1.0, 64, dtype=np.float32)
    values = keras.ops.convert_to_tensor(np.outer(SIZES, steps).astype(np.float32))
    try:
        one, other = both(values, function.call if isinstance(function, keras.Operation) else function)
        return np.allclose(one, other, rtol=1e-6, atol=0.0)
    except Exception:
        # A user's function may raise anything where it cannot be called.
        return False


def _blocks(model: keras.Model, paths: dict[int, str], names: _Names) -> dict[int, _Block]:
    """`id(tensor)` -> what is put behind it. A layer that is called several times has one block for all."""
    found: dict[int, _Block] = {}
    by_layer: dict[int, tuple[_Chain, _Block]] = {}
    for each in graphs_in(model):
        table = keras_graph.consumers(each)
        for node in keras_graph.nodes(each):
            key = id(node.operation)
            if key not in paths:
                continue
            chain = _chain(paths[key], node, each, table)
            if key not in by_layer:
                chain.check()
                by_layer[key] = chain, _Block(chain, names)
            known, block = by_layer[key]
            if known.norm is not chain.norm or known.activation is not chain.activation:
                raise ValueError(
                    f"Expected the same behind every call of a layer. Received: layer {chain.path!r}, which is called "
                    "in several places"
                )
            found[id(chain.end)] = block
    return found


def _chain(path: str, node: Any, model: keras.Model, table: dict[int, list[Any]]) -> _Chain:
    layer = node.operation
    norm = activation = None
    last = node
    readers = _readers(node, model, table) if layer.activation is keras.activations.linear else iter(())
    for reader in readers:
        if norm is None and type(reader.operation) is keras.layers.BatchNormalization:
            norm, last = reader.operation, reader
        elif _is_activation(reader.operation):
            activation, last = reader.operation, reader
            break
        elif not _looked_through(reader):
            break
    if norm is not None and not over_last_axis(norm):
        raise ValueError(
            f"Expected a BatchNormalization over the last axis. Received: {norm.name!r} behind layer {path!r}"
        )
    return _Chain(path, layer, norm, activation, last.outputs[0])


def _readers(node: Any, model: keras.Model, table: dict[int, list[Any]]) -> Iterator[Any]:
    """One behind the other, as long as each alone reads what the one before it gives, and nothing else."""
    reader = keras_graph.sole_consumer(node, model, table)
    while reader is not None and len(reader.input_tensors) == 1:
        yield reader
        reader = keras_graph.sole_consumer(reader, model, table)


def _is_activation(operation: Any) -> bool:
    rule = rule_of(operation)
    softmax = isinstance(rule, AlongAxisRule) and "max" in type(operation).__name__
    return softmax or (isinstance(rule, _ACTIVATIONS) and not _gives_what_it_reads(operation))


def _looked_through(node: Any) -> bool:
    """Dropout, noise, pooling and the like: the same layer fits behind the activation as in front of them."""
    before, after = (tuple(each.shape) for each in (node.input_tensors[0], node.outputs[0]))
    if isinstance(rule_of(node.operation), SpatialRule):
        return len(before) == len(after) and before[-1] == after[-1]
    return before == after and _gives_what_it_reads(node.operation)


class _Block:
    """The layers that are put behind a chain: as many as it has, which give what they read."""

    def __init__(self, chain: _Chain, names: _Names) -> None:
        self.layer = _identity(chain.layer, names.of(chain.layer.name))
        self.norm = None if chain.norm is None else _identity_norm(chain.norm, names.of(chain.norm.name))
        self._activation = None
        if chain.activation is not None:
            self._activation = type(chain.activation).from_config(chain.activation.get_config())
            self._activation.name = names.of(chain.activation.name)

    def __call__(self, tensor: Any) -> Any:
        new = not self.layer.built
        made = self.layer(tensor)
        if new:
            _make_identity(self.layer)
        if self.norm is not None:
            made = self.norm(made)
            if new:
                self.set_statistics(0.0, 1.0)
        return made if self._activation is None else self._activation(made)

    def set_statistics(self, mean: Any, variance: Any) -> None:
        """Statistics of the normalization, and the gamma and beta that undo it."""
        norm: Any = self.norm
        shape = norm.moving_mean.shape
        mean, variance = (np.broadcast_to(np.asarray(each, np.float64), shape) for each in (mean, variance))
        for variable, value in (
            (norm.moving_mean, mean),
            (norm.moving_variance, variance),
            (norm.beta, mean),
            (norm.gamma, np.sqrt(variance + norm.epsilon)),
        ):
            variable.assign(value)


def _identity(layer: Any, name: str) -> Any:
    """A layer of the same kind that has as many outputs as inputs."""
    width = "units" if isinstance(layer, keras.layers.Dense) else "filters"
    with configuration(layer) as config:
        changed = {**config, "name": name, width: int(layer.kernel.shape[-1])}
        if width == "filters":
            changed |= {"strides": 1, "dilation_rate": 1, "groups": 1, "padding": _padding(layer)}
        changed.pop("build_config", None)
        return type(layer).from_config(changed)


def _padding(layer: Any) -> str:
    return "causal" if layer.padding == "causal" else "same"


def _make_identity(layer: Any) -> None:
    kernel = np.zeros(layer.kernel.shape, np.float32)
    if isinstance(layer, keras.layers.Dense):
        middle: tuple[int, ...] = ()
    elif layer.padding == "causal":
        middle = (kernel.shape[0] - 1,)
    else:
        # Of an even number of places, padding puts one more behind.
        middle = tuple((size - 1) // 2 for size in kernel.shape[:-2])
    kernel[middle] = np.eye(kernel.shape[-1])
    layer.kernel.assign(kernel)
    if layer.bias is not None:
        layer.bias.assign(np.zeros(layer.bias.shape))


def _identity_norm(norm: Any, name: str) -> Any:
    with configuration(norm) as config:
        changed = {**config, "name": name, "scale": True, "center": True}
        changed.pop("build_config", None)
        return keras.layers.BatchNormalization.from_config(changed)


def _take_statistics(model: keras.Model, blocks: Iterable[_Block], data: Any) -> None:
    """Give new normalizations the mean and variance of what they read, as the layers before them change nothing."""
    paths = {id(layer): path for path, layer in keras_graph.walk(model)}
    normed = [block for block in blocks if block.norm is not None]
    watch = Watch(model, [paths[id(block.layer)] for block in normed])
    sums = [np.zeros((3, 1)) for _ in normed]
    for batch in cut(first_samples(data, keras_graph.functional(model), SAMPLES), BATCH):
        _, values = watch.run(list(batch) if len(batch) > 1 else batch[0], training=False)
        for number, each in enumerate(values):
            rows = np.asarray(each, np.float64).reshape(-1, each.shape[-1])
            count = np.full(rows.shape[1], len(rows))
            sums[number] = sums[number] + np.stack([count, rows.sum(axis=0), np.square(rows).sum(axis=0)])
    for block, (count, total, squares) in zip(normed, sums, strict=True):
        mean = total / count
        block.set_statistics(mean, np.maximum(squares / count - np.square(mean), 0.0))
