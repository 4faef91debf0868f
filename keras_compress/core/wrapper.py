"""`Compressed`: the only wrapper. It gives its layer transformed weights for the length of a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_compress.core import keras_private
from keras_compress.core.context import assign, first_time_in_call, outside_of_tracing
from keras_compress.core.ends import warn_of_ends
from keras_compress.core.export_notice import TellsOfExport
from keras_compress.core.registry import PACKAGE
from keras_compress.core.slots import Slot, slots_of
from keras_compress.core.ste import value_of
from keras_compress.core.transform import LATENT, WeightTransform, apply_all, check_order

Tensor = Any
# Layers that a wrapper may hold beside its own.
_PARTS = ("input_point", "gradients")


def _updates(latent: keras.Variable, first: WeightTransform) -> Callable[[WeightTransform, Tensor], Tensor]:
    """Lets each transform of a list update its variables, and the first of them the latent weight."""

    def visit(transform: WeightTransform, weight: Tensor) -> Tensor:
        if not transform.trainable:
            return weight
        for variable, new in transform.update(weight):
            if variable is not LATENT:
                assign(variable, new)
            elif transform is first:
                assign(latent, ops.cast(new, latent.dtype))
                weight = _in_place_of(weight, new)
        return weight

    return visit


@tf.custom_gradient
def _in_place_of(weight: Tensor, new: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The new value, whose gradient is that of the variable."""
    return tf.identity(new), lambda upstream: (upstream, None)


