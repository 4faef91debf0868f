"""What users hand over fits predict, convert, verify and measure alike."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import keras_compress as kc
from keras_compress.convert.flatten import as_graph
from keras_compress.data.samples import first_of
from keras_compress.runtime import deployed
from keras_compress.runtime.target import target

L = keras.layers
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(30, 6, 6, 2)).astype("float32")


def signature(artifact: kc.Artifact) -> list[str]:
    return Interpreter(model_content=artifact.content).get_signature_list()["serving_default"]["inputs"]


class TwoParts(keras.Model):
    """Takes a dict, and has sub-layers of different sizes for its entries."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = L.Dense(4), L.Dense(4)

    def call(self, inputs):
        return self.first(inputs["u"]) - 2.0 * self.second(inputs["v"])


def mappings() -> list[tuple[keras.Model, dict[str, np.ndarray]]]:
    x, v = IMAGES[:, :, 0, 0], IMAGES[:, :5, 0, 1]
    one, two = keras.Input((6,), name="b"), keras.Input((5,), name="a")
    with pytest.warns(UserWarning, match="keys in the dict"):
        named = keras.Model({"u": one, "v": two}, L.Subtract()([L.Dense(4)(one), L.Dense(4)(two)]))
    subclassed = TwoParts()
    subclassed({"u": x, "v": v})
    return [(named, {"v": v, "u": x}), (subclassed, {"v": v, "u": x})]


def test_one_mapping_fits_all() -> None:
    for model, data in mappings():
        expected = model.predict(data, verbose=0)
        artifact = kc.convert(model, representative_dataset=data)
        assert signature(artifact) == ["u", "v"]
        assert kc.verify(artifact, model, data, kernels=("reference",)).ok
        (outputs,) = deployed.run(target("litert"), artifact.content, data)
        assert np.abs(outputs - expected).max() < 0.05 * np.ptp(expected)
        measured = kc.measure(artifact, data, expected.argmax(-1))
        assert measured.accuracy > 0.8


@pytest.mark.parametrize("activation", ["softmax", "gelu"])
def test_an_output_has_the_name_of_its_layer_in_every_mode(activation: str) -> None:
    """Of a Sequential too, whose last layer is taken apart for int8: an app asks for outputs by name."""
    x = IMAGES[:, :, 0, 0]
    model = keras.Sequential([keras.Input((6,), name="row"), L.Dense(4, activation, name="digit")])
    settings = ({"mode": "float32"}, {"mode": "dynamic"}, {"representative_dataset": x})
    for artifact in (kc.convert(model, **each) for each in settings):
        assert Interpreter(model_content=artifact.content).get_signature_list() == {
            "serving_default": {"inputs": ["row"], "outputs": ["digit"]}
        }


def fixed(batch: int | None) -> keras.Model:
    layers = [L.Conv2D(3, 3, activation="relu"), L.GlobalAveragePooling2D(keepdims=True), L.Flatten(), L.Dense(4)]
    return keras.Sequential([keras.Input((6, 6, 2), batch_size=batch), *layers])


@pytest.mark.parametrize(("batch", "where", "storage"), [(1, "litert", None), (4, "litert", None), (4, "tflm", "int4")])
def test_a_fixed_batch_is_that_of_the_file(batch: int, where: str, storage: str | None) -> None:
    model, free = fixed(batch), fixed(None)
    free.set_weights(model.get_weights())
    expected = np.array(free(IMAGES))
    artifact = kc.convert(model, where, representative_dataset=IMAGES, weights_storage=storage)
    (entry,) = Interpreter(model_content=artifact.content).get_input_details()
    assert list(entry["shape"]) == [batch, 6, 6, 2]
    # 30 samples are no multiple of 4.
    assert kc.verify(artifact, model, IMAGES).ok
    (outputs,) = deployed.run(target(where), artifact.content, IMAGES)
    assert outputs.shape == expected.shape
    error = np.abs(outputs - expected).max() / np.ptp(expected)
    assert error < (0.2 if storage else 0.05)
    # Of each sample by itself, whatever stands beside it in its batch.
    (turned,) = deployed.run(target(where), artifact.content, IMAGES[::-1])
    np.testing.assert_array_equal(turned[::-1], outputs)
    # Ranges are those of the samples, not of what filled the last batch.
    assert artifact.report()["calibration_samples"] == 30


