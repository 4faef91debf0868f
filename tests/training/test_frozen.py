"""`trainable=False`: training leaves weights, masks, step counters and known ranges as they are."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from tests_training import array, assert_kept, fit, ours, pcqat, points, pruners, resume, wrappers

import keras_compress as kc


def half() -> keras.Model:
    """Three dense layers, each pruned to half at once."""
    keras.utils.set_random_seed(0)
    sizes = [keras.layers.Dense(n, name=name) for n, name in ((8, "a"), (8, "b"), (4, "c"))]
    return keras.Sequential([keras.Input((6,)), *sizes])


def states(layer) -> list[np.ndarray]:
    return [array(v) for v in layer.variables]


def test_a_layer_frozen_before_pruning_is_not_pruned_and_says_so() -> None:
    base = half()
    base.get_layer("a").trainable = False
    model = fit(kc.prune_low_magnitude(base, kc.ConstantSparsity(0.5, 0)))
    assert [p.sparsity() for p in pruners(model)] == [0.0, 0.5, 0.5]
    assert [int(p.step) for p in pruners(model)] == [0, 8, 8]
    with pytest.warns(UserWarning, match=r"a: pruning has not begun: the layer is frozen \(trainable=False\)"):
        plain = kc.strip(model)
    np.testing.assert_array_equal(array(plain.get_layer("a").kernel), array(base.get_layer("a").kernel))


@pytest.mark.parametrize("through", ["wrapper", "layer", "transform"])
def test_a_layer_frozen_later_keeps_its_mask_and_step(through: str, tmp_path) -> None:
    model = fit(pcqat(activations=None), epochs=1)
    first, second = wrappers(model)
    before, other = states(first), states(second)
    if through == "transform":
        first.transform_list[0].trainable = False
    else:
        (first if through == "wrapper" else first.layer).trainable = False
    fit(model, epochs=1)
    names = {
        "wrapper": ("mask", "step", "centroids", "kernel", "bias"),
        # Centroids belong to the clusterer, which is trainable still.
        "layer": ("mask", "step", "kernel", "bias"),
        "transform": ("mask", "step"),
    }[through]
    kept = {index: v for index, v in enumerate(first.variables) if v.path.split("/")[-1] in names}
    assert len(kept) == len(names)
    assert_kept([before[index] for index in kept], kept.values())
    assert int(second.transform_list[0].step) == 8
    assert not any(np.array_equal(a, b) for a, b in zip(other, states(second)))
    if through == "layer":
        return
    model.save(tmp_path / "model.keras")
    again = resume(keras.models.load_model(tmp_path / "model.keras"), epochs=1)
    assert_kept([before[index] for index in kept], [wrappers(again)[0].variables[index] for index in kept])
    assert int(array(pruners(again)[0].step)) == 4
    assert int(array(pruners(again)[1].step)) == 12


def test_frozen_members_of_a_group_keep_their_masks_and_the_others_are_ranked() -> None:
    model = kc.prune_low_magnitude(half(), kc.PolynomialDecay(0.2, 0.6, 0, 12, frequency=1), scope="global")
    fit(model, epochs=1)
    first, second, third = pruners(model)
    mask = array(first.mask)
    wrappers(model)[0].trainable = False
    fit(model, epochs=3)
    np.testing.assert_array_equal(array(first.mask), mask)
    ranked = np.concatenate([array(p.mask).ravel() for p in (second, third)])
    assert ranked.sum() == round(0.4 * ranked.size)
    assert [int(p.step) for p in (first, second, third)] == [4, 16, 16]
    # Trained again, it is ranked again, at the step of the others.
    wrappers(model)[0].trainable = True
    schedule = kc.ConstantSparsity(0.9, 0, frequency=1)
    for pruner in pruners(model):
        pruner.schedule = schedule
    fit(model, epochs=1)
    kept = np.concatenate([array(p.mask).ravel() for p in pruners(model)])
    assert kept.sum() == round(0.1 * kept.size)
    assert first.sparsity() > 1.5 * (1 - mask.mean())


@pytest.mark.parametrize("activations", ["int8", kc.LearnedRange(8)], ids=["moving", "learned"])
def test_a_frozen_point_keeps_its_range(activations) -> None:
    found = []
    for frozen in (True, False):
        model = fit(pcqat(activations=activations), epochs=1, run_eagerly=True)
        quantizer = points(model)[0].quantizer
        before = [float(array(v)) for v in (quantizer.minimum, quantizer.maximum)]
        points(model)[0].trainable = not frozen
        fit(model, keras.optimizers.SGD(0.1), epochs=1, run_eagerly=True)
        found.append(before == [float(array(v)) for v in (quantizer.minimum, quantizer.maximum)])
    assert found == [True, False]


def test_a_frozen_point_rounds_and_passes_gradients_inside_its_range() -> None:
    quantizer = kc.MovingAverageRange(8, decay=0.5)
    quantizer.set_range(-1.0, 1.0)
    point = kc.QuantizeActivation(quantizer)
    point.trainable = False
    x = keras.ops.convert_to_tensor([[-5.0, -0.5, 0.3, 5.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = point(x, training=True)
    np.testing.assert_allclose(outputs.numpy(), point(x).numpy())
    np.testing.assert_allclose(outputs.numpy(), [[-1.0, -0.5, 0.3, 1.0]], atol=0.005)
    assert tape.gradient(outputs, x).numpy().tolist() == [[0.0, 1.0, 1.0, 0.0]]
    assert int(quantizer.batches) == 2**40


def test_a_frozen_point_without_a_range_takes_the_first_batch_s() -> None:
    point = kc.QuantizeActivation(kc.MovingAverageRange(8))
    point.trainable = False
    point(np.array([[-1.0, 2.0]], np.float32), training=True)
    point(np.array([[-10.0, 20.0]], np.float32), training=True)
    assert [float(end) for end in point.quantizer.range()] == pytest.approx([-1.0, 2.0])
    np.testing.assert_allclose(point(np.array([[5.0]], np.float32)), [[2.0]], atol=0.01)


def test_ranges_of_a_frozen_model_stay() -> None:
    model = fit(pcqat(), epochs=1)
    before = [array(v) for v in model.variables]
    outer = keras.Sequential([model, keras.layers.Dense(2)])
    model.trainable = False
    outer.build((None, 24))
    outer.compile("sgd", "mse", jit_compile=False)
    outer.fit(np.ones((16, 24), np.float32), np.ones((16, 2)), batch_size=8, verbose=0)
    assert_kept(before, model.variables)
    assert set(ours(model)) == {"mask", "step", "centroids", "minimum", "maximum", "batches"}
