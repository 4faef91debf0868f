"""`verify`: what was simulated is what runs, operator by operator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.artifact import Artifact
from keras_compress.convert.distance import argmax_agreement
from keras_compress.convert.float_flatbuffer import input_names
from keras_compress.convert.freeze import freeze, is_frozen, points_in
from keras_compress.convert.points import UnknownRangesError
from keras_compress.core import progress
from keras_compress.core.garbage import older_objects_apart
from keras_compress.core.global_state import global_state_kept
from keras_compress.data.samples import filled, fixed_batch, input_specs, samples
from keras_compress.graph.graph import output_names
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.runtime.against_trained import Beside, decision_notes
from keras_compress.runtime.kernels import Kernels
from keras_compress.runtime.operators import (
    OpRow,
    Segment,
    Tally,
    VerificationError,
    segments_of,
    shaped,
    simulated,
)
from keras_compress.runtime.shipped import shipped
from keras_compress.runtime.simulation import simulation
from keras_compress.runtime.target import Target
from keras_compress.runtime.variation import check_varies
from keras_compress.runtime.verification import OutputRow, Verification
from keras_compress.tflite.inspection import check_structure

Array = NDArray[Any]


@progress.shown("verifying")
@older_objects_apart()
@global_state_kept()
def verify(
    artifact: Artifact | bytes | str | os.PathLike[str],
    model: keras.Model | None,
    x: Any,
    *,
    kernels: Sequence[str] | None = None,
    max_lsb: int = 1,
    max_fraction: float = 0.01,
    op_samples: int = 200,
    strict: bool = True,
    time_limit_s: float = 120.0,
    memory_limit_bytes: int | None = None,
) -> Verification:
    """Run each operator of the deployed model on the integers that the frozen model has there, and compare.

    The frozen model itself is compared with the trained one: with the rounding of activations switched off they must be
    one function, but for what the rounding of weights and biases costs (see `keras_compress.convert.explained`). What
    rounding explains is no failure, however far it goes: it is in `distance` and `notes`.

    Of a file with dead units cut out, layers split or weights encoded, operators are those of the plain file, and the
    two files' outputs on all of `x` must be equal bit for bit.

    Args:
        artifact: What `convert` returned, in an integer mode; or such a `.tflite` file, its bytes or its path. Of a
            file, ranges that calibration set are taken as they are in it, all else must be the model's. A file tells
            the runtime it was made for; one of another release or program that does not is taken for LiteRT's.
        model: The model that was converted, or its frozen form (of the same storage of weights); `None` takes the one
            that the artifact remembers; a file remembers none. Without the model that was converted, nothing is said
            of the first step, from it to the frozen one; a note says so.
        x: Real data as for `model.predict`: an array, a list of arrays, or a mapping.
        kernels: Out of `"xnnpack"`, `"reference"`, `"tflm"`, `"kc_binary"` (docs/native.md); by default those of the
            artifact's target.
        max_lsb: Most that one output value may differ without an explanation, in steps (explained is what the kernel's
            own arithmetic brings about, see `keras_compress.runtime.kernel_error`).
        max_fraction: Largest share of an operator's values that may differ so, 0.1 % at most where the kernel's error
            is known; of other kernels also twice the share that rounding twice must cost (see
            `keras_compress.runtime.rounding`). Three standard errors are allowed on top: a few samples prove little.
        op_samples: Samples for the comparison by operator (the outputs are compared on all of `x`).
        strict: Raise where a bound is exceeded.
        time_limit_s: Longest time without progress of a runtime, in seconds.
        memory_limit_bytes: Address space of a runtime's process; by default 4 GiB, or 16 times the model if that is
            more.

    Raises:
        VerificationError: With `strict`, naming the first operator beyond its bound, or the first layer at which the
            frozen model is not the trained one.
        ValueError: For an artifact without integers or with a damaged file, or data on which nothing varies.
    """
    if not isinstance(artifact, Artifact):
        artifact = shipped(artifact, model, x, kernels)
    _check_file(artifact)
    frozen = _frozen(artifact, model)
    inputs = _inputs(x, model, frozen)
    limits = {"time_limit_s": time_limit_s, "memory_limit_bytes": memory_limit_bytes}
    loaded = Kernels.loaded(artifact, kernels, **limits)
    loaded.check_compressed(artifact, inputs)
    segments = segments_of(artifact, {layer.name for layer in frozen.layers if isinstance(layer, QuantizeActivation)})
    against = _against_trained(model, frozen, inputs, strict)
    tallies, expected = _run_alone(frozen, inputs, op_samples, segments, loaded.runners)
    rows = [tally.row(max_lsb, max_fraction) for tally in tallies]
    outputs = _whole_models(loaded, frozen, expected, inputs)
    agreements = [*against.agreements(expected), *_agreements(outputs)]
    notes = (*against.notes, *decision_notes(agreements, len(inputs[0])))
    found = Verification(tuple(rows), tuple(outputs), loaded.skipped, against.distance, against.unexplained, notes)
    if strict and found.first_failure is not None:
        raise VerificationError(_failure(found.first_failure, max_lsb))
    return found


def _check_file(artifact: Artifact) -> None:
    if artifact.mode not in ("int8", "16x8"):
        raise ValueError(f"Expected an artifact in mode 'int8' or '16x8'. Received: mode={artifact.mode!r}")
    check_structure(artifact.content)


def _frozen(artifact: Artifact, model: keras.Model | None) -> keras.Model:
    if model is not None and is_frozen(model):
        return model
    remembered = artifact.frozen
    points = [] if model is None else points_in(model)
    if model is None or not points or any(not point.quantizer.trained() for point in points):
        # A plain model has no ranges of its own: they came from the data given to `convert`.
        if remembered is None:
            raise ValueError("Expected the model that was converted. Received: None")
        return remembered
    try:
        return freeze(model, activation_bits=16 if artifact.mode == "16x8" else 8, storage=artifact.storage)
    except UnknownRangesError:
        # Inside layers that training saw as a whole (attention, separable) ranges came from the data too.
        if remembered is None:
            raise
        return remembered


def _inputs(x: Any, model: keras.Model | None, frozen: keras.Model) -> list[Array]:
    """One array for each input, in whole batches of a file that is made for several samples at a time."""
    inputs = filled(samples(x, input_specs(frozen)), fixed_batch(frozen) or 1)
    _check_finite(inputs, frozen)
    _check_inputs(model, frozen)
    return inputs


def _check_finite(inputs: list[Array], frozen: keras.Model) -> None:
    """Raises for data that no two models agree on."""
    for array, name in zip(inputs, input_names(frozen), strict=True):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"Expected finite data. Received: NaN or infinity in input {name!r}")


def _check_inputs(model: keras.Model | None, frozen: keras.Model) -> None:
    """Raises for a model that cannot take the data of the file."""
    if model is None or getattr(model, "inputs", None) is None:
        return
    given, wanted = ([tuple(tensor.shape[1:]) for tensor in each.inputs] for each in (model, frozen))
    if given != wanted:
        raise ValueError(
            f"Expected the model that was converted, with inputs of shape {wanted} for each sample. "
            f"Received: {model.name!r} with {given}"
        )


def _against_trained(model: keras.Model | None, frozen: keras.Model, inputs: list[Array], strict: bool) -> Beside:
    """The first step, from the trained model to the frozen one.

    Raises:
        VerificationError: With `strict`, where more than rounding stands between the two.
    """
    progress.step("comparing with the trained model")
    against = Beside.of(model, frozen, inputs)
    if strict and against.unexplained is not None:
        raise VerificationError(
            f"Expected a frozen model that is the trained one but for rounding. Received: {against.unexplained}"
        )
    return against


def _run_alone(
    frozen: keras.Model,
    inputs: list[Array],
    op_samples: int,
    segments: Sequence[Segment],
    runners: Mapping[str, Target],
) -> tuple[list[Tally], list[Array]]:
    """Each operator on each runtime, with the integers that the frozen model has there; kernel by kernel.

    Also what the frozen model gives for all samples: where the operators run on all of them, that is known already.
    """
    batch = fixed_batch(frozen) or 1
    names = tuple(input_names(frozen))
    few = [array[: max(batch, op_samples - op_samples % batch)] for array in inputs]
    tallies = [(kernel, Tally(segment, kernel, names, batch)) for kernel in runners for segment in segments]
    progress.step("running operators alone", len(few[0]) * len(tallies))
    outputs = []
    for part in simulated(frozen, few):
        for kernel, tally in tallies:
            tally.add(runners[kernel], part)
            progress.advance(len(part.inputs[0]))
        outputs.append(part.outputs)
    expected = [np.concatenate(each) for each in zip(*outputs, strict=True)]
    if len(few[0]) < len(inputs[0]):
        progress.step("simulating")
        expected = simulation(frozen, keras.tree.flatten(frozen.outputs))(inputs)
    check_varies(frozen, expected, inputs)
    return [tally for _, tally in tallies], expected


def _whole_models(loaded: Kernels, frozen: keras.Model, expected: list[Array], inputs: list[Array]) -> list[OutputRow]:
    """The outputs of the whole file on each runtime, beside the frozen model's."""
    rows: list[OutputRow] = []
    for kernel in loaded.runners:
        progress.step(f"running the whole model on {kernel}")
        rows += _compare_outputs(loaded.outputs(kernel, inputs), frozen, expected, kernel)
    return rows


def _compare_outputs(got: list[Array], frozen: keras.Model, expected: list[Array], kernel: str) -> list[OutputRow]:
    rows = []
    for name, values, reference in zip(output_names(frozen), got, expected, strict=True):
        values = shaped(values, reference.shape, name)
        difference = np.abs(values - reference)
        agreement = argmax_agreement(reference, values)
        # Outputs come back through a float scale: equal integers differ by rounding of float32 only.
        differing = difference > 1e-5 * np.maximum(np.abs(reference), 1e-3)
        rows.append(OutputRow(name, kernel, float(difference.max()), float(differing.mean()), agreement))
    return rows


def _agreements(rows: Sequence[OutputRow]) -> list[tuple[str, str, float]]:
    return [
        (row.name, f"frozen model and {row.kernel}", row.argmax_agreement)
        for row in rows
        if row.argmax_agreement is not None
    ]


def _failure(row: OpRow, max_lsb: int) -> str:
    return (
        f"Expected at most {max_lsb} step and {row.bound:.2%} of the values to differ from the frozen model by more "
        f"than the kernel's own arithmetic. Received: {row.unexplained_lsb} steps, {row.fraction_unexplained:.2%}, "
        f"first at {row.name!r} on {row.kernel}"
    )
