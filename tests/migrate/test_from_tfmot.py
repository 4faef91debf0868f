"""`kc.from_tfmot`, on the models that `tfmot_models.py` made, against tf_keras's own outputs."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.cli import main as cli
from keras_compress.core.slots import slots_of
from keras_compress.graph.model import compressed_layers
from keras_compress.migrate import names
from keras_compress.migrate.unwrapped import _in_order

ARCHIVE = Path(__file__).with_name("models.zip")
with zipfile.ZipFile(ARCHIVE) as _archive:
    OUTPUTS = dict(np.load(io.BytesIO(_archive.read("outputs.npz"))))
KINDS = sorted(set(OUTPUTS) - {"x", "pruned_lstm"})
CHECKOUT = Path(__file__).parents[2]
CLUSTERED = ("MagnitudePruner", "CentroidClusterer", "LSQ")
# Kind -> transforms of the convolution and of the first dense layer.
TRANSFORMS = {
    "pruned": [CLUSTERED[:1]] * 2,
    "pruned_blocks": [CLUSTERED[:1]] * 2,
    "clustered": [CLUSTERED[1:2]] * 2,
    "clustered_by_channel": [CLUSTERED[1:2]] * 2,
    "sparse_clustered": [CLUSTERED[:2]] * 2,
    "qat": [CLUSTERED[2:]] * 2,
    "pqat": [("MagnitudePruner", "LSQ")] * 2,
    "cqat": [CLUSTERED[1:]] * 2,
    "pcqat": [CLUSTERED] * 2,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, out of the archive."""
    folder = tmp_path_factory.mktemp("tfmot")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def taken(models: Path) -> dict[str, keras.Model]:
    return {kind: kc.from_tfmot(models / f"{kind}.h5") for kind in KINDS}


def inputs(kind: str) -> np.ndarray[Any, Any]:
    return OUTPUTS["x"][..., 0] if kind == "pruned_blocks" else OUTPUTS["x"]


def of_kind(kind: str, taken: dict[str, keras.Model]) -> keras.Model:
    if kind not in taken:
        pytest.skip(f"models.zip has no model {kind!r}: run tfmot_models.py")
    return taken[kind]


def wrappers(model: keras.Model) -> dict[str, kc.Compressed]:
    return dict(compressed_layers(model))


