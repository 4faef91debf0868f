"""What every weight transform must do: pruners, clusterers, weight quantizers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from keras_compress.graph.model import compressed_layers, strip
from keras_compress.testing.sample import Bench, Sample, constructor_arguments, saved_again, serialized_again

_MOST_STEPS = 100
_PROMISES = {"zeros", "channels", "codebook", "channel_codebook", "grid"}


def config_gives_back_the_arguments(sample: Sample) -> None:
    """`get_config` has the constructor's arguments; a built one comes back with the same variables."""
    config = sample.make().get_config()
    assert set(config) == constructor_arguments(sample.cls), f"{sample}: get_config() gives {sorted(config)}"
    assert sample.cls.from_config(config).get_config() == config
    bench = Bench()
    made = bench.wrapper(bench.with_transforms(sample)).transform_list[0]
    again = serialized_again(made)
    assert type(again) is sample.cls
    assert again.get_config() == made.get_config()
    described = [[(v.name, tuple(v.shape), v.dtype) for v in each.variables] for each in (again, made)]
    assert described[0] == described[1], f"{sample}: variables {described[0]} instead of {described[1]}"


def training_goes_on_after_loading(sample: Sample) -> None:
    """A model that was saved and loaded is trained to the same bits as one that was not."""
    bench = Bench()
    model = bench.with_transforms(sample)
    if sample.make().trains:
        bench.fit(model)
    again = saved_again(model)
    np.testing.assert_array_equal(np.array(model(bench.x)), np.array(again(bench.x)))
    if not sample.make().trains:
        return
    for old, new in zip(bench.fit(model).variables, bench.fit(again).variables, strict=True):
        np.testing.assert_array_equal(np.array(old), np.array(new), err_msg=f"{sample}: {old.path}")


def gives_a_weight_of_the_same_form(sample: Sample) -> None:
    """float32 of the weight's shape; where `idempotent` is declared, a second time changes nothing."""
    bench = Bench()
    model = bench.with_transforms(sample)
    model(bench.x, training=True)
    wrapper = bench.wrapper(model)
    made = wrapper.transform_list[0]
    once = made(wrapper.latent("kernel").value)
    assert (tuple(once.shape), once.dtype) == ((6, 8), "float32"), f"{sample}: {once.dtype} of shape {once.shape}"
    if made.idempotent:
        again = f"{sample}: a second time changes the weight, so set `idempotent = False`"
        np.testing.assert_allclose(np.array(made(once)), np.array(once), rtol=1e-6, atol=1e-7, err_msg=again)


def integers_are_the_weight(sample: Sample) -> None:
    """`integer_weight` gives integers within their bits which, times the scale, are the weight that training saw."""
    bench = Bench()
    model = bench.with_transforms(sample)
    model(bench.x, training=True)
    wrapper = bench.wrapper(model)
    weight = wrapper.transform_list[0].integer_weight(wrapper.latent("kernel").value)
    if weight is None:
        assert "grid" not in wrapper.transform_list[0].promises, f"{sample}: promises a grid and gives no integers"
        return
    np.testing.assert_array_equal(weight.floats(), np.array(wrapper.weight("kernel")), err_msg=f"{sample}")
    assert weight.integers.dtype == (np.int8 if weight.bits <= 8 else np.int32)
    groups = weight.integers.T if weight.scale.size > 1 else [weight.integers]
    assert max(len(np.unique(group)) for group in groups) <= 2**weight.bits, f"{sample}: more than 2^bits levels"
    lowest, highest = weight.integers.min(), weight.integers.max()
    assert -(2 ** (weight.bits - 1)) <= lowest, f"{sample}: integers from {lowest}"
    assert highest < 2 ** (weight.bits - 1), f"{sample}: integers to {highest}"
    assert np.abs(weight.integers.astype(int)).max() <= 127 or weight.bits > 8, f"{sample}: -128 has no opposite"


