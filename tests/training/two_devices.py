"""Trains under MirroredStrategy on two virtual CPU devices, and writes what came out as JSON. Run by a test."""

import contextlib
import json
import sys

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tests_training as t  # noqa: E402
import tests_zoo  # noqa: E402
from tests_xla import xla  # noqa: E402

import keras_compress as kc  # noqa: E402

xla.turn(False)
STRATEGY = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def pruned_and_clustered():
    return t.pcqat(scope="global", activations=None)


def quantized():
    """Batch normalization, ranges learned and averaged."""
    model = kc.prune_low_magnitude(tests_zoo.build("conv_bn_relu"), t.schedule())
    ranges = [{"layers": "conv", "activations": kc.LearnedRange(8)}]
    return kc.quantize_model(kc.cluster_weights(model, 4), rules=ranges)


def sparse_from_the_start():
    """Exchanges by the gradient of both halves of the batch."""
    schedule = kc.ConstantSparsity(0.6, begin_step=0, end_step=8, frequency=2)
    return kc.train_sparse(tests_zoo.build("shared_dense"), schedule, drop_fraction=0.5)


class Penalised(keras.layers.Dense):
    def call(self, inputs):
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(inputs)))
        return super().call(inputs)


def with_losses(wrapped):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(8, activity_regularizer="l2", kernel_regularizer="l2"),
        Penalised(4, name="penalised"),
    ]
    model = keras.Sequential([keras.Input((6,)), *layers])
    if not wrapped:
        return model
    late = kc.ConstantSparsity(0.5, begin_step=1000)
    compressed = [kc.Compressed(layer, {"kernel": [kc.MagnitudePruner(late)]}) for layer in layers]
    return keras.Sequential([keras.Input((6,)), *compressed])


def losses(model, **settings):
    model.compile("sgd", "mse", **{"jit_compile": False, **settings})
    x, y = t.data(model)
    return model.fit(x, y, batch_size=t.BATCH, epochs=2, shuffle=False, verbose=0).history["loss"]


def compare(make):
    """One device and two on the same global batches."""
    with STRATEGY.scope():
        two = t.fit(make())
    one = t.fit(make())
    x, y = t.data(one)
    here = [*t.wrappers(two), *t.points(two)]
    variables = {v.path: v for layer in here for v in layer.variables}
    every = {**variables, **{v.path: v for v in two.optimizer.variables}}
    differ = [path for path, v in every.items() if not np.array_equal(*t.replicas(v))]
    pairs = list(zip(two.trainable_variables, one.trainable_variables, strict=True))
    masks = [(t.array(a.mask), t.array(b.mask)) for a, b in zip(t.pruners(two), t.pruners(one), strict=True)]
    return {
        "replicas": sorted({len(t.replicas(v)) for v in every.values()}),
        "variables": len(every),
        "replicas_differ": differ,
        "steps": [sorted(found) for found in t.steps(two)],
        "masks_differ": int(sum((a != b).sum() for a, b in masks)),
        "kept": [int(a.sum()) for a, _ in masks],
        "largest_difference": float(max(np.abs(t.array(a) - t.array(b)).max() for a, b in pairs)),
        "loss": [float(model.evaluate(x, y, batch_size=t.BATCH, verbose=0)) for model in (two, one)],
    }, two


def saved_and_loaded(model, folder):
    x, _ = t.data(model)
    expected = model.predict(x, batch_size=t.BATCH, verbose=0)
    model.save(f"{folder}/two.keras")
    again = keras.models.load_model(f"{folder}/two.keras")
    difference = float(np.abs(again.predict(x, batch_size=t.BATCH, verbose=0) - expected).max())
    return {"difference": difference, "steps": [sorted(found) for found in t.steps(again)]}


def own_loop():
    with STRATEGY.scope():
        model = pruned_and_clustered()
        optimizer = t.momentum()
        optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        def on_replica(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x, training=True) - y)) / 2.0
            found = model.trainable_variables
            optimizer.apply(tape.gradient(loss, [v.value for v in found]), found)

        STRATEGY.run(on_replica, args=(x, y))

    def halves(values):
        middle = t.BATCH // 2
        return STRATEGY.experimental_distribute_values_from_function(
            lambda context: tf.constant(values[:middle] if context.replica_id_in_sync_group == 0 else values[middle:])
        )

    for _ in range(2):
        for x, y in t.batches_of(model):
            step(halves(x), halves(y))
    model.optimizer = None
    return model


def refusal(make, **settings):
    """Name of the error that training raises under the strategy, `None` where it works."""
    with STRATEGY.scope():
        model = make()
    try:
        losses(model, **settings)
    except tf.errors.OpError as error:
        return type(error).__name__
    return None


def taught(scope):
    """A pruned student behind two epochs of labels, a teacher's outputs and a hint of it."""
    keras.utils.set_random_seed(0)
    with scope:
        nets = [keras.Sequential([keras.Input((6,)), keras.layers.Dense(n, name="hidden"), keras.layers.Dense(3)])
                for n in (8, 4)]  # fmt: skip
        student = kc.prune_low_magnitude(nets[1], t.schedule())
        distiller = kc.distill(student, nets[0], ["logit_matching", "fit_nets"], hints=["hidden"])
        distiller.compile(t.momentum(), "mse", jit_compile=False)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(4 * t.BATCH, n)).astype(np.float32) for n in (6, 3))
    history = distiller.fit(x, y, batch_size=t.BATCH, epochs=2, shuffle=False, verbose=0).history
    weights = [t.array(each) for each in (*student.trainable_variables, *distiller.added[0].variables)]
    return weights, history, sorted({int(t.array(each.step)) for each in t.pruners(student)})


def by_a_teacher():
    (two, losses_of_two, steps), (one, losses_of_one, _) = taught(STRATEGY.scope()), taught(contextlib.nullcontext())
    return {
        "largest_difference": max(float(np.abs(a - b).max()) for a, b in zip(two, one, strict=True)),
        "loss": [losses_of_two["loss"], losses_of_one["loss"]],
        "distillation_loss": [losses_of_two["distillation_loss"], losses_of_one["distillation_loss"]],
        "steps": steps,
    }


def main(folder):
    found = {}
    if hasattr(keras, "distillation"):
        found["taught"] = by_a_teacher()
    found["pruned_and_clustered"], two = compare(pruned_and_clustered)
    loop = own_loop()
    pairs = zip(loop.variables, two.variables, strict=True)
    found["own_loop"] = max(float(np.abs(t.array(a) * 1.0 - t.array(b) * 1.0).max()) for a, b in pairs)
    found["saved"] = saved_and_loaded(two, folder)
    found["quantized"], _ = compare(quantized)
    found["sparse_from_the_start"], _ = compare(sparse_from_the_start)
    with STRATEGY.scope():
        found["losses"] = [losses(with_losses(wrapped)) for wrapped in (False, True)]
    several = {"steps_per_execution": 2}
    found["several_at_once"] = [refusal(lambda w=w: with_losses(w), **several) for w in (False, True)]
    found["xla"] = [refusal(make, jit_compile=True) for make in (normalized, lambda: kc.quantize_model(normalized()))]
    with open(f"{folder}/found.json", "w") as file:
        json.dump(found, file)


def normalized():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), keras.layers.BatchNormalization()])


if __name__ == "__main__":
    main(sys.argv[1])
