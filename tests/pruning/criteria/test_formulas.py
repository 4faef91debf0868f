"""Each criterion against its paper's formula, worked out by hand or by another way in NumPy."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.data.examples import Examples
from keras_compress.graph.as_matrix import as_matrix, hessian
from keras_compress.pruning.criteria.gauss_newton import GaussNewton
from keras_compress.pruning.criteria.gradients import LossGradients
from keras_compress.pruning.criteria.obd import hessian_diagonal
from keras_compress.pruning.criteria.sparse_gpt import pruned_matrix
from keras_compress.pruning.plan import Pattern, Plan
from keras_compress.pruning.scored import ScoredModel, scored_model

# y = x w, w = (1, -0.5), and the mean square error. By hand: residuals -1 and 0.5, loss 0.625, gradient (0.5, -1.5),
# of the first example (-2, -4), of the second (3, 1), Hessian ((10, 5), (5, 5)).
X = np.array([[1.0, 2.0], [3.0, 1.0]], np.float32)
Y = np.array([[1.0], [2.0]], np.float32)
EXAMPLES = Examples((X, Y), keras.losses.MeanSquaredError())


@pytest.fixture
def scored() -> ScoredModel:
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False, name="d")])
    model.layers[0].kernel.assign([[1.0], [-0.5]])
    return scored_model(model, ["d"])


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (kc.MagnitudeSaliency(), [1.0, 0.5]),
        (kc.SNIP(), [0.5, 0.75]),
        (kc.TaylorSaliency(batch_size=1), [(4 + 9) / 2, (4 + 0.25) / 2]),
        (kc.TaylorSaliency(batch_size=2), [0.25, 0.5625]),
        (kc.GraSP(temperature=1.0), [-2.5, 2.5]),  # H g = (-2.5, -5)
        (kc.OBD(samples=2), [5.0, 0.625]),
        (kc.OBD(samples=2, hessian=True), [5.0, 0.625]),
        # Without the first weight the loss is (2^2 + 2.5^2) / 2 = 5.125, 4.5 more; without the second 0.5.
        (kc.OBD(samples=2, gradient=True), [4.5, -0.125]),
        # F = ((7, 5.5), (5.5, 9)), of determinant 32.75.
        (kc.OBS(damping=0.5), [32.75 / 18, 0.25 * 32.75 / 14]),
        (kc.Wanda(), [10**0.5, 0.5 * 5**0.5]),
        (kc.IntegratedGradients(steps=1), [3.25, 1.375]),  # g(w / 2) = (-3.25, -2.75)
    ],
    ids=lambda value: type(value).__name__,
)
def test_by_hand(scored, criterion, expected) -> None:
    (found,) = criterion.scores(scored, EXAMPLES)
    np.testing.assert_allclose(found.ravel(), expected, rtol=2e-6)


def test_random_scores_are_of_the_seed(scored) -> None:
    (first,), (again,) = (kc.RandomSaliency(seed=3).scores(scored, EXAMPLES) for _ in range(2))
    assert (first == again).all()
    assert (first != kc.RandomSaliency(seed=4).scores(scored, EXAMPLES)[0]).all()


def test_integrated_gradients_sum_to_the_change_of_the_loss(scored) -> None:
    (shares,) = kc.IntegratedGradients(steps=3).shares(scored, EXAMPLES)
    assert shares.sum() == pytest.approx(0.625 - 2.5, abs=1e-6)  # the loss of w = 0 is (1 + 4) / 2


def test_obs_moves_what_stays(scored) -> None:
    """Optimal Brain Surgeon, equation 5: w_1 += 0.5 / [F^-1]_22 [F^-1]_12 = 1 - 0.5 * 5.5 / 7."""
    masks = kc.OBS(damping=0.5).prune(scored, EXAMPLES, Plan((0.5,)))
    assert masks[0].ravel().tolist() == [True, False]
    np.testing.assert_allclose(scored.weights[0].values().ravel(), [1 - 0.5 * 5.5 / 7, 0.0], rtol=1e-6)


def test_the_fisher_matrix_is_what_sherman_morrison_inverts() -> None:
    """Over blocks that do not divide the weight; the last one is filled up with an identity."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh", name="a"), layers.Dense(2, name="b")])
    scored = scored_model(model, ["a"])
    x, y = (np.random.default_rng(n).normal(size=(6, 3 - n)).astype(np.float32) for n in (0, 1))
    examples = Examples((x, y), keras.losses.MeanSquaredError())
    (fisher,) = kc.OBS(fisher_block=5, damping=0.1).fisher(scored, examples)
    gradients = LossGradients(scored, examples.loss)
    for block, part in enumerate((slice(0, 5), slice(5, 10), slice(10, 12))):
        size = part.stop - part.start
        inverse = np.eye(size) / 0.1
        for batch in examples.batches_of(1):
            g = np.asarray(gradients.of(batch)[0], np.float64).ravel()[part]
            inverse -= np.outer(inverse @ g, g @ inverse) / (6 + g @ inverse @ g)
        np.testing.assert_allclose(np.linalg.inv(fisher[block])[:size, :size], inverse, rtol=1e-3, atol=1e-4)
    assert fisher[2][2:, 2:].tolist() == np.eye(3).tolist()


