"""Messages that cure: the argument that is wrong, what there is, and what was meant."""

import keras
import numpy as np
import pytest

import keras_compress as kc

X = np.random.default_rng(0).random((16, 8), np.float32)


@pytest.fixture(scope="module")
def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8,)), keras.layers.Dense(4, "relu", name="d"), keras.layers.Dense(3, name="e")]
    return keras.Sequential(layers)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("tflite", "litert"), ("TFLite", "litert"), ("tflite_micro", "tflm"), ("ethos-u", "ethos_u")],
)
def test_a_target_that_is_none(net: keras.Model, given: str, meant: str) -> None:
    """Before the mode, which follows from it, and whatever else is missing."""
    with pytest.raises(ValueError, match=rf"`target` out of \('litert', 'tflm', 'ethos_u'\).*mean '{meant}'\?"):
        kc.convert(net, given)
    with pytest.raises(ValueError, match="Received: target=None$"):
        kc.convert(net, None, mode="int4")
    with pytest.raises(
        ValueError, match=r"target out of litert, litert_web, tflm .* Received: target='tflite' \(.*'litert'\?\)"
    ):
        kc.measure(b"", target="tflite")
    with pytest.raises(ValueError, match=r"target='cortexm' \(did you mean 'cortex_m'\?\)"):
        kc.estimate(b"", "cortexm")


def test_costs_are_all_listed(net: keras.Model) -> None:
    with pytest.raises(ValueError, match=r"a cost out of \[.*'bytes', .*'latency', .*'macs', .*'params'.*\].*'joules'"):
        kc.prune_channels(net, target={"joules": 0.5})
    with pytest.raises(ValueError, match=r"Received: 'mac' \(did you mean 'macs'\?\)"):
        kc.prune_channels(net, target={"mac": 0.5})


def test_quantizers_by_name(net: keras.Model) -> None:
    quantized = kc.quantize_model(net, weights="lsq4", activations="pact_4")
    (weights,) = quantized.get_layer("d").transforms["kernel"]
    assert (type(weights).__name__, weights.bits) == ("LSQ", 4)
    bits = [layer.quantizer.bits for layer in quantized.layers if hasattr(layer, "quantizer")]
    assert 4 in bits
    for argument, given, meant in (
        ("weights", "lqs", "LSQ"),
        ("weights", "ste_sing", "SteSign"),
        ("weights", "MagnitudePruner", ""),
        ("weights", {"class_name": "LQS"}, "LSQ"),
        ("weights", "ste_sign4", "SteSign"),
        ("activations", "packt4", "Pact"),
    ):
        with pytest.raises(ValueError, match="or a quantizer out of") as caught:
            kc.quantize_model(net, **{argument: given})
        text = str(caught.value)
        listed, _, received = text.partition("Received: ")
        assert "'lsq4'" in listed
        assert (f"did you mean '{meant}'?" in received) == bool(meant)
        assert "Pruner" not in listed
        assert "Clusterer" not in listed


@pytest.mark.filterwarnings("error:.*end_step is")
def test_an_end_step_beyond_the_fit_is_said_when_it_begins(net: keras.Model) -> None:
    schedule = kc.PolynomialDecay(0.0, 0.5, begin_step=0, end_step=8, frequency=1)
    pruned = kc.prune_low_magnitude(net, schedule)
    pruned.compile("sgd", "mse")
    y = np.zeros((16, 3), np.float32)
    said = r"end_step is 8, and this `fit` of 2 epochs of 2 steps ends .* at step 4\."
    with pytest.warns(UserWarning, match=said) as all_:
        pruned.fit(X, y, epochs=2, batch_size=8, verbose=0)
    assert len([each for each in all_ if "end_step" in str(each.message)]) == 1
    assert int(pruned.get_layer("d").transforms["kernel"][0].step) == 4
    # The program is traced already; a call afterwards is no `fit`.
    pruned.fit(X, y, epochs=1, batch_size=8, verbose=0)
    pruned(X, training=True)
    # Long enough from here, and a loop of one's own, of which nobody knows the end.
    pruned.compile("sgd", "mse")
    pruned.fit(X, y, epochs=3, batch_size=8, verbose=0)
    again = kc.prune_low_magnitude(net, schedule)
    again(X, training=True)
    again.compile("sgd", "mse")
    again.train_on_batch(X, y)


def test_layers_with_a_lora_are_refused_by_name() -> None:
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="d"), keras.layers.Dense(3, name="e")])
    model.get_layer("e").enable_lora(2)
    for refuse in (kc.quantize_model, kc.cluster_weights, lambda m: kc.convert(m, representative_dataset=X)):
        with pytest.raises(ValueError, match="without `enable_lora`.*Received: LoRA in layer 'e'"):
            refuse(model)
