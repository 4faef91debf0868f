from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_compress.clustering.centroids import cluster_weights
from keras_compress.core.schedule import ConstantSparsity, PolynomialDecay
from keras_compress.pruning.magnitude import prune_low_magnitude
from keras_compress.quantizers.model import quantize_model
from keras_compress.report.tensorboard import TensorBoardSummaries, scalars


def plain_model() -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8,), name="x")
    return keras.Model(inputs, layers.Dense(4, name="dense")(inputs))


def fit(model: keras.Model, callback: TensorBoardSummaries, epochs: int = 2, initial_epoch: int = 0) -> None:
    generator = np.random.default_rng(2)
    x = generator.normal(size=(12, 8)).astype(np.float32)
    model.fit(
        x, generator.normal(size=(12, 4)), batch_size=4, epochs=epochs, initial_epoch=initial_epoch,
        callbacks=[callback], verbose=0,
    )  # fmt: skip


def curves(log_dir: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value, read back from the event files."""
    found: dict[str, dict[int, float]] = {}
    for file in sorted(log_dir.glob("events.*")):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    return found


def test_curves_of_every_epoch(tmp_path: Path) -> None:
    schedule = PolynomialDecay(0.25, 0.75, begin_step=0, end_step=3, power=1, frequency=1)
    model = quantize_model(cluster_weights(prune_low_magnitude(plain_model(), schedule), 4))
    model.compile("sgd", "mse")
    fit(model, TensorBoardSummaries(tmp_path))
    found = curves(tmp_path)
    pruner = "weights/dense/kernel/MagnitudePruner/sparsity"
    # Three batches an epoch: the first epoch ends after step 2 of 3, two thirds of the way (19 of 32 zeros).
    assert found[pruner] == {0: pytest.approx(19 / 32), 1: 0.75}
    assert set(found["weights/dense/kernel/distinct_values"]) == {0, 1}
    assert max(found["weights/dense/kernel/distinct_values"].values()) <= 4
    assert found["weights/dense/kernel/sparsity"][1] >= 0.75
    assert set(found) >= {
        f"activations/{point}_quantized/{end}" for point in ("x", "dense") for end in ("minimum", "maximum")
    }
    # What was written last is what the model holds.
    assert {tag: by_step[1] for tag, by_step in found.items()} == {
        tag: pytest.approx(value) for tag, value in scalars(model)
    }


def test_curves_of_every_second_batch_go_on_after_a_stop(tmp_path: Path) -> None:
    model = prune_low_magnitude(plain_model(), ConstantSparsity(0.5, begin_step=2, frequency=1))
    model.compile("sgd", "mse")
    fit(model, TensorBoardSummaries(tmp_path, update_freq=2))
    expected = {2: 0.0, 4: 0.5, 6: 0.5}
    assert curves(tmp_path)["weights/dense/kernel/sparsity"] == expected
    fit(model, TensorBoardSummaries(tmp_path, update_freq=2), epochs=3, initial_epoch=2)
    assert curves(tmp_path)["weights/dense/kernel/sparsity"] == {**expected, 8: 0.5}


def test_ranges_that_are_not_known_are_not_written() -> None:
    tags = [tag for tag, _ in scalars(quantize_model(plain_model()))]
    assert tags == ["weights/dense/kernel/sparsity", "weights/dense/kernel/distinct_values"]


def test_layers_of_nested_models_have_their_path() -> None:
    nested = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="inside")], name="nested")
    inputs = keras.Input((4,))
    tags = [tag for tag, _ in scalars(prune_low_magnitude(keras.Model(inputs, nested(inputs))))]
    assert "weights/nested/inside/kernel/sparsity" in tags


def test_a_plain_model_is_refused(tmp_path: Path) -> None:
    model = plain_model()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Expected a model that this library made"):
        fit(model, TensorBoardSummaries(tmp_path / "logs"))
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("update_freq", ["batch", 0, True, 2.5])
def test_update_freq_is_checked(update_freq: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected `update_freq` as 'epoch' or a number of batches"):
        TensorBoardSummaries(tmp_path, update_freq=update_freq)  # type: ignore[arg-type]
