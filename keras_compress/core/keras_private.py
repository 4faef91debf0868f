"""What this package uses of Keras's and TensorFlow's private names. No other file has any.

Each function has a test against what it stands for, so that a version of Keras that changes one is seen there first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.remat import get_current_remat_mode
from keras.src.ops.node import Node
from keras.src.trainers.compile_utils import CompileLoss, get_loss
from keras.src.utils.naming import auto_name
from tensorflow.python.eager import context

Functional: Any = keras.src.models.functional.Functional
# Keras's own attributes for the whole program, such as its open scopes, by name.
global_attribute: Callable[[str], Any] = global_state.get_global_attribute
set_global_attribute: Callable[[str, Any], None] = global_state.set_global_attribute


@contextmanager
def names_counted_anew() -> Iterator[None]:
    """Names that Keras gives by itself are those of a new session; behind it Keras counts on from before."""
    before = global_attribute("object_name_uids")
    set_global_attribute("object_name_uids", None)
    try:
        yield
    finally:
        set_global_attribute("object_name_uids", before)


_LOGITS_OF_ROUNDED = "_logits_of_rounded"


def maker(tensor: keras.KerasTensor) -> Any:
    """The operation that makes a symbolic tensor."""
    return tensor._keras_history.operation


def call_node(tensor: keras.KerasTensor) -> Any:
    """The node of the call that makes a symbolic tensor."""
    operation, call, _ = tensor._keras_history
    return operation._inbound_nodes[call]


def recorded(
    operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], like: list[keras.KerasTensor]
) -> list[keras.KerasTensor]:
    """A call on symbolic tensors, written into the graph as Keras does when it has inferred what comes out.

    Args:
        operation: Layer, built, or operation.
        args: Its arguments.
        kwargs: Its arguments.
        like: Tensors of the shapes and dtypes that it gives.
    """
    outputs = [keras.KerasTensor(tensor.shape, tensor.dtype) for tensor in like]
    Node(operation=operation, call_args=args, call_kwargs=kwargs, outputs=outputs)
    return outputs


def is_plain(tensor: keras.KerasTensor) -> bool:
    """Whether a symbolic tensor is its shape and dtype and nothing else: dense, without a mask."""
    return not (tensor.sparse or tensor.ragged) and get_keras_mask(tensor) is None


def mask_of(tensor: Any) -> Any:
    """The mask that Keras keeps with a layer's output, which says what counts of it; `None` where there is none."""
    return get_keras_mask(tensor)


def with_mask_of(tensor: Any, other: Any) -> Any:
    """A tensor that counts where another one does."""
    mask = get_keras_mask(other)
    if mask is not None:
        set_keras_mask(tensor, mask)
    return tensor


def logits_of(tensor: Any) -> Any:
    """What the softmax or sigmoid read that made a tensor, in front of its rounding too; `None` where nobody kept it.

    Keras's cross-entropies read it in place of the logarithm of probabilities, of which float32 has no small ones.
    """
    return getattr(tensor, "_keras_logits", getattr(tensor, _LOGITS_OF_ROUNDED, None))


def keep_logits(rounded: Any, tensor: Any, training: bool) -> None:
    """Keep the logits of probabilities with those rounded from them.

    In training Keras's cross-entropies find them: a right class that was rounded to 0 has no gradient. Otherwise only
    `logits_of` does, and losses are those of what the device gives.
    """
    logits = logits_of(tensor)
    if logits is not None:
        setattr(rounded, "_keras_logits" if training else _LOGITS_OF_ROUNDED, logits)


def view_of(layer: Any) -> Any:
    """A layer for a place in another graph, which shares all else with the one that it is a view of.

    To be called and read: what is assigned to its variables is assigned to that layer's.
    """
    made = object.__new__(type(layer))
    # Keras's wrappers around these two belong to the layer itself.
    kept = {key: value for key, value in vars(layer).items() if key not in ("build", "quantize")}
    vars(made).update(kept, _inbound_nodes=[], _outbound_nodes=[])
    return made


