"""SparseGPT: inputs are pruned one after the other, and those behind make up for the error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.graph.as_matrix import MAX_BYTES, AsMatrix, bytes_of_hessian, inverse_factor, products
from keras_compress.pruning.criteria.inputs import forms, see_inputs, why_no_form
from keras_compress.pruning.criteria.saliency import Saliency, check_count, check_number
from keras_compress.pruning.distribution import highest, kept_count
from keras_compress.pruning.plan import Pattern, Plan
from keras_compress.pruning.scored import Mask, ScoredModel

Array = NDArray[Any]
_SINGLE = Pattern()


@register("weight_criterion")
class SparseGPT(Saliency):
    """`(w_ij / U_jj)^2`, and the weights behind input j take over its error, `w_ik -= w_ij / U_jj * U_jk`.

    U is the upper Cholesky factor of the inverse of `H = 2 X^T X`, X the inputs of the layer over all examples. Masks
    are chosen for `columns` inputs at once, over all outputs, when these come up; of every n inputs, for m by n. Layers
    are pruned in the order in which they run, on what the pruned layers in front of them give.

    Of a convolution the inputs are the places of its kernel in each channel, of a depthwise one those of each channel.
    Layers that are no product of their inputs with one matrix are taken by magnitude, which is said. Needs no labels
    and no gradient. All examples go through the model once for each weight: take some hundred. H and its factor take
    48 bytes for each pair of inputs of a layer, 200 MB for 2,048 inputs; layers whose would take more than `max_bytes`
    are taken by magnitude, which is said.

    Args:
        columns: Inputs for which a mask is chosen at once, >= 1.
        damping: Share of the mean of H's diagonal that is added to it, >= 0.
        max_bytes: Memory for one layer, >= 1.

    **Reference**: Frantar and Alistarh, "SparseGPT: Massive language models can be accurately pruned in one-shot"
    (2023), algorithm 1 and section 3.3 (m by n).
    """

    needs = frozenset({"inputs"})
    updates = True

    def __init__(self, columns: int = 128, damping: float = 0.01, max_bytes: int = MAX_BYTES) -> None:
        self.columns = check_count("columns", columns)
        self.max_bytes = check_count("max_bytes", max_bytes)
        self.damping = check_number("damping", damping, or_equal=True)

    def prune(self, scored: ScoredModel, examples: Examples, plan: Plan) -> list[Mask]:
        if plan.together or plan.pattern.block_size != (1, 1):
            raise ValueError(
                "Expected a sparsity for each layer, and single weights or `sparsity_m_by_n`: SparseGPT chooses masks "
                f"while it goes through a layer. Received: block_size={plan.pattern.block_size}, "
                f"scope={'global' if plan.together else 'layer'!r}"
            )
        known = forms(scored)
        large = self._too_large(scored, known)
        known = {number: form for number, form in known.items() if number not in large}
        order: dict[int, None] = {}
        if known:
            see_inputs(scored, examples, known, lambda number, _: order.setdefault(number, None))
        self.notes = {
            each.name: large.get(n) or why_no_form(each) for n, each in enumerate(scored.weights) if n not in order
        }
        masks = self._by_magnitude(scored, plan)
        for number, each in enumerate(scored.weights):
            if number not in order:
                each.variable.assign(each.values() * masks[number])
        for number in order:
            masks[number] = self._layer(scored, number, known[number], examples, plan)
        return masks

    def _too_large(self, scored: ScoredModel, known: Mapping[int, AsMatrix]) -> dict[int, str]:
        """Number of a weight -> why there is no memory for it."""
        needed = {number: bytes_of_hessian(form, scored.weights[number].values()) for number, form in known.items()}
        return {
            number: f"its inputs' products take {size:,} bytes, more than max_bytes={self.max_bytes:,}; "
            "taken by magnitude"
            for number, size in needed.items()
            if size > self.max_bytes
        }

    def _by_magnitude(self, scored: ScoredModel, plan: Plan) -> list[Mask]:
        magnitudes = [np.abs(each.values()) for each in scored.weights]
        return plan.masks(scored.weights, magnitudes, scored.masks())

    def _layer(self, scored: ScoredModel, number: int, form: AsMatrix, examples: Examples, plan: Plan) -> Mask:
        each = scored.weights[number]
        total: Any = 0.0
        rows = 0

        def see(_: int, values: Any) -> None:
            nonlocal total, rows
            product, count = products(form, values)
            total += product
            rows += count

        see_inputs(scored, examples, {number: form}, see)
        second = np.asarray(total)
        second *= 2.0 / max(rows, 1)
        if not np.isfinite(second).all():
            raise ValueError(
                f"Expected data that give finite inputs of layer {each.path!r}. Received: NaN or infinity in them"
            )
        values = form.to_matrix(each.values())
        weight, mask = pruned_matrix(
            values, values != 0, second, plan.sparsities[number], plan.pattern, self.columns, self.damping
        )
        each.variable.assign(form.from_matrix(weight))
        return form.from_matrix(mask)

    def get_config(self) -> dict[str, Any]:
        return {"columns": self.columns, "damping": self.damping, "max_bytes": self.max_bytes}


def pruned_matrix(
    weight: Array,
    alive: Mask,
    second: Array,
    sparsity: float,
    pattern: Pattern = _SINGLE,
    columns: int = 128,
    damping: float = 0.01,
) -> tuple[Array, Mask]:
    """A weight, `[groups, inputs, outputs]`, pruned by SparseGPT, and its mask.

    Args:
        weight: The weight.
        alive: What may stay.
        second: H, `[groups, inputs, inputs]`.
        sparsity: Share of zeros; of an m-by-n pattern the pattern counts.
        pattern: Single weights, or m by n.
        columns: Inputs for which a mask is chosen at once.
        damping: Share of the mean of H's diagonal that is added to it.
    """
    weight = weight.astype(np.float64)
    factor = inverse_factor(second, damping)
    diagonal = np.einsum("gii->gi", factor)
    inputs = weight.shape[1]
    mask = np.ones(weight.shape, bool)
    step = columns if pattern.m_by_n is None else pattern.m_by_n[1]
    # Errors are handed on to all that is behind at the end of a stretch of whole groups.
    stretch = -(-max(columns, step) // step) * step
    for start in range(0, inputs, stretch):
        end = min(start + stretch, inputs)
        errors = np.zeros_like(weight[:, start:end])
        for i in range(start, end):
            if i % step == 0:
                part = slice(i, min(i + step, inputs))
                scores = np.where(alive[:, part], (weight[:, part] / diagonal[:, part, np.newaxis]) ** 2, -np.inf)
                mask[:, part] = _chosen(scores, sparsity, pattern) & alive[:, part]
            error = np.where(mask[:, i], 0.0, weight[:, i]) / diagonal[:, i, np.newaxis]
            weight[:, i:end] -= factor[:, i, i:end, np.newaxis] * error[:, np.newaxis]
            errors[:, i - start] = error
        weight[:, end:] -= np.swapaxes(factor[:, start:end, end:], 1, 2) @ errors
    return weight * mask, mask


def _chosen(scores: Array, sparsity: float, pattern: Pattern) -> Mask:
    """The mask of some inputs, `[groups, inputs, outputs]`."""
    if pattern.m_by_n is None:
        return highest(scores, kept_count(scores.size, sparsity))
    return np.stack([pattern.m_of_n(each) for each in scores])