def test_the_hessian_s_diagonal_and_the_expansion_against_differences() -> None:
    """15 weights, 16 vectors: exact. `dE = sum g dw + 1/2 sum h dw^2 + ...` for one weight at a time."""
    keras.utils.set_random_seed(0)
    net = [keras.Input((3,)), layers.Dense(3, "tanh", use_bias=False, name="a")]
    model = keras.Sequential([*net, layers.Dense(2, "softmax", use_bias=False, name="b")])
    scored = scored_model(model, ["a", "b"])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)).astype(np.float32), rng.integers(0, 2, 8)
    examples = Examples((x, y), keras.losses.SparseCategoricalCrossentropy())
    gradients = LossGradients(scored, examples.loss)
    diagonal = hessian_diagonal(gradients, scored, examples, 15)
    first = gradients.mean(examples)
    weights = [each.values().astype(np.float64) for each in scored.weights]

    def loss(a: np.ndarray, b: np.ndarray) -> float:
        logits = np.tanh(x @ a) @ b
        return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(8), y]))

    start = loss(*weights)
    assert gradients.loss((x, y)) == pytest.approx(start, rel=1e-6)
    for weight, h, g in zip(weights, diagonal, first, strict=True):
        for place in np.ndindex(weight.shape):
            changes = []
            for step in (-1e-4, 1e-4, 0.05):
                weight[place] += step
                changes.append(loss(*weights) - start)
                weight[place] -= step
            assert h[place] == pytest.approx((changes[0] + changes[1]) / 1e-8, abs=1e-5)
            expanded = float(g.numpy()[place]) * 0.05 + h[place] * 0.05**2 / 2
            assert changes[2] == pytest.approx(expanded, abs=3e-5)  # 0.05^3 / 6 of the third derivative


def test_few_vectors_estimate_the_diagonal() -> None:
    """They are rows of a Hadamard matrix: what weights 0 and 2 share is not cancelled by two of them, 0 and 1 is."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, use_bias=False, name="d")])
    scored = scored_model(model, ["d"])
    x = np.array([[1, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 3]], np.float32)
    examples = Examples((x, np.zeros((3, 1), np.float32)), keras.losses.MeanSquaredError())
    (found,) = hessian_diagonal(LossGradients(scored, examples.loss), scored, examples, 2)
    np.testing.assert_allclose(found.ravel() * 3, [2, 2, 8, 18], rtol=1e-6)


@pytest.mark.parametrize("activation", [None, "softmax", "sigmoid"])
def test_gauss_newton_of_a_crossentropy(activation) -> None:
    """One layer: the mean of `p (1 - p) x^2`, whatever labels and outputs; 12 numbers, 16 vectors."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(4, 2)).astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32)
    labels = np.array([0, 2, 2, 1])
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3, activation, use_bias=False, name="d")])
    model.layers[0].kernel.assign(kernel)
    logits = x.astype(np.float64) @ kernel
    if activation == "sigmoid":
        loss, y, p = keras.losses.BinaryCrossentropy(), np.eye(3)[labels], 1 / (1 + np.exp(-logits))
        share = 1 / 3  # Keras's mean over outputs
    else:
        loss, y = keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None), labels
        p, share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 1.0
    (found,) = GaussNewton(scored_model(model, ["d"]), Examples((x, y), loss)).diagonal(12)
    np.testing.assert_allclose(found, (x.astype(np.float64) ** 2).T @ (p * (1 - p)) / 4 * share, rtol=2e-5)


