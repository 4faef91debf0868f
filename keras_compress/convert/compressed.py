"""Files whose weights are stored compressed and executed compressed, and the way back."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from keras_compress.convert.artifact import Artifact
from keras_compress.core.registry import lookup
from keras_compress.core.warn import warn
from keras_compress.tflite.arena import fit_arena
from keras_compress.tflite.encoding.known import DECODE
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.inspection import check_structure, inspect_tflite
from keras_compress.tflite.passes.drop_dead_units import drop_dead_units
from keras_compress.tflite.passes.encode_weights import COMPUTED, encode_weights
from keras_compress.tflite.passes.expand import expand_weights
from keras_compress.tflite.passes.free_batch import free_batch
from keras_compress.tflite.passes.gather_vectors import gather_vectors, restore_vectors
from keras_compress.tflite.passes.slim_scales import restore_scales, slim_scales
from keras_compress.tflite.passes.store_bits import expand_bits, store_bits
from keras_compress.tflite.storage import ENCODINGS, current_storage
from keras_compress.tflite.unfit import unfit_for_tflm


@dataclass(frozen=True)
class CompressedFile:
    """What became of a plain file.

    Attributes:
        content: The file that TFLite-Micro runs.
        notes: What was cut out, split, or left as it was, a line each.
        graph: `content` as it would be read, where that is known.
    """

    content: bytes
    notes: tuple[str, ...]
    graph: Graph | None = None


def compress_content(
    plain: bytes,
    storage: str,
    *,
    encode: bool,
    max_arena_bytes: int | None = None,
    any_batch: bool = False,
    graph: Graph | None = None,
) -> CompressedFile:
    """Cut dead units out of a plain integer file, split what does not fit the arena, and encode the weights.

    Args:
        plain: Integer `.tflite` file.
        storage: `"auto"` or one of `ENCODINGS`; without effect where `encode` is false.
        encode: Whether weights are stored compressed: for TFLite-Micro only.
        max_arena_bytes: Largest arena that TFLite-Micro may need.
        any_batch: Whether the plain file takes any number of samples, and the other one is to.
        graph: `plain` as it was read, if it was; it is changed.

    Raises:
        ValueError: Where the arena cannot be kept within the limit; by how much it misses is said.
    """
    check_arena(max_arena_bytes, storage)
    graph = graph or Graph(read_model(plain))
    # What an ignored input costs decides whether taking it out pays.
    notes = drop_dead_units(graph, bits_per_weight=1.0 if encode else 8.0)
    if notes and any_batch:
        free_batch(graph)
    smaller = write_model(graph.model) if notes else plain
    left: list[str] = []

    def encoded(content: bytes) -> bytes:
        left[:] = []
        return _encoded(content, storage, left) if encode else content

    if max_arena_bytes is None:
        content = encoded(smaller)
    else:
        content, tiled = fit_arena(smaller, encoded, max_arena_bytes)
        notes += tiled
    return CompressedFile(content, (*notes, *left), graph if content is smaller else None)


def check_arena(max_arena_bytes: int | None, storage: str) -> None:
    """Refuse to split layers whose weights are looked up: each piece would have a codebook of its own.

    Raises:
        ValueError: For both.
    """
    if max_arena_bytes is not None and storage == "vectors":
        raise ValueError(
            "Expected another weights_storage, such as 'auto', for `max_arena_bytes`: layers with looked-up weights "
            f"are not split. Received: weights_storage='vectors', max_arena_bytes={max_arena_bytes}"
        )


def _encoded(content: bytes, storage: str, notes: list[str]) -> bytes:
    plain = Graph(read_model(content))
    # Another converter's file may have no scales, or one zero point, where `expand_content` puts them.
    restore_scales(plain)
    canonical = write_model(plain.model)
    for slim in (True, False):
        graph = Graph(read_model(content))
        if slim:
            slim_scales(graph)
        # Vectors are stored so where that is smallest, and all else as `"auto"` does it.
        vectors = gather_vectors(graph) if storage == "vectors" else []
        left_plain = encode_weights(graph, "auto" if storage == "vectors" else storage)
        encoded = write_model(graph.model)
        # The runtime checks nothing: what it is given must be the plain file when read by our own decoders.
        if expand_content(encoded) == canonical:
            break
        # A bias of two layers has the scales of one of them, and `expand_content` cannot know of which.
    else:
        raise ValueError("Expected the encoded file to expand to the plain one. Received: another file")
    changed = vectors or any(graph.custom_name(op) == DECODE for op in graph.operators)
    if len(encoded) >= len(canonical) or not changed:
        notes.append("weights stay as they are: encoding would make the file larger")
        return content
    notes += [f"vectors: {line}" for line in vectors]
    notes += [f"not encoded: {line}" for line in left_plain if not line.endswith(COMPUTED)]
    return encoded


def expand_content(content: bytes) -> bytes:
    """The plain file; one without encoded weights, or weights as bits, as it is.

    Raises:
        ValueError: For a damaged file.
    """
    check_structure(content)
    graph = Graph(read_model(content))
    decoded, of_bits = expand_weights(graph) + restore_vectors(graph), expand_bits(graph)
    if decoded:
        restore_scales(graph)
    return write_model(graph.model) if decoded or of_bits else content


def bit_file(content: bytes, strict: bool = False) -> CompressedFile:
    """The file with the weights of its layers of few bits as bits; other layers stay.

    Args:
        content: Integer `.tflite` file.
        strict: Raise where there is no such layer.

    Raises:
        ValueError: With `strict`.
    """
    graph = Graph(read_model(content))
    canonical = write_model(graph.model)
    count, left = store_bits(graph)
    notes = tuple(f"not stored as bits: {line}" for line in left)
    if not count:
        said = "no layer has weights of few values and inputs of two bits or less"
        if strict:
            raise ValueError(f"Expected a layer to store as bits (strict=True). Received: {'; '.join((said, *notes))}")
        return CompressedFile(content, (f"weights_storage='bits' changed nothing: {said}", *notes))
    made = write_model(graph.model)
    if expand_content(made) != canonical:
        raise ValueError("Expected the file of bits to expand to the plain one. Received: another file")
    told = (
        f"weights of {count} layers are bits: no stock runtime runs this file, only kc_binary (docs/native.md) and a "
        "TFLite-Micro with its operators; kc.expand gives the stock file"
    )
    return CompressedFile(made, (told, *notes))


def compress_tflite(
    source: bytes | str | os.PathLike[str], weights_storage: str = "auto", *, max_arena_bytes: int | None = None
) -> bytes:
    """An integer `.tflite` file, of this converter or another, with its weights stored compressed for TFLite-Micro.

    Units that add nothing are cut out. Outputs are the same integers, for every input. `convert` does the same for a
    Keras model. A file that does not become smaller is warned of, with the reason.

    Args:
        source: The file's bytes, or its path.
        weights_storage: `"auto"` (the smallest for each tensor), `"lut"`, `"bitmap"`, `"huffman"`, or `"vectors"`
            (codes of vectors where these are smallest, else as `"auto"`).
        max_arena_bytes: As for `convert`.

    Raises:
        ValueError: Not a `.tflite` file, an unknown storage, a file that TFLite-Micro does not run (dynamic range, INT4
            dense layers), or an arena that cannot be kept within the limit.
        OSError: The file cannot be read.
    """
    weights_storage = current_storage(weights_storage)
    if weights_storage not in ("auto", *ENCODINGS):
        raise ValueError(
            f"Expected `weights_storage` out of {('auto', *ENCODINGS)}. Received: weights_storage={weights_storage!r}"
        )
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    plain = expand_content(content)
    if not any(weight.dtype.startswith("INT") for weight in inspect_tflite(plain).weights):
        raise ValueError("Expected a file with integer weights. Received: none in it; convert the model in int8 first")
    reason = unfit_for_tflm(plain)
    if reason is not None:
        raise ValueError(f"Expected a file that TFLite-Micro runs. Received: one not for it: {reason}")
    found = compress_content(plain, weights_storage, encode=True, max_arena_bytes=max_arena_bytes)
    _check_runs(found.content)
    if len(found.content) >= len(content):
        said = "; ".join(found.notes) or "its weights are in this form already"
        warn(f"Nothing became smaller: {len(content):,} bytes before, {len(found.content):,} now ({said})")
    return found.content


def _check_runs(content: bytes) -> None:
    """Encoded weights are for TFLite-Micro alone: if it does not run the file, no runtime does.

    Raises:
        ValueError: With what it says of the file, where it is installed.
    """
    if DECODE.encode() not in content and expand_content(content) == content:
        return
    refusal = lookup("probe", "tflm_refusal")(content)
    if refusal is not None:
        raise ValueError(refusal)


def expand(model: Artifact | bytes | str | os.PathLike[str]) -> Artifact | bytes:
    """The plain integer file of one whose weights are stored compressed, or as bits, so that LiteRT can run it.

    Outputs are the same integers. Units that were cut out, and layers that were split, stay so.

    Args:
        model: What `convert` returned, the bytes of a `.tflite` file, or its path.

    Returns:
        An artifact for an artifact, bytes otherwise; a file without encoded weights comes back as it is.

    Raises:
        ValueError: Not a `.tflite` file, or a damaged stream, by the tensor's name.
        OSError: The file cannot be read.
    """
    if isinstance(model, Artifact):
        return replace(model, content=expand_content(model.content))
    return expand_content(model if isinstance(model, bytes) else Path(model).read_bytes())
