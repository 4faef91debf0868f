"""Each loss against its paper's equation in scalar Python, with literal numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc

# Two samples of three classes.
TEACHER = [[2.0, -1.0, 0.5], [0.0, 1.5, -0.5]]
STUDENT = [[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]]


def tensor(values):
    return tf.constant(values, tf.float32)


def loss_of(method, teacher=TEACHER, student=STUDENT, **kwargs) -> float:
    return float(method.compute_loss(tensor(teacher), tensor(student), **kwargs))


def softmax(logits):
    exponentials = [math.exp(z) for z in logits]
    return [e / sum(exponentials) for e in exponentials]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q))


def huber(d):
    return 0.5 * d * d if abs(d) <= 1 else abs(d) - 0.5


def norm(v):
    return math.sqrt(sum(a * a for a in v))


def unit(v):
    return [a / norm(v) for a in v]


def dot(v, w):
    return sum(a * b for a, b in zip(v, w))


def test_logit_matching() -> None:
    # (1 + 1 + 2.25) / 2 and (0.25 + 1 + 6.25) / 2, their mean.
    assert loss_of(kc.LogitMatching()) == pytest.approx((2.125 + 3.75) / 2)


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.571640), (4.0, 0.765457)])
def test_soft_targets(temperature: float, expected: float) -> None:
    parts = [
        kl(softmax([z / temperature for z in t]), softmax([z / temperature for z in s]))
        for t, s in zip(TEACHER, STUDENT)
    ]
    scalar = temperature**2 * sum(parts) / 2
    assert scalar == pytest.approx(expected, abs=1e-6)
    assert loss_of(kc.SoftTargets(temperature)) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_soft_targets_is_that_of_the_paper() -> None:
    """Equation 2 of Hinton et al., (q - p) / T, times T^2; equation 4 for a high temperature and centred logits."""
    student = tensor(STUDENT)
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = kc.SoftTargets(3.0).compute_loss(tensor(TEACHER), student)
    expected = [
        [3.0 / 2 * (q - p) for p, q in zip(softmax([z / 3 for z in t]), softmax([z / 3 for z in s]))]
        for t, s in zip(TEACHER, STUDENT)
    ]
    np.testing.assert_allclose(tape.gradient(loss, student), expected, rtol=1e-5)
    np.testing.assert_allclose(expected[0], [-0.087059, 0.202497, -0.115438], atol=1e-6)
    centred = [[[a - sum(z) / 3 for a in z] for z in both] for both in (TEACHER, STUDENT)]
    student = tensor(centred[1])
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = kc.SoftTargets(1000.0).compute_loss(tensor(centred[0]), student)
    limit = (np.array(centred[1]) - np.array(centred[0])) / 3 / 2
    np.testing.assert_allclose(tape.gradient(loss, student), limit, rtol=2e-2, atol=2e-3)


def test_soft_targets_of_labels_and_of_numbers() -> None:
    def of(z, w):
        p, q = 1 / (1 + math.exp(-z)), 1 / (1 + math.exp(-w))
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    scalar = 4.0 * sum(of(a / 2, b / 2) for t, s in zip(TEACHER, STUDENT) for a, b in zip(t, s)) / 2
    assert loss_of(kc.SoftTargets(2.0), kinds=["sigmoid"]) == pytest.approx(scalar, rel=1e-5)
    assert scalar == pytest.approx(0.705815, abs=1e-6)
    assert loss_of(kc.SoftTargets(2.0), kinds=["linear"]) == loss_of(kc.LogitMatching())


def test_decoupled() -> None:
    def of(t, s, y, temperature):
        p, q = softmax([z / temperature for z in t]), softmax([z / temperature for z in s])
        target = kl([p[y], 1 - p[y]], [q[y], 1 - q[y]])
        rest = [i for i in range(3) if i != y]
        return target, kl([p[i] / (1 - p[y]) for i in rest], [q[i] / (1 - q[y]) for i in rest])

    parts = [of(t, s, y, 4.0) for t, s, y in zip(TEACHER, STUDENT, (0, 2))]
    scalar = 16.0 * sum(a + 8.0 * b for a, b in parts) / 2
    assert scalar == pytest.approx(4.649040, abs=1e-6)
    labels = tf.constant([0, 2])
    assert loss_of(kc.DecoupledKD(), labels=labels) == pytest.approx(scalar, rel=1e-5)
    one_hot = tf.one_hot(labels, 3)
    assert loss_of(kc.DecoupledKD(), labels=one_hot) == pytest.approx(scalar, rel=1e-5)
    # Equation 6: with b = 1 - p_y it is the whole divergence.
    whole = kc.DecoupledKD(1.0, 1.0, 1 - softmax(TEACHER[0])[0])
    assert loss_of(whole, TEACHER[:1], STUDENT[:1], labels=labels[:1]) == pytest.approx(
        kl(softmax(TEACHER[0]), softmax(STUDENT[0])), rel=1e-5
    )


def test_decoupled_without_labels_takes_the_teachers_class() -> None:
    assert loss_of(kc.DecoupledKD()) == pytest.approx(loss_of(kc.DecoupledKD(), labels=tf.constant([0, 1])))


def test_fitnets() -> None:
    hint, guided = [[[1.0, 3.0], [0.0, -1.0]]], [[[0.0, 1.0], [0.5, 0.0]]]
    # 1/2 (1 + 4 + 0.25 + 1) / 4
    assert loss_of(kc.FitNets(regressor=False), hint, guided) == pytest.approx(0.78125)
    layer = kc.FitNets().make_layers([(None, 2, 2)], [(None, 2, 2)])[0]
    layer.build((None, 2, 2))
    layer.kernel.assign([[2.0, 0.0], [0.0, 1.0]])
    layer.bias.assign([0.0, 1.0])
    # Guesses (0, 2) and (1, 1): 1/2 (1 + 1 + 1 + 4) / 4
    assert loss_of(kc.FitNets(), hint, guided, layers=[layer]) == pytest.approx(0.875)


@pytest.mark.parametrize(
    ("hint", "guided", "kind"),
    [
        ((None, 8, 8, 6), (None, 10, 10, 4), "Conv2D"),
        ((None, 8, 6), (None, 4, 4), "Conv1DTranspose"),
        ((None, 8, 8, 6), (None, 8, 8, 4), "Dense"),
        ((None, 6), (None, 4), "Dense"),
    ],
)
def test_regressors_come_to_the_hints_shape(hint, guided, kind) -> None:
    (layer,) = kc.FitNets().make_layers([hint], [guided])
    assert type(layer).__name__ == kind
    assert tuple(layer.compute_output_shape((2, *guided[1:]))) == (2, *hint[1:])


def test_attention_transfer() -> None:
    # Maps of two positions: teacher |1|^2 + |2|^2 = 5 and 1; student 1 and 2 channels wide, 4 and 9.
    teacher, student = [[[[1.0, 2.0], [0.0, 1.0]]]], [[[[2.0], [-3.0]]]]
    scalar = 0.5 * sum((a - b) ** 2 for a, b in zip(unit([5.0, 1.0]), unit([4.0, 9.0])))
    assert scalar == pytest.approx(0.422535, abs=1e-6)
    assert loss_of(kc.AttentionTransfer(), teacher, student) == pytest.approx(scalar, rel=1e-5)
    # A teacher's map of twice the size with each value four times is the same map.
    large = np.repeat(np.repeat(np.array(teacher), 2, axis=1), 2, axis=2)
    assert loss_of(kc.AttentionTransfer(), large, student) == pytest.approx(scalar, rel=1e-5)
    steps = [[[1.0], [1.0], [5.0], [1.0]]], [[[1.0], [1.0], [1.0]]]
    assert 0.0 < loss_of(kc.AttentionTransfer(), *steps) < 0.5


def test_fsp_and_gram() -> None:
    first, second = [[[[1.0, 2.0], [3.0, 0.0]]]], [[[[1.0], [2.0]]]]
    other, last = [[[[0.0, 1.0], [1.0, 1.0]]]], [[[[1.0], [0.0]]]]
    # G_t = (1*1 + 3*2, 2*1 + 0*2) / 2 = (3.5, 1); G_s = (0, 1) / 2 = (0, 0.5): 3.5^2 + 0.5^2.
    value = kc.FSP().compute_loss([tensor(first), tensor(second)], [tensor(other), tensor(last)])
    assert float(value) == pytest.approx(12.5)
    # F^T F / 2: teacher (5, 1; 1, 2), student (0.5, 0.5; 0.5, 1): 4.5^2 + 2 * 0.5^2 + 1.
    assert loss_of(kc.Gram(), first, other) == pytest.approx(21.75)


def test_fsp_pools_the_earlier_map() -> None:
    earlier, later = tensor(np.arange(4.0).reshape(1, 2, 2, 1)), tensor([[[[2.0]]]])
    # The largest value, 3, times 2; the student's are zero.
    assert float(kc.FSP().compute_loss([earlier, later], [0 * earlier, 0 * later])) == pytest.approx(36.0)


POINTS_T = [[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]]
POINTS_S = [[0.0], [1.0], [-2.0]]


def test_rkd_distance() -> None:
    pairs = [(0, 1), (0, 2), (1, 2)]

    def distances(points):
        found = [norm([a - b for a, b in zip(points[i], points[j])]) for i, j in pairs]
        return [d / (sum(found) / 3) for d in found]

    assert distances(POINTS_T) == [1.25, 1.0, 0.75]
    assert distances(POINTS_S) == [0.5, 1.0, 1.5]
    # (0.75^2 + 0 + 0.75^2) / 2 / 3
    assert loss_of(kc.RKDDistance(), POINTS_T, POINTS_S) == pytest.approx(0.1875)
    assert sum(huber(a - b) for a, b in zip(distances(POINTS_T), distances(POINTS_S))) / 3 == pytest.approx(0.1875)


def test_rkd_angle() -> None:
    def cosine(points, i, j, k):
        to = [[a - b for a, b in zip(points[n], points[j])] for n in (i, k)]
        return dot(unit(to[0]), unit(to[1]))

    triplets = [(i, j, k) for i in range(3) for j in range(3) for k in range(3) if len({i, j, k}) == 3]
    parts = [huber(cosine(POINTS_T, *t) - cosine(POINTS_S, *t)) for t in triplets]
    assert sum(parts) / 6 == pytest.approx(0.626667, abs=1e-6)
    assert loss_of(kc.RKDAngle(), POINTS_T, POINTS_S) == pytest.approx(sum(parts) / 6, rel=1e-5)


def test_similarity_preserving() -> None:
    def rows(points):
        return [unit([dot(v, w) for w in points]) for v in points]

    teacher, student = [[1.0, 0.0], [1.0, 1.0]], [[1.0], [2.0]]
    scalar = sum((a - b) ** 2 for t, s in zip(rows(teacher), rows(student)) for a, b in zip(t, s)) / 4
    assert scalar == pytest.approx(0.025658, abs=1e-6)
    assert loss_of(kc.SimilarityPreserving(), teacher, student) == pytest.approx(scalar, rel=1e-4)


def test_correlation_congruence() -> None:
    def of(points):
        units = [unit(v) for v in points]
        products = [dot(v, w) for v in units for w in units]
        # e^-0.8 (1 + 0.8 c + 0.32 c^2)
        return [math.exp(-0.8) * (1 + 0.8 * c + 0.32 * c * c) for c in products]

    teacher, student = [[1.0, 0.0], [1.0, 1.0]], [[1.0], [-2.0]]
    scalar = sum((a - b) ** 2 for a, b in zip(of(teacher), of(student))) / 4
    assert scalar == pytest.approx(0.146746, abs=1e-6)
    assert loss_of(kc.CorrelationCongruence(), teacher, student) == pytest.approx(scalar, rel=1e-5)


def test_crd() -> None:
    teacher, student = [[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [1.0, 1.0]]
    # Cosines over tau = 0.5; N = 1 negative, M = 10 samples.
    scores = [[2.0, 0.0], [math.sqrt(2.0), math.sqrt(2.0)]]
    h = [[math.exp(c) / (math.exp(c) + 0.1) for c in row] for row in scores]
    scalar = -(math.log(h[0][0]) + math.log(1 - h[0][1]) + math.log(h[1][1]) + math.log(1 - h[1][0])) / 2
    assert scalar == pytest.approx(3.088089, abs=1e-6)
    method = kc.CRD(embedding_size=2, temperature=0.5, samples=10)
    assert loss_of(method, teacher, student) == pytest.approx(scalar, rel=1e-5)


FEATURE_METHODS = [kc.RKDDistance(), kc.RKDAngle(), kc.SimilarityPreserving(), kc.CorrelationCongruence()]


@pytest.mark.parametrize("method", FEATURE_METHODS, ids=lambda each: type(each).__name__)
def test_relations_do_not_see_how_a_space_is_turned(method) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(5, 3)).astype(np.float32)
    turned = points @ np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)
    assert loss_of(method, points, 2.0 * turned) == pytest.approx(0.0, abs=1e-6)
    assert loss_of(method, points, rng.normal(size=(5, 3))) > 1e-3


BAD = [
    (kc.SoftTargets, {"temperature": 0.0}, "Expected `temperature` > 0. Received: temperature=0.0"),
    (kc.SoftTargets, {"temperature": -1}, "Expected `temperature` > 0"),
    (kc.DecoupledKD, {"temperature": float("inf")}, "Expected `temperature` > 0"),
    (kc.DecoupledKD, {"others_weight": -1.0}, "Expected `others_weight` >= 0"),
    (kc.AttentionTransfer, {"power": 0}, "Expected `power` > 0"),
    (kc.CorrelationCongruence, {"gamma": 0}, "Expected `gamma` > 0"),
    (kc.CorrelationCongruence, {"order": 0}, "Expected `order` >= 1"),
    (kc.CRD, {"temperature": None}, "Expected `temperature` > 0"),
    (kc.CRD, {"embedding_size": 0}, "Expected `embedding_size` >= 1"),
]


@pytest.mark.parametrize(("cls", "arguments", "message"), BAD)
def test_arguments_out_of_range(cls, arguments, message) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        cls(**arguments)


MISFITS = [
    (kc.FitNets(regressor=False), [(None, 4)], [(None, 3)], "Expected features of equal shape"),
    (kc.FitNets(), [(None, 4, 4, 2)], [(None, 3)], "Expected features of as many axes"),
    (kc.FitNets(), [(None, 4, 8, 2)], [(None, 8, 4, 2)], "larger on all axes of the map, or smaller on all"),
    (kc.AttentionTransfer(), [(None, 4)], [(None, 4)], "Expected features with a map"),
    (kc.FSP(), [(None, 4, 4, 2)], [(None, 4, 4, 2)], "Expected at least two hints for FSP"),
    (kc.Gram(), [(None, 4, 4, 2)], [(None, 4, 4, 3)], "Expected maps of as many channels"),
    (kc.CRD(), [(None, None, 2)], [(None, 3)], "Expected features of known size for CRD"),
]


@pytest.mark.parametrize(("method", "teacher", "student", "message"), MISFITS)
def test_features_that_do_not_fit(method, teacher, student, message) -> None:
    with pytest.raises(ValueError, match=message):
        method.make_layers(teacher, student)


def test_decoupled_takes_classes_only() -> None:
    with pytest.raises(ValueError, match="Expected a head of classes for DecoupledKD. Received: linear"):
        loss_of(kc.DecoupledKD(), kinds=["linear"])


PADDED = np.array([[True, True, False], [True, False, False]])
STEPS = np.random.default_rng(0).normal(size=(2, 2, 3, 4)).astype(np.float32)


def with_padding(value: float) -> list[tf.Tensor]:
    """Teacher's and student's values of two samples of three steps, with something else where none counts."""
    return [tf.constant(np.where(PADDED[..., None], each, np.float32(value))) for each in STEPS]


def divergences(t: np.ndarray, s: np.ndarray) -> np.ndarray:
    p, q = (np.exp(each / 4.0) / np.exp(each / 4.0).sum(-1, keepdims=True) for each in (t, s))
    return 16.0 * (p * np.log(p / q)).sum(-1)


def attention(t: np.ndarray, s: np.ndarray) -> float:
    a, b = (np.square(each).sum(-1) for each in (t, s))
    return 0.5 * float(np.square(a / np.sqrt(np.square(a).sum()) - b / np.sqrt(np.square(b).sum())).sum())


def gram(t: np.ndarray, s: np.ndarray) -> float:
    return float(np.square(t.T @ t / len(t) - s.T @ s / len(s)).sum())


# Of a sample's steps that count: the loss of each, or one for all.
OF_A_SAMPLE = [
    (kc.SoftTargets(), divergences),
    (kc.LogitMatching(), lambda t, s: 0.5 * np.square(t - s).sum(-1)),
    (kc.FitNets(regressor=False), lambda t, s: 0.5 * np.square(t - s).mean(-1)),
    (kc.AttentionTransfer(), attention),
    (kc.Gram(), gram),
    (kc.FSP(), gram),
]


@pytest.mark.parametrize(("method", "expected"), OF_A_SAMPLE)
def test_padding_does_not_count_and_samples_have_weights(method, expected) -> None:
    """As in Keras's losses: the mean over what counts, each times the weight of its sample."""
    share = [0.5, 3.0]
    pairs = zip(PADDED, *STEPS.astype(np.float64), share, strict=True)
    values = [weight * np.atleast_1d(expected(t[mask], s[mask])) for mask, t, s, weight in pairs]
    # A layer with itself is what FSP makes of two.
    copies = 2 if isinstance(method, kc.FSP) else 1
    found = method.compute_loss(
        *([each] * copies for each in (with_padding(1e3)[0], with_padding(-1e3)[1])),
        masks=[tf.constant(PADDED)] * copies,
        sample_weights=[tensor(share)] * copies,
    )
    assert float(found) == pytest.approx(np.concatenate(values).mean(), rel=1e-4)


