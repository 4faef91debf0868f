"""Ready layers: the one wrapper, made in one call."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc

X = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 4, 32)


@pytest.mark.parametrize(
    ("make", "inner", "transform"),
    [
        (lambda: kc.QuantDense(5), layers.Dense, kc.UniformQuantizer),
        (lambda: kc.QuantConv2D(5, 3), layers.Conv2D, kc.UniformQuantizer),
        (lambda: kc.QuantDepthwiseConv2D(3), layers.DepthwiseConv2D, kc.UniformQuantizer),
        (lambda: kc.BinaryDense(5), layers.Dense, kc.BWN),
        (lambda: kc.BinaryConv2D(5, 3), layers.Conv2D, kc.BWN),
        (lambda: kc.TernaryDense(5), layers.Dense, kc.TWN),
        (lambda: kc.TernaryConv2D(5, 3), layers.Conv2D, kc.TWN),
    ],
)
def test_each_is_the_wrapper_around_its_layer(make, inner: type, transform: type) -> None:
    keras.utils.set_random_seed(0)
    made = make()
    assert type(made) is kc.Compressed
    assert type(made.layer) is inner
    made(X if "Conv" in inner.__name__ else X.reshape(32, -1))
    assert [type(t) for t in made.transform_list] == [transform]
    weight = np.array(made.weight(made.slot_names[0]))
    np.testing.assert_array_equal(weight, np.array(made.transform_list[0](made.latent(made.slot_names[0]).value)))
    most = {kc.UniformQuantizer: 255, kc.BWN: 2, kc.TWN: 3}[transform]
    assert 2 <= max(len(np.unique(channel)) for channel in weight.reshape(-1, weight.shape[-1]).T) <= most


def test_isinstance_knows_them_out_of_a_file_too(tmp_path) -> None:
    model = keras.Sequential([keras.Input((6,)), kc.QuantDense(4), kc.TernaryDense(4), kc.BinaryDense(4)])
    model.save(tmp_path / "m.keras")
    for each in (model, keras.models.load_model(tmp_path / "m.keras")):
        kinds = (kc.QuantDense, kc.TernaryDense, kc.BinaryDense, kc.QuantConv2D)
        found = [[isinstance(layer, kind) for kind in kinds] for layer in each.layers]
        assert found == [[True, False, False, False], [True, True, False, False], [True, True, True, False]]
    assert not isinstance(layers.Dense(3), kc.QuantDense)
    schedule = kc.ConstantSparsity(0.5, begin_step=0)
    pruned = kc.prune_low_magnitude(keras.Sequential([keras.Input((6,)), layers.Dense(4)]), schedule)
    assert not isinstance(pruned.layers[0], kc.QuantDense)
    assert "A Dense layer with binary weights" in kc.BinaryDense.__doc__
    assert "`'bwn'` by default" in kc.BinaryDense.__doc__


def sequential() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kc.QuantConv2D(8, 3, kernel_quantizer="lsq", name="conv1"),
            layers.BatchNormalization(name="norm1"),
            kc.BinaryConv2D(8, 3, input_quantizer="ste_sign", kernel_constraint="weight_clip", name="conv2"),
            layers.BatchNormalization(name="norm2"),
            layers.GlobalAveragePooling2D(),
            kc.TernaryDense(4, gradient_quantizer=kc.DoReFaGradient(6), name="dense"),
        ]
    )


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Trained. Tests leave it as it is."""
    keras.utils.set_random_seed(0)
    made = sequential()
    made.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    made.fit(X, Y, epochs=8, batch_size=16, verbose=0)
    return made


def test_it_trains_saves_and_strips(model, tmp_path) -> None:
    first, *_, last = model.history.history["loss"][4:]
    assert last < first
    assert np.abs(np.array(model.get_layer("conv2").latent("kernel"))).max() <= 1.0
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    outputs = np.array(model(X))
    assert np.ptp(outputs) > 0
    np.testing.assert_array_equal(outputs, np.array(again(X)))
    plain = kc.strip(model)
    np.testing.assert_array_equal(outputs, np.array(plain(X)))
    assert not any(isinstance(layer, (kc.Compressed, kc.QuantizeActivation)) for layer in plain.layers)


def test_the_gradient_quantizer_acts_in_training() -> None:
    layer = kc.QuantDense(4, gradient_quantizer="dorefa_gradient")
    layer(X.reshape(32, -1), training=True)
    assert int(np.array(layer.gradients.variables[0])) == 1


