"""From model to model: check, copy, wrap, strip. The original is never touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_compress.core import keras_private, progress
from keras_compress.core.batch_norm import channel_shape
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.kinds_of_layers import is_user_written
from keras_compress.core.selection import Selector, settings_by_path
from keras_compress.core.slots import Slot, skip_reason, slots_of
from keras_compress.core.transform import WeightTransform
from keras_compress.core.warn import warn
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph, parts, remade
from keras_compress.graph.batch_norms import batch_norm_after, graphs_in
from keras_compress.graph.configuration import configuration
from keras_compress.graph.finite import check_finite
from keras_compress.graph.initial_values import made_with_values
from keras_compress.graph.lora import check_no_lora
from keras_compress.graph.tfmot_ways import check_not_of_tfmot, declared_for_tfmot

TransformFactory = Callable[[str, Compressed, Slot, dict[str, Any]], Sequence[WeightTransform]]


def check_model(model: Any) -> None:
    """Refuse what this library cannot work on, with the cure.

    Raises:
        TypeError: For anything but a Keras 3 model.
        ValueError: For another backend, an unbuilt model, one that Keras quantized, or `channels_first`.
    """
    check_not_of_tfmot(model)
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a keras.Model. Received: {model!r} of type {type(model).__name__}")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Expected the TensorFlow backend of Keras: set KERAS_BACKEND=tensorflow. "
            f"Received: {keras.backend.backend()}"
        )
    if not model.built:
        raise ValueError(
            f"Expected a built model: call it on data, or give it an `Input`. Received: {model.name!r}, not built."
        )
    for path, layer in graph.walk(model):
        if told := declared_for_tfmot(layer):
            raise ValueError(f"Expected layers that declare their weights to this library. Received: {path!r}, {told}")
        if getattr(layer, "quantization_mode", None):
            raise ValueError(
                "Expected a model that `keras.Model.quantize` has not changed: start from the float model. "
                f"Received: layer {path!r} in mode {layer.quantization_mode!r}"
            )
        if getattr(layer, "data_format", None) == "channels_first":
            raise ValueError(
                "Expected `data_format='channels_last'`, the layout of TFLite: rebuild the layer with it and copy the "
                f"weights. Received: layer {path!r} with 'channels_first'"
            )


def check_phases_ended(model: keras.Model) -> None:
    """Refuse a model in a phase of training that a call has to end before anything else is done to it.

    Raises:
        ValueError: Naming the layer and the call.
    """
    for path, wrapper in compressed_layers(model):
        held: list[Compressed | WeightTransform] = [wrapper, *wrapper.transform_list]
        for transform in held:
            if transform.ended_by is not None:
                raise ValueError(
                    f"Expected a model after `{transform.ended_by}` (or `kc.strip(model)`, as wide as it is). "
                    f"Received: {model.name!r} with a {type(transform).__name__} in layer {path!r}"
                )


def copy_layer(layer: keras.layers.Layer, **overrides: Any) -> keras.layers.Layer:
    """A new layer with the same configuration and values; `overrides` replace entries of the configuration.

    Raises:
        ValueError: For a layer or model that a user wrote and that its configuration does not make again.
    """
    for each in _wrappers_in(layer):
        each.settle()
    with keras.saving.custom_object_scope(remade.classes_in(layer)):
        if is_user_written(layer) and not overrides:
            made, known = remade.make_again(layer), False
        else:
            made, known = made_with_values(layer, lambda: made_like(layer, overrides))
    _copy_values(layer, made, known)
    return made


def made_like(layer: keras.layers.Layer, overrides: Mapping[str, Any]) -> keras.layers.Layer:
    """A new layer with the same configuration, other entries replaced; its variables have their first values."""
    try:
        with configuration(layer) as config:
            copy = type(layer).from_config({**config, **overrides})
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            "Expected a layer that its configuration makes again: register its functions and classes with "
            f"`keras.saving.register_keras_serializable`, or put them into layers. Received: {type(layer).__name__} "
            f"{layer.name!r}: {type(error).__name__}: {remade.first_line(error)}"
        ) from error
    build_config = layer.get_build_config()
    if layer.built and build_config and not copy.built:
        copy.build_from_config(build_config)
        copy.built = True
    return copy


def _wrappers_in(layer: keras.layers.Layer) -> list[Compressed]:
    return [each for each in keras_private.flattened(layer) if isinstance(each, Compressed)]


def _copy_values(source: keras.layers.Layer, target: keras.layers.Layer, known: bool = False) -> None:
    """Give a copy the values of a layer; where `known`, its variables have them already."""
    if len(source.variables) != len(target.variables):
        raise ValueError(
            f"Expected `{type(source).__name__}.from_config(get_config())` to make the same variables again. "
            f"Received: {len(target.variables)} instead of {len(source.variables)} for layer {source.name!r}"
        )
    for old, new in zip(source.variables, target.variables, strict=True):
        if not known:
            new.assign(old)
    for wrapper in _wrappers_in(target):
        wrapper._unsettled = False
    for layer in keras_private.flattened(target):
        if isinstance(layer, keras.layers.Normalization):
            # It computes with tensors made from its variables, here from the values they had before.
            layer.finalize_state()


class LayerCopies:
    """Copies of layers, one for each original, so that a layer used twice stays one layer.

    Args:
        make: Makes the new layer from `(path, layer)`; `copy_layer` by default.
        visit: Visitor for graphs that a layer or model of the user's holds; these copies themselves by default.
        inside: Go into layers and models that users wrote, and give `make` their sub-layers too.
    """

    def __init__(
        self,
        make: Callable[[str, keras.layers.Layer], keras.layers.Layer] | None = None,
        visit: graph.Visitor | None = None,
        inside: bool = True,
    ) -> None:
        self._make = make or (lambda path, layer: copy_layer(layer))
        self.visit = visit or self
        self._inside = inside
        self._made: dict[int, keras.layers.Layer] = {}

    def __call__(self, call: graph.Call) -> Any:
        return call.run(self.of(call.path, call.operation))

    def of(self, path: str, operation: Any) -> Any:
        """The copy of a layer; operations that are not layers have no state, and get a copy for each call."""
        if not isinstance(operation, keras.layers.Layer):
            made = type(operation).from_config(operation.get_config())
            made.name = operation.name  # not in the configuration before Keras 3.12
            return made
        if id(operation) not in self._made:
            self._made[id(operation)] = self._copy(path, operation)
        return self._made[id(operation)]

    def _copy(self, path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        if graph.is_graph(layer):
            return graph.Rebuild(self.visit).model(layer, path + "/", depth=1)
        if not (self._inside and graph.children(layer)):
            return self._make(path, layer)
        made = self._make(path, layer) if _wrappable(layer) else copy_layer(layer)
        self._fill(made, layer, path + "/")
        return made

    def model(self, model: keras.Model) -> keras.Model:
        """The copy of a subclassed model."""
        made: keras.Model = copy_layer(model)
        self._fill(made, model, "")
        return made

    def _fill(self, made: keras.layers.Layer, source: keras.layers.Layer, prefix: str) -> None:
        """Give a copy of a layer or model that a user wrote the copies of its sub-layers."""
        written = _written(made)
        for reference, each in graph.children(source):
            self._fill_part(written, reference, each, prefix + parts.path_of(reference))
        remade.mark(written)

    def _fill_part(
        self, owner: keras.layers.Layer, reference: parts.Reference, source: keras.layers.Layer, path: str
    ) -> None:
        if id(source) in self._made:
            parts.put_part(owner, reference, self._made[id(source)])
            return
        current = parts.get_part(owner, reference)
        if is_user_written(source) and graph.children(source) and not _wrappable(source):
            self._made[id(source)] = current
            self._fill(current, source, path + "/")
            return
        new = self.of(path, source)
        if _same_kind(new, current):
            # The constructor may have handed its own layer on to what is no attribute: that one stays.
            _copy_values(new, current)
            self._made[id(source)] = new = current
        parts.put_part(owner, reference, new)


def _written(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The user's own layer inside wrappers."""
    while graph.body(layer) is not layer:
        layer = graph.body(layer)
    return layer