def made_by(tensor: Any) -> tuple[Any, list[Any]] | None:
    """The operation that makes a tensor and what it reads; `None` for a tensor of values.

    While a layer of the operation is still being built, the node is not there yet: nothing is known of what it reads.
    """
    history = getattr(tensor, "_keras_history", None)
    if history is None:
        return None
    nodes = history.operation._inbound_nodes
    return history.operation, nodes[history.node_index].input_tensors if history.node_index < len(nodes) else []


def nodes_by_depth(graph: Any) -> dict[int, list[Any]]:
    """The nodes of a Functional model by their distance from its outputs."""
    found: dict[int, list[Any]] = graph._nodes_by_depth
    return found


def inputs_structure(graph: Any) -> Any:
    """The inputs of a Functional model in the structure in which it takes them."""
    return graph._inputs_struct


def outputs_structure(graph: Any) -> Any:
    """The outputs of a Functional model in the structure in which it gives them."""
    return graph._outputs_struct


def graph_of_sequential(model: keras.Sequential) -> Any:
    """The Functional model inside a Sequential, `None` before it is built."""
    return getattr(model, "_functional", None)


def takes_inputs_and_outputs(cls: type) -> bool:
    """Whether a class of models is made by `cls(inputs, outputs)`."""
    return bool(keras.src.models.functional.functional_like_constructor(cls))


def flattened(layer: Any, include_self: bool = True) -> list[Any]:
    """A layer or model and all that is tracked inside it, each once."""
    return list(layer._flatten_layers(include_self=include_self))


def sub_layers(layer: Any) -> list[Any]:
    """The layers that a layer tracks itself, in their order."""
    return list(layer._layers)


def own_trainable(layer: Any) -> list[Any]:
    """Trainable variables of a layer, without those of its sub-layers."""
    return list(layer._trainable_variables)


def own_variables(layer: Any) -> list[Any]:
    """Variables of a layer, without those of its sub-layers."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def takes_training(layer: Any) -> bool:
    """Whether a layer's `call` has an argument `training`."""
    return bool(layer._call_has_training_arg)


def losses_of_call(layer: Any) -> list[Any]:
    """The losses that a layer itself has added so far; the list that it keeps them in."""
    losses: list[Any] = layer._losses
    return losses


def forget_losses(layer: Any) -> None:
    """Drop the losses that a layer and its sub-layers have added."""
    layer._clear_losses()


def projection(layer: Any, name: str) -> Any:
    """The dense layer of an attention layer: `"query"`, `"key"`, `"value"`, `"gate"` or `"output"`."""
    return getattr(layer, f"_{name}_dense")


def has_gate(layer: Any) -> bool:
    """Whether an attention layer multiplies its heads by a gate."""
    return bool(getattr(layer, "use_gate", getattr(layer, "_use_gate", False)))


def attention_axes(layer: Any) -> tuple[int, ...]:
    """The axes over which a MultiHeadAttention attends; a GroupedQueryAttention knows the first alone."""
    axes: tuple[int, ...] = getattr(layer, "_attention_axes", None) or (1,)
    return axes


def set_attention(layer: Any, function: Callable[..., tuple[Any, Any]]) -> None:
    """Let an attention layer call `(query, key, value, ...) -> (output, scores)` on its projections."""
    vars(layer)["_compute_attention"] = function


def set_initializer(variable: keras.Variable, initializer: Callable[..., Any]) -> None:
    """Let a variable whose making was put off begin with other values."""
    variable._initializer = initializer


def seed_generators(layer: Any) -> list[tuple[Any, int | None]]:
    """`(generator, seed that the user gave)` of the random numbers that a layer itself draws."""
    return [(generator, generator._initial_seed) for generator in layer._seed_generators]