def a_step_moves_what_it_should(sample: Sample) -> None:
    """Training moves the trainable variables and those that `update` returns, and no other."""
    bench = Bench()
    model = bench.with_transforms(sample)
    wrapper = bench.wrapper(model)
    transform = wrapper.transform_list[0]
    updated = {id(variable) for variable, _ in transform.update(wrapper.latent("kernel").value)}
    before = {id(variable): np.array(variable) for variable in wrapper.variables}
    if transform.trains:
        bench.fit(model)
    else:
        model(bench.x, training=True)
    moved = {id(v) for v in wrapper.variables if np.abs(np.array(v) * 1.0 - before[id(v)]).max() > 0}
    expected = {id(variable) for variable in transform.trainable_variables}
    assert expected <= moved, f"{sample}: a trainable variable does not move"
    others = moved - {id(variable) for variable in wrapper.layer.variables}
    assert others <= expected | updated, f"{sample}: a variable moves that `update` does not return"
    assert bool(moved) == transform.trains, f"{sample}: trains={transform.trains}, and {len(moved)} variables move"


def replicas_do_not_average_state(sample: Sample) -> None:
    """Masks and counters are the same on every replica of a distribution strategy."""
    bench = Bench()
    for variable in bench.wrapper(bench.with_transforms(sample)).transform_list[0].non_trainable_variables:
        if variable.dtype != "float32":
            assert variable.aggregation in ("only_first_replica", "none"), f"{sample}: {variable.path}"


def strip_leaves_the_outputs(sample: Sample) -> None:
    """`kc.strip` gives a plain model with the same outputs."""
    bench = Bench()
    model = bench.with_transforms(sample)
    model(bench.x, training=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a schedule has not ended
        plain = strip(model)
    np.testing.assert_array_equal(np.array(model(bench.x)), np.array(plain(bench.x)), err_msg=f"{sample}")
    assert not list(compressed_layers(plain))
    assert len(np.unique(np.array(plain(bench.x)))) > 1 or not sample.make().trains


def _steps(made: Any) -> int:
    """As many as a schedule of a sample takes to have made zeros, and two at least."""
    schedule = getattr(made, "schedule", None)
    return 2 if schedule is None else min(max(schedule.begin_step, schedule.end_step, 1) + 1, _MOST_STEPS)


def promises_hold(sample: Sample) -> None:
    """Zeros stay zero, and there are no more distinct values than `number_of_clusters`, where that is promised."""
    bench = Bench()
    model = bench.with_transforms(sample)
    wrapper = bench.wrapper(model)
    transform = wrapper.transform_list[0]
    if not getattr(transform, "makes_zeros", True):
        assert (np.array(transform.mask)).all(), f"{sample}: `makes_zeros = False`, and it makes some"
        transform.initialize(np.where(np.eye(6, 8), 0.0, wrapper.weight("kernel")))
    if transform.trainable_variables and "zeros" in transform.promises:
        # What it trains decides on the zeros.
        bench.fit(model, _steps(transform))
    else:
        for _ in range(_steps(transform)):
            model(bench.x, training=True)
    assert transform.promises | transform.preserves <= _PROMISES, f"{sample}: promises out of {sorted(_PROMISES)}"
    weight = np.array(wrapper.weight("kernel"))
    if "zeros" in transform.promises:
        model(bench.x, training=True)
        assert (weight == 0).any(), f"{sample}: promises zeros and makes none"
        kept = (np.array(wrapper.weight("kernel"))[weight == 0] == 0).all()
        assert kept or transform.get_config().get("regrow"), f"{sample}: a zero comes back"
    if "codebook" in transform.promises:
        assert len(np.unique(weight)) <= transform.number_of_clusters, f"{sample}"
    if "channel_codebook" in transform.promises:
        assert max(len(np.unique(column)) for column in weight.T) <= transform.number_of_clusters, f"{sample}"


CHECKS = (
    config_gives_back_the_arguments,
    training_goes_on_after_loading,
    gives_a_weight_of_the_same_form,
    integers_are_the_weight,
    a_step_moves_what_it_should,
    replicas_do_not_average_state,
    strip_leaves_the_outputs,
    promises_hold,
)