def _wrappable(layer: keras.layers.Layer) -> bool:
    """Whether a layer itself has slots, beside those of its sub-layers."""
    return isinstance(layer, Compressed) or bool(slots_of(layer))


def _same_kind(new: keras.layers.Layer, current: keras.layers.Layer) -> bool:
    """Whether only the values of two layers can differ: neither is, or holds, anything of this library."""
    return type(new) is type(current) and not remade.has_wrappers(new) and not remade.has_wrappers(current)


def rebuild(
    model: keras.Model,
    make: Callable[[str, keras.layers.Layer], keras.layers.Layer] | None = None,
) -> Any:
    """A copy of `model` with each layer replaced by what `make(path, layer)` gives.

    A subclassed model is made again from its configuration, and keeps its class: sub-layers are replaced where its
    attributes, and their lists, tuples and dicts, hold them.

    Raises:
        ValueError: For a subclassed model that its configuration does not make again.
    """
    return copied(model, LayerCopies(make))


def copied(model: keras.Model, copies: LayerCopies) -> Any:
    """A copy of `model`, a graph or subclassed, out of copies of its layers."""
    return graph.Rebuild(copies.visit).model(model) if graph.is_graph(model) else copies.model(model)


def compressed_layers(model: keras.Model) -> Iterator[tuple[str, Compressed]]:
    """`(path, wrapper)` for every wrapper in a model."""
    for path, layer in graph.walk(model):
        if isinstance(layer, Compressed):
            yield path, layer