def test_gauss_newton_through_a_layer_and_of_two_outputs() -> None:
    """Against Jacobians by NumPy: `tanh` and a shared layer, half the error of each output; places add up."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=(3, 2)).astype(np.float32)
    inputs = keras.Input((2, 2))
    hidden = layers.Dense(3, "tanh", use_bias=False, name="a")(inputs)
    heads = [layers.Dense(2, use_bias=False, name="b")(hidden), layers.Flatten()(hidden)]
    model = keras.Model(inputs, heads)
    model.get_layer("a").kernel.assign(a)
    model.get_layer("b").kernel.assign(b)
    x = rng.normal(size=(1, 2, 2)).astype(np.float32)
    y = [np.zeros((1, 2, 2), np.float32), np.zeros((1, 6), np.float32)]

    def loss(targets, outputs):
        return sum(keras.ops.sum((t - o) ** 2) for t, o in zip(targets, outputs)) / 2

    first, second = GaussNewton(scored_model(model, ["a", "b"]), Examples((x, tuple(y)), loss)).diagonal(16)
    units = np.tanh(x[0].astype(np.float64) @ a)
    slopes = 1 - units**2
    expected = np.zeros((2, 3))
    for place in range(2):
        for i, j in np.ndindex(2, 3):
            moved = slopes[place, j] * x[0, place, i]
            expected[i, j] += moved**2 * ((b[j] ** 2).sum() + 1)
    np.testing.assert_allclose(first, expected, rtol=1e-4)
    np.testing.assert_allclose(second, np.repeat((units**2).sum(0)[:, None], 2, 1), rtol=1e-4)


@pytest.fixture(scope="module")
def trained() -> tuple[keras.Model, tuple[np.ndarray, np.ndarray]]:
    """A net that tells two rings apart by 2 of 8 inputs."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8)).astype(np.float32)
    y = (np.hypot(x[:, 0], x[:, 1]) > 1.2).astype(np.int64)
    net = [keras.Input((8,)), layers.Dense(24, "relu", name="a"), layers.Dense(16, "relu", name="b")]
    model = keras.Sequential([*net, layers.Dense(2, "softmax", name="c")])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(x, y, 64, 30, verbose=0)
    return model, (x, y)


def test_obd_costs_less_than_random_and_is_never_below_zero(trained) -> None:
    model, (x, y) = trained
    scored = scored_model(model, ["a", "b", "c"])
    scores = kc.OBD(samples=4).scores(scored, Examples((x, y), keras.losses.get(model.loss)))
    assert all((each >= 0).all() and each.max() > 0 for each in scores)

    def loss_of(criterion) -> float:
        pruned = kc.prune_one_shot(model, 0.6, criterion, (x, y))
        p = np.array(pruned(x), np.float64)
        return float(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-7)).mean())

    assert loss_of(kc.OBD(samples=4)) < 0.5 * min(loss_of(kc.RandomSaliency(seed=n)) for n in range(2))


def test_synflow_by_hand_with_offsets_and_normalization() -> None:
    """R = (1.5, 5) . (2, 1) = 8. Biases, means, signs and a sigmoid change nothing; sqrt(3 + 1) halves a gamma."""
    net = [keras.Input((2,)), layers.Dense(2, "relu", name="a"), layers.BatchNormalization(epsilon=1.0, name="n")]
    model = keras.Sequential([*net, layers.Activation("sigmoid"), layers.Dense(1, "tanh", name="b")])
    model.get_layer("a").set_weights([np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([5.0, -5.0])])
    model.get_layer("n").set_weights([np.full(2, -2.0), np.full(2, 7.0), np.full(2, 9.0), np.full(2, 3.0)])
    model.get_layer("b").set_weights([np.array([[2.0], [-1.0]]), np.array([3.0])])
    first, second = kc.SynFlow().scores(scored_model(model, ["a", "b"]), Examples())
    np.testing.assert_allclose(first, [[2, 2], [1, 3]], rtol=1e-12)
    np.testing.assert_allclose(second, [[3], [5]], rtol=1e-12)
    # What flows through each layer is R: the paper's conservation law.
    assert first.sum() == pytest.approx(second.sum()) == pytest.approx(8.0)


