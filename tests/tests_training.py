"""Small nets that are pruned, clustered and quantized, their data, and what training leaves in them."""

import os
import signal
import subprocess
import sys

import keras
import numpy as np
import tests_zoo

import keras_compress as kc

BATCH = 8
OURS = ("mask", "step", "centroids", "minimum", "maximum", "batches")


def schedule():
    """Acts at steps 0, 2, 4 and 6: 20 % at first, 60 % in the end."""
    return kc.PolynomialDecay(0.2, 0.6, begin_step=0, end_step=6, frequency=2)


def pcqat(name="shared_dense", *, scope="layer", activations="int8", regrow=False):
    model = kc.prune_low_magnitude(tests_zoo.build(name), schedule(), scope=scope, regrow=regrow)
    return kc.quantize_model(kc.cluster_weights(model, 4), activations=activations)


def data(model, batches=4, seed=1):
    """Inputs and targets of so many batches."""
    x = tests_zoo.data(model, batches * BATCH, seed)
    y = np.random.default_rng(seed).normal(0, 1, (len(x), *model.outputs[0].shape[1:]))
    return x, y.astype(np.float32)


def batches_of(model, batches=4):
    x, y = data(model, batches)
    return [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH)]


def momentum():
    return keras.optimizers.SGD(0.01, momentum=0.9)


def fit(model, optimizer=None, *, epochs=2, batches=4, callbacks=(), **settings):
    """Train without shuffling: 4 batches an epoch. XLA only where asked for: its compilation takes seconds."""
    model.compile(optimizer or momentum(), "mse", **{"jit_compile": False, **settings})
    return resume(model, epochs=epochs, batches=batches, callbacks=callbacks)


def resume(model, *, epochs=2, batches=4, initial_epoch=0, callbacks=()):
    x, y = data(model, batches)
    model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=epochs,
        initial_epoch=initial_epoch,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )
    return model


def wrappers(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, kc.Compressed)]


def pruners(model):
    return [t for wrapper in wrappers(model) for t in wrapper.transform_list if hasattr(t, "mask")]


def points(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, kc.QuantizeActivation)]


def array(variable):
    """The value of a variable; under a distribution strategy, of its first replica."""
    return replicas(variable)[0]


def replicas(variable):
    value = variable.value
    return [each.numpy() for each in getattr(value, "values", [value])]


def steps(model):
    """What the masks' step counters say, and the activation ranges'."""
    return {int(array(p.step)) for p in pruners(model)}, {int(array(p.quantizer.batches)) for p in points(model)}


def variables(model):
    """Every variable, those of the optimizer included."""
    return [*model.variables, *(model.optimizer.variables if model.optimizer else ())]


def ours(model):
    """The variables that this library adds, by kind."""
    found = {}
    for variable in model.variables:
        found.setdefault(variable.path.split("/")[-1], []).append(variable)
    return {kind: found[kind] for kind in OURS if kind in found}


def assert_same(model, other, **tolerance):
    """Bit for bit; with `rtol` or `atol`, floats within it and all else bit for bit."""
    for ours, theirs in zip(variables(model), variables(other), strict=True):
        value, expected = array(ours), array(theirs)
        if tolerance and value.dtype.kind == "f":
            np.testing.assert_allclose(value, expected, err_msg=ours.path, **tolerance)
        else:
            np.testing.assert_array_equal(value, expected, err_msg=ours.path)


def assert_moved(model, start):
    """Masks, centroids, ranges and latent weights are no longer what they were at `start`."""
    for kind, found in ours(model).items():
        if kind == "minimum":  # 0 behind a ReLU
            continue
        pairs = zip(found, ours(start)[kind], strict=True)
        assert all(not np.array_equal(array(a), array(b)) for a, b in pairs), kind
    for a, b in zip(wrappers(model), wrappers(start), strict=True):
        assert not np.array_equal(array(a.latent("kernel")), array(b.latent("kernel")))


def assert_pruned(model, sparsity=0.6):
    """What the masks prune is zero: in the weight that the layer sees, and in the layer that `strip` gives."""
    plain = kc.strip(model)
    kept = [array(p.mask) for p in pruners(model)]
    total = sum(mask.size for mask in kept)
    assert sum(int(mask.sum()) for mask in kept) == sum(round(mask.size * (1 - sparsity)) for mask in kept) < total
    for wrapper, mask in zip(wrappers(model), kept, strict=True):
        kernel = np.array(plain.get_layer(wrapper.name).kernel.value)
        np.testing.assert_array_equal(kernel[~mask], 0.0)
        np.testing.assert_array_equal(kernel, np.array(wrapper.weight("kernel")))
        assert len(np.unique(kernel)) <= 4


def assert_kept(before, variables_now):
    """Values are bit for bit what they were."""
    for old, variable in zip(before, variables_now, strict=True):
        np.testing.assert_array_equal(array(variable), old, err_msg=variable.path)


class KillAt(keras.callbacks.Callback):
    """Ends the process with no chance to clean up, behind a batch of an epoch, both counted from 0."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at, self.epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def fit_with_backup(backup=None, *, eager=False, kill=None):
    """4 epochs of 4 batches of a net with everything that could be forgotten; `backup` is a folder."""
    model = pcqat("conv_bn_relu", scope="global")
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.01, use_ema=True, ema_momentum=0.9)
    callbacks = [keras.callbacks.BackupAndRestore(backup, save_freq="epoch")] if backup else []
    callbacks += [KillAt(*kill)] if kill else []
    return fit(model, optimizer, epochs=4, callbacks=callbacks, run_eagerly=eager)


def run_python(code, *arguments, timeout=300):
    """Run code in a process of its own that can import the modules of the tests."""
    folders = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(kc.__file__)), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
