"""`kc.DistributedTrainer` in one process; two processes are in `tests/training/test_workers.py`."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.core.history import history_of
from keras_compress.gradients.message import seal, tag_of
from keras_compress.gradients.workers import Shards
from keras_compress.pipelines.distributed_data import Shares

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(optimizer: object = "sgd", *, rate: float = 0.0) -> keras.Model:
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(8, activation="relu", name="hidden")
    model = keras.Sequential([keras.Input((5,)), hidden, layers.Dropout(rate), layers.Dense(3, name="logits")])
    model.compile(optimizer, LOSS, metrics=["accuracy"], jit_compile=False)
    return model


def data(samples: int = 24) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(samples, 5)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0)


def values(model: keras.Model) -> list[np.ndarray]:
    return [np.asarray(v.value) for v in (*model.variables, *model.optimizer.variables)]


def assert_same(one: keras.Model, other: keras.Model, tolerance: float = 0.0) -> None:
    for ours, theirs in zip(values(one), values(other)):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def test_shards_of_uneven_size_equal_the_whole_batch() -> None:
    """Batches of 10, 10 and 4 on three workers: 4, 3, 3 samples and 2, 1, 1."""
    whole, shards = network(), network()
    kc.DistributedTrainer(whole).fit(*data(), batch_size=10, epochs=2)
    history = kc.DistributedTrainer(shards, workers=3).fit(*data(), batch_size=10, epochs=2).history
    assert_same(whole, shards, 1e-5)
    assert int(shards.optimizer.iterations) == 6
    assert history["bytes_per_step"] == [4.0 * (5 * 8 + 8 + 8 * 3 + 3)] * 2


def test_sample_weights_and_datasets() -> None:
    x, y = data()
    weights = np.linspace(0, 1, len(x), dtype=np.float32)
    batches = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(8)
    ours, fitted = network("adam"), network("adam")
    kc.DistributedTrainer(ours, workers=2).fit(batches, epochs=2)
    fitted.fit(batches, epochs=2, shuffle=False, verbose=0)
    assert_same(ours, fitted, 1e-5)


def test_one_worker_with_float16_is_near_fit() -> None:
    ours, fitted = network(), network()
    kc.DistributedTrainer(ours, "float16").fit(*data(), batch_size=8, epochs=2, shuffle=False)
    fitted.fit(*data(), batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert_same(ours, fitted, 1e-3)
    assert not np.array_equal(values(ours)[0], values(fitted)[0])


def test_an_embedding_s_gradient_has_zeros_where_no_index_points() -> None:
    """... so that SketchML sends a few of its values."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((4,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(5000, 8, name="table")(tokens))
    model = keras.Model(tokens, layers.Dense(3)(x))
    model.compile(keras.optimizers.SGD(1.0), LOSS)
    before = np.asarray(model.get_layer("table").embeddings.value)
    x, y = np.random.default_rng(0).integers(0, 5000, (16, 4)), np.arange(16) % 3
    trainer = kc.DistributedTrainer(model, kc.SketchML(buckets=32, groups=4), workers=2)
    history = trainer.fit(x, y, batch_size=16).history
    moved = (np.asarray(model.get_layer("table").embeddings.value) != before).any(axis=1)
    assert set(np.flatnonzero(moved)) == set(x.reshape(-1))
    assert history["bytes_per_step"][0] < 4 * 5000 * 8 / 50
    assert trainer.traffic.times_fewer > 50
    assert trainer.traffic.codec_seconds > 0


def test_votes_move_every_weight_by_the_rate() -> None:
    model = network(keras.optimizers.SGD(0.25))
    before = values(model)[0]
    kc.DistributedTrainer(model, kc.SignSGD(), workers=3).fit(*data(12), batch_size=12)
    steps = np.round((values(model)[0] - before) * 4, 5)
    assert set(np.unique(steps)) <= {-1.0, 0.0, 1.0}
    assert np.count_nonzero(steps) > 30


