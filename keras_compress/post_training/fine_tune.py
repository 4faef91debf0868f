"""Level 3: a short training of the quantized model, with the float model as teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from numpy.typing import NDArray

from keras_compress.core import progress
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.signal_to_noise import decibels
from keras_compress.data.fit_loss import FitLoss
from keras_compress.data.samples import first_of, peekable
from keras_compress.graph import graph
from keras_compress.graph.model import compressed_layers
from keras_compress.graph.trace import as_graph
from keras_compress.post_training.effect import LayerEffect
from keras_compress.post_training.lockstep import as_floats
from keras_compress.post_training.opened import SAMPLES, opened, samples_for
from keras_compress.post_training.record import NotApplicable, carry, record_of
from keras_compress.post_training.relative_steps import RelativeAdam, by_variable, units_of
from keras_compress.post_training.start import FEWEST, begin, held

Array = NDArray[Any]
Tensor = Any
# How often the held-out samples are looked at, and samples that are run at once where nothing is learned.
LOOKS, CHUNK = 10, 64
NOTE = "the outputs"


@dataclass(frozen=True)
class Labels:
    """What else is to be learned, where there are labels.

    Attributes:
        arrays: Targets of the samples, in their order, for each output.
        loss: As `fit` takes it, of one output, or of lists of all.
    """

    arrays: Sequence[Array]
    loss: FitLoss


@global_state_kept()
def fine_tune(
    quantized: keras.Model,
    data: Any,
    *,
    teacher: keras.Model | None = None,
    labels: Any = None,
    loss: Any = None,
    steps: int = 500,
    batch_size: int = 32,
    learning_rate: float = 0.02,
    samples: int = SAMPLES,
    held_out: float = 0.2,
    seed: int = 0,
    reference: keras.Model | None = None,
) -> keras.Model:
    """Train a quantized model to give what the float model gives, and keep that only where it is better.

    **Loss** `mean over outputs of |f(x) - f~(x)|^2 / mean |f|^2`, of samples without labels. Weights, biases and steps
    are trained as in quantization-aware training, but all else as in inference: BatchNormalizations keep their
    statistics, ranges of activations are those that were found, nothing is dropped. Rates are relative (see
    `RelativeAdam`): 0.02 moves a weight by 0.02 of its step at most, whatever net it is in, and falls to 0 as a cosine.

    Some samples are held out. The model is compared on them before, and ten times in training, and the best is given;
    where it is the one before, the record says that training made it worse, and by how much.

    Args:
        quantized: Quantized model, as passes of level 2 give it. Ranges that are not known are set.
        data: Inputs without labels, see `keras_compress.data.batches.batches`.
        teacher: Model with the same inputs and outputs, by default the float model, `reference` without any rounding.
        labels: Targets of the samples, in their order: an array, or a list of one for each output. Their loss is added.
        loss: Loss of the labels as `compile` takes it, by default that with which `teacher` is compiled.
        steps: Of the optimizer, >= 1.
        batch_size: Samples in a step.
        learning_rate: Of the first step, in units.
        samples: How many of the first samples are used, at most.
        held_out: Share of them that is not trained on, in (0, 1).
        seed: Of the choice of samples.
        reference: The quantized model whose latent weights are the float model's, where those of `quantized` no longer
            are.

    Returns:
        A new model.

    Raises:
        ValueError: For numbers out of range, data or labels that do not fit, another teacher, a model without quantized
            weights, or fewer than 16 samples (`NotApplicable`).

    **Reference**: Jacob et al. (2018) and Esser et al., "Learned Step Size Quantization" (2020), of the training;
    Polino et al., "Model compression via distillation and quantization" (2018), of the teacher.
    """
    _check(steps, batch_size, samples, learning_rate, held_out)
    data = peekable(held(quantized, data, samples))
    made = begin(quantized, data)
    if next(compressed_layers(made), None) is None:
        raise NotApplicable(
            "Expected a model with quantized weights, as `kc.quantize_model` makes one. "
            f"Received: {made.name!r}, without any"
        )
    flat = opened(made, data)
    inputs = samples_for(made, flat, data, samples)
    if len(inputs[0]) < FEWEST:
        raise NotApplicable(
            f"Expected {FEWEST} samples or more to train on and to hold out, better some hundreds. "
            f"Received: {len(inputs[0])}"
        )
    aims = _aims(teacher, quantized if reference is None else reference, data, inputs)
    task = _Task(flat, inputs, aims, _labels(labels, loss, flat, teacher, len(inputs[0])))
    rows = np.random.default_rng(seed).permutation(len(inputs[0]))
    kept = max(1, round(held_out * len(rows)))
    training = _Training(task, rows[kept:], rows[:kept], steps, batch_size, learning_rate, seed)
    training.run()
    return carry(made, record_of(quantized).did([training.effect()], training.note()))


def _check(steps: int, batch_size: int, samples: int, learning_rate: float, held_out: float) -> None:
    for name, count in {"steps": steps, "batch_size": batch_size, "samples": samples}.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"Expected `{name}` of 1 or more. Received: {name}={count!r}")
    if not 0.0 < learning_rate < math.inf:
        raise ValueError(f"Expected `learning_rate` > 0. Received: learning_rate={learning_rate}")
    if not 0.0 < held_out < 1.0:
        raise ValueError(f"Expected `held_out` in (0, 1). Received: held_out={held_out}")


def _aims(teacher: keras.Model | None, reference: keras.Model, data: Any, inputs: Sequence[Array]) -> list[Array]:
    """What the teacher gives for all samples."""
    if teacher is None:
        return _run(opened(reference, data), as_floats, inputs)
    return _run(as_graph(teacher, first_of(data)), graph.Call.run, inputs)


def _run(model: keras.Model, visit: graph.Visitor, inputs: Sequence[Array]) -> list[Array]:
    """Outputs of a model, in pieces."""
    found = []
    for start in range(0, len(inputs[0]), CHUNK):
        piece = [tf.constant(array[start : start + CHUNK]) for array in inputs]
        outputs = tree.flatten(graph.Rebuild(visit, flat=True).run(model, piece, "", 0))
        found.append([np.asarray(each, np.float32) for each in outputs])
    return [np.concatenate(arrays) for arrays in zip(*found, strict=True)]


def _labels(labels: Any, loss: Any, student: keras.Model, teacher: keras.Model | None, count: int) -> Labels | None:
    if labels is None:
        return None
    arrays = [np.asarray(each) for each in (labels if isinstance(labels, (list, tuple)) else [labels])]
    short = [len(each) for each in arrays if len(each) < count]
    if short:
        raise ValueError(f"Expected `labels` of {count} samples. Received: {short[0]}")
    found = getattr(teacher, "loss", None) if loss is None else loss
    if found is None:
        raise ValueError("Expected `loss` for the labels, or a teacher compiled with one. Received: neither")
    return Labels(arrays, FitLoss(found, teacher if loss is None else student))


class _Task:
    """What is to be learned: the model, the samples, and what it should give for them.

    Raises:
        ValueError: For aims of other shapes than the model's outputs, or that are not finite.
    """

    def __init__(
        self, flat: keras.Model, inputs: Sequence[Array], aims: Sequence[Array], labels: Labels | None
    ) -> None:
        shapes = [tuple(tensor.shape[1:]) for tensor in flat.outputs]
        found = [aim.shape[1:] for aim in aims]
        # Of an output without a fixed length the aim tells one.
        if [len(each) for each in found] != [len(each) for each in shapes] or not all(
            wanted in (None, n)
            for shape, got in zip(shapes, found, strict=True)
            for wanted, n in zip(shape, got, strict=True)
        ):
            raise ValueError(f"Expected a `teacher` with outputs of shapes {shapes}. Received: {found}")
        if not all(np.isfinite(aim).all() for aim in aims):
            raise ValueError("Expected a teacher whose outputs are finite. Received: NaN or infinity")
        self.flat, self.inputs = flat, [tf.constant(array) for array in inputs]
        self._aims = [tf.constant(aim) for aim in aims]
        # Of outputs that are always 0 it is the error itself.
        self._weights = [1.0 / (float(np.mean(np.square(aim))) or 1.0) / len(aims) for aim in aims]
        self._labels = labels
        self._targets = [] if labels is None else [tf.constant(array) for array in labels.arrays]

    def loss(self, rows: Tensor) -> Tensor:
        """Relative square error of the outputs for some samples, and the loss of their labels."""
        inputs = [tf.gather(array, rows) for array in self.inputs]
        outputs = tree.flatten(graph.Rebuild(graph.Call.run).run(self.flat, inputs, "", 0))
        outputs = [tf.cast(each, tf.float32) for each in outputs]
        errors = [
            weight * tf.reduce_mean(tf.square(tf.gather(aim, rows) - each))
            for weight, aim, each in zip(self._weights, self._aims, outputs, strict=True)
        ]
        if self._labels is not None:
            targets = [tf.gather(array, rows) for array in self._targets]
            pair = (targets[0], outputs[0]) if len(outputs) == 1 else (targets, outputs)
            errors.append(tf.cast(self._labels.loss(*pair), tf.float32))
        return tf.add_n(errors)


class _Training:
    """Trains, looks at what is held out, and leaves the model as it was at its best."""

    def __init__(
        self, task: _Task, rows: Array, held_out: Array, steps: int, batch_size: int, rate: float, seed: int
    ) -> None:
        self._task, self._rows, self._held_out = task, rows, held_out
        self._steps, self._size, self._rate = steps, min(batch_size, len(rows)), rate
        self._draw = np.random.default_rng(seed)
        self._variables = list(task.flat.trainable_variables)
        units = units_of(task.flat, [array[:CHUNK] for array in task.inputs])
        self._optimizer = RelativeAdam(self._variables, by_variable(units, self._variables))
        self._looked: list[float] = []

    def run(self) -> None:
        """Train."""
        values, least = self._values(), self._look()
        step = tf.function(self._step, autograph=False)
        every = max(1, self._steps // LOOKS)
        with progress.ProgressLine("training", self._steps) as line:
            for number in range(self._steps):
                rows = self._draw.choice(self._rows, self._size, replace=False)
                rate = 0.5 * self._rate * (1.0 + math.cos(math.pi * number / self._steps))
                step(tf.constant(rows), tf.constant(rate, tf.float32))
                line.advance()
                if (number + 1) % every == 0 or number + 1 == self._steps:
                    found = self._look()
                    line.describe(f"{_db(found):.1f} dB")
                    if not math.isfinite(found):
                        break
                    if found < least:
                        values, least = self._values(), found
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)

    def _step(self, rows: Tensor, rate: Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = self._task.loss(rows)
        self._optimizer.apply(tape.gradient(loss, [each.value for each in self._variables]), rate)

    def _values(self) -> list[Array]:
        return [np.asarray(variable) for variable in self._variables]

    def _look(self) -> float:
        pieces = [self._held_out[start : start + CHUNK] for start in range(0, len(self._held_out), CHUNK)]
        losses = [len(piece) * float(self._task.loss(tf.constant(piece))) for piece in pieces]
        self._looked.append(sum(losses) / len(self._held_out))
        return self._looked[-1]

    @property
    def _found(self) -> tuple[float, float, bool]:
        """The loss before, the least in training, and whether that is taken."""
        before, *later = self._looked
        best = min((each for each in later if math.isfinite(each)), default=math.inf)
        return before, best, best < before

    def effect(self) -> LayerEffect:
        """What it did to the outputs."""
        before, best, taken = self._found
        note = f"on {len(self._held_out)} samples that were held out"
        return LayerEffect(NOTE, "fine_tune", None, _db(before), _db(best if taken else before), note)

    def note(self) -> str:
        """A line that says whether the trained model is the one that is given."""
        before, best, taken = self._found
        figures = f"{_db(before):.1f} to {_db(best):.1f} dB on {len(self._held_out)} that were held out"
        if taken:
            return f"Trained on {len(self._rows)} samples with a teacher: {figures}"
        return f"Training taken back: on {len(self._rows)} samples it made the model worse, {figures}"


def _db(loss: float) -> float:
    return decibels(1.0, loss) if math.isfinite(loss) else -math.inf