def shapes_built_with(model: Any) -> dict[str, Any]:
    """The arguments with which a model was built, `{}` where it was not or none are kept."""
    return getattr(model, "_build_shapes_dict", None) or {}


def arguments_of_function(value: Any) -> Any:
    """The arguments that Keras's wrapper of a loss or metric function passes on, which its configuration leaves out."""
    return getattr(value, "_fn_kwargs", None)


def has_default_config(method: Any) -> bool:
    """Whether a `get_config` is the one that Keras writes for a class without its own."""
    return bool(getattr(method, "_is_default", False))


def set_default_config(method: Any, default: bool) -> None:
    """Mark a `get_config` as one that Keras wrote, or as a class's own."""
    method._is_default = default


def replace_sub_layer(owner: Any, old: Any, new: Any) -> None:
    """Let `owner` track `new` in the place of `old`; nothing happens where it does not track `old`.

    Keras locks its record of sub-layers once a layer is built: assigning a new one then raises "You cannot add new
    elements of state". Replacing one entry by another adds nothing, and keeps the order of the variables.

    Args:
        owner: The layer whose record is changed, built or not.
        old: One of its sub-layers, in an attribute or in a container of its.
        new: The layer to be tracked from now on. It still has to be assigned to the attribute.

    Raises:
        RuntimeError: Where this version of Keras keeps its record in another way.
    """
    tracker = owner._tracker
    try:
        stored, layers = tracker.stored_ids["layers"], tracker.config["layers"][1]
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise RuntimeError(
            "Expected a Keras version whose layers keep their sub-layers in `_tracker.config['layers']`. "
            f"Received: Keras {keras.__version__}"
        ) from error
    if id(old) not in stored:
        return
    index = next(i for i, layer in enumerate(layers) if layer is old)
    stored.remove(id(old))
    if id(new) in stored:
        del layers[index]
    else:
        layers[index] = new
        stored.add(id(new))


def stateless_scope() -> Any:
    """The open `keras.StatelessScope`, `None` where there is none."""
    return keras.src.backend.get_stateless_scope() if keras.src.backend.in_stateless_scope() else None


def no_autocast() -> AbstractContextManager[Any]:
    """A scope in which variables are read in their own dtype, whatever the policy around it."""
    scope: AbstractContextManager[Any] = keras.src.backend.AutocastScope(None)
    return scope