def test_synflow_s_rounds_against_numpy() -> None:
    """Algorithm 1, in NumPy: three rounds of one ranking, 80 % gone in the end; R is a product of three matrices."""
    rng = np.random.default_rng(3)
    sizes = (4, 6, 5, 2)
    model = keras.Sequential([keras.Input((4,)), *(layers.Dense(n, name=f"d{n}") for n in sizes[1:])])
    weights = [rng.normal(size=shape).astype(np.float32) for shape in zip(sizes[:-1], sizes[1:])]
    for layer, weight in zip(model.layers, weights):
        layer.kernel.assign(weight)
    masks = [np.ones(w.shape, bool) for w in weights]
    for number in (1, 2, 3):
        a, b, c = (np.abs(w.astype(np.float64)) * m for w, m in zip(weights, masks))
        after = [b @ c @ np.ones(2), c @ np.ones(2), np.ones(2)]
        before = [np.ones(4), np.ones(4) @ a, np.ones(4) @ a @ b]
        scores = [np.outer(p, q) * w for p, q, w in zip(before, after, (a, b, c))]
        flat = np.concatenate([s.ravel() for s in scores])
        threshold = np.sort(flat)[::-1][round(len(flat) * 0.2 ** (number / 3)) - 1]
        masks = [s >= threshold for s in scores]
    pruned = kc.prune_one_shot(model, 0.8, kc.SynFlow(rounds=3), scope="global")
    for layer, mask in zip(pruned.layers, masks):
        np.testing.assert_array_equal(np.array(layer.weight("kernel")) != 0, mask)


