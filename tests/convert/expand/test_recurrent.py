"""Recurrent layers, unrolled: the same function, the same integers in every step."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_compress as kc
from keras_compress.graph.model import inner

SEQUENCE = (3, 4)


class Leaky(layers.Layer):
    """A user's cell: `h' = 0.5 h + x W`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = self.output_size = 2

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 2), name="matrix")

    def get_compressible_weights(self):
        return {"matrix": (-1,)}

    def call(self, inputs, states):
        new = states[0] * 0.5 + ops.matmul(inputs, self.matrix)
        return new, [new]


def _stack():
    return layers.RNN(layers.StackedRNNCells([layers.LSTMCell(3), layers.GRUCell(2)]))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.LSTM(3),
        lambda: layers.LSTM(3, return_sequences=True, go_backwards=True, use_bias=False),
        lambda: layers.GRU(3, return_sequences=True),
        lambda: layers.GRU(3, reset_after=False),
        lambda: layers.GRU(3, use_bias=False),
        lambda: layers.SimpleRNN(3, activation="relu"),
        _stack,
        lambda: layers.RNN(Leaky(), return_sequences=True),
        lambda: layers.TimeDistributed(layers.Dense(3)),
    ],
)
def test_the_same_function(bench, layer):
    flat = bench.same(bench.model(lambda x: layer()(x), SEQUENCE))
    assert not {"LSTM", "GRU", "SimpleRNN", "RNN", "TimeDistributed"} & set(bench.kinds(flat))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.ConvLSTM2D(2, 2), (3, 4, 5, 2)),
        (lambda: layers.ConvLSTM2D(2, (2, 3), padding="same", return_sequences=True, use_bias=False), (2, 4, 4, 1)),
        (lambda: layers.ConvLSTM2D(2, 3, strides=2, go_backwards=True, dropout=0.5), (3, 7, 7, 2)),
        (lambda: layers.ConvLSTM1D(3, 2, dilation_rate=2, recurrent_dropout=0.5), (3, 6, 2)),
        (lambda: layers.Bidirectional(layers.ConvLSTM1D(2, 2, return_sequences=True)), (2, 5, 1)),
    ],
)
def test_convolutions_in_place_of_products(bench, layer, shape):
    flat = bench.same(bench.model(lambda x: layer()(x), shape))
    assert not {"ConvLSTM1D", "ConvLSTM2D", "Bidirectional"} & set(bench.kinds(flat))
    # One for the inputs of each step, and for the state of each but the first.
    halves = 2 if "Bidirectional" in type(layer()).__name__ else 1
    assert sum(kind in ("Conv1D", "Conv2D") for kind in bench.kinds(flat)) == halves * (2 * shape[0] - 1)


def test_states_of_images_go_in_and_out(bench):
    def build(x, h, c):
        return layers.ConvLSTM1D(3, 2, padding="same", return_state=True)(x, initial_state=[h, c])

    bench.same(bench.model(build, (2, 5, 2), (5, 3), (5, 3)))


@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave", None])
@pytest.mark.parametrize("sequences", [False, True])
def test_bidirectional(bench, mode, sequences):
    made = layers.SimpleRNN(2, return_sequences=sequences)
    bench.same(bench.model(lambda x: layers.Bidirectional(made, merge_mode=mode)(x), SEQUENCE))


def test_states_go_in_and_out(bench):
    def build(x, h, c):
        outputs, last, carry = layers.LSTM(3, return_state=True)(x, initial_state=[h, c])
        return [outputs, last, carry]

    bench.same(bench.model(build, SEQUENCE, (3,), (3,)))


def test_a_model_for_each_step_is_put_in_line_in_each(bench):
    inner = keras.Sequential([keras.Input((3, 3, 1)), layers.Conv2D(2, 2), layers.Flatten(), layers.Dense(2)])
    flat = bench.same(bench.model(lambda x: layers.TimeDistributed(inner)(x), (2, 3, 3, 1)))
    assert not {"TimeDistributed", "Sequential", "Functional"} & set(bench.kinds(flat))
    assert bench.kinds(flat).count("Conv2D") == 2


def test_a_layer_for_each_step(bench):
    flat = bench.same(bench.model(lambda x: layers.TimeDistributed(layers.Conv2D(2, 2))(x), (2, 3, 3, 1)))
    assert bench.kinds(flat).count("Conv2D") == 2


@pytest.mark.parametrize(
    ("build", "shape", "message"),
    [
        (lambda x: layers.LSTM(2, stateful=True)(x), SEQUENCE, "stateful=True, and .* make them inputs and outputs"),
        (lambda x: layers.LSTM(2)(x), (None, 4), "unknown length: give the Input a fixed number of steps"),
    ],
)
def test_refused_by_name(bench, build, shape, message):
    batch = 2 if "stateful" in message else None
    inputs = keras.Input(batch_shape=(batch, *shape))
    with pytest.raises(ValueError, match=message):
        bench.flatten(keras.Model(inputs, build(inputs)))


def compressed_lstm():
    """Pruned to 50 %, then 16 clusters, one step of each."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, 8), name="x")
    model = keras.Model(inputs, layers.LSTM(8, name="lstm")(inputs))
    x = np.random.default_rng(0).normal(size=(16, 3, 8)).astype(np.float32)
    model = kc.prune_low_magnitude(model, kc.ConstantSparsity(0.5, begin_step=0))
    model.compile("sgd", "mse", run_eagerly=True)
    model.train_on_batch(x, np.zeros((16, 8)))
    model = kc.cluster_weights(model, 16, preserve_sparsity=True)
    model.compile("sgd", "mse", run_eagerly=True)
    model.train_on_batch(x, np.zeros((16, 8)))
    return model, x


def test_zeros_and_clusters_survive_in_every_step_and_in_a_saved_model(bench, tmp_path):
    model, x = compressed_lstm()
    frozen = kc.freeze(model, x)
    steps = [layer for layer in frozen.layers if isinstance(layer, kc.Compressed)]
    assert len(steps) == 3  # once the gates of all inputs, twice the state's
    found = {}
    for layer in steps:
        assert isinstance(inner(layer), layers.Dense)
        integers = layer.transforms["kernel"][-1].integer_weight(None).integers
        kind = layer.name.split(".")[-1]
        assert found.setdefault(kind, integers.tolist()) == integers.tolist()
        assert (integers == 0).mean() == pytest.approx(0.5)
        assert len(np.unique(integers)) <= 16
    assert set(found) == {"input_gates", "state_gates"}
    path = tmp_path / "frozen.keras"
    frozen.save(path)
    np.testing.assert_array_equal(keras.models.load_model(path)(x), frozen(x))
    expected = model(x)
    assert np.abs(np.asarray(frozen(x)) - np.asarray(expected)).max() < 0.05 * np.ptp(expected)