def output_spec(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a function gives for symbolic tensors."""
    return keras.src.backend.compute_output_spec(function, *args, **kwargs)


def without_tracing_warning(function: Any) -> None:
    """Let a `tf.function` be traced often without TensorFlow's warning of it."""
    function._omit_frequent_tracing_warning = True


def loss_weights(model: Any) -> Any:
    """What a model was compiled with as `loss_weights`."""
    compiled = getattr(model, "_compile_config", None)
    return None if compiled is None else compiled.config.get("loss_weights")


def loss_of(identifier: Any, y_true: Any, y_pred: Any) -> Any:
    """The loss object that `compile` makes of a loss, its name or a function, for such targets and outputs."""
    found = get_loss(identifier, y_true, y_pred)
    if found is not identifier:
        # That of a lambda is no name of a scope, outside of others.
        found.name = "loss"
    return found


def arguments_of_loss(loss: Any) -> dict[str, Any]:
    """What a loss object that is made of a function, its `fn`, hands on to it."""
    return dict(getattr(loss, "_fn_kwargs", {}))


def compile_loss(losses: Any, weights: Any, output_names: list[str] | None) -> Any:
    """`(y_true, y_pred) -> loss` of all outputs, as `compile` makes it."""
    return CompileLoss(losses, weights, output_names=output_names)


class TensorflowState:
    """TensorFlow's seed, generator and open name scope, as they were when this was made."""

    def __init__(self) -> None:
        running = context.context()
        # Before the first seed is set there is no generator.
        self._scope, self._seed, self._generator = running.scope_name, running._seed, getattr(running, "_rng", None)
        self._state = self._generator.getstate() if self._generator is not None else None

    def restore(self) -> None:
        """Bring them back."""
        running = context.context()
        running.scope_name, running._seed = self._scope, self._seed
        if self._generator is not None:
            running._rng = self._generator
            self._generator.setstate(self._state)


class InSavedModel:
    """A part of layers: `goes_into_saved_model` is called when TensorFlow lists what a SavedModel is to hold."""

    def goes_into_saved_model(self) -> None:
        """What is to be done then."""

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        if save_type == "savedmodel":
            self.goes_into_saved_model()
        return super()._trackable_children(save_type, **kwargs)  # type: ignore[misc]


# Values in which Keras and TensorFlow look for nothing to track.
_PLAIN = frozenset({type(None), bool, int, float, str})


class PlainAttributes:
    """A part of layers that are made by the thousand: attributes that hold a plain value are simply set.

    Keras asks of each whether it is a variable, layer, metric, ..., thirty times for a layer without any.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if type(value) in _PLAIN:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


# What Keras's constructor is given for such layers; then it leaves the same in all of a class, but for the name.
_IN_FLOAT32 = {"dtype": "float32", "autocast": False}
_FIRST: dict[type, Any] = {}


class MadeWithoutBuild(PlainAttributes):
    """The same of layers with a `get_config` of their own whose constructors leave nothing to `build`.

    Keras would note the constructor's arguments, for the configuration, and put a wrapper around `build`. What its own
    constructor leaves is copied from the first layer of the class: it reads signatures, and tracks empty lists.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = object.__new__(cls)
        # As Keras leaves them for `__init__`.
        vars(made).update(_lock=True, _auto_config=None)
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        name, trainable = kwargs.get("name"), kwargs.get("trainable", True)
        named = name is None or (isinstance(name, str) and "/" not in name)
        others = {key: value for key, value in kwargs.items() if key not in ("name", "trainable")}
        usual = named and trainable in (True, False) and not args and others == _IN_FLOAT32
        if not usual or get_current_remat_mode() is not None:
            super().__init__(*args, **kwargs)
            return
        cls = type(self)
        if cls not in _FIRST:
            _FIRST[cls] = MadeWithoutBuild.__new__(cls)
            super(MadeWithoutBuild, _FIRST[cls]).__init__(name="first", **_IN_FLOAT32)  # type: ignore[call-arg]
        _begin_like(_FIRST[cls], self)
        vars(self).update(name=auto_name(cls.__name__) if name is None else name, _trainable=trainable)


def _begin_like(first: Any, layer: Any) -> None:
    """Leave in a layer what Keras's constructor left in another one, with lists, dicts and sets of its own."""
    before = first._tracker
    tracked: dict[str, tuple[Any, list[Any]]] = {kind: (is_kind, []) for kind, (is_kind, _) in before.config.items()}
    tracker = type(before)(tracked, exclusions=before.exclusions)
    own: dict[str, Any] = {f"_{kind}": held for kind, (_, held) in tracked.items()} | {"_tracker": tracker}
    for key, value in vars(first).items():
        if isinstance(value, (list, dict, set)) and key not in own:
            made: Any = type(value)()
            made.extend(value) if isinstance(value, list) else made.update(value)
            made.tracker, own[key] = tracker, made
    vars(layer).update({key: own.get(key, value) for key, value in vars(first).items()})


def set_call(layer: Any, function: Callable[..., Any]) -> None:
    """Let Keras call a function in the place of a layer's `call`; its signature stays that of the layer's own."""
    vars(layer)["call"] = function


def reset_call(layer: Any) -> None:
    """The layer's own `call` again."""
    vars(layer).pop("call", None)


def learning_rate_of(optimizer: Any) -> Any:
    """What an optimizer takes its learning rate from: a variable, a schedule or a function."""
    return optimizer._learning_rate