def test_grasp_divides_logits_by_its_temperature() -> None:
    """Scores of a softmax's crossentropy at T are those of logits / T: probabilities are taken back to logits."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)).astype(np.float32), rng.integers(0, 4, 6)
    kernel = rng.normal(size=(3, 4)).astype(np.float32)
    found = []
    for activation, loss in [
        (None, keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        ("softmax", keras.losses.get("sparse_categorical_crossentropy")),
    ]:
        model = keras.Sequential([keras.Input((3,)), layers.Dense(4, activation, use_bias=False, name="d")])
        model.layers[0].kernel.assign(kernel)
        found.append(kc.GraSP(temperature=20.0).scores(scored_model(model, ["d"]), Examples((x, y), loss))[0])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-9)
    # By differences of |gradient|^2 / 2, whose derivative is H g.
    targets = np.eye(4)[y]

    def gradient(weight: np.ndarray) -> np.ndarray:
        logits = x @ weight / 20.0
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return x.T @ (shares - targets) / 20.0 / len(x)

    place = (1, 2)
    step = np.zeros((3, 4))
    step[place] = 1e-3
    kernel = kernel.astype(np.float64)
    half = [(gradient(kernel + sign * step) ** 2).sum() / 2 for sign in (1, -1)]
    assert found[0][place] == pytest.approx(kernel[place] * (half[0] - half[1]) / 2e-3, rel=1e-3)


def sparse_gpt_by_elimination(weight: np.ndarray, second: np.ndarray, zeros: list[int]) -> np.ndarray:
    """One output; inputs in order, by the inverse of what is left of H: Optimal Brain Surgeon one by one."""
    weight = weight.copy()
    for j in range(len(weight)):
        inverse = np.linalg.inv(second[j:, j:])
        if j in zeros:
            weight[j:] -= weight[j] / inverse[0, 0] * inverse[0]
            weight[j] = 0.0
    return weight


def test_sparse_gpt_against_elimination() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(30, 6)), rng.normal(size=(6, 2))
    second = 2 * x.T @ x / 30
    found, mask = pruned_matrix(weight[None], np.ones((1, 6, 2), bool), second[None], 0.5, columns=8, damping=0.0)
    diagonal = [np.linalg.inv(second[j:, j:])[0, 0] for j in range(6)]
    scores = weight**2 / np.array(diagonal)[:, None]
    np.testing.assert_array_equal(mask[0], scores >= np.sort(scores.ravel())[6])
    for output in range(2):
        zeros = np.flatnonzero(~mask[0, :, output]).tolist()
        expected = sparse_gpt_by_elimination(weight[:, output], second, zeros)
        np.testing.assert_allclose(found[0, :, output], expected, atol=1e-12)
    # In stretches of 2 columns each has its own half; errors go on across them.
    found, mask = pruned_matrix(weight[None], np.ones((1, 6, 2), bool), second[None], 0.5, columns=2, damping=0.0)
    assert mask[0].reshape(3, 4).sum(1).tolist() == [2, 2, 2]
    for output in range(2):
        zeros = np.flatnonzero(~mask[0, :, output]).tolist()
        expected = sparse_gpt_by_elimination(weight[:, output], second, zeros)
        np.testing.assert_allclose(found[0, :, output], expected, atol=1e-12)


def test_sparse_gpt_of_two_in_four() -> None:
    rng = np.random.default_rng(1)
    x, weight = rng.normal(size=(40, 10)), rng.normal(size=(10, 3))
    second = (2 * x.T @ x / 40)[None]
    pattern = Pattern(m_by_n=(2, 4))
    found, mask = pruned_matrix(weight[None], np.ones((1, 10, 3), bool), second, 0.5, pattern, damping=0.0)
    assert (mask[0, :8].reshape(2, 4, 3).sum(1) == 2).all()
    assert mask[0, 8:].all()  # a group that is cut off stays dense
    magnitude = np.zeros((10, 3), bool)
    magnitude[:8] = pattern.m_of_n(np.abs(weight[:8]))
    magnitude[8:] = True
    errors = [((x @ (weight - each)) ** 2).sum() for each in (found[0], weight * magnitude)]
    assert errors[0] < 0.7 * errors[1]


def test_wanda_and_sparse_gpt_see_a_convolution_s_patches() -> None:
    """A 2x2 convolution: the places of the kernel in each channel are inputs, `same` padding adds zeros."""
    model = keras.Sequential([keras.Input((3, 3, 2)), layers.Conv2D(4, 2, padding="valid", name="c")])
    x = np.random.default_rng(0).normal(size=(5, 3, 3, 2)).astype(np.float32)
    scored = scored_model(model, ["c"])
    (found,) = kc.Wanda().scores(scored, Examples(x))
    kernel = scored.weights[0].values()
    for row, column, channel in np.ndindex(2, 2, 2):
        length = np.sqrt((x[:, row : row + 2, column : column + 2, channel].astype(np.float64) ** 2).sum())
        np.testing.assert_allclose(
            found[row, column, channel], np.abs(kernel[row, column, channel]) * length, rtol=1e-6
        )


def synflow(model: keras.Model) -> dict[str, np.ndarray]:
    scored = scored_model(model, [layer.name for layer in model.layers])
    found = kc.SynFlow().scores(scored, Examples())
    assert all(np.isfinite(each).all() and (each > 0).all() for each in found)
    return {each.name: values for each, values in zip(scored.weights, found, strict=True)}


def test_synflow_goes_through_offsets_and_activations_of_the_graph() -> None:
    """Two dense layers, w and v: R = |v| |w| (1, 1), whatever is in between, and for pixels of integers."""
    first, second = np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([[2.0], [-1.0]])

    def made(before=lambda x: x, between=lambda x: x, behind=lambda x: x, dtype="float32") -> keras.Model:
        inputs = keras.Input((2,), dtype=dtype)
        x = between(layers.Dense(2, use_bias=False, name="a")(before(inputs)))
        model = keras.Model(inputs, behind(layers.Dense(1, use_bias=False, name="b")(x)))
        model.get_layer("a").set_weights([first])
        model.get_layer("b").set_weights([second])
        return model

    for arguments in (
        {"before": layers.Rescaling(1 / 127.5, offset=-1.0)},
        {"before": layers.Rescaling(1 / 255.0), "dtype": "uint8"},
        {"before": lambda x: keras.ops.cast(x, "float32") - 3.0, "dtype": "int32"},
        {
            "before": lambda x: 5.0 - x * -1.0,
            "between": keras.ops.tanh,
            "behind": lambda x: keras.ops.softmax(x, axis=0),
        },
        {"between": lambda x: keras.ops.relu(x - np.array([7.0, 9.0], np.float32)), "behind": lambda x: -x},
        {"between": lambda x: (x + 2.0) / -1.0, "behind": keras.ops.sigmoid},
    ):
        found = synflow(made(**arguments))
        np.testing.assert_allclose(found["a"], [[2, 2], [1, 3]], rtol=1e-12)
        np.testing.assert_allclose(found["b"], [[3], [5]], rtol=1e-12)


def test_synflow_flows_through_cells_and_attention() -> None:
    """Nothing saturates; what flows through queries, keys and values together is what flows through the output."""
    keras.utils.set_random_seed(0)
    for cell in (layers.LSTM, layers.GRU, layers.SimpleRNN):
        net = [keras.Input((5, 8)), layers.Dense(128, "relu", name="a"), layers.Dense(64, "relu", name="b")]
        model = keras.Sequential([*net, layers.Bidirectional(cell(8), name="r"), layers.Dense(3, name="h")])
        found = synflow(model)
        assert found["a"].sum() == pytest.approx(found["b"].sum()) == pytest.approx(found["h"].sum())
        kernels = sum(found[name].sum() for name in found if name.endswith(".kernel"))
        assert kernels == pytest.approx(found["h"].sum())
    # One unit, two steps, four gates of kernels 1..4 and recurrent kernels 1: 2.5 + 2.5 * 1.
    model = keras.Sequential([keras.Input((2, 1)), layers.LSTM(1, use_bias=False, name="l")])
    model.get_layer("l").set_weights([np.array([[1.0, -2.0, 3.0, 4.0]]), np.ones((1, 4))])
    found = synflow(model)
    np.testing.assert_allclose(found["l.cell.kernel"], [[0.5, 1.0, 1.5, 2.0]])
    np.testing.assert_allclose(found["l.cell.recurrent_kernel"], [[0.625] * 4])
    inputs = keras.Input((6, 16))
    attended = layers.MultiHeadAttention(2, 8, value_dim=4, name="m")(inputs, inputs)
    attended = layers.GroupQueryAttention(4, 4, 2, name="g")(attended, attended)
    mixed = layers.Attention()([layers.Dense(3, name="q")(attended), layers.Dense(3, name="v")(attended)])
    found = synflow(keras.Model(inputs, layers.Dense(3, name="h")(layers.Flatten()(mixed))))
    for name in ("m", "g"):
        parts = [found[f"{name}._{part}_dense.kernel"].sum() for part in ("query", "key", "value", "output")]
        assert sum(parts[:3]) == pytest.approx(parts[3]) == pytest.approx(found["h"].sum())
    assert found["q"].sum() + found["v"].sum() == pytest.approx(found["h"].sum())


@keras.saving.register_keras_serializable(package="saliency_tests")
class Lower(layers.Layer):
    def call(self, inputs):
        return inputs - 10.0


def test_synflow_refuses_paths_that_are_negative() -> None:
    model = keras.Sequential([keras.Input((3,)), Lower(), layers.Dense(2, name="d")])
    with pytest.raises(ValueError, match=r"(?s)Expected a model through which no path is negative.*Received: .*'d'"):
        kc.prune_one_shot(model, 0.5, "synflow")


@pytest.mark.parametrize("kind", ["conv", "grouped", "line", "depthwise", "depthwise_line"])
def test_forms_of_channels_first_are_those_of_channels_last(kind) -> None:
    """Inputs of Wanda, SparseGPT and GPTQ: the same matrix for the same layer, whatever the order of its input."""
    make = {
        "conv": lambda order: layers.Conv2D(4, (3, 2), strides=2, padding="same", data_format=order),
        "grouped": lambda order: layers.Conv2D(4, 2, groups=2, dilation_rate=2, data_format=order),
        "line": lambda order: layers.Conv1D(4, 3, padding="same", data_format=order),
        "depthwise": lambda order: layers.DepthwiseConv2D(3, depth_multiplier=2, data_format=order),
        "depthwise_line": lambda order: layers.DepthwiseConv1D(3, data_format=order),
    }[kind]
    x = np.random.default_rng(0).normal(size=(3, 9, 4) if "line" in kind else (3, 9, 7, 4)).astype(np.float32)
    last, first = make("channels_last"), make("channels_first")
    last.build(x.shape)
    turned = np.moveaxis(x, -1, 1)
    first.build(turned.shape)
    squares = [as_matrix(layer).squares(values) for layer, values in ((last, x), (first, turned))]
    np.testing.assert_allclose(*squares)
    seconds = [hessian(as_matrix(layer), values) for layer, values in ((last, x), (first, turned))]
    np.testing.assert_allclose(*seconds)


def test_memory_is_reckoned_before_it_is_taken() -> None:
    model = keras.Sequential([keras.Input((40,)), layers.Dense(10, name="wide"), layers.Dense(2, name="o")])
    x, y = np.random.default_rng(0).normal(size=(8, 40)).astype(np.float32), np.zeros((8, 2), np.float32)
    # 48 bytes for each of 40 x 40 pairs; 400 + 20 weights in 8 + 1 blocks of 50 x 50 x 4 bytes.
    with pytest.warns(UserWarning, match=r"wide: its inputs' products take 76,800 bytes, more than max_bytes=70,000"):
        pruned = kc.prune_one_shot(model, 0.5, kc.SparseGPT(max_bytes=70_000), x)
    kept, by_magnitude = (
        np.array(each.get_layer("wide").weight("kernel")) for each in (pruned, kc.prune_one_shot(model, 0.5))
    )
    np.testing.assert_array_equal(kept, by_magnitude)
    with pytest.raises(
        ValueError, match=r"Expected weights whose Fisher .*Received: 420 weights, which take 90,000 bytes"
    ):
        kc.prune_one_shot(model, 0.5, kc.OBS(max_bytes=89_999), (x, y), loss="mse")
    assert kc.one_shot_of(kc.prune_one_shot(model, 0.5, kc.OBS(max_bytes=90_000), (x, y), loss="mse")).sparsity == 0.5


def test_grasp_divides_the_logits_of_each_output_and_says_where_there_are_none() -> None:
    """Two softmaxes; by name, as an object, as a function with arguments or wrapped, and by hand on divided logits."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(6, 3)).astype(np.float32), [rng.integers(0, 4, 6), rng.integers(0, 4, 6)]
    kernels = [rng.normal(size=(3, 4)) for _ in range(2)]

    def model(activation: str | None) -> keras.Model:
        inputs = keras.Input((3,))
        heads = [layers.Dense(4, activation, use_bias=False, name=name)(inputs) for name in "pq"]
        made = keras.Model(inputs, heads)
        made.set_weights(kernels)
        return made

    def scores(made: keras.Model, losses: list, temperature: float) -> list:
        made.compile("sgd", losses)
        examples = Examples.for_model(made, (x, labels), None, {"inputs", "targets"}, "a test")
        return kc.GraSP(temperature).scores(scored_model(made, ["p", "q"]), examples)

    function, name = keras.losses.sparse_categorical_crossentropy, "sparse_categorical_crossentropy"
    wrapped = functools.wraps(function)(lambda targets, outputs: function(targets, outputs))
    found = scores(model("softmax"), [name, wrapped], 20.0)
    of_logits = [functools.partial(function, from_logits=True), keras.losses.SparseCategoricalCrossentropy(True)]
    divided = scores(model(None), of_logits, 20.0)
    by_hand = scores(model(None), [lambda y, p: function(y, p / 20.0, from_logits=True)] * 2, 1.0)
    for each, other, expected in zip(found, divided, by_hand, strict=True):
        np.testing.assert_allclose(each, expected, rtol=2e-3, atol=1e-8)
        np.testing.assert_allclose(other, expected, rtol=2e-3, atol=1e-8)
    examples = Examples((x, [np.eye(4)[each] for each in labels]), both_squared)
    with pytest.warns(UserWarning, match="GraSP: temperature=20 does nothing, as no loss is a crossentropy"):
        kc.GraSP(20.0).scores(scored_model(model(None), ["p"]), examples)


def both_squared(targets: list, outputs: list) -> object:
    return sum(keras.ops.mean(keras.ops.square(t - o)) for t, o in zip(targets, outputs, strict=True))