TOGETHER = [kc.SimilarityPreserving(), kc.RKDDistance(), kc.RKDAngle(), kc.CorrelationCongruence(), kc.CRD()]


@pytest.mark.parametrize("method", TOGETHER)
def test_relations_of_samples_do_not_see_padding(method) -> None:
    expected = float(method.compute_loss(*with_padding(0.0)))
    assert float(method.compute_loss(*with_padding(7.0), masks=[tf.constant(PADDED)])) == expected
    assert float(method.compute_loss(*with_padding(7.0))) != expected or isinstance(method, kc.RKDDistance)


def test_a_weight_in_contrastive_distillation_is_of_the_students_sample() -> None:
    teacher, student = np.random.default_rng(1).normal(size=(2, 3, 4))
    of_each = [loss_of(kc.CRD(), teacher, student, sample_weights=[tensor(np.eye(3)[n])]) for n in range(3)]
    odds = [math.exp(dot(unit(student[0]), unit(t)) / 0.07) / (2.0 / 3.0) for t in teacher]
    first = -(math.log(odds[0] / (1.0 + odds[0])) - math.log(1.0 + odds[1]) - math.log(1.0 + odds[2])) / 3.0
    assert of_each[0] == pytest.approx(first, rel=1e-4)
    assert sum(of_each) == pytest.approx(loss_of(kc.CRD(), teacher, student), rel=1e-5)


def test_a_mask_of_nothing_and_one_of_another_size() -> None:
    teacher, student = with_padding(0.0)
    assert float(kc.SoftTargets().compute_loss(teacher, student, masks=[tf.zeros((2, 3), bool)])) == 0.0
    whole = float(kc.FitNets(regressor=False).compute_loss(teacher, student))
    assert float(kc.FitNets(regressor=False).compute_loss(teacher, student, masks=[tf.zeros((2, 4), bool)])) == whole
