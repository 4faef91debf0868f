"""Schedules: pure functions of the training step."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_compress.core.registry import register

Tensor = Any


def resolve_step(value: float, steps_per_epoch: int | None, total_steps: int | None, name: str) -> int:
    """Turn a point in training into a step.

    Args:
        value: A step; an epoch where `steps_per_epoch` is given; a fraction in [0, 1] where `total_steps` is given.
        steps_per_epoch: Batches in an epoch.
        total_steps: Batches in the whole training.
        name: Argument's name, for the error.

    Raises:
        ValueError: If both units are given, or the value is not a whole number of steps or out of range.

    >>> resolve_step(0.5, None, 1000, "end_step"), resolve_step(2, 469, None, "end_step")
    (500, 938)
    """
    if steps_per_epoch is not None and total_steps is not None:
        raise ValueError(
            "Expected one of `steps_per_epoch` and `total_steps`. "
            f"Received: steps_per_epoch={steps_per_epoch}, total_steps={total_steps}"
        )
    if total_steps is not None:
        if not 0 <= value <= 1:
            raise ValueError(f"Expected `{name}` as a fraction in [0, 1] of `total_steps`. Received: {name}={value}")
        # Steps count from 0: the end of the training is its last step.
        return min(round(value * total_steps), total_steps - 1)
    if steps_per_epoch is not None:
        return round(value * steps_per_epoch)
    if value != int(value) or value < -1:
        raise ValueError(
            f"Expected `{name}` to be a whole number of steps (or an epoch with `steps_per_epoch=`, or a fraction with "
            f"`total_steps=`). Received: {name}={value}"
        )
    return int(value)


def check_sparsity(name: str, value: float) -> float:
    """Sparsity as a float in [0, 1).

    Raises:
        ValueError: Out of range.
    """
    if not 0.0 <= value < 1.0:
        raise ValueError(f"Expected `{name}` in [0, 1). Received: {name}={value}")
    return float(value)


class Schedule:
    """A pure function `step -> sparsity`, and the steps at which it acts.

    Subclasses implement `__call__` and `get_config`; `begin_step`, `end_step` (-1: for ever) and `frequency` say when
    `should_update` is true. A step is one training batch that the model saw; the first one is step 0.

    Args:
        begin_step: First step that acts.
        end_step: Last step that acts, -1 for no end.
        frequency: Acts every so many steps, counted from `begin_step`, and always at `end_step`.
    """

    def __init__(self, begin_step: int, end_step: int, frequency: int) -> None:
        if begin_step < 0:
            raise ValueError(f"Expected `begin_step` >= 0. Received: begin_step={begin_step}")
        if end_step != -1 and end_step < begin_step:
            raise ValueError(
                "Expected `end_step` to be -1 or not before `begin_step`. "
                f"Received: begin_step={begin_step}, end_step={end_step}"
            )
        if not isinstance(frequency, int) or frequency < 1:
            raise ValueError(f"Expected `frequency` to be an integer >= 1. Received: frequency={frequency}")
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        """Constructor arguments of a few examples: what the conformance tests try."""
        return [{}]

    def __call__(self, step: Tensor) -> Tensor:
        """The value at `step` (int or integer tensor), a float32 scalar."""
        raise NotImplementedError(f"{type(self).__name__} must implement `__call__(step)`.")

    def should_update(self, step: Tensor) -> Tensor:
        """Whether `step` is one at which the schedule acts, a bool scalar."""
        step = ops.cast(step, "int64")
        acts = ops.logical_and(step >= self.begin_step, (step - self.begin_step) % self.frequency == 0)
        if self.end_step == -1:
            return acts
        return ops.logical_or(ops.logical_and(acts, step <= self.end_step), step == self.end_step)

    def final_value(self) -> float:
        """The value once the schedule has run its course."""
        return float(ops.convert_to_numpy(self(max(self.end_step, self.begin_step))))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, steps resolved."""
        return {"begin_step": self.begin_step, "end_step": self.end_step, "frequency": self.frequency}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        """Inverse of `get_config`."""
        return cls(**config)

    def _progress(self, step: Tensor) -> Tensor:
        """Share of the way from `begin_step` to `end_step`, clipped to [0, 1]."""
        span = float(max(self.end_step - self.begin_step, 1))
        return ops.clip((ops.cast(step, "float32") - float(self.begin_step)) / span, 0.0, 1.0)


