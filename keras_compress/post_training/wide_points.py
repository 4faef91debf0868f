"""Which activations of few bits have 8 all the same: those that no weights multiply, and both ends of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.slots import slots_of
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.graph.model import inner, rebuild
from keras_compress.post_training.opened import opened
from keras_compress.post_training.record import NotApplicable, carry, record_of
from keras_compress.quantizers.activation import LearnedRange, MovingAverageRange, QuantizeActivation
from keras_compress.quantizers.kinds import Kind, kind_of

# `id` of a tensor -> the nodes that read it.
Consumers = Mapping[int, Sequence[Any]]
WIDE_BITS = 8
# Ways on which values stay on the grid that they came on.
_KEEPING = (Kind.SAME, Kind.AVERAGE, Kind.JOIN)


@global_state_kept()
def wide_points(quantized: keras.Model, data: Any = None) -> keras.Model:
    """A copy of a quantized model in which few bits are for what weights multiply, and all else has 8.

    Of few bits stay the activations that a layer with weights reads, straight or through layers that move values
    (poolings, reshapes). 8 bits have inputs and outputs of the model, what the layers that read an input give, and what
    only sums, concatenations, normalizations, poolings over all positions and activations without a kernel of their own
    (a gelu) read. In the papers the latter are float32.

    Args:
        quantized: What `quantize_model` gives.
        data: Data, which tell the shapes of a subclassed model's inputs.

    Raises:
        NotApplicable: Where no such point has fewer than 8 bits.

    **Reference**: Wei et al., "QDrop" (2022), as its authors' code has it: image, output of the first layer and input
    of the last one have 8 bits, and logits are not quantized; BRECQ's (Li et al., 2021) is the same but for the first
    output. Yuan et al., "PTQ4ViT" (2022): what matrix products read is quantized, other values are not.
    **Deviations**: weights of the first and the last layer keep their few bits, where BRECQ gives them 8.
    """
    model = rebuild(quantized)
    flat = opened(model, data)
    narrow = [node for node in graph.nodes(flat) if _is_narrow(node.operation)]
    table = graph.consumers(flat)
    ends = _ends(flat, table)
    inside = [node for node in narrow if not any(id(t) in ends for t in (*node.input_tensors, *node.outputs))]
    needed = {id(node.operation.quantizer) for node in inside if _is_multiplied(node, table)}
    wide = {id(q): q for q in (node.operation.quantizer for node in narrow) if id(q) not in needed}
    if not wide:
        raise NotApplicable(
            "Expected points of fewer than 8 bits that no weights multiply, or at an end of the model, as "
            f"`kc.quantize_model(model, activations='int4')` makes them. Received: {quantized.name!r}, without any"
        )
    for quantizer in wide.values():
        quantizer.set_bits(WIDE_BITS)
    note = f"{WIDE_BITS} bits at {len(wide)} points, fewer at {len(needed)} that weights multiply"
    return carry(model, record_of(quantized).noted(note))


def _is_narrow(operation: Any) -> bool:
    """Whether it is a point of few, evenly spaced levels."""
    quantizer = operation.quantizer if isinstance(operation, QuantizeActivation) else None
    return isinstance(quantizer, (MovingAverageRange, LearnedRange)) and quantizer.bits < WIDE_BITS


def _ends(flat: keras.Model, table: Consumers) -> set[int]:
    """`id` of inputs, outputs, and what is made of inputs up to the point behind the first layer with weights."""
    left = [(tensor, False) for tensor in flat.inputs]
    found = {id(tensor) for tensor in (*flat.inputs, *flat.outputs)}
    while left:
        tensor, behind = left.pop()
        found.add(id(tensor))
        for reader in table.get(id(tensor), []):
            weighted = _has_weights(reader.operation)
            last = behind and (weighted or isinstance(reader.operation, QuantizeActivation))
            # A sum with an input is no beginning.
            if not last and len(reader.input_tensors) == 1:
                left += [(made, behind or weighted) for made in reader.outputs]
    return found


def _is_multiplied(node: Any, table: Consumers) -> bool:
    """Whether a layer with weights reads the integers of a point."""
    left = list(node.outputs)
    while left:
        for reader in table.get(id(left.pop()), []):
            if _has_weights(reader.operation):
                return True
            if not isinstance(reader.operation, QuantizeActivation) and kind_of(reader.operation) in _KEEPING:
                left += reader.outputs
    return False


def _has_weights(operation: Any) -> bool:
    if isinstance(operation, Compressed) or kind_of(operation) is Kind.LINEAR:
        return True
    return isinstance(operation, keras.layers.Layer) and bool(slots_of(inner(operation)))
