"""One of two processes that train together, run by a test: `two_workers.py INDEX PORT,PORT FOLDER`."""

import json
import os
import sys

INDEX, PORTS, FOLDER = int(sys.argv[1]), sys.argv[2].split(","), sys.argv[3]
os.environ["TF_CONFIG"] = json.dumps(
    {"cluster": {"worker": [f"localhost:{port}" for port in PORTS]}, "task": {"type": "worker", "index": INDEX}}
)

import tensorflow as tf  # noqa: E402

STRATEGY = tf.distribute.MultiWorkerMirroredStrategy()

import time  # noqa: E402

import numpy as np  # noqa: E402
import tests_training as t  # noqa: E402
import tests_workers as w  # noqa: E402
from tests_xla import xla  # noqa: E402

import keras_compress as kc  # noqa: E402

xla.turn(False)


def refusal(run):
    """Name of the error that something raises, and what it says."""
    try:
        run()
    except Exception as error:  # all of them are of interest
        return [type(error).__name__, str(error)]
    return ["", ""]


def damaged():
    """Worker 1's third message is not what it sent."""
    codec = kc.SignSGD()
    if INDEX == 1:
        codec.encode = w.Damaged().encode
        w.Damaged._tag = lambda self, shapes: kc.SignSGD()._tag(shapes)
    model = w.with_dropout()
    trainer = kc.DistributedTrainer(model, codec, strategy=STRATEGY)
    said = refusal(lambda: trainer.fit(*t.data(model), batch_size=t.BATCH, epochs=1))
    return [*said, int(model.optimizer.iterations)]


def slow():
    model = w.with_dropout()
    begin = time.perf_counter()
    callbacks = [w.Slow()] if INDEX == 1 else []
    trainer = kc.DistributedTrainer(model, strategy=STRATEGY)
    trainer.fit(*t.data(model), batch_size=t.BATCH, epochs=1, callbacks=callbacks)
    return [time.perf_counter() - begin, int(model.optimizer.iterations)]


def own_shards():
    """Worker 0 has five batches, worker 1 three."""
    model = w.with_dropout()
    x, y = t.data(model, batches=5 if INDEX == 0 else 3, seed=INDEX)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(t.BATCH)
    kc.DistributedTrainer(model, "float16", strategy=STRATEGY).fit(data, epochs=2, sharded=True)
    return [int(model.optimizer.iterations), [float(np.sum(each)) for each in w.values(model)]]


def own_loop():
    """Model and optimizer made in the strategy's scope, and a loop of one's own."""
    with STRATEGY.scope():
        model = t.pcqat(scope="global")
        optimizer = t.momentum()
        optimizer.build(model.trainable_variables)

    def on_worker(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y)) / 2.0
        found = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in found]), found)

    step = tf.function(lambda x, y: STRATEGY.run(on_worker, args=(x, y)), autograph=False)
    half = slice(t.BATCH // 2 * INDEX, t.BATCH // 2 * (INDEX + 1))
    for _ in range(2):
        for x, y in t.batches_of(model):
            step(tf.constant(x[half]), tf.constant(y[half]))
    return [t.array(v).astype(float).tolist() for v in model.variables]


def fit():
    """Keras's own."""
    found = []
    for compress in (lambda model: model, lambda model: kc.prune_low_magnitude(model, t.schedule())):
        with STRATEGY.scope():
            model = w.compiled(compress(t.tests_zoo.build("shared_dense")))
        x, y = t.data(model)
        found.append(refusal(lambda m=model, x=x, y=y: m.fit(x, y, batch_size=t.BATCH, verbose=0))[0])
    within = refusal(lambda: kc.DistributedTrainer(model, strategy=STRATEGY))
    return [*found, within]


def killed():
    """Worker 1 dies in the third epoch; worker 0 is told."""
    callbacks = [t.KillAt(w.KILLED_IN, 1)] if INDEX == 1 else []
    begin = time.perf_counter()
    said = refusal(lambda: w.train_with_checkpoints(f"{FOLDER}/kept", callbacks, strategy=STRATEGY))
    return [*said, time.perf_counter() - begin]


def write(found):
    with open(f"{FOLDER}/found-{INDEX}.json", "w") as file:
        json.dump(found, file)


def main():
    found = {"history": {}}
    for name in w.ROWS:
        model, found["history"][name] = w.train(name, strategy=STRATEGY)
        np.savez(f"{FOLDER}/{name}-{INDEX}.npz", *w.values(model))
    for row in (damaged, slow, own_shards, own_loop, fit):
        found[row.__name__] = row()
    write(found)
    found["killed"] = killed()
    write(found)
    # A strategy whose other worker is gone would wait for it.
    os._exit(0)


if __name__ == "__main__":
    main()
