"""Rounding that is learned, layer by layer or block by block: AdaRound and BRECQ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.core import progress
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.post_training.effect import LayerEffect
from keras_compress.post_training.lockstep import Lockstep, called_with
from keras_compress.post_training.record import carry, record_of
from keras_compress.post_training.soft_rounding import SoftRounding, annealed, regulariser
from keras_compress.post_training.soft_steps import SoftStep, soft_steps
from keras_compress.post_training.start import begin, held, warn_of_few
from keras_compress.post_training.steps import Stepped, by_wrapper, stepped_weights, warn_of_nearest
from keras_compress.post_training.units import Unit, block_units, layer_units

Array = NDArray[Any]
Tensor = Any
# `id` of a wrapper -> slot -> variables.
Soft = Mapping[int, Mapping[str, SoftRounding]]
# `id` of a point -> its step.
Steps = Mapping[int, SoftStep]
# What is not rounded of a unit's activations in each step, where they have few bits: QDrop's.
_DROP = 0.5


@dataclass(frozen=True)
class Schedule:
    """How long and how fast the rounding of a unit is learned.

    Attributes:
        steps: Of the optimizer, for each unit.
        batch_size: Samples in a step.
        learning_rate: Of Adam.
        regularisation: lambda, what a weight between two integers costs.
        input_drop: Share of a unit's input values that are the float model's, drawn anew in each step.
        step_rate: Of Adam, of the steps of activations.
        seed: Of batches and draws.
    """

    steps: int
    batch_size: int
    learning_rate: float
    regularisation: float
    input_drop: float | None
    step_rate: float
    seed: int


@global_state_kept()
def adaround(
    quantized: keras.Model,
    data: Any,
    *,
    blocks: bool = False,
    steps: int = 1000,
    batch_size: int = 32,
    samples: int = 512,
    learning_rate: float = 1e-2,
    regularisation: float = 0.01,
    input_drop: float | None = None,
    step_rate: float = 1e-3,
    seed: int = 0,
    reference: keras.Model | None = None,
) -> keras.Model:
    """Round each weight up or down so that what its layer gives stays closest to the float model's.

    **Loss** `mean |f(W, x) - f(W~, x~)|^2 + lambda sum (1 - |2 h - 1|^beta)`: `f` is the layer with the
    BatchNormalization and ReLU behind it, or a block; `x~` its input in the quantized model, all before it being
    rounded already; `W~ = step clip(floor(W / step) + h(V), low, high)`. beta falls from 20 to 2 after a fifth of the
    steps without the second term.

    Steps of activations with fewer than 8 bits are learned at the same time (`SoftStep`), at points within a block.

    Args:
        quantized: What `quantize_model` gives, with weights on evenly spaced levels. Ranges of activations that are not
            known are set to those of the float model.
        data: Inputs without labels, see `keras_compress.data.batches.batches`.
        blocks: Take all layers between two tensors through which everything goes together: residual blocks.
        steps: Of Adam, for each layer or block.
        batch_size: Samples in each step.
        samples: How many of the first samples are used.
        learning_rate: Of Adam.
        regularisation: lambda.
        input_drop: Share of input values that are the float model's, and of values at points of few bits that are not
            rounded, drawn in each step; by default 0.5, as in QDrop, in units with such points, elsewhere 0.
        step_rate: Of Adam for the steps of activations, as a share of the first, falling as a cosine; 0: they stay.
        seed: Of the draws.
        reference: The quantized model whose latent weights are aimed at, where they are no longer those of `quantized`.

    Returns:
        A new model whose latent weights are whole steps.

    Raises:
        ValueError: For data that do not fit, numbers out of range, or a model without such weights.

    **Reference**: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (2020), sections 3.2 and
    3.3; with `blocks` Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction"
    (2021), with section 3.3 for activations; `input_drop`: Wei et al., "QDrop" (2022).
    **Deviations**: fewer and larger steps. Steps of activations are learned with the rounding, as in QDrop. Blocks
    are weighed by plain square errors, without BRECQ's Fisher information, which needs labels or the model's loss.
    """
    _check(steps=steps, batch_size=batch_size, samples=samples)
    schedule = Schedule(steps, batch_size, learning_rate, regularisation, input_drop, step_rate, seed)
    data = held(quantized, data, samples)
    model = begin(quantized, data)
    stepped = stepped_weights(model)
    lock = Lockstep(model, quantized if reference is None else reference, data, samples)
    warn_of_few(lock.samples, "AdaRound")
    done = _Units(lock, by_wrapper(stepped), schedule, "brecq" if blocks else "adaround")
    units = block_units(lock.flat) if blocks else layer_units(lock.flat)
    with progress.ProgressLine("rounding") as line:
        line.step("units", len(units))
        for unit in units:
            done.reconstruct(unit)
            line.advance()
    done.warn()
    note = f"Rounding learned {'block by block' if blocks else 'layer by layer'}: {len(done.effects)} units"
    return carry(model, record_of(quantized).did(done.effects, note))


def brecq(quantized: keras.Model, data: Any, **settings: Any) -> keras.Model:
    """`adaround` block by block; see there."""
    return adaround(quantized, data, **{"blocks": True, **settings})


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"Expected `{name}` of 1 or more. Received: {name}={count!r}")


class _Units:
    """Reconstructs one unit after the other."""

    def __init__(self, lock: Lockstep, weights: dict[int, list[Stepped]], schedule: Schedule, method: str) -> None:
        self._lock, self._weights, self._schedule, self._method = lock, weights, schedule, method
        self._left: dict[str, str] = {}
        self.effects: list[LayerEffect] = []

    def warn(self) -> None:
        """Say which layers were rounded to the nearest, when all units were."""
        warn_of_nearest(self._left, self._weights)

    def reconstruct(self, unit: Unit) -> None:
        """Learn the rounding of the weights in a unit, and run it."""
        lock = self._lock
        found = self._in(unit)
        lock.run_float(unit)
        if found:
            task = _Task(lock, unit)
            reason = task.unfit()
            if reason is None:
                self._learn(task, found)
            else:
                self._left.update((each.path, reason) for each in found)
        lock.run_quantized(unit)

    def _in(self, unit: Unit) -> list[Stepped]:
        """Weights in the calls of a unit that were not rounded yet: a layer that is called twice is at its first."""
        operations = [self._lock.calls[position].operation for position in unit]
        return [each for operation in operations for each in self._weights.pop(id(operation), [])]

    def _learn(self, task: _Task, found: Sequence[Stepped]) -> None:
        floats = task.float_weights()
        soft: dict[int, dict[str, SoftRounding]] = {}
        for each in found:
            weight = floats[id(each.wrapper)][each.slot.name].numpy()
            soft.setdefault(id(each.wrapper), {})[each.slot.name] = SoftRounding(weight, each.step, each.ends)
        before = task.sqnr_db()
        steps = task.steps(self._schedule.step_rate)
        task.learn(soft, steps, self._schedule)
        for step in steps.values():
            step.settle()
        errors = []
        for each in found:
            weight = floats[id(each.wrapper)][each.slot.name].numpy()
            each.set_integers(soft[id(each.wrapper)][each.slot.name].integers())
            errors.append(-sqnr_db(weight, each.weight))
        after = task.sqnr_db()
        names = ", ".join(dict.fromkeys(each.path for each in found))
        self.effects.append(LayerEffect(names, self._method, float(np.mean(errors)), before, after))


class _Task:
    """The inputs and aims of one unit."""

    def __init__(self, lock: Lockstep, unit: Unit) -> None:
        self._lock, self._unit = lock, unit
        self._reads, self._results = lock.inputs_of(unit), lock.results_of(unit)
        self._aims = [lock.float(t) for t in self._results]
        self._inputs = [lock.quantized(t) for t in self._reads]
        self._float_inputs = [lock.float(t) for t in self._reads]

    def unfit(self) -> str | None:
        """Why it cannot be learned on."""
        if any(len(value) != self._lock.samples for value in (*self._inputs, *self._aims)):
            return "it is called with rows that are not the samples"
        floats = [value for value in (*self._inputs, *self._aims) if value.dtype.is_floating]
        if not all(bool(tf.reduce_all(tf.math.is_finite(value))) for value in floats):
            return "its values are not finite"
        return None

    def float_weights(self) -> dict[int, dict[str, Tensor]]:
        """`id` of a wrapper -> slot -> the weight that is aimed at."""
        return self._lock.float_weights(self._unit)

    def sqnr_db(self) -> float:
        """Of what the unit gives now."""
        found = self.outputs(self._inputs, self._lock.visit)
        pairs = zip(self._aims, found, strict=True)
        return float(np.mean([sqnr_db(aim.numpy(), value.numpy()) for aim, value in pairs]))

    def outputs(self, inputs: Sequence[Tensor], visit: Callable[[graph.Call], Any]) -> list[Tensor]:
        """What the unit gives for some inputs."""
        tensors = {id(t): value for t, value in zip(self._reads, inputs, strict=True)}
        calls = [self._lock.calls[position] for position in self._unit]
        graph.Rebuild(visit).run_calls(calls, tensors, self._results)
        return [tensors[id(t)] for t in self._results]

    def steps(self, rate: float) -> dict[int, SoftStep]:
        """The steps of activations in it that are learned."""
        return soft_steps([self._lock.calls[position] for position in self._unit], self._lock.calls) if rate else {}

    def learn(self, soft: Soft, steps: Steps, schedule: Schedule) -> None:
        """Move the variables."""
        descend = _descent(soft, steps, schedule)
        drop = schedule.input_drop
        if drop is None:
            drop = _DROP if steps else 0.0

        def mixed(mine: Tensor, other: Tensor, seed: Tensor) -> Tensor:
            if not drop or not mine.dtype.is_floating:
                return mine
            return tf.where(tf.random.stateless_uniform(tf.shape(mine), seed) < drop, other, mine)

        @tf.function(autograph=False, reduce_retracing=True)
        def step(rows: Tensor, seed: Tensor, beta: Tensor, weight: Tensor) -> Tensor:
            pairs = zip(self._inputs, self._float_inputs, strict=True)
            inputs = [mixed(tf.gather(mine, rows), tf.gather(other, rows), seed) for mine, other in pairs]
            aims = [tf.gather(aim, rows) for aim in self._aims]
            visit = self._visitor(soft, steps, drop, seed)
            with tf.GradientTape() as tape:
                error = tf.add_n([_error(a, b) for a, b in zip(aims, self.outputs(inputs, visit), strict=True)])
                between = tf.add_n([regulariser(s.shares(), beta) for slots in soft.values() for s in slots.values()])
                loss = error + weight * between
            descend(tape, loss)
            return error

        draw = np.random.default_rng(schedule.seed)
        size = min(schedule.batch_size, self._lock.samples)
        for number in range(schedule.steps):
            done = number / schedule.steps
            rows = draw.choice(self._lock.samples, size, replace=False)
            weight = schedule.regularisation if done >= 0.2 else 0.0
            seed = tf.constant([schedule.seed, number])
            step(tf.constant(rows), seed, tf.constant(annealed(done), tf.float32), tf.constant(weight, tf.float32))

    def _visitor(self, soft: Soft, steps: Steps, drop: float, seed: Tensor) -> Callable[[graph.Call], Any]:
        # Each point draws for itself.
        numbers = {key: number for number, key in enumerate(steps, start=1)}

        def visit(call: graph.Call) -> Any:
            slots, key = soft.get(id(call.operation)), id(call.operation)
            if key in steps:
                return steps[key].rounded(call.args[0], drop, seed + tf.constant([numbers[key] << 20, 0]))
            if slots is None or not isinstance(call.operation, Compressed):
                return self._lock.visit(call)
            wrapper = call.operation
            inputs = call.args if wrapper.input_point is None else (wrapper.input_point(*call.args[:1]), *call.args[1:])
            weights = {name: wrapper.weight(name) for name in wrapper.slot_names if name not in slots}
            weights.update((name, each.weight()) for name, each in slots.items())
            return called_with(wrapper, weights, *inputs, **call.kwargs)

        return visit


def _descent(soft: Soft, steps: Steps, schedule: Schedule) -> Callable[[tf.GradientTape, Tensor], None]:
    """`(tape, loss)`: moves the variables of the rounding, and at a rate of their own the steps of activations."""
    groups = [([each.variable for slots in soft.values() for each in slots.values()], schedule.learning_rate)]
    if steps:
        falling = keras.optimizers.schedules.CosineDecay(schedule.step_rate, schedule.steps)
        groups.append(([each.variable for each in steps.values()], falling))
    optimizers = [keras.optimizers.Adam(rate) for _, rate in groups]
    for optimizer, (variables, _) in zip(optimizers, groups, strict=True):
        optimizer.build(variables)

    def descend(tape: tf.GradientTape, loss: Tensor) -> None:
        gradients = tape.gradient(loss, [[each.value for each in variables] for variables, _ in groups])
        for optimizer, (variables, _), found in zip(optimizers, groups, gradients, strict=True):
            optimizer.apply(found, variables)

    return descend


def _error(aim: Tensor, value: Tensor) -> Tensor:
    """Square error: a sum over channels, a mean over samples and positions."""
    difference = tf.cast(aim, tf.float32) - tf.cast(value, tf.float32)
    return tf.reduce_mean(tf.reduce_sum(tf.square(difference), axis=-1))
