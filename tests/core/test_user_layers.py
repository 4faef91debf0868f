"""Layers that users wrote, in Functional and Sequential models: composites, and layers with weights of their own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_compress as kc
from keras_compress.graph import graph
from keras_compress.graph.model import candidates, compressed_layers

X = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
HALF = kc.ConstantSparsity(0.5, 0, end_step=0)
register = keras.saving.register_keras_serializable("tests")


@register
class Residual(layers.Layer):
    """Sub-layers alone."""

    def __init__(self, units: int = 6, **kwargs) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.convs = [layers.Dense(units, activation="relu"), layers.Dense(units)]

    def call(self, x):
        return x + self.convs[1](self.convs[0](x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@register
class Outer(layers.Layer):
    """Composite layers in a composite layer, given to its constructor or made by it."""

    def __init__(self, given=None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.given = given if given is not None else layers.Dense(6)
        self.own = Residual()

    def call(self, x):
        return self.own(self.given(x))

    def get_config(self):
        return {**super().get_config(), "given": keras.saving.serialize_keras_object(self.given)}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(given=keras.saving.deserialize_keras_object(config.pop("given")), **config)


@register
class Matrix(layers.Layer):
    """A weight of its own, declared."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(3, shape[-1]), name="matrix")
        self.offset = self.add_weight(shape=(3,), name="offset")

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.matrix)) + self.offset

    def get_compressible_weights(self):
        return {"matrix": (0,)}


@register
class Mixed(layers.Layer):
    """A declared weight of its own, and sub-layers; one of them reached by its own declaration."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(4)
        self.second = layers.Dense(3)

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 6), name="kernel")
        self.first.build((None, 6))
        self.second.build((None, 4))

    def call(self, x):
        return self.second(self.first(ops.matmul(x, self.kernel)))

    def get_compressible_weights(self):
        return {"kernel": (-1,), "second.kernel": (-1,)}


@register
class Inner(keras.Model):
    """A subclassed model that stands in a graph, with a graph in it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.base = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="d"), Residual(name="res")])

    def call(self, x):
        return self.base(x)


def chain(*listed) -> keras.Model:
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((6,)), *listed, layers.Dense(2, name="head")])


def twice() -> keras.Model:
    keras.utils.set_random_seed(2)
    inputs = keras.Input((6,), name="x")
    shared = Residual(name="shared")
    y = layers.Add(name="sum")([shared(shared(inputs)), inputs])
    return keras.Model(inputs, {"y": layers.Dense(2, name="head")(y), "z": y})


CASES = {
    "composite": (lambda: chain(Residual(name="res")), ["res/convs/0", "res/convs/1", "head"]),
    "used twice": (twice, ["shared/convs/0", "shared/convs/1", "head"]),
    "composite in a composite": (
        lambda: chain(Outer(name="o")),
        ["o/given", "o/own/convs/0", "o/own/convs/1", "head"],
    ),
    "composite given to a constructor": (
        lambda: chain(Outer(Residual(), name="o")),
        ["o/given/convs/0", "o/given/convs/1", "o/own/convs/0", "o/own/convs/1", "head"],
    ),
    "own weights": (lambda: chain(Matrix(name="m")), ["m", "head"]),
    "own weights and sub-layers": (lambda: chain(Mixed(name="m")), ["m", "m/first", "head"]),
    "subclassed in a graph": (
        lambda: chain(Inner(name="in")),
        ["in/base/d", "in/base/res/convs/0", "in/base/res/convs/1", "head"],
    ),
    "graph in a graph": (
        lambda: chain(
            keras.Sequential([keras.Input((6,)), keras.Sequential([Residual(name="r")], name="b")], name="a")
        ),
        ["a/b/r/convs/0", "a/b/r/convs/1", "head"],
    ),
    "wrapper of Keras around a composite": (
        lambda: chain(
            layers.Reshape((1, 6)), layers.TimeDistributed(Built(), name="time"), layers.Flatten(name="flat")
        ),
        ["time/inside", "head"],
    ),
}