def stored(path: Path, layer: str, ending: str) -> np.ndarray[Any, Any]:
    """A value of a file, read without the code under test."""
    found = []
    with h5py.File(path) as file:
        group = file["model_weights"][layer]
        group.visititems(lambda name, item: found.append(np.asarray(item)) if name.endswith(ending) else None)
    (value,) = found
    return value


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_tf_keras(kind: str, taken: dict[str, keras.Model]) -> None:
    outputs = taken[kind].predict(inputs(kind), verbose=0)
    assert np.abs(outputs).max() > 0.1
    np.testing.assert_allclose(outputs, OUTPUTS[kind], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_weight_has_the_transforms_of_its_kind(kind: str, taken: dict[str, keras.Model]) -> None:
    found = wrappers(taken[kind])
    paths = ("steps", "digit") if kind == "pruned_blocks" else ("conv", "hidden")
    for path, expected in zip(paths, TRANSFORMS[kind]):
        for _, listed in found[path].items():
            assert tuple(type(each).__name__ for each in listed) == expected


def test_masks_schedule_and_step_are_those_of_the_file(models: Path, taken: dict[str, keras.Model]) -> None:
    (pruner,) = wrappers(taken["pruned"])["hidden"].transforms["kernel"]
    mask = stored(models / "pruned.h5", "prune_low_magnitude_hidden", "mask:0")
    np.testing.assert_array_equal(np.asarray(pruner.mask), mask == 1)
    assert 0.7 < pruner.sparsity() < 0.8
    config = {"initial_sparsity": 0.3, "final_sparsity": 0.75, "begin_step": 0, "end_step": 12, "power": 3.0}
    assert pruner.schedule.get_config() == {**config, "frequency": 4}
    # Two epochs of ten batches; tfmot counts one more at the end of each epoch.
    assert int(pruner.step) == stored(models / "pruned.h5", "prune_low_magnitude_hidden", "pruning_step:0")


def test_blocks_of_nested_layers(taken: dict[str, keras.Model]) -> None:
    found = wrappers(of_kind("pruned_blocks", taken))
    assert set(found) == {"encoder/row", "steps", "digit"}
    for wrapper in found.values():
        for transform in wrapper.transform_list:
            assert (transform.block_size, transform.block_pooling_type) == ((1, 2), "MAX")


def test_centroids_are_those_of_the_file(models: Path, taken: dict[str, keras.Model]) -> None:
    (clusterer,) = wrappers(of_kind("clustered_by_channel", taken))["conv"].transforms["kernel"]
    centroids = stored(models / "clustered_by_channel.h5", "cluster_conv", "cluster_centroids_kernel:0")
    np.testing.assert_array_equal(np.asarray(clusterer.centroids), centroids)


def test_zero_is_one_of_the_clusters_of_a_sparse_weight(taken: dict[str, keras.Model]) -> None:
    pruner, clusterer = wrappers(taken["sparse_clustered"])["hidden"].transforms["kernel"]
    assert clusterer.number_of_clusters == 8
    assert clusterer.centroids.shape == (1, 7)
    assert 0.7 < pruner.sparsity() < 0.8


def test_steps_and_ranges_are_those_of_the_file(models: Path, taken: dict[str, keras.Model]) -> None:
    quantizer = wrappers(taken["qat"])["conv"].transforms["kernel"][-1]
    step = stored(models / "qat.h5", "quant_conv", "kernel_max:0") / 127
    np.testing.assert_allclose(np.asarray(quantizer.step).ravel(), step, rtol=1e-6)
    assert wrappers(taken["qat"])["hidden"].transforms["kernel"][-1].scale_shape == [1, 1]
    point = taken["qat"].get_layer("hidden_quantized").quantizer
    low, high = (stored(models / "qat.h5", "quant_hidden", f"post_activation_{end}:0") for end in ("min", "max"))
    assert (float(point.range()[0]), float(point.range()[1])) == (low, high)
    points = [layer.name for layer in taken["qat"].layers if isinstance(layer, kc.QuantizeActivation)]
    assert points == [
        *("image_quantized", "relu_quantized", "depthwise_quantized", "sum_quantized"),
        *("hidden_quantized", "digit_linear_quantized"),
    ]


def test_training_goes_on_and_keeps_zeros_and_clusters(taken: dict[str, keras.Model], tmp_path: Path) -> None:
    taken["pcqat"].save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    before = np.asarray(wrappers(model)["hidden"].weight("kernel"))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(OUTPUTS["x"], OUTPUTS["pcqat"].argmax(axis=1), batch_size=8, verbose=0)
    after = np.asarray(wrappers(model)["hidden"].weight("kernel"))
    assert np.abs(after - before).max() > 1e-3
    # Others may round to 0 now.
    assert (before == 0).mean() > 0.7
    assert not after[before == 0].any()
    assert len(np.unique(after)) <= 8


def test_the_int8_file_beside_tfmots(models: Path, taken: dict[str, keras.Model]) -> None:
    """The same model by both converters: the same answers, and no more than two steps of a softmax apart."""
    from ai_edge_litert.interpreter import Interpreter

    def run(content: bytes) -> np.ndarray[Any, Any]:
        interpreter = Interpreter(model_content=content)
        (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(given["index"], OUTPUTS["x"].shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], OUTPUTS["x"])
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(made["index"]))

    artifact = kc.convert(taken["qat"])
    ours, theirs = run(artifact.content), run((models / "qat.tflite").read_bytes())
    assert not artifact.float_ops
    np.testing.assert_array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))
    assert np.abs(ours - theirs).max() <= 2 / 256 + 1e-6
    assert kc.verify(artifact, taken["qat"], OUTPUTS["x"]).ok