def test_batch_norm_s_averages_become_the_mean_of_the_workers() -> None:
    model = keras.Sequential([keras.Input((1,)), layers.BatchNormalization(momentum=0.5), layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.array([[0.0], [2.0], [10.0], [30.0]], np.float32)
    kc.DistributedTrainer(model, workers=2).fit(x, x, batch_size=4, shuffle=False)
    # Means of the shares 1 and 20, half of which is kept beside half of 0; variances 1 and 100, beside half of 1.
    assert float(model.layers[0].moving_mean.value[0]) == (0.5 + 10.0) / 2
    assert float(model.layers[0].moving_variance.value[0]) == pytest.approx((1.0 + 50.5) / 2)


class Counts(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def on_train_begin(self, logs=None):
        self.seen.append("begin")

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(f"batch {batch}")
        assert {"loss", "accuracy"} <= set(logs)

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(f"epoch {epoch}")
        assert {"loss", "accuracy", "val_loss", "bytes_per_step"} <= set(logs)
        self.model.stop_training = epoch == 1

    def on_train_end(self, logs=None):
        self.seen.append("end")


def test_callbacks_and_validation() -> None:
    counts = Counts()
    model = network()
    trainer = kc.DistributedTrainer(model, workers=2)
    history = trainer.fit(*data(16), batch_size=8, epochs=5, validation_data=data(10), callbacks=[counts])
    batches = ["batch 0", "batch 1"]
    assert counts.seen == ["begin", *batches, "epoch 0", *batches, "epoch 1", "end"]
    assert history.epoch == [0, 1]
    assert len(history.history["val_accuracy"]) == 2
    assert trainer.is_first
    assert history_of(model) == (
        "trained by 2 workers, gradients by float32: 300 bytes a step from each, 1.0 times fewer than float32",
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_goes_on_behind_its_last_epoch(tmp_path: Path, dtype: str) -> None:
    def trained(folder: Path, epochs: int) -> keras.Model:
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(dtype)
        try:
            model = network(rate=0.25)
        finally:
            keras.config.set_dtype_policy(before)
        codec = kc.DeepGradientCompression(0.5, momentum=0.0)
        kc.DistributedTrainer(model, codec, workers=2, checkpoints=folder).fit(*data(), batch_size=12, epochs=epochs)
        return model

    trained(tmp_path / "stopped", 1)
    resumed, whole = trained(tmp_path / "stopped", 3), trained(tmp_path / "whole", 3)
    for ours, theirs in zip(values(resumed), values(whole)):
        np.testing.assert_array_equal(ours, theirs)
    assert [each.name for each in (tmp_path / "stopped").glob("epoch-*")] == ["epoch-00003"]
    # All is done: nothing moves.
    again = trained(tmp_path / "whole", 3)
    np.testing.assert_array_equal(values(again)[0], values(whole)[0])


def test_a_training_that_a_callback_stopped_stays_stopped(tmp_path: Path) -> None:
    def epochs() -> list[int]:
        # The loss cannot grow by so much: the second epoch is one too many.
        stop = keras.callbacks.EarlyStopping("loss", min_delta=1e9, patience=1)
        trainer = kc.DistributedTrainer(network(), workers=2, checkpoints=tmp_path)
        return trainer.fit(*data(8), batch_size=8, epochs=6, callbacks=[stop]).epoch

    assert [epochs(), epochs()] == [[0, 1], []]
    assert json.loads((tmp_path / "latest.json").read_text())["stopped"] is True


def test_checkpoints_of_another_training_are_refused(tmp_path: Path) -> None:
    kc.DistributedTrainer(network(), "qsgd", checkpoints=tmp_path).fit(*data(8), batch_size=8)
    with pytest.raises(ValueError, match="Expected the checkpoints of .*'workers': 2.* Received: those of .*QSGD"):
        kc.DistributedTrainer(network(), "qsgd", checkpoints=tmp_path, workers=2).fit(*data(8), batch_size=8)
    other = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
    other.compile("sgd", LOSS)
    with pytest.raises(ValueError, match="Expected the variables of this model"):
        kc.DistributedTrainer(other, "qsgd", checkpoints=tmp_path).fit(*data(8), batch_size=8)
    assert json.loads((tmp_path / "latest.json").read_text())["epochs"] == 1


def test_gradients_that_are_not_finite_name_the_layer() -> None:
    x, y = data(8)
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"finite gradients.* for 'sequential\w*/hidden/kernel'"):
        kc.DistributedTrainer(network(), "qsgd").fit(x, y, batch_size=8)


def test_a_worker_without_a_message_tells_all() -> None:
    class Sent(Shards):
        def gather(self, own):
            last[:] = own
            return super().gather(own)

    last: list[bytes] = []
    x, y = data(8)
    x[7] = np.nan
    trainer = kc.DistributedTrainer(network(), "qsgd", workers=2)
    trainer._workers = Sent(2)
    with pytest.raises(ValueError, match="Worker 1: Expected finite gradients"):
        trainer.fit(x, y, batch_size=8, shuffle=False)
    assert [b"Expected finite gradients" in each for each in last] == [False, True]


def test_schedules_count_steps_and_not_shards() -> None:
    model = kc.prune_low_magnitude(network(), kc.ConstantSparsity(0.5, begin_step=0, frequency=1))
    model.compile("sgd", LOSS, jit_compile=False)
    kc.DistributedTrainer(model, workers=4).fit(*data(16), batch_size=8, epochs=2)
    for wrapper in (layer for layer in model.layers if isinstance(layer, kc.Compressed)):
        (pruner,) = wrapper.transform_list
        assert int(pruner.step) == 4
        assert np.asarray(pruner.mask).mean() == 0.5


class OwnStep(keras.Model):
    def train_step(self, batch):
        return {}


def own_step() -> keras.Model:
    inputs = keras.Input((5,))
    model = OwnStep(inputs, layers.Dense(3)(inputs))
    model.compile("sgd", LOSS)
    return model


def not_compiled() -> keras.Model:
    return keras.Sequential([keras.Input((5,)), layers.Dense(3)])


def scaled() -> keras.Model:
    return network(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()))


def summed(reduction: str | None) -> keras.Model:
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction, name="mine")
    model.compile("sgd", [loss])
    return model


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: kc.DistributedTrainer(summed("sum"), workers=2), "means over samples.* 'mine' with reduction='sum'"),
        (lambda: kc.DistributedTrainer(summed(None), workers=2), "means over samples.* 'mine' with reduction=None"),
        (lambda: kc.DistributedTrainer(own_step()), "Keras's own train_step. Received: .* OwnStep"),
        (lambda: kc.DistributedTrainer(not_compiled()), "a compiled model"),
        (lambda: kc.DistributedTrainer(keras.Sequential([layers.Dense(3)])), "a built Keras model"),
        (lambda: kc.DistributedTrainer(scaled(), "qsgd"), "gradients that are not scaled"),
        (lambda: kc.DistributedTrainer(network(), workers=0), "`workers` as an integer from 1"),
        (lambda: kc.DistributedTrainer(network(), timeout_seconds=0), "`timeout_seconds` > 0"),
        (lambda: kc.DistributedTrainer(network(), "zip"), "a gradient_codec out of"),
        (lambda: kc.DistributedTrainer(network(), 4), "a gradient codec, such as"),
        (
            lambda: kc.DistributedTrainer(network(), strategy=tf.distribute.get_strategy()),
            "MultiWorkerMirroredStrategy",
        ),
        (lambda: kc.DistributedTrainer(network()).fit(data()[0]), "Expected `y` beside arrays"),
        (lambda: kc.DistributedTrainer(network(), workers=9).fit(*data(), batch_size=8), "a batch_size of 9 at least"),
        (lambda: kc.DistributedTrainer(network()).fit(*data(), sharded=True), "`sharded=True` with a tf.data.Dataset"),
        (
            lambda: kc.DistributedTrainer(network()).fit(tf.data.Dataset.from_tensor_slices(data()).take(0)),
            "a batch at",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_a_sum_is_fine_on_one_worker() -> None:
    assert kc.DistributedTrainer(summed("sum")).is_first


def test_a_loss_scale_is_fine_without_a_codec() -> None:
    model = scaled()
    kc.DistributedTrainer(model, workers=2).fit(*data(8), batch_size=8)
    assert int(model.optimizer.iterations) == 1


def test_a_momentum_beside_the_codec_s_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="has a momentum of its own"):
        kc.DistributedTrainer(network("adam"), kc.DeepGradientCompression())


def test_shares_of_batches() -> None:
    x = np.arange(11)
    shares = Shares(x, x, batch_size=5, count=2, here=(0, 1), seed=None, sharded=False)
    assert shares.steps == 2  # the eleventh sample is no batch for two
    found = [[(each[0].numpy().tolist(), each[3]) for each in step] for step in shares.epoch(0)]
    assert found == [[([0, 1, 2], 1.2), ([3, 4], 0.8)], [([5, 6, 7], 1.2), ([8, 9], 0.8)]]


def test_plain_bytes_are_checked_too() -> None:
    class Broken(Shards):
        def gather(self, own):
            return [seal(b"other", tag_of("bytes")), own[1][:-1] + b"\x01"]

    with pytest.raises(ValueError, match="Expected worker 1's message"):
        Broken(2).gather_plain([b"one1", b"two2"])
