"""`verify` of a `.tflite` file: the one that is shipped, made in another session."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.cli import main as cli
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.plan import MADE_FOR

RANDOM = np.random.default_rng(0)
X = RANDOM.random((64, 8, 8, 1), np.float32)


@pytest.fixture(scope="module")
def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    stack = [keras.Input((8, 8, 1)), keras.layers.Conv2D(8, 3, name="c"), keras.layers.BatchNormalization(name="b")]
    stack += [keras.layers.ReLU(name="r"), keras.layers.Flatten(name="f")]
    stack += [keras.layers.Dense(4, bias_initializer="ones", name="d")]
    return keras.Sequential(stack, name="net")


@pytest.fixture(scope="module")
def file(net: keras.Model) -> bytes:
    # Ranges of other data than those it is verified with.
    return kc.convert(net, representative_dataset=1.3 * RANDOM.random((32, 8, 8, 1)).astype("float32")).content


def edited(content: bytes, kind: str, change) -> bytes:
    """The file with an operand of its first operator of a kind changed."""
    model = read_model(content)
    graph = Graph(model)
    op = next(op for op in graph.operators if graph.kind(op) == kind)
    change(graph, op)
    return write_model(model)


def test_a_file_that_the_model_made(
    net: keras.Model, file: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net.save(tmp_path / "net.keras")
    (tmp_path / "net.tflite").write_bytes(file)
    np.savez(tmp_path / "data.npz", x=X)
    # Loaded again, its input is called something else.
    loaded = keras.models.load_model(tmp_path / "net.keras")
    found = kc.verify(tmp_path / "net.tflite", loaded, X)
    assert found.ok
    assert {row.kernel for row in found.rows} == {"xnnpack", "reference"}
    assert len({row.name for row in found.rows}) >= 3
    common = [f"--model={tmp_path}/net.keras", f"--data={tmp_path}/data.npz", f"--file={tmp_path}/net.tflite"]
    assert cli.main(["keras-compress", "verify", *common]) == 0
    assert cli.main(["keras-compress", "verify", *common, "--weights_storage=int4"]) == 1
    assert "Expected --file or --weights_storage" in capsys.readouterr().err


def test_one_wrong_number_is_found_and_named(net: keras.Model, file: bytes, tmp_path: Path) -> None:
    def weight(graph: Graph, op) -> None:
        buffer = graph.model.buffers[graph.tensors[op.inputs[1]].buffer]
        buffer.data = np.array(buffer.data, np.uint8)
        buffer.data[:9] ^= 0x40

    def scale(graph: Graph, op) -> None:
        graph.tensors[op.outputs[0]].quantization.scale = [1.05 * graph.quantization(op.outputs[0])[0][0]]

    def bias(graph: Graph, op) -> None:
        buffer = graph.model.buffers[graph.tensors[op.inputs[2]].buffer]
        buffer.data = (np.array(buffer.data, np.uint8).view(np.int32) + 3000).view(np.uint8)

    for kind, change in (("CONV_2D", weight), ("FULLY_CONNECTED", bias)):
        with pytest.raises(kc.VerificationError, match=r"first at '(r|d).*' on xnnpack"):
            kc.verify(edited(file, kind, change), net, X)
    # Ranges that training set are the model's own.
    trained = kc.quantize_model(net)
    trained.compile("sgd", "mse", run_eagerly=True)
    trained.fit(X, np.zeros((64, 4), np.float32), verbose=0)
    own = kc.convert(trained).content
    assert kc.verify(own, trained, X, kernels=["xnnpack"]).ok
    with pytest.raises(kc.VerificationError):
        kc.verify(edited(own, "CONV_2D", scale), trained, X, kernels=["xnnpack"])


def test_encoded_and_packed_files(net: keras.Model) -> None:
    calibration = 1.5 * X[:16]
    narrow = kc.quantize_model(net, weights=kc.UniformQuantizer(4))
    packed = kc.convert(narrow, representative_dataset=calibration, weights_storage="int4").content
    assert kc.verify(packed, narrow, X, kernels=["xnnpack"]).ok
    encoded = kc.convert(net, "tflm", representative_dataset=calibration, weights_storage="huffman").content
    assert kc.verify(encoded, net, X).ok


def test_what_is_refused(net: keras.Model, file: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected the Keras model that model was made from. Received: model=None"):
        kc.verify(file, None, X)
    with pytest.raises(ValueError, match="Expected a file with integers, in mode 'int8' or '16x8'"):
        kc.verify(kc.convert(net, mode="float32").content, net, X)
    other = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(name="x"), keras.layers.Dense(4, name="y")])
    with pytest.raises(ValueError, match=r"Expected a file that `convert` made from the model .* without its tensor"):
        kc.verify(file, other, X)
    with pytest.raises(OSError, match="No such file"):
        kc.verify(tmp_path / "none.tflite", net, X)


def test_data_that_tell_nothing_apart(net: keras.Model) -> None:
    """What varies too little is said: the samples, or the activations of a model that nobody has trained."""
    artifact = kc.convert(net, representative_dataset=X)
    with pytest.raises(ValueError, match="the same outputs for every sample: all samples are alike$"):
        kc.verify(artifact, None, 0 * X)
    small = keras.initializers.RandomNormal(0.0, 1e-4)
    head = keras.layers.Dense(3, "softmax", kernel_initializer=small, name="end")
    untrained = keras.Sequential([keras.Input((8, 8, 1), name="image"), keras.layers.Flatten(name="f"), head])
    artifact = kc.convert(untrained, representative_dataset=X)
    said = r"vary by less than a step of 0\.00391 at 'end.*', and by \d+ of [\d.e-]+ at 'end.*'; train the model"
    with pytest.raises(ValueError, match=said):
        kc.verify(artifact, None, X)


def test_operations_that_keras_names_anew_each_time() -> None:
    """A file's ranges are found by names of points: those of what conversion itself calls must be the same again."""
    images, extra = keras.Input((3, 6, 6, 2), name="images"), keras.Input((3, 6, 6, 2), name="extra")
    steps = layers.TimeDistributed(layers.Conv2D(2, 3, padding="same"), name="steps")(layers.Add()([images, extra]))
    gated = layers.TimeDistributed(layers.Conv2D(2, 3), name="gated")(layers.Multiply()([steps, images]))
    model = keras.Model([images, extra], gated)
    x = [RANDOM.normal(size=(24, 3, 6, 6, 2)).astype("float32") for _ in range(2)]
    artifact = kc.convert(model, representative_dataset=x)
    assert set(kc.convert(model, representative_dataset=x).points) == set(artifact.points)
    assert kc.verify(artifact.content, model, [0.9 * each for each in x]).ok


def test_a_file_tells_its_runtime() -> None:
    # One scale for each tensor and no biases: but for its description it could be for either.
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, use_bias=False, name="d")])
    options = {"weights": kc.UniformQuantizer(8, per_channel=False)}
    x = RANDOM.random((32, 6), np.float32)
    files = {target: kc.convert(kc.quantize_model(model, **options), target, representative_dataset=x).content
             for target in ("litert", "tflm", "ethos_u")}  # fmt: skip
    kernels = {target: {row.kernel for row in kc.verify(file, kc.quantize_model(model, **options), x).rows}
               for target, file in files.items()}  # fmt: skip
    assert kernels == {"litert": {"xnnpack", "reference"}, "tflm": {"tflm"}, "ethos_u": {"tflm"}}
    untold = read_model(files["tflm"])
    untold.description = MADE_FOR["litert"]
    assert len(write_model(untold)) == len(files["tflm"]), "it takes no room"
    found = kc.verify(write_model(untold), kc.quantize_model(model, **options), x)
    assert {row.kernel for row in found.rows} == {"xnnpack", "reference"}