def inner(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer itself, without the wrapper."""
    return layer.layer if isinstance(layer, Compressed) else layer


def slots_in(layer: keras.layers.Layer) -> tuple[Slot, ...]:
    """Compressible slots of a layer, wrapped or not."""
    return slots_of(inner(layer), layer.slot_axes if isinstance(layer, Compressed) else None)


def candidates(model: keras.Model, strict: bool = False, quiet: bool = False) -> list[tuple[str, keras.layers.Layer]]:
    """`(path, inner layer)` of every compressible layer, in the order of the model; says which layers are skipped.

    Raises:
        ValueError: With `strict`, for a layer that has to be skipped.
    """
    compressible = []
    skipped = {}
    for path, layer in graph.walk(model):
        if slots_in(layer):
            compressible.append((path, inner(layer)))
        elif reason := skip_reason(inner(layer)):
            skipped[path] = reason
    skipped.update(_out_of_reach(model))
    if skipped:
        listed = "; ".join(by_message(skipped.items()))
        if strict:
            raise ValueError(f"Expected compressible layers only (strict=True). Received: {listed}")
        if not quiet:
            warn(f"Layers left as they are: {listed}")
    if not compressible:
        raise ValueError(f"Expected a model with a compressible layer. Received: {model.name!r}, which has none.")
    return compressible


def _out_of_reach(model: keras.Model) -> Iterator[tuple[str, str]]:
    for path, layer in graph.hidden(model):
        if slots_of(inner(layer)):
            yield path, "it is held where it cannot be replaced; hold it in an attribute, list, tuple or dict"
    if is_user_written(model) and any(len(v.shape) >= 2 for v in keras_private.own_trainable(model)):
        yield model.name, "weights of the model itself have no wrapper; put them into a layer"


def add_transforms(
    model: keras.Model,
    factory: TransformFactory,
    defaults: Mapping[str, Any],
    *,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    strict: bool = False,
    replaced: Callable[[], Mapping[str, Any]] = dict,
) -> keras.Model:
    """A copy of `model` in which each selected weight has more transforms at the end of its list.

    Args:
        model: Functional, Sequential or subclassed model, wrapped already or not.
        factory: `(path, wrapper before, slot, settings) -> new transforms`, in order; none leaves the weight alone.
        defaults: Settings of a layer that no rule changes.
        filters: Which layers, see `keras_compress.core.selection.select`.
        rules: Exceptions, see `keras_compress.core.selection.settings_by_path`.
        strict: Raise where a layer has to be skipped.
        replaced: Called for each wrapper: what is to be in it beside its transforms, see `Compressed.remade`.
    """
    check_model(model)
    check_no_lora(model)
    check_finite(model)
    settings = settings_by_path(candidates(model, strict), defaults, filters, rules)
    added: list[tuple[Compressed, WeightTransform]] = []

    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = copy_layer(layer)
        if path not in settings:
            return copy
        before = copy if isinstance(copy, Compressed) else Compressed(copy, {})
        transforms = before.transforms
        for slot in slots_in(copy):
            new = list(factory(path, before, slot, settings[path]))
            if new:
                transforms.setdefault(slot.name, []).extend(new)
        if not transforms:
            return copy
        wrapper = before.remade(transforms, **replaced())
        added.extend((wrapper, t) for t in wrapper.transform_list if t not in before.transform_list)
        return wrapper

    with progress.ProgressLine("compressing") as line:
        line.step("wrapping layers")
        compressed = rebuild(positive_gammas(model), make)
        line.step("first values", len(added))
        for wrapper, transform in added:
            wrapper.initialize(transform)
            line.advance()
    _warn_of_training(compressed, [transform for _, transform in added])
    return compressed


def _warn_of_training(model: keras.Model, added: Sequence[WeightTransform]) -> None:
    """Say where `fit` will not tell the transforms that the model trains. Dropout has the same fate there."""
    counting = sorted({type(t).__name__ for t in added if type(t).update is not WeightTransform.update})
    if counting and is_user_written(model) and "training" not in model.call_signature_parameters:
        warn(
            f"`fit` does not tell {type(model).__name__} {model.name!r} that it trains, because its `call` has no "
            f"argument `training`: {', '.join(counting)} will not begin. Write `def call(self, inputs, "
            "training=False)`, or call the model with `training=True` in a loop of your own."
        )


def positive_gammas(model: keras.Model) -> keras.Model:
    """The same function with no negative gamma in a BatchNormalization that can be folded.

    Where gamma is negative, the kernel channel, the bias, the moving mean and gamma change sign together. Folding then
    scales channels by positive factors and changes no integer. Layers and normalizations that are used more than once,
    or layers that hold transforms already or do their work by another layer, are left as they are.
    """
    pairs = {
        key: norm for key, norm in batch_norm_after(model).items() if norm.scale and np.any(np.asarray(norm.gamma) < 0)
    }
    if not pairs:
        return model
    # Counted in this model's graphs: a layer also remembers its calls in other models.
    uses = Counter(id(node.operation) for each in graphs_in(model) for node in graph.nodes(each))
    flips: dict[int, np.ndarray[Any, Any]] = {}
    for _, layer in graph.walk(model):
        once = id(layer) in pairs and uses[id(layer)] == uses[id(pairs[id(layer)])] == 1
        if once and hasattr(layer, "bias") and not isinstance(layer, Compressed):
            sign = np.where(np.asarray(pairs[id(layer)].gamma) < 0, -1.0, 1.0).astype(np.float32)
            flips[id(layer)] = flips[id(pairs[id(layer)])] = sign

    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = copy_layer(layer)
        if id(layer) in flips:
            _flip(copy, flips[id(layer)])
        return copy

    return rebuild(model, make)


def _flip(layer: keras.layers.Layer, sign: np.ndarray[Any, Any]) -> None:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.gamma.assign(layer.gamma * sign)
        layer.moving_mean.assign(layer.moving_mean * sign)
        return
    # Of a separable convolution the pointwise kernel.
    slot = slots_of(layer)[-1]
    kernel = slot.variable(layer)
    kernel.assign(kernel * sign.reshape(channel_shape(kernel.shape, slot.channel_axes)))
    if layer.bias is not None:
        layer.bias.assign(layer.bias * sign)


def warn_of_pending(model: keras.Model) -> None:
    """One warning for each way in which schedules of a model had not ended, whatever the number of layers."""
    pending = ((path, message) for path, wrapper in compressed_layers(model) for message in unfinished(wrapper))
    for line in by_message(pending):
        warn(line)


def unfinished(wrapper: Compressed) -> Iterator[str]:
    """What training has not finished at a layer, and what it has finished too well: a weight of zeros only."""
    for slot, listed in wrapper.items():
        found = [message for transform in listed if (message := transform.pending())]
        yield from found
        # On the way there zeros may still open again.
        asked = not found and any(transform.may_close for transform in listed)
        if asked and not np.any(wrapper.weight(slot.name)) and np.any(wrapper.latent(slot.name)):
            yield f"all of its {slot.name} became zero: what the layer gives does not depend on what it reads"


def by_message(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """`(path, message)` as one line for each message, with the first of its paths.

    >>> by_message([("a", "too small"), ("b", "odd"), ("c", "too small")])
    ['a, c: too small', 'b: odd']
    """
    paths: dict[str, list[str]] = {}
    for path, message in pairs:
        paths.setdefault(message, []).append(path)
    most = 10
    return [
        f"{', '.join(found[:most])}{f' and {len(found) - most} more' if len(found) > most else ''}: {message}"
        for message, found in paths.items()
    ]


@global_state_kept()
def strip(model: keras.Model) -> keras.Model:
    """A plain Keras model with the same outputs: transformed weights put into the layers, wrappers gone.

    Points that quantize activations become plain Keras operations. Says which schedules had not ended. What a `call`
    of the user's computes has no place for an operation: a ready layer with an `input_quantizer` in there keeps its
    wrapper, for that alone.

    Args:
        model: A model that this library made. A plain one is copied.
    """
    check_model(model)
    warn_of_pending(model)
    apart: set[int] = set()

    def visit(call: graph.Call) -> Any:
        if hasattr(call.operation, "plain_operations"):
            return _plain(call.operation, call.args[0])
        point = getattr(call.operation, "input_point", None)
        if point is None:
            return copies(call)
        apart.add(id(call.operation))
        return copies(replace(call, args=(_plain(point, call.args[0]), *call.args[1:])))

    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        plain = strip_layer(layer)
        if not isinstance(layer, Compressed) or layer.input_point is None or id(layer) in apart:
            return plain
        return Compressed(plain, {}, input_point=copy_layer(layer.input_point))

    copies = LayerCopies(make, visit)
    return copied(model, copies)


def _plain(point: Any, tensor: Any) -> Any:
    """What a point computes in inference, as Keras operations."""
    return graph.rename_between(tensor, point.plain_operations(tensor), point.name)


def strip_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A copy of a layer without its wrapper, holding the transformed weights."""
    if not isinstance(layer, Compressed):
        return copy_layer(layer)
    held = layer.layer
    plain = rebuild(held, lambda _, each: strip_layer(each)) if graph.is_graph(held) else copy_layer(held)
    for slot, _ in layer.items():
        # Masks leave zeros of both signs. Those of one sign compress better, and are equal.
        slot.variable(plain).assign(layer.weight(slot.name) + 0.0)
    return plain
