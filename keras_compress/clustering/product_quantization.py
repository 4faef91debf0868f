"""Product quantization: vectors of weights that share a codebook, whose codewords are trained."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.clustering.vectors import (
    MOST_OF_VECTORS,
    Array,
    Vectors,
    codewords_for,
    fitted,
    sizes_that_fit,
    stored_bits,
    usual_size,
)
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.kernels import Bound, Kernel
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, rules_take
from keras_compress.core.ste import value_of
from keras_compress.core.transform import WeightTransform
from keras_compress.core.warn import warn
from keras_compress.core.wrapper import Compressed
from keras_compress.data.input_products import input_products
from keras_compress.graph.as_matrix import AsMatrix, as_matrix
from keras_compress.graph.model import add_transforms, by_message, candidates, compressed_layers, inner

Tensor = Any
MOST_CODEWORDS = 65_536
# Samples whose inputs weigh the errors.
SAMPLES = 256
# A Gram matrix with more rows takes longer to make than to do without.
LARGEST_GRAM = 4608


@register("weight_transform")
class VectorClusterer(WeightTransform):
    """Replaces each vector of neighbouring weights by a codeword, or by the sum of one of each of some codebooks.

    **Forward** `y_i = sum over m of c^m[a^m_i]` for each vector i of `vector_size` weights: of one output, the places
    of a kernel before the input channels. The codes `a` are those of the first values, and stay.
    **Gradient** `dL/dc^m_j = mean of dL/dy_i over a^m_i = j`; `dL/dw = 0`.

    Args:
        number_of_codewords: Of each codebook, 2 to 65,536; a quarter of the number of vectors at most.
        vector_size: Weights in a vector; it divides the number of inputs of an output, and is a multiple or a divisor
            of the places of a kernel. `None`: the longest of at most 9, a whole 3x3 kernel.
        number_of_codebooks: Codebooks whose codewords are added, 1 to 8.
        seed: Of the start of k-means.

    Raises:
        ValueError: For an argument out of range, or a size that does not fit a weight.

    **Reference**: Stock et al., "And the bit goes down: revisiting the quantization of neural networks" (2020),
    sections 3.1 and 3.3; of several codebooks: Babenko and Lempitsky, "Additive quantization for extreme vector
    compression" (2014).
    """

    def __init__(
        self,
        number_of_codewords: int = 256,
        *,
        vector_size: int | None = None,
        number_of_codebooks: int = 1,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_count("number_of_codewords", number_of_codewords, 2, MOST_CODEWORDS)
        _check_count("number_of_codebooks", number_of_codebooks, 1, 8)
        if vector_size is not None:
            _check_count("vector_size", vector_size, 2, None)
        self.number_of_codewords = int(number_of_codewords)
        self.vector_size = None if vector_size is None else int(vector_size)
        self.number_of_codebooks = int(number_of_codebooks)
        self.seed = int(seed)
        # `X^T X` of what a vector is multiplied with; of the first values alone.
        self.gram: Array | None = None

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [
            {"number_of_codewords": 4},
            {"number_of_codewords": 2, "vector_size": 3, "number_of_codebooks": 2, "seed": 7},
        ]

    @property
    def promises(self) -> frozenset[str]:  # type: ignore[override]
        """Few values in the tensor, those of one codebook; sums of several are many."""
        return frozenset({"codebook"}) if self.number_of_codebooks == 1 else frozenset()

    @property
    def number_of_clusters(self) -> int:
        """Most distinct values of a weight, where there is one codebook."""
        return int(np.prod(self.codewords.shape[1:]))

    @property
    def vectors(self) -> Vectors:
        """How the weight lies as vectors."""
        size = self.vector_size or usual_size(self.weight_shape, self.channel_axes)
        fitting = sizes_that_fit(self.weight_shape, self.channel_axes)
        if size not in fitting:
            raise ValueError(
                f"Expected `vector_size` out of {fitting} for a weight of shape {self.weight_shape}. "
                f"Received: vector_size={size}"
            )
        return Vectors(self.weight_shape, self.channel_axes, size)

    @property
    def bits_per_weight(self) -> float:
        """Of codes, and codebooks of int8 values."""
        books, number, size = self.codewords.shape
        return stored_bits(number, size, self.vectors.count, books)

    def create_variables(self) -> None:
        vectors = self.vectors
        number = min(self.number_of_codewords, max(2, vectors.count // MOST_OF_VECTORS))
        self.codewords = self.add_weight(
            name="codewords", shape=(self.number_of_codebooks, number, vectors.size), initializer="zeros"
        )
        self.codes = self.add_weight(
            name="codes",
            shape=(self.number_of_codebooks, vectors.count),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )

    def initialize(self, weight: Tensor) -> None:
        rows = self.vectors.rows(ops.convert_to_numpy(weight)).astype(np.float64)
        books, number, _ = self.codewords.shape
        found = fitted(rows, number, books, self.gram, self.seed)
        self.codewords.assign(found.codewords)
        self.codes.assign(found.codes)

    def kernel(self) -> Bound:
        return _vector_kernel(self.vectors), (value_of(self.codes), value_of(self.codewords))

    def summary_values(self) -> dict[str, float]:
        return {"codewords": float(self.codewords.shape[1]), "bits_per_weight": self.bits_per_weight}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "number_of_codewords": self.number_of_codewords,
            "vector_size": self.vector_size,
            "number_of_codebooks": self.number_of_codebooks,
            "seed": self.seed,
        }


def _check_count(name: str, value: Any, lowest: int, highest: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not lowest <= value <= (highest or value):
        most = "" if highest is None else f" to {highest:,}"
        raise ValueError(f"Expected `{name}` as an integer from {lowest}{most}. Received: {name}={value!r}")


@functools.cache
def _vector_kernel(vectors: Vectors) -> Kernel:
    """`weight, codes, codewords -> weight`; the weight itself gets gradient 0."""

    def forward(weight: Tensor, codes: Tensor, codewords: Tensor) -> Tensor:
        return vectors.weight(tf.reduce_sum(tf.gather(codewords, codes, batch_dims=1), axis=0))

    def state_gradients(upstream: Tensor, weight: Tensor, codes: Tensor, codewords: Tensor) -> tuple[None, Tensor]:
        books, number, _ = codewords.shape
        rows = tf.tile(vectors.rows_of(upstream), [books, 1])
        places = tf.reshape(codes + number * tf.range(books)[:, tf.newaxis], [-1])
        sums = tf.math.unsorted_segment_sum(rows, places, books * number)
        counts = tf.math.unsorted_segment_sum(tf.ones_like(rows[:, :1]), places, books * number)
        return None, tf.reshape(sums / tf.maximum(counts, 1.0), codewords.shape)

    # Zeros rather than no gradient at all, of which Keras would warn in every training.
    return Kernel(forward, lambda upstream, *_: tf.zeros_like(upstream), state_gradients)


@register("entry_point")
@global_state_kept()
@rules_take("number_of_codewords", "vector_size", "number_of_codebooks", "bits")
def product_quantize(
    model: keras.Model,
    number_of_codewords: int = 256,
    vector_size: int | None = None,
    *,
    number_of_codebooks: int = 1,
    bits: float | None = None,
    data: Any = None,
    seed: int = 0,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    strict: bool = False,
) -> keras.Model:
    """A copy of the model whose weights are vectors out of codebooks, to be trained with them.

    Each layer has a codebook. Train it for some epochs, taught by the model that was given: only the codewords move.

    Args:
        model: Built model, plain or made by this library, but not pruned or clustered.
        number_of_codewords: See `VectorClusterer`.
        vector_size: Weights in a vector; see `VectorClusterer`.
        number_of_codebooks: Codebooks whose codewords are added.
        bits: Instead of `number_of_codewords`: most bits a weight, of codes and codebooks of int8 values, in (0, 8].
            Each layer gets the largest power of two of codewords that keeps to it.
        data: Inputs without labels, of which the first 256 weigh errors by what they change in the layers' outputs.
            Of a model with a larger fixed batch one batch. Without them, all weights count alike.
        seed: Of the start of k-means.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`, or with `"number_of_codewords"`, `"vector_size"`,
            `"number_of_codebooks"` or `"bits"`.
        strict: Raise where a layer has to be skipped.

    Returns:
        A new model to compile and train. Layers too small for the bits are left, and a warning says which.

    Raises:
        ValueError: Naming the layer, for a size of vectors that does not fit its weight, bits that are too few for all,
            or transforms before it that this would undo.

    **Reference**: see `VectorClusterer`; errors weighed by inputs: Stock et al. (2020), section 3.2.
    **Deviations**: inputs are those of the model as it is given, for all layers at once.
    """
    _check_bits(bits)
    grams = {} if data is None else _grams(model, data, strict)
    left: list[tuple[str, str]] = []

    def make(path: str, before: Compressed, slot: Any, settings: dict[str, Any]) -> list[WeightTransform]:
        shape = tuple(int(n) for n in slot.variable(before.layer).shape)
        if settings["vector_size"] is None and usual_size(shape, slot.channel_axes) == 1:
            left.append((path, "its number of inputs is a prime above 9, or 1: give a `vector_size`"))
            return []
        size = _size(path, shape, slot.channel_axes, settings["vector_size"])
        vectors = Vectors(shape, tuple(slot.channel_axes), size)
        codebooks = settings["number_of_codebooks"]
        number = settings["number_of_codewords"]
        if settings["bits"] is not None:
            _check_bits(settings["bits"], path)
            number = codewords_for(settings["bits"], size, vectors.count, codebooks)
            if number == 0:
                least = stored_bits(2, size, vectors.count, codebooks)
                left.append((path, f"two codewords of {size} weights take {least:.3g} bits for each of its weights"))
                return []
        made = VectorClusterer(number, vector_size=size, number_of_codebooks=codebooks, seed=seed)
        if slot.name.rpartition(".")[2] == "kernel" and path in grams:
            made.gram = gram_of_vectors(vectors, *grams[path])
        return [made]

    defaults: dict[str, Any] = {"number_of_codewords": number_of_codewords, "vector_size": vector_size}
    defaults |= {"number_of_codebooks": number_of_codebooks, "bits": bits}
    quantized = add_transforms(model, make, defaults, filters=filters, rules=rules, strict=strict)
    if left and (strict or not any(True for _ in compressed_layers(quantized))):
        raise ValueError(f"Expected weights that can be made of vectors. Received: {'; '.join(by_message(left))}")
    if left:
        warn(f"Weights left as they are: {'; '.join(by_message(left))}")
    return quantized


def _check_bits(bits: Any, path: str = "") -> None:
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, (int, float)) or not 0.0 < bits <= 8.0):
        where = f" for layer {path!r}" if path else ""
        raise ValueError(f"Expected `bits` in (0, 8]{where}. Received: bits={bits!r}")


def _size(path: str, shape: tuple[int, ...], channel_axes: Sequence[int], wanted: int | None) -> int:
    if wanted is None:
        return usual_size(shape, channel_axes)
    fitting = sizes_that_fit(shape, channel_axes)
    if wanted not in fitting:
        raise ValueError(
            f"Expected `vector_size` out of {fitting[:20]} for layer {path!r}, whose weight has the shape {shape}: it "
            f"has to divide the inputs of an output. Received: vector_size={wanted!r}"
        )
    return int(wanted)


def _grams(model: keras.Model, data: Any, strict: bool) -> dict[str, tuple[AsMatrix, Array]]:
    """Path -> the layer as a product, and what it reads."""
    forms: dict[int, tuple[str, AsMatrix]] = {}
    for path, layer in candidates(model, strict):
        body: Any = inner(layer)
        form = as_matrix(body)
        if form is not None and form.to_matrix(np.asarray(body.kernel)).shape[1] <= LARGEST_GRAM:
            forms[id(layer)] = path, form
    found = input_products(model, forms, data, SAMPLES)
    by_path = dict(forms.values())
    return {path: (by_path[path], gram) for path, gram in found.items()}


def gram_of_vectors(vectors: Vectors, form: AsMatrix, gram: Array) -> Array:
    """The mean of `x^T x` over what all vectors of a layer are multiplied with, `(size, size)`.

    Args:
        vectors: How the weight lies.
        form: The layer as a product with a matrix.
        gram: `(groups, inputs, inputs)` of what it reads.
    """
    numbers = np.arange(int(np.prod(vectors.shape)))
    matrix = form.to_matrix(numbers.reshape(vectors.shape))
    group_of, input_of, output_of = (np.empty(numbers.shape, np.int64) for _ in range(3))
    places = np.indices(matrix.shape).reshape(3, -1)
    for found, each in zip((group_of, input_of, output_of), places, strict=True):
        found[matrix.reshape(-1)] = each
    rows = vectors.rows(numbers.reshape(vectors.shape))
    # All outputs of a group read the same.
    rows = rows[output_of[rows[:, 0]] == 0]
    groups, inputs = group_of[rows[:, :1]], input_of[rows]
    mean: Array = gram[groups[:, :, np.newaxis], inputs[:, :, np.newaxis], inputs[:, np.newaxis]].mean(axis=0)
    return mean
