"""What every schedule must do."""

from __future__ import annotations

from keras_compress.pruning.magnitude import prune_low_magnitude
from keras_compress.testing.sample import Bench, Sample, constructor_arguments, saved_again, serialized_again

# Arguments that only say in which unit the others are given.
_UNITS = {"steps_per_epoch", "total_steps"}
_LAST = 40


def config_gives_back_the_arguments(sample: Sample) -> None:
    """`get_config` has the constructor's arguments, and Keras makes the same schedule of it."""
    made = sample.make()
    config = made.get_config()
    assert set(config) == constructor_arguments(sample.cls) - _UNITS, f"{sample}: get_config() gives {sorted(config)}"
    again = serialized_again(made)
    assert type(again) is sample.cls
    assert again.get_config() == config
    assert [float(again(step)) for step in range(_LAST)] == [float(made(step)) for step in range(_LAST)]


def is_a_pure_function_with_values_in_range(sample: Sample) -> None:
    """The same step, the same float32 sparsity in [0, 1); behind its end it stays at `final_value()`."""
    made = sample.make()
    first = [float(made(step)) for step in range(_LAST)]
    assert first == [float(made(step)) for step in range(_LAST)], f"{sample}: a step has two values"
    assert all(0.0 <= value < 1.0 for value in first), f"{sample}: values from {min(first)} to {max(first)}"
    assert made(3).dtype == "float32", f"{sample}: values of {made(3).dtype}"
    assert float(made(10_000)) == made.final_value()


def acts_between_begin_and_end(sample: Sample) -> None:
    """`should_update` begins at `begin_step` and ends at `end_step`."""
    made = sample.make()
    acts = [step for step in range(_LAST) if made.should_update(step)]
    assert acts[0] == made.begin_step, f"{sample}: acts first at {acts[0]}"
    if made.end_step != -1:
        assert acts[-1] == made.end_step, f"{sample}: acts last at {acts[-1]}"


def survives_saving(sample: Sample) -> None:
    """It comes back from a `.keras` file."""
    model = saved_again(prune_low_magnitude(Bench().plain(), sample.make()))
    again = model.layers[0].transform_list[0].schedule
    assert type(again) is sample.cls
    assert again.get_config() == sample.make().get_config()


CHECKS = (
    config_gives_back_the_arguments,
    is_a_pure_function_with_values_in_range,
    acts_between_begin_and_end,
    survives_saving,
)