@register("schedule")
class ConstantSparsity(Schedule):
    """The same sparsity from `begin_step` on.

    Args:
        target_sparsity: Share of zeros, in [0, 1).
        begin_step: First step that prunes, the first of all by default.
        end_step: Last step that prunes, -1 for no end.
        frequency: Steps between two looks at the weights.
        steps_per_epoch: If given, `begin_step` and `end_step` are epochs.
        total_steps: If given, `begin_step` and `end_step` are fractions of it.

    >>> float(ConstantSparsity(0.5)(7))
    0.5
    """

    def __init__(
        self,
        target_sparsity: float,
        begin_step: float = 0,
        end_step: float = -1,
        frequency: int = 100,
        *,
        steps_per_epoch: int | None = None,
        total_steps: int | None = None,
    ) -> None:
        self.target_sparsity = check_sparsity("target_sparsity", target_sparsity)
        super().__init__(
            resolve_step(begin_step, steps_per_epoch, total_steps, "begin_step"),
            -1 if end_step == -1 else resolve_step(end_step, steps_per_epoch, total_steps, "end_step"),
            frequency,
        )

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [
            {"target_sparsity": 0.5, "begin_step": 2},
            {"target_sparsity": 0.9, "begin_step": 0, "end_step": 5, "frequency": 2},
        ]

    def __call__(self, step: Tensor) -> Tensor:
        return ops.convert_to_tensor(self.target_sparsity, "float32")

    def get_config(self) -> dict[str, Any]:
        return {"target_sparsity": self.target_sparsity, **super().get_config()}


class _RampSparsity(Schedule):
    """Sparsity that goes from an initial to a final value."""

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{"initial_sparsity": 0.25, "final_sparsity": 0.75, "begin_step": 1, "end_step": 9, "frequency": 3}]

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: float,
        end_step: float,
        frequency: int = 100,
        *,
        steps_per_epoch: int | None = None,
        total_steps: int | None = None,
    ) -> None:
        self.initial_sparsity = check_sparsity("initial_sparsity", initial_sparsity)
        self.final_sparsity = check_sparsity("final_sparsity", final_sparsity)
        begin = resolve_step(begin_step, steps_per_epoch, total_steps, "begin_step")
        end = resolve_step(end_step, steps_per_epoch, total_steps, "end_step")
        if end <= begin:
            raise ValueError(f"Expected `end_step` after `begin_step`. Received: begin_step={begin}, end_step={end}")
        super().__init__(begin, end, frequency)

    def get_config(self) -> dict[str, Any]:
        return {
            "initial_sparsity": self.initial_sparsity,
            "final_sparsity": self.final_sparsity,
            **super().get_config(),
        }


@register("schedule")
class PolynomialDecay(_RampSparsity):
    """`final + (initial - final) * (1 - (step - begin) / (end - begin)) ** power`.

    Args:
        initial_sparsity: Share of zeros at `begin_step`, in [0, 1).
        final_sparsity: Share of zeros at `end_step`, in [0, 1).
        begin_step: First step that prunes.
        end_step: Last step that prunes.
        power: Exponent; 3 is the paper's.
        frequency: Steps between two changes.
        steps_per_epoch: If given, `begin_step` and `end_step` are epochs.
        total_steps: If given, `begin_step` and `end_step` are fractions of it.

    **Reference**: Zhu and Gupta, "To prune, or not to prune" (2017), equation 1.
    **Deviations**: the last change is made at `end_step` even where `frequency` does not meet it, so that the final
    sparsity is reached.

    >>> round(float(PolynomialDecay(0.0, 0.8, begin_step=0, end_step=100)(50)), 4)
    0.7
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: float,
        end_step: float,
        power: float = 3.0,
        frequency: int = 100,
        *,
        steps_per_epoch: int | None = None,
        total_steps: int | None = None,
    ) -> None:
        if not 0 < power < float("inf"):
            raise ValueError(f"Expected `power` > 0. Received: power={power}")
        self.power = float(power)
        super().__init__(
            initial_sparsity,
            final_sparsity,
            begin_step,
            end_step,
            frequency,
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
        )

    def __call__(self, step: Tensor) -> Tensor:
        left = ops.power(1.0 - self._progress(step), self.power)
        return (self.initial_sparsity - self.final_sparsity) * left + self.final_sparsity

    def get_config(self) -> dict[str, Any]:
        return {"power": self.power, **super().get_config()}


@register("schedule")
class CosineDecay(_RampSparsity):
    """`final + (initial - final) * (1 + cos(pi * (step - begin) / (end - begin))) / 2`.

    Args:
        initial_sparsity: Share of zeros at `begin_step`, in [0, 1).
        final_sparsity: Share of zeros at `end_step`, in [0, 1).
        begin_step: First step that prunes.
        end_step: Last step that prunes.
        frequency: Steps between two changes.
        steps_per_epoch: If given, `begin_step` and `end_step` are epochs.
        total_steps: If given, `begin_step` and `end_step` are fractions of it.

    >>> round(float(CosineDecay(0.0, 0.8, begin_step=0, end_step=100)(50)), 4)
    0.4
    """

    def __call__(self, step: Tensor) -> Tensor:
        left = 0.5 * (1.0 + ops.cos(3.141592653589793 * self._progress(step)))
        return (self.initial_sparsity - self.final_sparsity) * left + self.final_sparsity
