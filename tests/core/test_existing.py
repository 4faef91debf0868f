"""A stripped model that is sparse or clustered keeps that, in the order of other tools' guides: strip, then go on."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.core.existing import Existing, existing, kinds_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 16)).astype(np.float32)
Y = RNG.normal(size=(32, 3)).astype(np.float32)


def fitted(model: keras.Model) -> keras.Model:
    model.compile(keras.optimizers.Adam(0.05), "mse", run_eagerly=True)
    model.fit(X, Y, epochs=3, verbose=0)
    return model


def plain() -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((16,)), layers.Dense(24, activation="relu", name="a"), layers.Dense(3, name="b")]
    )


def kernels(model: keras.Model) -> list[np.ndarray]:
    return [np.array(layer.kernel) for layer in kc.strip(model).layers if layer.weights]


@pytest.fixture(scope="module")
def sparse() -> keras.Model:
    """Half of each kernel is zero, and nothing says so."""
    model = plain()
    for layer in model.layers:
        values = np.array(layer.kernel)
        layer.kernel.assign(np.where(np.abs(values) < np.median(np.abs(values)), 0, values))
    return model


@pytest.fixture(scope="module")
def clustered(sparse: keras.Model) -> keras.Model:
    """Zeros, and six values beside."""
    model = keras.models.clone_model(sparse)
    for layer, source in zip(model.layers, sparse.layers, strict=True):
        values = np.array(source.kernel)
        levels = np.array([-0.95, -0.75, -0.6, 0.6, 0.75, 0.95], np.float32) * np.abs(values).max()
        nearest = levels[np.abs(values[..., None] - levels).argmin(-1)]
        kernel = np.where(values == 0, 0, nearest)
        # A channel whose largest value is another one.
        kernel[:, 0] = np.clip(kernel[:, 0], levels[1], levels[4])
        layer.kernel.assign(kernel)
    return model


def test_clustering_keeps_the_zeros_of_a_stripped_model(sparse: keras.Model) -> None:
    zeros = [kernel == 0 for kernel in kernels(sparse)]
    made = fitted(kc.cluster_weights(sparse, 4, preserve_sparsity=True))
    assert all((kernel[z] == 0).all() for kernel, z in zip(kernels(made), zeros, strict=True))
    assert all(len(np.unique(kernel)) <= 4 for kernel in kernels(made))
    with pytest.warns(UserWarning, match=r"Zeros of sparse weights stay zeros \(a: 50.0 % zeros; b: 50.0 % zeros\)"):
        made = fitted(kc.cluster_weights(sparse, 4))
    assert all((kernel[z] == 0).all() for kernel, z in zip(kernels(made), zeros, strict=True))
    free = fitted(kc.cluster_weights(sparse, 4, preserve_sparsity=False))
    assert not all((kernel[z] == 0).all() for kernel, z in zip(kernels(free), zeros, strict=True))


def test_quantizing_keeps_zeros_and_values_and_says_so(clustered: keras.Model) -> None:
    zeros = [kernel == 0 for kernel in kernels(clustered)]
    with pytest.warns(UserWarning, match=r"stay what they are \(a: 50.0 % zeros; a: 7 distinct values; b: ") as caught:
        made = kc.quantize_model(clustered)
    assert len(caught) == 1
    np.testing.assert_array_equal(kernels(made)[0] == 0, zeros[0])
    fitted(made)
    for kernel, z in zip(kernels(made), zeros, strict=True):
        assert (kernel[z] == 0).all()
        assert len(np.unique(kernel)) <= 7
    assert not [note for note in kc.convert(made).notes if " became " in note]


@pytest.mark.parametrize(
    ("preserve", "sparsity", "values"),
    [
        (None, False, False),
        ("sparsity", True, False),
        ("clusters", False, True),
        (["sparsity", "clusters"], True, True),
    ],
)
def test_preserve(clustered: keras.Model, preserve, sparsity: bool, values: bool) -> None:
    zeros = kernels(clustered)[0] == 0
    made = fitted(kc.quantize_model(clustered, preserve=preserve))
    kernel = kernels(made)[0]
    assert (kernel[zeros] == 0).all() == sparsity
    assert (len(np.unique(kernel)) <= 7) == values


def test_a_quantizer_without_zero_says_what_is_lost(sparse: keras.Model) -> None:
    with pytest.warns(UserWarning, match=r"does not keep zeros or shared values that are there \(a: 50.0 % zeros"):
        kc.quantize_model(sparse, weights="ste_sign")
    with pytest.raises(ValueError, match="SteSign after MagnitudePruner, whose 'zeros' it would break"):
        kc.quantize_model(sparse, weights="ste_sign", preserve="sparsity")


def test_pruning_keeps_zeros_and_says_that_values_are_lost(clustered: keras.Model) -> None:
    zeros = kernels(clustered)[0] == 0
    schedule = kc.PolynomialDecay(0.5, 0.75, begin_step=2, end_step=3, frequency=1)
    with pytest.warns(UserWarning, match=r"lose the few values of weights that share them \(a: 7 distinct values; b: "):
        made = kc.prune_low_magnitude(clustered, schedule)
    # Before its schedule begins too.
    made(X, training=True)
    assert (np.array(made.layers[0].weight("kernel"))[zeros] == 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert (kernels(fitted(made))[0][zeros] == 0).all()


def test_convert_notes_what_is_lost(clustered: keras.Model) -> None:
    """Post-training quantization has a scale for each channel, which tears one codebook apart."""
    artifact = kc.convert(clustered, representative_dataset=X)
    notes, values = artifact.notes, artifact.stats.weights[0].distinct_values
    lost = [note for note in notes if "distinct values became" in note]
    assert not any("zeros became" in note for note in notes)
    # 0.6 is 102 in the first channel, and 80 beside 0.95.
    assert lost[0].startswith("a kernel: 7 distinct values became")
    assert values > 7
    assert lost[0].endswith(f"became {values} in the file. `quantize_model` keeps what is there: convert its result.")


@pytest.mark.parametrize(
    ("weight", "axes", "expected"),
    [
        (RNG.normal(size=(20, 30)), (1,), Existing()),
        (np.zeros((20, 30)), (1,), Existing()),
        (np.ones((20, 30)), (1,), Existing()),
        (np.eye(5), (1,), Existing()),  # few weights
        (np.where(RNG.random((20, 30)) < 0.3, 0, RNG.normal(size=(20, 30))), (1,), None),
        (RNG.integers(1, 9, (20, 30)) * 0.3, (1,), Existing(0.0, 8)),
        (RNG.integers(1, 4, (40, 30)) * RNG.normal(size=30), (1,), Existing(0.0, 3, True)),
        (RNG.integers(1, 4, (30, 40)) * RNG.normal(size=(30, 1)), (0,), Existing(0.0, 3, True)),
        (RNG.integers(-127, 128, (400, 30)) / 127, (1,), Existing()),  # what 8 bits are anyway
    ],
)
def test_what_is_found(weight: np.ndarray, axes: tuple[int, ...], expected: Existing | None) -> None:
    found = existing(weight.astype(np.float32), axes)
    if expected is None:
        assert found == Existing(float((weight == 0).mean()))
        return
    assert found == expected


def test_bad_preserve() -> None:
    assert kinds_of("auto") == ("sparsity", "clusters")
    for bad in ("zeros", ["sparsity", "x"]):
        with pytest.raises(ValueError, match="Expected `preserve` as 'auto', None, or out of"):
            kc.quantize_model(plain(), preserve=bad)