def test_a_pruned_lstm(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the process with tf_keras and tfmot hands it over; in its place one that gives what was written then."""
    parts = models / "pruned_lstm.npz"
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\ncp {parts} "$3"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("KERAS_COMPRESS_TFMOT_PYTHON", str(fake))
    (tmp_path / "saved").mkdir()
    model = kc.from_tfmot(tmp_path / "saved")
    rows = OUTPUTS["x"][..., 0]
    assert OUTPUTS["pruned_lstm"].std(axis=0).max() > 0.005
    np.testing.assert_allclose(model.predict(rows, verbose=0), OUTPUTS["pruned_lstm"], atol=1e-6)
    masks = dict.fromkeys(("cell.kernel", "cell.recurrent_kernel"))
    with np.load(parts) as file:
        for name in file.files:
            for slot, shape in zip(masks, [(8, 48), (12, 48)]):
                if file[name].shape == shape and set(np.unique(file[name])) == {0, 1}:
                    masks[slot] = file[name]
    found = wrappers(model)["lstm"]
    for slot, mask in masks.items():
        (pruner,) = found.transforms[slot]
        np.testing.assert_array_equal(np.asarray(pruner.mask), mask)
        assert mask.mean() == 0.25
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(rows, OUTPUTS["pruned_lstm"].argmax(axis=1), batch_size=16, verbose=0)
    kernel = np.asarray(found.weight("cell.recurrent_kernel"))
    assert (kernel == 0).mean() == 0.75


def test_a_file_that_ends_in_the_middle(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.h5"
    shutil.copyfile(models / "pruned.h5", path)
    with h5py.File(path, "a") as file:
        del file["model_weights"]["prune_low_magnitude_hidden"]
    with pytest.raises(ValueError, match=r"written to its end. Received: .*half.h5 \(.*save them as model.keras"):
        kc.from_tfmot(path)


@pytest.fixture
def other(models: Path, tmp_path: Path) -> Any:
    """Copies of the quantized model's file with another configuration."""

    def changed(change: Any) -> Path:
        path = tmp_path / "other.h5"
        shutil.copyfile(models / "qat.h5", path)
        with h5py.File(path, "a") as file:
            config = json.loads(file.attrs["model_config"])
            change({layer["config"]["name"]: layer for layer in config["config"]["layers"]}, config)
            file.attrs["model_config"] = json.dumps(config)
        return path

    return changed


def test_all_layers_without_a_twin_are_named_in_one_error(other: Any) -> None:
    def change(layers: dict[str, Any], config: dict[str, Any]) -> None:
        layers["quant_sum"]["config"]["layer"]["class_name"] = "Whirl"
        layers["quant_pool"]["class_name"] = "TFOpLambda"
        layers["quant_hidden"]["config"]["quantize_config"]["class_name"] = "MyConfig"

    with pytest.raises(ValueError, match="Expected layers that have a twin in Keras 3 and keras_compress") as error:
        kc.from_tfmot(other(change))
    for part in (
        "'sum': Keras 3 has no Whirl",
        "'quant_pool': it is a call of a TensorFlow",
        "QuantizeConfig is MyConf",
    ):
        assert part in str(error.value)


def test_what_is_no_model_of_keras_2(other: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        kc.from_tfmot(tmp_path / "none.h5")
    with pytest.raises(TypeError, match="Expected a tf_keras model, or the path"):
        kc.from_tfmot(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    subclassed = other(lambda layers, config: config.update(class_name="MyModel"))
    with pytest.raises(ValueError, match="'MyModel': it is a subclassed model"):
        kc.from_tfmot(subclassed)
    weights = tmp_path / "w.h5"
    with h5py.File(weights, "w") as file:
        file.create_group("conv")
    with pytest.raises(ValueError, match="which holds weights without a model"):
        kc.from_tfmot(weights)


def test_other_formats_without_tfmot_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'tf_keras'\" >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("KERAS_COMPRESS_TFMOT_PYTHON", str(fake))
    (tmp_path / "saved").mkdir()
    with pytest.raises(RuntimeError, match=r"pip install 'keras-compress\[tfmot\]'.*KERAS_COMPRESS_TFMOT_PYTHON"):
        kc.from_tfmot(tmp_path / "saved")


def has_tfmot() -> bool:
    return all(importlib.util.find_spec(name) for name in ("tf_keras", "tensorflow_model_optimization"))


@pytest.mark.skipif(not has_tfmot(), reason="needs the extra tfmot: pip install '.[tfmot]'")
def test_a_saved_model_and_an_object_by_tf_keras_itself(models: Path, tmp_path: Path) -> None:
    code = f"""
import os
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import tensorflow_model_optimization as tfmot, tf_keras, numpy as np, keras_compress as kc
with tfmot.quantization.keras.quantize_scope():
    model = tf_keras.models.load_model({str(models / "qat.h5")!r}, compile=False)
model.save({str(tmp_path / "saved")!r}, save_format="tf")
x = np.load({str(models / "outputs.npz")!r})["x"]
print(np.abs(kc.from_tfmot(model).predict(x, verbose=0) - model.predict(x, verbose=0)).max())
"""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) < 1e-5
    again = kc.from_tfmot(tmp_path / "saved")
    np.testing.assert_allclose(again.predict(OUTPUTS["x"], verbose=0), OUTPUTS["qat"], atol=1e-5)


NAMES = (
    *("strip_pruning", "strip_clustering", "quantize_annotate_layer", "quantize_apply", "UpdatePruningStep"),
    *("prune_scope", "CentroidInitialization", "get_prunable_weights", "Default8BitClusterPreserveQuantizeScheme"),
)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_tfmot_say_what_to_write(name: str) -> None:
    with pytest.raises(AttributeError, match=f"has no attribute '{name}': write "):
        getattr(kc, name)


def test_what_is_told_exists() -> None:
    told = " ".join(names._INSTEAD.values())
    for found in set(re.findall(r"kc\.(\w+)", told)):
        assert hasattr(kc, found), found


@pytest.mark.parametrize("wrap", [kc.prune_low_magnitude, kc.cluster_weights, kc.quantize_model])
@pytest.mark.parametrize("few", [keras.layers.Dense(2), [keras.layers.Dense(2)]], ids=["layer", "list"])
def test_a_layer_or_a_list_of_them(wrap: Any, few: Any) -> None:
    with pytest.raises(TypeError, match='filters=\\["conv_1"'):
        wrap(few)


class Prunable(keras.layers.Dense):
    """A layer that was written for tfmot."""

    def get_prunable_weights(self) -> list[Any]:
        return [self.kernel]


def test_a_layer_that_was_written_for_tfmot() -> None:
    model = keras.Sequential([keras.Input((4,)), Prunable(3, name="own")])
    assert slots_of(model.get_layer("own"))
    with pytest.raises(ValueError, match=r"'own', whose `get_prunable_weights\(\)` .* Write `get_compressible_weights"):
        kc.prune_low_magnitude(model)


def test_the_command(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"--model={models / 'pruned.h5'}", f"--out={tmp_path / 'new.keras'}"]
    assert cli.main(["keras-compress", "from_tfmot", *arguments]) == 0
    assert "hidden" in capsys.readouterr().out
    model = keras.models.load_model(tmp_path / "new.keras")
    np.testing.assert_allclose(model.predict(OUTPUTS["x"], verbose=0), OUTPUTS["pruned"], atol=1e-5)


def test_the_page(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippets of docs/from_tfmot.md run as they are, and what it names exists."""
    path = CHECKOUT / "docs" / "from_tfmot.md"
    if not path.is_file():
        pytest.skip("no checkout around these tests")
    page = path.read_text(encoding="utf-8")
    for found in set(re.findall(r"kc\.(\w+)", page)) - {"strip_pruning"}:
        assert hasattr(kc, found), found
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(models / "clustered.h5", "model.h5")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, name="digit")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    data = {"x": OUTPUTS["x"], "y": OUTPUTS["pruned"].argmax(axis=1)}
    for snippet in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(snippet, {"kc": kc, "model": model, "loss": loss, **data})  # noqa: S102
    stats = kc.inspect_tflite("pcqat.tflite")
    assert any(tensor.sparsity >= 0.5 for tensor in stats.weights)


def test_values_are_ordered_within_each_layer() -> None:
    """tfmot's clustering takes kernels out of their place; layers of a model within a model stay apart."""
    names = ["a/bias:0", "a/kernel:0", "b/bias:0", "b/kernel:0"]
    ordered = [name for name, _ in _in_order([(name, np.zeros(1)) for name in names])]
    assert ordered == ["a/kernel:0", "a/bias:0", "b/kernel:0", "b/bias:0"]
