"""What every criterion of weights must do."""

from __future__ import annotations

import json

import keras
import numpy as np
from keras import layers

from keras_compress.data.examples import Examples
from keras_compress.graph.model import compressed_layers
from keras_compress.pruning.one_shot import one_shot_of, prune_one_shot
from keras_compress.pruning.plan import Plan
from keras_compress.pruning.scored import scored_model
from keras_compress.testing.sample import Sample, constructor_arguments, serialized_again

_X = np.random.default_rng(0).normal(size=(12, 4, 4, 2)).astype(np.float32)
_Y = np.random.default_rng(1).integers(0, 3, 12)
_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
_PATHS = ("conv", "logits")


def _model() -> keras.Model:
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(5, 3, padding="same", name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    rng = np.random.default_rng(2)
    for variable in model.weights:
        if variable.name != "moving_variance":
            variable.assign(rng.normal(size=variable.shape))
    return model


def config_gives_back_the_arguments(sample: Sample) -> None:
    """`get_config` has the constructor's arguments, in a form that JSON holds."""
    config = sample.make().get_config()
    assert set(config) == constructor_arguments(sample.cls), f"{sample}: get_config() gives {sorted(config)}"
    assert json.loads(json.dumps(config)) == json.loads(json.dumps(serialized_again(sample.make()).get_config()))


def prunes_to_the_plan_and_the_same_twice(sample: Sample) -> None:
    """Masks of the weights' shapes keep what the plan says, weights outside them are zero, others as they were."""
    model = _model()
    scored, again = (scored_model(model, _PATHS) for _ in range(2))
    examples, plan = Examples((_X, _Y), _LOSS), Plan((0.6, 0.4))
    before = [each.values() for each in scored.weights]
    made = sample.make()
    masks = made.prune(scored, examples, plan)
    for each, mask, old, share in zip(scored.weights, masks, before, plan.sparsities, strict=True):
        assert (mask.shape, mask.dtype) == (each.shape, bool), f"{sample}: a mask of {mask.dtype} {mask.shape}"
        # Of each output, or of each stretch of inputs, a whole number is kept.
        outputs = each.shape[-1]
        assert abs(mask.sum() - (1 - share) * mask.size) <= (outputs if made.per_output else 1), (
            f"{sample}: {mask.sum()}"
        )
        assert (each.values()[~mask] == 0).all(), f"{sample}: a weight outside the mask is not zero"
        assert np.isfinite(each.values()).all(), f"{sample}: weights that are not finite"
        if not made.updates:
            np.testing.assert_array_equal(each.values()[mask], old[mask], err_msg=f"{sample}: changes what stays")
    for mask, other in zip(masks, sample.make().prune(again, examples, plan), strict=True):
        np.testing.assert_array_equal(mask, other, err_msg=f"{sample}: other masks the second time")


def the_model_given_stays_and_masks_hold(sample: Sample) -> None:
    """`kc.prune_one_shot` changes no weight of the model it is given; a step of training keeps the zeros."""
    model = _model()
    before = model.get_weights()
    pruned = prune_one_shot(model, 0.5, sample.make(), (_X, _Y), loss=_LOSS)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new, err_msg=f"{sample}: changes the model")
    zeros = {path: np.asarray(w.weight("kernel")) == 0 for path, w in compressed_layers(pruned)}
    record = one_shot_of(pruned)
    assert record is not None
    assert [w.size - w.after for w in record.weights] == [int(zeros[path].sum()) for path in _PATHS], f"{sample}"
    pruned.compile(keras.optimizers.SGD(0.1), _LOSS, run_eagerly=True)
    pruned.train_on_batch(_X, _Y)
    for path, wrapper in compressed_layers(pruned):
        kept = np.asarray(wrapper.weight("kernel")) == 0
        np.testing.assert_array_equal(kept, zeros[path], err_msg=f"{sample}: a zero comes back")


CHECKS = (
    config_gives_back_the_arguments,
    prunes_to_the_plan_and_the_same_twice,
    the_model_given_stays_and_masks_hold,
)