@register
class Built(layers.Layer):
    """A composite that builds its sub-layers itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = layers.Dense(6)

    def build(self, shape):
        self.inside.build(shape)

    def call(self, x):
        return ops.relu(self.inside(x))

    def compute_output_shape(self, shape):
        return shape


def outputs(model: keras.Model) -> np.ndarray:
    found = np.concatenate([np.ravel(part) for part in keras.tree.flatten(model(X))])
    assert np.abs(found).max() > 0
    return found


@pytest.mark.parametrize("name", CASES)
def test_wrapped_trained_saved_and_stripped(name: str, tmp_path) -> None:
    make, paths = CASES[name]
    model = make()
    assert [path for path, _ in candidates(model)] == paths
    made = kc.quantize_model(kc.prune_low_magnitude(model, HALF), activations=None)
    assert [path for path, _ in compressed_layers(made)] == paths
    assert type(made) is type(model)
    assert not list(compressed_layers(model))
    made(X, training=True)
    for variable in made.trainable_variables:  # as if it had learned something
        variable.assign(variable * 1.01)
    expected = outputs(made)
    for path, wrapper in compressed_layers(made):
        for slot, transforms in wrapper.items():
            assert (np.array(wrapper.weight(slot.name)) == 0).mean() >= 0.5, path
            assert len(transforms) == 2
    made.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert [path for path, _ in compressed_layers(again)] == paths
    np.testing.assert_array_equal(outputs(again), expected)
    plain = kc.strip(made)
    assert not list(compressed_layers(plain))
    np.testing.assert_allclose(outputs(plain), expected, atol=1e-6)
    plain.save(tmp_path / "plain.keras")
    with open(tmp_path / "plain.keras", "rb") as file:
        assert b"keras_compress" not in file.read()


def test_points_stand_behind_composites_and_not_inside(tmp_path) -> None:
    model = chain(Residual(name="res"))
    with pytest.warns(UserWarning, match="Activations inside 'res' are not quantized while it trains") as caught:
        made = kc.quantize_model(model)
    assert len(caught) == 1
    points = [path for path, layer in graph.walk(made) if isinstance(layer, kc.QuantizeActivation)]
    assert points[1:] == ["res_quantized", "head_quantized"]
    made(X, training=True)
    made.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(outputs(keras.models.load_model(tmp_path / "m.keras")), outputs(made))
    np.testing.assert_array_equal(outputs(kc.strip(made)), outputs(made))


def test_classes_that_are_not_registered_can_be_compressed_twice() -> None:
    class Private(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(6)

        def call(self, x):
            return self.dense(x)

    class Own(layers.Dense):
        pass

    model = chain(Private(), Own(5, name="own"))
    made = kc.cluster_weights(kc.prune_low_magnitude(model, HALF), 4)
    assert len(list(compressed_layers(made))) == 3
    assert type(made.layers[0]).__name__ == "Private"
    assert isinstance(made.layers[0], Private)
    made(X, training=True)
    np.testing.assert_allclose(outputs(kc.strip(made)), outputs(made), atol=1e-6)


def test_mapping_given_to_the_wrapper() -> None:
    """A weight of a layer that declares nothing, and weights in its sub-layers."""

    class Silent(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inside = {"a": [layers.Dense(3)]}

        def build(self, shape):
            self.own = self.add_weight(shape=(shape[-1], 4))
            self.inside["a"][0].build((None, 4))

        def call(self, x):
            return self.inside["a"][0](x @ self.own)

    layer = Silent(name="silent")
    layer.build((None, 6))
    slots = {"own": (1,), "inside.a.0.kernel": (-1,)}
    wrapper = kc.Compressed(layer, {name: [kc.UniformQuantizer(2)] for name in slots}, slots=slots)
    model = chain(wrapper)
    again = kc.prune_low_magnitude(model, HALF, filters="head")
    assert [path for path, _ in compressed_layers(again)] == ["silent", "head"]
    np.testing.assert_array_equal(outputs(again), outputs(model))
    again(X, training=True)
    np.testing.assert_allclose(outputs(kc.strip(again)), outputs(again), atol=1e-6)
    with pytest.raises(ValueError, match=r"Expected slots of Silent 'silent': \['own'\]. Received: \['other'\]"):
        kc.Compressed(layer, {"other": [kc.UniformQuantizer(2)]}, slots={"own": (1,)})


def test_undeclared_weights_are_named() -> None:
    @register
    class Undeclared(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(3)

        def build(self, shape):
            self.own = self.add_weight(shape=(shape[-1], 4))
            self.dense.build((None, 4))

        def call(self, x):
            return self.dense(x @ self.own)

    with pytest.warns(UserWarning, match="left as they are: u: Undeclared is not in the table.*get_compressible"):
        made = kc.prune_low_magnitude(chain(Undeclared(name="u")), HALF)
    assert [path for path, _ in compressed_layers(made)] == ["u/dense", "head"]


def test_a_composite_that_its_configuration_does_not_make_is_refused() -> None:
    class Closed(layers.Layer):
        def __init__(self, dense):
            super().__init__(name="closed")
            self.dense = dense

        def call(self, x):
            return self.dense(x)

    with pytest.raises(ValueError, match="Expected Closed to be made again .*Received: Closed 'closed': "):
        kc.prune_low_magnitude(chain(Closed(layers.Dense(3))), HALF)