def test_the_float_file_has_the_batch_asked_for() -> None:
    model = fixed(4)
    content = kc.convert(model, mode="float32").content
    (entry,) = Interpreter(model_content=content).get_input_details()
    assert list(entry["shape"]) == [4, 6, 6, 2]
    (outputs,) = deployed.run(target("litert"), content, IMAGES[:8])
    expected = np.concatenate([np.array(model(IMAGES[i : i + 4])) for i in (0, 4)])
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


class BuiltByItself(keras.Model):
    """Its `build` tells nobody a shape."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table, self.dense = L.Embedding(10, 4), L.Dense(3)

    def build(self, input_shape=None):
        self.table.build((None, 6))
        self.dense.build((None, 4))
        self.built = True

    def call(self, tokens):
        return self.dense(self.table(tokens))


def test_a_model_built_by_itself_takes_its_shape_from_the_data() -> None:
    tokens = RNG.integers(0, 10, (20, 6)).astype("int32")
    model = BuiltByItself()
    model.build()
    with pytest.raises(ValueError, match="or give `representative_dataset`"):
        kc.convert(model, mode="float32")
    expected = np.array(model.dense(model.table(tokens)))
    # A generator that can be gone through once is read once.
    artifact = kc.convert(model, representative_dataset=(tokens[i : i + 10] for i in (0, 10)))
    assert artifact.report()["calibration_samples"] == 20
    assert np.abs(np.array(artifact.frozen(tokens)) - expected).max() < 0.05 * np.ptp(expected)
    assert as_graph(model, first_of(lambda: iter([[tokens[:1]]]))).inputs[0].dtype == "int32"


def test_16x8_for_ethos_u_is_held_to_what_its_host_runs() -> None:
    model = keras.Sequential([keras.Input((8,)), L.Dense(4, activation="elu")])
    x = IMAGES.reshape(-1, 8)[:30]
    found = {}
    for where in ("tflm", "ethos_u"):
        try:
            found[where] = kc.convert(model, where, mode="16x8", representative_dataset=x).content
        except ValueError as error:
            found[where] = str(error)
    assert found["tflm"] == found["ethos_u"]


def test_convert_is_a_function_and_a_package_in_any_order() -> None:
    with pytest.raises(TypeError, match="keras.Model"):
        kc.convert(3)
    import keras_compress.convert.artifact as artifact
    import keras_compress.convert.convert as module
    from keras_compress.convert import files

    assert kc.Artifact is artifact.Artifact
    assert callable(files.write_atomic)
    with pytest.raises(TypeError, match="keras.Model"):
        kc.convert(3)
    assert inspect.signature(kc.convert) == inspect.signature(module.convert)
    assert "representative_dataset" in str(kc.convert.__doc__)


def rescaled(dtype: str) -> keras.Model:
    return keras.Sequential([keras.Input((4,), dtype=dtype), L.Rescaling(1 / 255, name="scaled"), L.Dense(2)])


def test_casts_that_tflm_lacks_are_refused_with_the_cure() -> None:
    pixels = np.arange(64, dtype="uint8").reshape(16, 4)
    message = (
        r"TFLite-Micro has\. Received: CAST at 'scaled.*', which reads no uint8: .*io='uint8'\. Use target='litert'"
    )
    with pytest.raises(ValueError, match=message):
        kc.convert(rescaled("uint8"), "tflm", representative_dataset=pixels)
    assert kc.convert(rescaled("uint8"), "litert", representative_dataset=pixels).content
    cured = kc.convert(rescaled("float32"), "tflm", io="uint8", representative_dataset=pixels.astype("float32"))
    assert kc.inspect_tflite(cured.content).operators["QUANTIZE"] >= 1
    tokens = keras.Sequential([keras.Input((4,), dtype="int64"), L.Embedding(8, 2), L.Flatten()])
    with pytest.raises(ValueError, match=r"which reads no int64: make the input int32, "):
        kc.convert(tokens, "tflm", representative_dataset=np.ones((8, 4), "int64"))
