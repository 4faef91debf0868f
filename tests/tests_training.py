"""Small nets that are pruned, clustered and quantized, their data, and what training leaves in them."""

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