def test_quantize_model_adds_what_ready_layers_leave_open(model) -> None:
    model = kc.quantize_model(model, weights=None)
    names = [layer.name for layer in model.layers]
    assert names.index("conv2_input") == names.index("norm1") + 1  # no point between: the sums give the sign
    points = {layer.name: type(layer.quantizer) for layer in model.layers if isinstance(layer, kc.QuantizeActivation)}
    assert points["conv2_input"] is kc.SteSignActivation
    assert set(points.values()) == {kc.SteSignActivation, kc.MovingAverageRange}
    assert model.get_layer("dense").gradients is not None
    model(X, training=True)
    kc.verify(kc.convert(model), model, X)


def test_a_model_of_ready_layers_converts_with_data(model) -> None:
    artifact = kc.convert(model, representative_dataset=X)
    assert not artifact.float_ops
    kc.verify(artifact, model, X)


def test_weights_that_are_quantized_are_not_quantized_again(model) -> None:
    with pytest.raises(ValueError, match=r"weights=None.*already at \['conv1', 'conv2', 'dense'\]"):
        kc.quantize_model(model)


def test_layers_that_have_a_quantizer_keep_it() -> None:
    model = keras.Sequential([keras.Input((6,)), kc.BinaryDense(4, name="binary"), layers.Dense(2, name="plain")])
    made = kc.quantize_model(model)
    assert [type(t) for t in made.get_layer("binary").transform_list] == [kc.BWN]
    assert [type(t) for t in made.get_layer("plain").transform_list] == [kc.UniformQuantizer]


def test_free_levels_have_the_grid_behind_them_unless_told() -> None:
    keras.utils.set_random_seed(0)
    x = X.reshape(32, -1)
    with_grid, free = (kc.QuantDense(4, kernel_quantizer="ttq", grid=grid) for grid in ("int8", None))
    with_grid(x)
    free(x)
    assert [type(t) for t in with_grid.transform_list] == [kc.TTQ, kc.UniformQuantizer]
    assert [type(t) for t in free.transform_list] == [kc.TTQ]
    model = keras.Sequential([keras.Input((192,)), free])
    with pytest.raises(ValueError, match="Expected integers times a scale. Received: TTQ"):
        kc.convert(model, representative_dataset=x)
    assert kc.convert(model, mode="float32").stats.weights[0].distinct_values == 3


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"or a quantizer out of .* Received: 'bwnn' \(did you mean 'BWN'\?\)"):
        kc.QuantDense(4, kernel_quantizer="bwnn")
    with pytest.raises(ValueError, match="Expected a constraint out of .*'WeightClip'.* Received: 'clip_it'"):
        kc.QuantDense(4, kernel_constraint="clip_it")
    with pytest.raises(ValueError, match="Expected a weight quantizer"):
        kc.QuantDense(4, kernel_quantizer=kc.MagnitudePruner(kc.ConstantSparsity(0.5, begin_step=0)))


@keras.saving.register_keras_serializable()
class Written(keras.Model):
    """Ready layers in a model that a user wrote."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.first = kc.QuantConv2D(4, 3, kernel_quantizer="lsq")
        self.norm = layers.BatchNormalization()
        self.second = kc.BinaryConv2D(4, 3, input_quantizer="ste_sign")
        self.flat = layers.Flatten()
        self.last = kc.TernaryDense(4)

    def call(self, x, training=None):
        return self.last(self.flat(self.second(self.norm(self.first(x), training=training))))


def test_a_written_model_is_built_by_fit_loads_and_strips(tmp_path) -> None:
    model = Written()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, Y, verbose=0)
    step = float(np.array(model.first.transform_list[0].step).item())
    kernel = np.array(model.first.latent("kernel"))
    np.testing.assert_allclose(step, 2.0 * np.abs(kernel).mean() / np.sqrt(7.0), rtol=0.2)  # not the 1 it is made with
    outputs = np.array(model(X))
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(np.array(keras.models.load_model(tmp_path / "m.keras")(X)), outputs)
    plain = kc.strip(model)
    np.testing.assert_array_equal(np.array(plain(X)), outputs)
    assert type(plain.first) is layers.Conv2D
    assert plain.second.transform_list == []


def test_a_sequential_model_without_an_input_is_built_by_fit() -> None:
    model = keras.Sequential([kc.BinaryDense(4), kc.QuantDense(4, kernel_quantizer="ttq")])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X.reshape(32, -1), Y, verbose=0)
    assert float(np.array(model.layers[1].transform_list[0].positive).item()) < 0.9