@keras.saving.register_keras_serializable(package=PACKAGE)
class Compressed(TellsOfExport, keras_private.PlainAttributes, keras.layers.Wrapper):
    """A layer whose weights pass through lists of transforms before it sees them.

    The variables of the inner layer keep the latent weights, which the optimizer trains; in each call the layer
    computes with the transformed ones. The wrapper and its transforms work in float32; the inner layer keeps its own
    dtype policy.

    Args:
        layer: A Keras layer. One that is not built yet is built with the wrapper, and the transforms then take their
            first values from its initial weights.
        transforms: Slot name -> transforms, applied in order. For slot names see `keras_compress.core.slots`.
        slots: Attribute path -> output-channel axes, for layers that the table does not know.
        input_point: Layer that quantizes the inputs, as if it stood before this one; a `QuantizeActivation`.
        gradients: Layer that quantizes the gradient of the outputs, and is the identity else; a gradient quantizer.
        name: The inner layer's name by default.

    Raises:
        ValueError: For a slot the layer does not have, or an order that breaks a promise.
    """

    # As of a `WeightTransform`: the call that ends a phase of training, before which nothing is converted.
    ended_by: str | None = None

    def __init__(
        self,
        layer: keras.layers.Layer,
        transforms: Mapping[str, Sequence[WeightTransform]],
        slots: Mapping[str, Sequence[int]] | None = None,
        input_point: keras.layers.Layer | None = None,
        gradients: keras.layers.Layer | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.update(dtype="float32", autocast=False)
        super().__init__(layer, name=name or layer.name, **kwargs)
        self.supports_masking = layer.supports_masking
        self.slot_axes = None if slots is None else {key: [int(a) for a in axes] for key, axes in slots.items()}
        known = {slot.name: slot for slot in slots_of(layer, self.slot_axes)}
        unknown = set(transforms) - set(known)
        if unknown:
            raise ValueError(
                f"Expected slots of {type(layer).__name__} {layer.name!r}: {sorted(known)}. Received: {sorted(unknown)}"
            )
        self.slot_names = [name for name in known if transforms.get(name)]
        self.transform_counts = [len(transforms[name]) for name in self.slot_names]
        # One flat list: Keras saves the state of lists of layers, not of dicts of lists.
        self.transform_list = [t for name in self.slot_names for t in transforms[name]]
        self.input_point = input_point
        self.gradients = gradients
        # Whether nothing may have set what `initialize` sets: so it is behind `from_config`.
        self._unsettled = False
        for listed in self.transforms.values():
            check_order(listed)
        if layer.built:
            self._prepare()
        if not layer.trainable:
            # What is frozen stays as it is: no centroid moves either.
            self.trainable = False

    def _prepare(self) -> None:
        for slot, listed in self.items():
            shape = slot.variable(self.layer).shape
            for position, transform in enumerate(listed):
                transform.prepare(shape, slot.channel_axes, check_order(listed[:position]))
        self.built = True

    def remade(
        self,
        transforms: Mapping[str, Sequence[WeightTransform]],
        layer: keras.layers.Layer | None = None,
        **replaced: Any,
    ) -> Compressed:
        """A wrapper with the same settings, around the same layer or another one, with other transforms.

        Args:
            transforms: Slot name -> transforms.
            layer: In place of the inner layer.
            replaced: In place of `input_point` or `gradients`.
        """
        self.settle()
        kept = {"input_point": self.input_point, "gradients": self.gradients, **replaced}
        return Compressed(layer or self.layer, transforms, slots=self.slot_axes, name=self.name, **kept)

    def items(self) -> Iterator[tuple[Slot, list[WeightTransform]]]:
        """`(slot, transforms)` pairs."""
        known = {slot.name: slot for slot in slots_of(self.layer, self.slot_axes)}
        start = 0
        for name, count in zip(self.slot_names, self.transform_counts, strict=True):
            yield known[name], list(self.transform_list[start : start + count])
            start += count

    @property
    def frozen(self) -> bool:
        """Whether training leaves the layer as it is, `trainable=False`: no mask and no step counter moves either."""
        return not (self.trainable and self.layer.trainable)

    @property
    def transforms(self) -> dict[str, list[WeightTransform]]:
        """Slot name -> transforms."""
        return {slot.name: listed for slot, listed in self.items()}

    def __getattr__(self, name: str) -> Any:
        """What the inner layer has: a user's `call` may read `self.dense.units`, or a tied `self.embedding.embeddings`.

        A weight with transforms is given as the layer sees it.
        """
        layer = self.__dict__.get("layer")
        if layer is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self.weight(name) if name in self.__dict__.get("slot_names", ()) else getattr(layer, name)

    def latent(self, slot_name: str) -> keras.Variable:
        """The trained variable behind a slot."""
        return next(slot.variable(self.layer) for slot, _ in self.items() if slot.name == slot_name)

    def weight(self, slot_name: str, stop_before: WeightTransform | None = None) -> Tensor:
        """The weight as the layer sees it in inference, or as it comes to one of the transforms.

        Args:
            slot_name: Slot.
            stop_before: Give the weight that enters this transform.
        """
        self.settle()
        listed = self.transforms[slot_name]
        end = next((i for i, transform in enumerate(listed) if transform is stop_before), len(listed))
        return apply_all(listed[:end], ops.cast(value_of(self.latent(slot_name)), "float32"))

    def initialize(self, transform: WeightTransform) -> None:
        """Let a transform just added set its variables from the weight that comes to it."""
        if type(transform).initialize is WeightTransform.initialize:
            return
        for slot, listed in self.items():
            if any(t is transform for t in listed):
                transform.initialize(self.weight(slot.name, stop_before=transform))

    def settle(self) -> None:
        """Give transforms their first values where neither a file nor a copy has.

        `keras.models.clone_model` and `from_config` make the variables alone: centroids and scales of zeros or ones.
        It is not done at once, since behind most calls of `from_config` values follow, and those would be overwritten.
        """
        if not self._unsettled or not self.built:
            return
        self._unsettled = False
        with outside_of_tracing():
            for transform in self.transform_list:
                if transform.is_as_created():
                    self.initialize(transform)

    def save_own_variables(self, store: Any) -> None:
        self.settle()
        super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        self._unsettled = False

    def build(self, input_shape: Any = None) -> None:
        with outside_of_tracing():
            if self.input_point is not None and not self.input_point.built:
                self.input_point.build(input_shape)
        if self.layer.built:
            self.built = True
            return
        with outside_of_tracing():
            self.layer.build(input_shape)
            self.layer.built = True
            self._prepare()
            for transform in self.transform_list:
                self.initialize(transform)
        self._unsettled = False

    def get_build_config(self) -> dict[str, Any] | None:
        return None

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        if "training" in kwargs and not keras_private.takes_training(self.layer):
            kwargs.pop("training")
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return self.layer.compute_mask(inputs, previous_mask)

    def call(self, inputs: Any, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        training = bool(training)
        self.settle()
        # A layer that stands in two places has one set of weights and counts one step for each batch.
        update = training and not self.frozen and first_time_in_call(self)
        if update:
            warn_of_ends()
        if self.input_point is not None:
            inputs = self.input_point(inputs, training=training)
        mapping = [(slot.variable(self.layer), self._transformed(slot, training, update)) for slot, _ in self.items()]
        outer = keras_private.stateless_scope()
        with keras.StatelessScope(collect_losses=True) as scope:
            if outer is not None:
                scope.state_mapping.update(outer.state_mapping)
            for variable, value in mapping:
                scope.add_update((variable, ops.cast(value, variable.dtype)))
            given = {id(variable): scope.get_current_value(variable) for variable, _ in mapping}
            outputs = self.layer(inputs, *args, **kwargs)
        self._apply_updates(scope, given)
        # The losses become this wrapper's own. The layer forgets them, or `stateless_call` would count them twice.
        keras_private.forget_losses(self.layer)
        for loss in scope.losses:
            self.add_loss(loss)
        return outputs if self.gradients is None else self.gradients(outputs, training=training)

    def values(self, inputs: Tensor, *args: Any) -> Tensor:
        """What `call` gives in inference for values at hand, where the layer is Keras's or ours; sooner."""
        if keras_private.stateless_scope() is not None or self._unsettled:
            return self.call(inputs, *args)
        if self.input_point is not None:
            inputs = self.input_point(inputs, training=False)
        mapping = [(slot.variable(self.layer), self._transformed(slot, False, False)) for slot, _ in self.items()]
        given = [(variable, ops.cast(value, variable.dtype)) for variable, value in mapping]
        with keras.StatelessScope(state_mapping=given):
            outputs = self.layer.call(inputs, *args)
        return outputs if self.gradients is None else self.gradients(outputs, training=False)

    def _transformed(self, slot: Slot, training: bool, update: bool) -> Tensor:
        latent, listed = slot.variable(self.layer), self.transforms[slot.name]
        value = ops.cast(value_of(latent), "float32")
        return apply_all(listed, value, training, _updates(latent, listed[0]) if update else None)

    def _apply_updates(self, scope: keras.StatelessScope, given: Mapping[int, Tensor]) -> None:
        """Carry what the layer assigned inside the scope (moving averages, seeds) out of it, not what it was given.

        A weight that the layer itself changes (`SpectralNormalization` divides it) is changed by as much: the
        transformed weight does not take the place of the latent one.
        """
        for variable in self.layer.variables:
            value, before = scope.get_current_value(variable), given.get(id(variable))
            if value is None or value is before:
                continue
            assign(variable, value if before is None else value_of(variable) + value - before)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        config: dict[str, Any] = super().get_config()
        config.pop("dtype", None)
        config["transforms"] = {name: [serialize(t) for t in listed] for name, listed in self.transforms.items()}
        config["slots"] = None if self.slot_axes is None else {k: list(v) for k, v in self.slot_axes.items()}
        # Only where there are any: wrappers of earlier versions load, and read back the same.
        config.update({key: serialize(held) for key in _PARTS if (held := getattr(self, key)) is not None})
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Compressed:
        config = dict(config)
        restore = keras.saving.deserialize_keras_object
        layer = restore(config.pop("layer"), custom_objects=custom_objects)
        transforms = {
            name: [restore(t, custom_objects=custom_objects) for t in listed]
            for name, listed in config.pop("transforms").items()
        }
        for key in _PARTS:
            if config.get(key) is not None:
                config[key] = restore(config[key], custom_objects=custom_objects)
        made = cls(layer, transforms, **config)
        made._unsettled = True
        return made
