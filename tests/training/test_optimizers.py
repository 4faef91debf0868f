"""Weight decay, clipping and averaged weights: what is pruned stays pruned, few values stay few."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from tests_pruning import wrapped
from tests_training import array, assert_pruned, data, fit, ours, pcqat, pruners, steps, wrappers

import keras_compress as kc

OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "sgd with weight_decay": lambda: keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=0.1),
    "clipnorm": lambda: keras.optimizers.Adam(0.01, clipnorm=0.01),
    "clipvalue": lambda: keras.optimizers.Adam(0.01, clipvalue=0.001),
    "global_clipnorm": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.01),
    "ema": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9),
    "ema, overwriting": lambda: keras.optimizers.AdamW(
        0.01, weight_decay=0.1, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_stay_pruned(name: str) -> None:
    # Tracing takes longer than so few steps: one of them is enough.
    model = fit(pcqat(), OPTIMIZERS[name](), run_eagerly=name != "ema, overwriting")
    assert steps(model)[0] == {8}
    assert_pruned(model)
    masks = [array(p.mask) for p in pruners(model)]
    latents = [array(w.latent("kernel")) for w in wrappers(model)]
    # Fit has called this already; once more changes averages into averages.
    model.optimizer.finalize_variable_values(model.trainable_variables)
    assert_pruned(model)
    for pruner, mask in zip(pruners(model), masks, strict=True):
        np.testing.assert_array_equal(array(pruner.mask), mask)
    assert all(np.abs(latent).max() > 0.05 for latent in latents)


def test_averages_take_the_place_of_latents_and_centroids_when_training_ends() -> None:
    plain = fit(pcqat(), keras.optimizers.Adam(0.01))
    averaged = fit(pcqat(), keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9))
    for old, new in zip(plain.trainable_variables, averaged.trainable_variables, strict=True):
        average = averaged.optimizer._model_variables_moving_average[averaged.optimizer._get_variable_index(new)]
        np.testing.assert_array_equal(array(new), array(average))
        assert not np.array_equal(array(new), array(old)), new.path
    for kind in ("mask", "step", "batches"):
        for old, new in zip(ours(plain)[kind], ours(averaged)[kind], strict=True):
            np.testing.assert_array_equal(array(new), array(old))


class _AtTheEndOfEpochs(keras.callbacks.Callback):
    def __init__(self, look):
        super().__init__()
        self.look = look

    def on_epoch_end(self, epoch, logs=None):
        self.look(self.model)


def test_swap_ema_weights_shows_pruned_averages_and_swaps_back(tmp_path) -> None:
    seen = []

    def look(model):
        seen.append(array(wrappers(model)[0].latent("kernel")))
        assert_pruned(model) if len(seen) == 2 else None

    model, expected = pcqat(), pcqat()
    callbacks = [
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        _AtTheEndOfEpochs(look),
        keras.callbacks.ModelCheckpoint(tmp_path / "averaged.keras"),
    ]

    def optimizer():
        return keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)

    fit(model, optimizer(), callbacks=callbacks)
    fit(expected, optimizer())
    # Training goes on from the weights, not from the averages that were swapped in for the end of the epoch.
    for a, b in zip(model.trainable_variables, expected.trainable_variables, strict=True):
        np.testing.assert_allclose(array(a), array(b), rtol=1e-5, atol=1e-6)
    saved = keras.models.load_model(tmp_path / "averaged.keras")
    np.testing.assert_array_equal(array(wrappers(saved)[0].latent("kernel")), seen[-1])
    assert_pruned(saved)


def test_weight_decay_moves_a_latent_weight_that_the_mask_hides_and_not_its_zero() -> None:
    """It shrinks towards 0, as each weight does: where `regrow` is set, it comes back only if the gradient says so."""
    for regrow in (False, True):
        model = pcqat(regrow=regrow, activations=None)
        model.compile(keras.optimizers.SGD(0.0, weight_decay=0.0), "mse", jit_compile=False)
        x, y = data(model)
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False)
        before = array(wrappers(model)[0].latent("kernel"))
        model.compile(keras.optimizers.AdamW(1e-6, weight_decay=1e4), "mse", jit_compile=False)
        model.fit(x[:8], y[:8], verbose=0)
        after = array(wrappers(model)[0].latent("kernel"))
        pruned = ~array(pruners(model)[0].mask)
        np.testing.assert_allclose(after[pruned], 0.99 * before[pruned], atol=2e-6)
        assert np.abs(before[pruned]).max() > 0.01
        np.testing.assert_array_equal(np.array(wrappers(model)[0].weight("kernel"))[pruned], 0.0)


def test_learned_ranges_can_be_left_out_of_weight_decay() -> None:
    model = pcqat(activations=kc.LearnedRange(8))
    optimizer = keras.optimizers.SGD(0.01, weight_decay=5.0)
    optimizer.exclude_from_weight_decay(var_names=["minimum", "maximum"])
    fit(model, optimizer)
    decayed = fit(pcqat(activations=kc.LearnedRange(8)), keras.optimizers.SGD(0.01, weight_decay=5.0))
    first, second = (float(array(ours(m)["maximum"][0])) for m in (model, decayed))
    assert second < 0.8 * first


def test_weight_decay_can_leave_out_what_decides_on_zeros() -> None:
    # As docs/sparse_training.md has them.
    names = ["log_alpha_over_rate", "log_sigma2", "s_over_rate", "scores"]
    schedule = kc.ConstantSparsity(0.5, 0, frequency=1)
    pruners = [
        kc.L0Pruner(),
        kc.VariationalDropoutPruner(),
        kc.StrPruner(),
        kc.ContinuousSparsificationPruner(4, initial_s=-1.0),
        kc.MovementPruner(schedule),
        kc.RegularizedPruner(schedule),
    ]
    # One for each weight or layer beside the weight itself.
    for pruner in pruners:
        wrapped(np.ones((2, 2)), pruner)
    variables = [variable for pruner in pruners for variable in pruner.trainable_variables]
    assert len(variables) == len(pruners)
    for variable in variables:
        variable.assign(tf.ones(variable.shape))
    weight = keras.Variable(np.ones((2, 2)), name="kernel")
    gradients = [tf.zeros(variable.shape) for variable in (weight, *variables)]
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=names)
    optimizer.apply(gradients, [weight, *variables])
    assert all((np.array(variable) == 1.0).all() for variable in variables)
    np.testing.assert_allclose(np.array(weight), 0.95)
    keras.optimizers.AdamW(0.1, weight_decay=0.5).apply(gradients, [weight, *variables])
    assert all(np.allclose(np.array(variable), 0.95) for variable in variables)
